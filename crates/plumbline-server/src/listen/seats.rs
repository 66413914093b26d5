//! Who has a connection, what it is at, and who has to go when others want in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::Closing;
use crate::metrics::ServiceMetrics;

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It has never asked for anything: no head has come, or only a part of one.
    New,
    /// Its requests are answered.
    Waiting,
    /// A body is arriving.
    Receiving,
    /// A request is being answered.
    Working,
}

/// A connection's place.
#[derive(Debug)]
pub(super) struct Seat {
    number: u64,
    seats: Seats,
    state: Mutex<(Stage, Instant)>,
    /// Something is written that the client does not take.
    writing: AtomicBool,
    leave: Notify,
    leaving: AtomicBool,
}

impl Seat {
    /// The connection is at something else now.
    pub(super) fn enter(&self, stage: Stage) {
        *lock(&self.state) = (stage, Instant::now());
    }

    /// From receiving to working, unless the request is answered already.
    pub(super) fn received(&self) {
        let mut state = lock(&self.state);
        if state.0 == Stage::Receiving {
            *state = (Stage::Working, Instant::now());
        }
    }

    pub(super) fn set_writing(&self, writing: bool) {
        self.writing.store(writing, Ordering::Relaxed);
    }

    /// Resolves when the connection has to make room for another.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Whether nothing would be lost but a request that has not arrived.
    pub(super) fn may_leave(&self, stages: Stage) -> bool {
        lock(&self.state).0 <= stages && !self.writing.load(Ordering::Relaxed)
    }

    /// It stays after all: a request came in the meantime.
    pub(super) fn stays(&self) {
        self.leaving.store(false, Ordering::Relaxed);
    }
}

/// Held by the connection's task, whatever becomes of it.
#[derive(Debug)]
pub(super) struct Taken(pub(super) Arc<Seat>);

impl Drop for Taken {
    fn drop(&mut self) {
        let seats = &self.0.seats;
        let open = {
            let mut taken = lock(&seats.shared.taken);
            taken.1.remove(&self.0.number);
            taken.1.len()
        };
        seats.shared.open.send_replace(open);
        seats.shared.metrics.connections(open);
    }
}

/// All connections.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: usize,
    /// The next number, and the seats by their numbers.
    taken: Mutex<(u64, HashMap<u64, Arc<Seat>>)>,
    open: watch::Sender<usize>,
    metrics: ServiceMetrics,
}

impl Seats {
    pub(super) fn new(most: usize, metrics: ServiceMetrics) -> Self {
        let taken = Mutex::default();
        Self { shared: Arc::new(Shared { most, taken, open: watch::Sender::new(0), metrics }) }
    }

    /// A place for a new connection; the idlest one makes room if there is none. `None` = all are at work.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut taken = lock(&self.shared.taken);
        // Who is leaving has only not been able to yet.
        let staying = taken.1.values().filter(|seat| !seat.leaving.load(Ordering::Relaxed)).count();
        if staying >= self.shared.most && !self.evict_one(&taken.1) {
            return None;
        }
        let number = taken.0;
        taken.0 += 1;
        let seat = Arc::new(Seat {
            number,
            seats: self.clone(),
            state: Mutex::new((Stage::New, Instant::now())),
            writing: AtomicBool::new(false),
            leave: Notify::new(),
            leaving: AtomicBool::new(false),
        });
        taken.1.insert(number, Arc::clone(&seat));
        self.shared.open.send_replace(taken.1.len());
        self.shared.metrics.connections(taken.1.len());
        Some(Taken(seat))
    }

    /// Tells the idlest connection to leave.
    pub(super) fn make_room(&self) {
        self.evict_one(&lock(&self.shared.taken).1);
    }

    fn evict_one(&self, taken: &HashMap<u64, Arc<Seat>>) -> bool {
        let candidates =
            taken.values().filter(|seat| !seat.leaving.load(Ordering::Relaxed) && seat.may_leave(Stage::Receiving));
        // First who has never asked for anything; then whoever has been at the same for longest. A client that has just been answered
        // and keeps its connection is not worse than one whose body does not come.
        let worth = |seat: &&Arc<Seat>| {
            let (stage, since) = *lock(&seat.state);
            (stage > Stage::New, since)
        };
        let Some(idlest) = candidates.min_by_key(worth) else { return false };
        idlest.leaving.store(true, Ordering::Relaxed);
        idlest.leave.notify_one();
        self.shared.metrics.connection_closed(Closing::Evicted);
        true
    }

    /// Resolves when no connection is left.
    pub(super) async fn emptied(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn seats(most: usize) -> Seats {
        Seats::new(most, ServiceMetrics::register(&Registry::new(), []).unwrap())
    }

    async fn leaves(taken: &Taken) -> bool {
        let mut told = Box::pin(taken.0.told_to_leave());
        std::future::poll_fn(|cx| std::task::Poll::Ready(told.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn the_idlest_makes_room_and_who_works_stays() {
        let seats = seats(3);
        let (working, receiving, new) = (seats.take().unwrap(), seats.take().unwrap(), seats.take().unwrap());
        working.0.enter(Stage::Working);
        receiving.0.enter(Stage::Receiving);
        let fourth = seats.take().unwrap();
        assert!(leaves(&new).await && !leaves(&receiving).await && !leaves(&working).await);
        fourth.0.enter(Stage::Waiting);
        let fifth = seats.take().unwrap();
        assert!(leaves(&receiving).await && !leaves(&fourth).await, "the older of two");
        fifth.0.enter(Stage::Working);
        fourth.0.enter(Stage::Receiving);
        fourth.0.received();
        assert!(seats.take().is_none());
        drop(new);
        assert!(seats.take().is_none(), "it had left the count before");
        drop(working);
        assert!(seats.take().is_some());
    }

    #[tokio::test]
    async fn an_answer_that_is_being_written_is_not_cut_off() {
        let seats = seats(1);
        let only = seats.take().unwrap();
        only.0.set_writing(true);
        assert!(seats.take().is_none());
        only.0.set_writing(false);
        assert!(seats.take().is_some());
    }

    #[tokio::test]
    async fn everybody_is_waited_for() {
        let seats = seats(2);
        let (one, two) = (seats.take().unwrap(), seats.take().unwrap());
        let waits = tokio::spawn({
            let seats = seats.clone();
            async move { seats.emptied().await }
        });
        drop(one);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(two);
        waits.await.unwrap();
    }
}
