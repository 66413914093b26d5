//! CPU-bound work and where it runs.

use crate::problem::{Code, Problem};

/// Bodies up to this are parsed in place: well below a millisecond, less than handing them over is worth.
pub(crate) const INLINE_BYTES: usize = 64 * 1024;

/// Answers of up to so many tokens are computed in place, for the same reason.
pub(crate) const INLINE_TOKENS: usize = 2048;

/// Runs CPU-bound work, off the async workers if it is heavy.
///
/// # Errors
/// 500 if it panicked.
pub(crate) async fn compute<T: Send + 'static>(
    heavy: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    if !heavy {
        return Ok(work());
    }
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(|error| defect(&error))
}

/// 500 whose cause is only logged.
pub(crate) fn defect(cause: &impl ToString) -> Problem {
    Problem::internal(Code::Internal, "the request failed; see the server's log", cause)
}
