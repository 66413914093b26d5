//! Work that may hang. The client of the hub has no time limits of its own, so it works on a thread that is watched and,
//! if it stands still for too long, left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often somebody who waits is told.
const REPORT_EVERY: Duration = Duration::from_secs(15);

/// Counts what has been done, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<AtomicU64>);

impl hf_hub::api::Progress for Meter {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.0.store(0, Relaxed);
    }

    fn update(&mut self, size: usize) {
        self.0.fetch_add(size as u64, Relaxed);
    }

    fn finish(&mut self) {}
}

/// Runs `work` and waits for it until it has made no progress for `limit`; now and then tells `report` how far it is.
///
/// # Errors
/// Why there is no result.
pub(super) fn watched<T: Send + 'static>(
    limit: Duration,
    mut report: impl FnMut(u64),
    work: impl FnOnce(Meter) -> T + Send + 'static,
) -> Result<T, String> {
    let (send, receive) = mpsc::channel();
    let meter = Meter::default();
    let counted = meter.clone();
    std::thread::Builder::new()
        .name("plumbline-hub".into())
        .spawn(move || {
            // Nobody listens any more if the work was given up.
            let _ = send.send(work(counted));
        })
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let (mut done, mut moved, mut reported) = (0, Instant::now(), Instant::now());
    loop {
        match receive.recv_timeout(limit.min(Duration::from_secs(1))) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err("the client of the hub failed".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = meter.0.load(Relaxed);
        if now != done {
            (done, moved) = (now, Instant::now());
        } else if moved.elapsed() >= limit {
            return Err(format!("nothing came for {} s", limit.as_secs_f64()));
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            report(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use hf_hub::api::Progress;

    use super::*;

    #[test]
    fn work_that_moves_may_take_longer_than_the_limit() {
        let result = watched(
            Duration::from_millis(400),
            |_| {},
            |mut meter| {
                for _ in 0..8 {
                    std::thread::sleep(Duration::from_millis(100));
                    meter.update(1);
                }
                7
            },
        );
        assert_eq!(result, Ok(7));
    }

    #[test]
    fn work_that_hangs_is_left_behind() {
        let (release, held) = mpsc::channel::<()>();
        let error = watched(Duration::from_millis(50), |_| {}, move |_| held.recv()).unwrap_err();
        assert_eq!(error, "nothing came for 0.05 s");
        drop(release);
    }

    #[test]
    fn a_panic_in_the_client_is_an_error() {
        let error =
            watched(Duration::from_secs(60), |_| {}, |_| panic!("expected by this test")).map(|()| 0).unwrap_err();
        assert_eq!(error, "the client of the hub failed");
    }
}
