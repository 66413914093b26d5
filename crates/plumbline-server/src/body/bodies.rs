//! The memory that bodies may take, all requests together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::problem::{Code, Problem};

/// How soon to try again when there is no room: bodies come and go within a second.
const RETRY: Duration = Duration::from_secs(1);

/// Bodies up to this are parsed without waiting for a turn: there are never many at once, one for each thread.
const WITHOUT_TURN: usize = 64 * 1024;

/// Limits of bodies, and what is taken of them.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: usize,
    held: AtomicUsize,
    gauge: IntGauge,
    /// Kibibytes of bodies that may be parsed at a time.
    turns: Arc<Semaphore>,
    turn_kibibytes: u32,
    ratio: usize,
    deadline: Duration,
}

impl Bodies {
    /// `gauge` shows what is held.
    pub(crate) fn new(config: &Config, gauge: IntGauge) -> Self {
        Self::with(config, gauge, Duration::from_secs(config.body_timeout_seconds))
    }

    fn with(config: &Config, gauge: IntGauge, deadline: Duration) -> Self {
        let turn_kibibytes = u32::try_from(config.max_body_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let shared = Shared {
            most: config.max_bodies_bytes,
            held: AtomicUsize::new(0),
            gauge,
            turns: Arc::new(Semaphore::new(turn_kibibytes as usize)),
            turn_kibibytes,
            ratio: config.max_compression_ratio,
            deadline,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Decoded bytes for each encoded one at most.
    pub(super) fn ratio(&self) -> usize {
        self.shared.ratio
    }

    /// Time in which a body must have arrived.
    pub(super) fn deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// Room that nothing is taken of yet.
    pub(crate) fn room(&self) -> Room {
        Room { bodies: self.clone(), held: 0 }
    }

    /// Waits until a body of so many bytes may be parsed. A JSON value takes up to 16 times its text, so that parsing everything that
    /// has arrived at once would take 16 times the memory that bodies may. The turn goes to whoever parses, not to whoever waits for
    /// it: parsing goes on when a client leaves.
    pub(crate) async fn turn(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if bytes <= WITHOUT_TURN {
            return None;
        }
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.shared.turn_kibibytes);
        // It is never closed.
        Arc::clone(&self.shared.turns).acquire_many_owned(kibibytes).await.ok()
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(crate) fn for_tests(most: usize) -> Self {
        let config = Config { max_bodies_bytes: most, ..Config::default() };
        Self::of_tests(&config, Duration::from_secs(60))
    }

    #[cfg(test)]
    pub(super) fn with_deadline(deadline: Duration) -> Self {
        Self::of_tests(&Config::default(), deadline)
    }

    #[cfg(test)]
    fn of_tests(config: &Config, deadline: Duration) -> Self {
        Self::with(config, IntGauge::new("bodies", "For a test.").unwrap(), deadline)
    }
}

/// Bytes that are counted as held until this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    bodies: Bodies,
    held: usize,
}

impl Room {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// 429 if bodies would take more than they may together; then nothing is taken.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let Shared { most, held, .. } = &*self.bodies.shared;
        let fits = |held: usize| held.checked_add(bytes).filter(|wanted| wanted <= most);
        if held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_err() {
            let detail = format!("bodies of requests under way take the {most} bytes that they may");
            return Err(Problem::new(Code::BodiesInFlight, detail).retry_after(RETRY));
        }
        self.took(bytes);
        Ok(())
    }

    /// Takes so many bytes more, even beyond the limit: what is counted must be answered. Later bodies find less room.
    pub(crate) fn take_anyway(&mut self, bytes: usize) {
        self.bodies.shared.held.fetch_add(bytes, Ordering::SeqCst);
        self.took(bytes);
    }

    fn took(&mut self, bytes: usize) {
        self.held += bytes;
        self.bodies.shared.gauge.add(bytes as i64);
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bodies.shared.held.fetch_sub(self.held, Ordering::SeqCst);
        self.bodies.shared.gauge.sub(self.held as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_share_one_limit_and_give_back_what_they_took() {
        let bodies = Bodies::for_tests(100);
        let (mut one, mut two) = (bodies.room(), bodies.room());
        one.take(60).unwrap();
        assert_eq!(two.take(41).unwrap_err().code, Code::BodiesInFlight);
        assert_eq!((two.held(), bodies.held()), (0, 60));
        two.take(40).unwrap();
        two.take_anyway(7);
        assert_eq!(bodies.held(), 107);
        assert!(one.take(usize::MAX).is_err(), "sums that do not fit are too much");
        drop(one);
        assert_eq!((bodies.held(), bodies.shared.gauge.get()), (47, 47));
        drop(two);
        assert_eq!(bodies.held(), 0);
    }

    #[tokio::test]
    async fn large_bodies_take_turns() {
        let bodies = Bodies::for_tests(1 << 30);
        let first = bodies.turn(32 << 20).await;
        assert!(first.is_some() && bodies.turn(WITHOUT_TURN).await.is_none());
        let mut second = Box::pin(bodies.turn(WITHOUT_TURN + 1));
        let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await;
        assert!(pending);
        drop(first);
        assert!(second.await.is_some());
        assert!(bodies.turn(usize::MAX).await.is_some(), "more than the limit is as much as there is");
    }
}
