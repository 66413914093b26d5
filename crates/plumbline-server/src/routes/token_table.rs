//! `GET /v1/runs/{run}/tokens.parquet`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use plumbline_report::{TableError, TableFacts, TableSequence, TokenTable};
use tokio::sync::mpsc;

use super::name::Name;
use crate::ledger::{self, RowError};
use crate::problem::{Code, Problem, ProblemDocument};
use crate::sequences::StoredSequence;
use crate::state::AppState;
use crate::streamed::{PieceWriter, streamed};
use crate::timestamp::rfc3339;

/// How soon to try again while others get their tables.
const BUSY_RETRY: Duration = Duration::from_secs(10);

/// Why a table ends before its end.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error(transparent)]
    Store(#[from] RowError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("the server is shutting down")]
    Draining,
}

/// Every token of a run's sequences that are kept, as Parquet, one row per token: the schema of `tokens.parquet` in `docs/report.md`.
///
/// Sent while it is made, in memory that does not depend on its size; a connection that ends early means that it is not whole.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}/tokens.parquet",
    tag = "runs",
    params(("run" = String, Path, description = "Name of the run")),
    responses(
        (status = 200, description = "The table", content_type = "application/vnd.apache.parquet"),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such run", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Two tables are being sent already", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn show(State(state): State<Arc<AppState>>, Name(run): Name) -> Result<Response, Problem> {
    if super::runs::views(&state, &run).await?.is_empty() {
        return Err(super::runs::not_found(&run));
    }
    let permit = Arc::clone(&state.token_tables).try_acquire_owned().map_err(|_| {
        Problem::new(Code::ReportsBusy, "tables of tokens are being sent already").retry_after(BUSY_RETRY)
    })?;
    let (sender, pieces) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let writer = PieceWriter::new(sender.clone());
        if let Err(error) = write(&state, &run, writer) {
            // Most often the client has left, and then nobody takes this either.
            tracing::warn!(run, %error, "a table of tokens ended early");
            drop(sender.blocking_send(Err(io::Error::other(error))));
        }
    });
    let mut response = Response::new(streamed(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.apache.parquet"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"tokens.parquet\""));
    Ok(response)
}

/// Writes the table. Blocks.
fn write(state: &AppState, run: &str, writer: PieceWriter) -> Result<(), Cut> {
    let text = state.loaded().and_then(|resident| resident.text.clone());
    let facts = TableFacts {
        run: Some(run.to_owned()),
        model: state.scheduler.reference().map(|reference| reference.model.clone()),
        created_at: rfc3339(SystemTime::now()),
    };
    let mut table = TokenTable::new(writer, &facts)?;
    ledger::each_kept(state, run, |sequence: &StoredSequence| {
        if *state.drain.borrow() {
            return Err(Cut::Draining);
        }
        let row = TableSequence {
            run: Some(run),
            engine: &sequence.engine,
            worker: sequence.worker.as_deref(),
            policy_version: sequence.policy_version.as_deref(),
            group: None,
            id: &sequence.comparison.id,
            prompt: sequence.last_of_prompt.as_slice(),
            tokens: &sequence.comparison.tokens,
        };
        Ok(table.append(row, text.as_deref())?)
    })?;
    table.finish()?;
    Ok(())
}
