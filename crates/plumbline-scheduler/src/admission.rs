//! Who gets in: by tokens, and for interactive work by the time until its answer.

use std::time::{Duration, Instant};

use crate::batching::Budgets;
use crate::bookings::{Ahead, Bookings, Refused};
use crate::entry::Amount;
use crate::pace::{BatchTime, Pace};
use crate::{Class, SchedulerConfig, SubmitError};

/// Work takes at least so many seconds alone: what surrounds a small forward takes its time too.
const LEAST_ALONE: f64 = 0.005;

/// How long after its last submit a class counts as present: until then less urgent batches are kept short for it.
const PRESENCE: Duration = Duration::from_secs(10);

/// Weight of a submit in the size that is typical for its class.
const NEWS: f64 = 0.05;

/// Part of the measured speed that bookings count on: who comes back should find room rather than be early.
const BOOKED_SPEED: f64 = 0.6;

/// How much further the bound of interactive work is stretched for one who comes back when told to.
const BOOKED_STRETCH: f64 = 1.25;

/// Least part of the model's time that less urgent classes are booked at, see the shares of the queue.
const LEAST_SHARE: f64 = 0.1;

/// Weight that earlier batches keep in the classes' part of the work when the next one comes.
const DECAY: f64 = 0.97;

/// Decides about every submit.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Most tokens that may wait.
    limit: usize,
    batch_tokens: usize,
    stretch: f64,
    pace: Pace,
    traffic: [Traffic; 3],
    /// What each model thread is doing.
    threads: Vec<Doing>,
    bookings: [Bookings; 3],
    /// Tokens of recent batches by class.
    served: [f64; 3],
}

/// What is known of the submits of a class.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    /// Tokens of a submit.
    typical: Option<f64>,
    present_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Nothing,
    /// A batch of so many tokens since then.
    Scoring(usize, Instant),
    /// Loading its weights again.
    Away,
}

/// Waiting tokens of each class.
pub(crate) type Waiting = [Amount; 3];

impl Admission {
    pub(crate) fn new(config: &SchedulerConfig, threads: usize) -> Self {
        Self {
            limit: config.max_queue_tokens,
            batch_tokens: config.max_batch_tokens,
            stretch: config.interactive_stretch,
            pace: Pace::default(),
            traffic: Default::default(),
            threads: vec![Doing::Nothing; threads],
            bookings: Default::default(),
            served: [0.0; 3],
        }
    }

    /// A thread starts a batch of so many tokens of each class.
    pub(crate) fn started(&mut self, thread: usize, tokens: [usize; 3], now: Instant) {
        for (served, tokens) in self.served.iter_mut().zip(tokens) {
            *served = *served * DECAY + tokens as f64;
        }
        self.threads[thread] = Doing::Scoring(tokens.iter().sum(), now);
    }

    /// A thread looks for something to do.
    pub(crate) fn idle(&mut self, thread: usize) {
        self.threads[thread] = Doing::Nothing;
    }

    /// A thread loads its weights again.
    pub(crate) fn away(&mut self, thread: usize) {
        self.threads[thread] = Doing::Away;
    }

    /// Whether no thread is there to score.
    pub(crate) fn all_away(&self) -> bool {
        self.threads.iter().all(|doing| matches!(doing, Doing::Away))
    }

    /// A batch took so long.
    pub(crate) fn record(&mut self, tokens: usize, elapsed: Duration) {
        self.pace.record(tokens, elapsed);
    }

    /// Rows up to which each class may fill the next batch: a batch that interactive work may have to wait for, or is in,
    /// takes half of the time that such work may take. Bulk makes the same way for standard work.
    pub(crate) fn budgets(&self, now: Instant) -> Budgets {
        let mut budgets = [usize::MAX; 3];
        let Some(line) = self.pace.line() else { return budgets };
        for (class, first_affected) in [(Class::Interactive, Class::Interactive), (Class::Standard, Class::Bulk)] {
            if self.traffic[class.index()].is_present(now) {
                let budget = self.short_batch(line, class);
                budgets[first_affected.index()..].iter_mut().for_each(|own| *own = budget.min(*own));
            }
        }
        budgets
    }

    /// Decides about a submit of so many tokens.
    ///
    /// # Errors
    /// [`SubmitError::TooLarge`], [`SubmitError::QueueFull`] and [`SubmitError::TooSlow`].
    pub(crate) fn decide(
        &mut self,
        class: Class,
        tokens: usize,
        digest: u64,
        waiting: &Waiting,
        now: Instant,
    ) -> Result<(), SubmitError> {
        let line = self.pace.line();
        let most = self.limit_of(class);
        if tokens > self.limit {
            return Err(SubmitError::TooLarge { tokens, limit: self.limit });
        }
        self.traffic[class.index()].note(tokens, now);
        let returning = self.bookings[class.index()].redeem(digest, now);
        let refused = Refused { digest, tokens, again: returning };
        let kept = |bookings: &mut Bookings, most: usize| if returning { 0 } else { bookings.expected(now, most) };

        let kept_tokens = kept(&mut self.bookings[class.index()], most / 2);
        let beyond = self.beyond_the_limit(class, tokens, waiting, kept_tokens);
        if beyond > 0 {
            // Room comes with the next batch that is taken.
            let earliest = line.map(|line| {
                let batches = beyond.div_ceil(self.batch_tokens) - 1;
                self.rest(line, now) + batches as f64 * line.batch(self.batch_tokens)
            });
            let retry_after = self.book(class, refused, earliest, 1.0, now);
            let queued_tokens = waiting.iter().map(|amount| amount.tokens).sum();
            return Err(SubmitError::QueueFull { queued_tokens, limit: most, retry_after });
        }
        if let (Class::Interactive, Some(line)) = (class, line) {
            let alone = line.batches(tokens, self.batch_tokens).max(self.alone(line, class));
            let bound = self.stretch * alone * if returning { BOOKED_STRETCH } else { 1.0 };
            let kept = kept(&mut self.bookings[class.index()], line.tokens_within(bound / 2.0));
            let estimate = self.estimate(line, tokens + kept, waiting, now);
            let busy = kept > 0 || waiting[0].tokens > 0 || self.rest(line, now) > 0.0;
            if busy && estimate > bound {
                let retry_after = self.book(class, refused, Some(estimate - bound), bound, now);
                return Err(SubmitError::TooSlow {
                    estimate: Duration::from_secs_f64(estimate),
                    bound: Duration::from_secs_f64(bound),
                    retry_after,
                });
            }
        }
        self.bookings[class.index()].remove(digest);
        Ok(())
    }

