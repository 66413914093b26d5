//! Requests that wait to be diagnosed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use plumbline_divergence::Diagnosis;
use tokio::sync::oneshot;

use super::Case;
use super::budget::MinuteBudget;

/// Requests that wait for their diagnoses at most.
const MAX_ASKED: usize = 32;

/// Requests at most that wait without anybody waiting for them,
const MAX_OFFERED: usize = 64;

/// and their tokens: bounds the memory.
const MAX_OFFERED_TOKENS: usize = 1 << 18;

/// A case that somebody waits for.
pub(crate) struct Asked {
    pub(crate) case: Case,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Diagnosis>,
}

/// A case that nobody waits for.
pub(crate) struct Offered {
    pub(crate) case: Case,
    /// Whether its diagnosis was begun and left for somebody who waits.
    pub(crate) interrupted: bool,
}

/// Whether another case would be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Yes.
    Some,
    /// No: there are too many.
    Full,
    /// No: this kind is not diagnosed at all.
    Off,
}

/// What the thread does next.
pub(crate) enum Next {
    Asked(Asked),
    Offered(Offered),
}

/// Both kinds of cases. Those that somebody waits for come first; the others come as the budget allows.
pub(crate) struct Waiting {
    state: Mutex<State>,
    wake: Condvar,
    /// Tokens of one diagnosis.
    wanted: usize,
}

struct State {
    asked: VecDeque<Asked>,
    offered: VecDeque<Offered>,
    offered_tokens: usize,
    /// `None` = what nobody waits for is not diagnosed.
    budget: Option<MinuteBudget>,
    closed: bool,
}

