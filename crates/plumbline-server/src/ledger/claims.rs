//! The same request is worked on once at a time: whoever comes second waits for what the first one finds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plumbline_store::Digest;
use tokio::sync::OwnedMutexGuard;

type Turns = HashMap<Digest, Arc<tokio::sync::Mutex<()>>>;

/// Who works on what.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    turns: Arc<Mutex<Turns>>,
}

/// The right to work on a request; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    turns: Arc<Mutex<Turns>>,
    digest: Digest,
    /// `None` only while it is being dropped.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Claims {
    /// Waits until nobody else works on this request, first come, first served.
    pub(crate) async fn take(&self, digest: Digest) -> Claim {
        let turn = Arc::clone(lock(&self.turns).entry(digest).or_default());
        // A waiter that leaves cleans up too: it may have been the last.
        let mut claim = Claim { turns: Arc::clone(&self.turns), digest, turn: None };
        claim.turn = Some(turn.lock_owned().await);
        claim
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut turns = lock(&self.turns);
        self.turn = None;
        // Handles are only made under this lock: one that is alone stays alone.
        if turns.get(&self.digest).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.digest);
        }
    }
}

fn lock(turns: &Mutex<Turns>) -> MutexGuard<'_, Turns> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 16])
    }

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let claims = Arc::new(Claims::default());
        let first = claims.take(digest(1)).await;
        drop(claims.take(digest(2)).await);
        let (own, waiting) = (Arc::clone(&claims), tokio::sync::oneshot::channel());
        let second = tokio::spawn(async move {
            let claim = own.take(digest(1)).await;
            waiting.0.send(()).unwrap();
            drop(claim);
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        drop(first);
        waiting.1.await.unwrap();
        second.await.unwrap();
        assert!(lock(&claims.turns).is_empty());
    }

    #[tokio::test]
    async fn a_waiter_may_leave() {
        let claims = Arc::new(Claims::default());
        let first = claims.take(digest(1)).await;
        let own = Arc::clone(&claims);
        let waiter = tokio::spawn(async move { drop(own.take(digest(1)).await) });
        tokio::task::yield_now().await;
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled());
        drop(first);
        assert!(lock(&claims.turns).is_empty());
    }
}