    /// Most tokens that may wait of a class.
    fn limit_of(&self, class: Class) -> usize {
        match class {
            Class::Interactive | Class::Standard => self.limit,
            // The rest is left to those who wait for their answer.
            Class::Bulk => (self.limit - self.limit / 4).max(1),
        }
    }

    /// Tokens by which a submit exceeds the limits, with so many kept for others.
    fn beyond_the_limit(&self, class: Class, tokens: usize, waiting: &Waiting, kept: usize) -> usize {
        let [interactive, standard, bulk] = waiting.map(|amount| amount.tokens);
        let occupied = [
            (if class == Class::Interactive { interactive } else { standard + bulk }, self.limit),
            // Bulk that is alone may be as much as anything: else some could never be admitted.
            (if class == Class::Bulk { bulk } else { 0 }, if bulk == 0 { self.limit } else { self.limit_of(class) }),
        ];
        let beyond = |(occupied, limit): (usize, usize)| {
            // Nothing is kept free in an empty queue.
            let kept = if occupied == 0 { 0 } else { kept };
            occupied.saturating_add(tokens).saturating_add(kept).saturating_sub(limit)
        };
        occupied.into_iter().map(beyond).max().unwrap_or(0)
    }

    /// Seconds until interactive work of so many tokens would be answered.
    fn estimate(&self, line: BatchTime, tokens: usize, waiting: &Waiting, now: Instant) -> f64 {
        let short = self.short_batch(line, Class::Interactive);
        let own = waiting[0].tokens.saturating_add(tokens);
        let batches = own.div_ceil(short).max(1);
        // What is less urgent fills these batches up.
        let filler: usize = waiting[1..].iter().map(|amount| amount.tokens).sum();
        let rows = own.max(own.saturating_add(filler).min(batches.saturating_mul(short)));
        let threads = self.present().max(1);
        self.rest(line, now) + line.each * batches.div_ceil(threads) as f64 + line.token * rows as f64 / threads as f64
    }

    /// Seconds until a thread is free.
    fn rest(&self, line: BatchTime, now: Instant) -> f64 {
        let rests = self.threads.iter().filter_map(|doing| match *doing {
            Doing::Nothing => Some(0.0),
            Doing::Scoring(tokens, since) => {
                Some((line.batch(tokens) - now.saturating_duration_since(since).as_secs_f64()).max(0.0))
            }
            Doing::Away => None,
        });
        rests.reduce(f64::min).unwrap_or(0.0)
    }

    /// Threads that score.
    fn present(&self) -> usize {
        self.threads.iter().filter(|doing| !matches!(doing, Doing::Away)).count()
    }

    /// Seconds that typical work of a class takes alone.
    fn alone(&self, line: BatchTime, class: Class) -> f64 {
        let typical = self.traffic[class.index()].typical.unwrap_or(0.0);
        line.batches(typical as usize, self.batch_tokens).max(LEAST_ALONE)
    }

    /// Tokens of a batch that work of this class may have to wait for.
    fn short_batch(&self, line: BatchTime, class: Class) -> usize {
        line.tokens_within(self.stretch / 2.0 * self.alone(line, class)).min(self.batch_tokens)
    }

    /// Finds refused work a time to come again; `earliest` is unknown before anything was measured.
    fn book(&mut self, class: Class, refused: Refused, earliest: Option<f64>, window: f64, now: Instant) -> Duration {
        let told = match (self.pace.line(), earliest) {
            (Some(line), Some(earliest)) => {
                let speed = BOOKED_SPEED * self.share(class, now) * self.present().max(1) as f64;
                let ahead = Ahead { earliest, token_seconds: line.token / speed, window };
                self.bookings[class.index()].book(refused, ahead, now)
            }
            _ => Duration::from_secs(1),
        };
        // Batches stay short until it is back.
        self.traffic[class.index()].stays_until(now + told + PRESENCE);
        told
    }

    /// The class's part of the model's time.
    fn share(&self, class: Class, now: Instant) -> f64 {
        let more_urgent = self.traffic[..class.index()].iter().any(|traffic| traffic.is_present(now));
        let total: f64 = self.served.iter().sum();
        if more_urgent && total > 0.0 { (self.served[class.index()] / total).max(LEAST_SHARE) } else { 1.0 }
    }
}

impl Traffic {
    fn note(&mut self, tokens: usize, now: Instant) {
        let tokens = tokens as f64;
        self.typical = Some(self.typical.map_or(tokens, |typical| typical + NEWS * (tokens - typical)));
        self.stays_until(now + PRESENCE);
    }

    fn stays_until(&mut self, until: Instant) {
        self.present_until = self.present_until.max(Some(until));
    }

    fn is_present(&self, now: Instant) -> bool {
        self.present_until.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests;