impl Waiting {
    /// `per_minute` tokens for what nobody waits for, of which each may want `wanted`.
    pub(crate) fn new(per_minute: usize, wanted: usize) -> Self {
        let state = State {
            asked: VecDeque::new(),
            offered: VecDeque::new(),
            offered_tokens: 0,
            budget: (per_minute > 0).then(|| MinuteBudget::new(per_minute, Instant::now())),
            closed: false,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), wanted }
    }

    /// Whether another case would be taken now: one that somebody waits for, or another one.
    pub(crate) fn room(&self, asked: bool) -> Room {
        let mut state = self.lock();
        let full = if asked {
            state.asked.retain(|waiting| !waiting.reply.is_closed());
            state.asked.len() >= MAX_ASKED
        } else if state.budget.is_none() || state.closed {
            return Room::Off;
        } else {
            state.offered.len() >= MAX_OFFERED || state.offered_tokens >= MAX_OFFERED_TOKENS
        };
        if full { Room::Full } else { Room::Some }
    }

    /// Takes a case; `false` if there are too many.
    pub(crate) fn ask(&self, asked: Asked) -> bool {
        let mut state = self.lock();
        state.asked.retain(|waiting| !waiting.reply.is_closed());
        if state.closed || state.asked.len() >= MAX_ASKED {
            return false;
        }
        state.asked.push_back(asked);
        drop(state);
        self.wake.notify_all();
        true
    }

    /// Takes a case, unless none of this kind are diagnosed at all; `false` if there are too many.
    pub(crate) fn offer(&self, case: Case) -> bool {
        let mut state = self.lock();
        let tokens = case.tokens();
        if state.budget.is_none() || state.closed {
            return true;
        }
        if state.offered.len() >= MAX_OFFERED || state.offered_tokens + tokens > MAX_OFFERED_TOKENS {
            return false;
        }
        state.offered_tokens += tokens;
        state.offered.push_back(Offered { case, interrupted: false });
        drop(state);
        self.wake.notify_all();
        true
    }

    /// Puts back what was left for somebody who waits; it is the next of its kind.
    pub(crate) fn put_back(&self, offered: Offered) {
        let mut state = self.lock();
        state.offered_tokens += offered.case.tokens();
        state.offered.push_front(Offered { interrupted: true, ..offered });
    }

    /// Number of cases that nobody waits for.
    pub(crate) fn offered(&self) -> usize {
        self.lock().offered.len()
    }

    /// Whether something should come before a case that nobody waits for.
    pub(crate) fn is_pressing(&self) -> bool {
        let state = self.lock();
        state.closed || !state.asked.is_empty()
    }

    /// Counts tokens of a case that nobody waited for.
    pub(crate) fn spend(&self, tokens: usize) {
        if let Some(budget) = &mut self.lock().budget {
            budget.spend(tokens);
        }
    }

    /// Waits for the next case; `None` once this is closed.
    pub(crate) fn next(&self) -> Option<Next> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(asked) = state.asked.pop_front() {
                return Some(Next::Asked(asked));
            }
            let now = Instant::now();
            let ready = match &mut state.budget {
                Some(budget) => budget.ready(now, self.wanted),
                None => Ok(()),
            };
            match ready {
                Ok(()) => {
                    if let Some(offered) = state.offered.pop_front() {
                        state.offered_tokens -= offered.case.tokens();
                        return Some(Next::Offered(offered));
                    }
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Err(then) => {
                    state = self.wake.wait_timeout(state, then - now).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Ends the thread; whoever waits is told so.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.asked.clear();
        state.offered.clear();
        drop(state);
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::diagnosis::CaseFloor;

    fn case(run: &str) -> Case {
        Case { run: run.into(), engine: "e".into(), sequences: Vec::new(), floor: CaseFloor::Published }
    }

    fn asked(run: &str) -> (Asked, oneshot::Receiver<Diagnosis>) {
        let (reply, answer) = oneshot::channel();
        (Asked { case: case(run), deadline: Instant::now(), reply }, answer)
    }

    fn next(waiting: &Waiting) -> String {
        match waiting.next() {
            Some(Next::Asked(asked)) => asked.case.run,
            Some(Next::Offered(offered)) => offered.case.run,
            None => "closed".into(),
        }
    }

    #[test]
    fn who_waits_comes_first() {
        let waiting = Waiting::new(1000, 10);
        assert!(waiting.offer(case("a")) && waiting.offer(case("b")));
        assert!(!waiting.is_pressing());
        let (asked, _answer) = asked("c");
        assert!(waiting.ask(asked) && waiting.is_pressing());
        assert_eq!([next(&waiting), next(&waiting)], ["c", "a"]);
        waiting.put_back(Offered { case: case("a"), interrupted: false });
        match waiting.next() {
            Some(Next::Offered(Offered { case, interrupted: true })) => assert_eq!(case.run, "a"),
            _ => panic!("the one that was left comes again"),
        }
        assert_eq!(next(&waiting), "b");
    }

    #[test]
    fn both_kinds_are_bounded_and_who_left_makes_room() {
        let waiting = Waiting::new(1000, 10);
        assert_eq!((0..100).filter(|_| waiting.offer(case("a"))).count(), MAX_OFFERED);
        assert_eq!(waiting.offered(), MAX_OFFERED);
        assert_eq!([waiting.room(false), waiting.room(true)], [Room::Full, Room::Some]);
        let (callers, mut answers): (Vec<_>, Vec<_>) = (0..100).map(|_| asked("b")).unzip();
        let taken = callers.into_iter().map(|asked| waiting.ask(asked)).filter(|taken| *taken).count();
        assert_eq!((taken, waiting.room(true)), (MAX_ASKED, Room::Full));
        answers.remove(0);
        assert!(waiting.ask(asked("c").0));
    }

    #[test]
    fn nothing_is_kept_that_will_never_be_diagnosed() {
        let waiting = Waiting::new(0, 10);
        assert!(waiting.offer(case("a")));
        assert_eq!(waiting.offered(), 0, "and it is not counted as dropped");
        assert_eq!([waiting.room(false), waiting.room(true)], [Room::Off, Room::Some]);
        let (asked, _answer) = asked("b");
        assert!(waiting.ask(asked));
        assert_eq!(next(&waiting), "b");
    }

    #[test]
    fn without_budget_only_who_waits_is_served() {
        let waiting = Arc::new(Waiting::new(60, 10));
        waiting.spend(1_000_000);
        assert!(waiting.offer(case("a")));
        let served = {
            let waiting = Arc::clone(&waiting);
            std::thread::spawn(move || [next(&waiting), next(&waiting)])
        };
        let (asked, _answer) = asked("b");
        assert!(waiting.ask(asked));
        while waiting.is_pressing() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waiting.offered(), 1);
        waiting.close();
        assert_eq!(served.join().unwrap(), ["b", "closed"]);
    }

    #[test]
    fn closing_tells_who_waits() {
        let waiting = Waiting::new(60, 10);
        let (first, mut answer) = asked("b");
        assert!(waiting.ask(first));
        waiting.close();
        assert_eq!(answer.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert!(!waiting.ask(asked("c").0));
        assert_eq!(next(&waiting), "closed");
    }
}
