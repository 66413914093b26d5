//! Places for work that was refused: who comes back when told to finds room.
//!
//! Where few come back, more places are given than there is room, as many as are likely to be used: else the line of those who
//! will never come grows until everybody is told to come in ten minutes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Advice is never shorter: HTTP counts `Retry-After` in whole seconds.
const LEAST: Duration = Duration::from_secs(1);

/// Advice is never longer, and nothing is promised beyond: by then the measurement is stale.
const MOST: Duration = Duration::from_secs(600);

/// Places that are kept at most, of each class.
const MOST_PLACES: usize = 16_384;

/// Seconds that are looked at for a place.
const MOST_SECONDS_TRIED: u32 = 16;

/// How long a place is kept for one who is late.
const GRACE: Duration = Duration::from_secs(3);

/// Parts of a second in which booked tokens are counted together.
const SLOTS: f64 = 256.0;

/// What one more place that was used or was not says about the next ones.
const NEWS: f64 = 1.0 / 64.0;

/// Room for so many times the part that came back lately, and for this part more: who obeys should find room also when they
/// are a few more than before.
const MARGIN: (f64, f64) = (1.5, 0.02);

/// How much earlier than told one may come.
const EARLY: Duration = Duration::from_millis(100);

/// Refused work. It is recognised by its content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub(crate) digest: u64,
    pub(crate) tokens: usize,
    /// It had come when it was told to.
    pub(crate) again: bool,
}

/// What refused work stands behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Seconds until there is room for it, but for those who were told to come.
    pub(crate) earliest: f64,
    /// Seconds that a token takes.
    pub(crate) token_seconds: f64,
    /// Seconds that are never booked for more than there is time in them.
    pub(crate) window: f64,
}

#[derive(Clone, Copy, Debug)]
struct Booking {
    work: Refused,
    due: Instant,
}

/// Tokens that were told to come: for the first time, and those who came before and surely come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Booked {
    first: usize,
    again: usize,
}

impl Booked {
    fn of(&mut self, work: &Refused) -> &mut usize {
        if work.again { &mut self.again } else { &mut self.first }
    }
}

/// Refused work of one class that was told when to come again.
#[derive(Debug)]
pub(crate) struct Bookings {
    by_digest: HashMap<u64, Booking>,
    in_order: BTreeSet<(Instant, u64)>,
    booked: Booked,
    /// The same for each part of a second since `epoch`.
    slots: BTreeMap<u64, Booked>,
    epoch: Instant,
    /// Part of those who were refused for the first time that came when told to, lately.
    came: f64,
}

impl Default for Bookings {
    fn default() -> Self {
        let (by_digest, in_order, booked, slots) = Default::default();
        Self { by_digest, in_order, booked, slots, epoch: Instant::now(), came: 1.0 }
    }
}

impl Bookings {
    /// Whether this work was told to come about now. Then its place is used up.
    pub(crate) fn redeem(&mut self, digest: u64, now: Instant) -> bool {
        self.expire(now);
        let due = self.by_digest.get(&digest).is_some_and(|booking| booking.due <= now + EARLY);
        if due && self.remove(digest).is_some_and(|work| !work.again) {
            self.came += NEWS * (1.0 - self.came);
        }
        due
    }

    /// Work was admitted: a place that it may have is free.
    pub(crate) fn remove(&mut self, digest: u64) -> Option<Refused> {
        let Booking { work, due } = self.by_digest.remove(&digest)?;
        self.in_order.remove(&(due, digest));
        *self.booked.of(&work) -= work.tokens;
        if let Entry::Occupied(mut slot) = self.slots.entry(slot(self.epoch, due)) {
            *slot.get_mut().of(&work) -= work.tokens;
            if *slot.get() == Booked::default() {
                slot.remove();
            }
        }
        Some(work)
    }

    /// Tokens whose owners are expected now, counted up to `most`.
    pub(crate) fn expected(&mut self, now: Instant, most: usize) -> usize {
        self.expire(now);
        let mut tokens = 0;
        for (_, digest) in self.in_order.iter().take_while(|(due, _)| *due <= now + EARLY) {
            tokens += self.by_digest.get(digest).map_or(0, |booking| booking.work.tokens);
            if tokens >= most {
                return most;
            }
        }
        tokens
    }

    /// Finds refused work a time to come again: when there is room for it, and after all that is likely to come before it.
    pub(crate) fn book(&mut self, work: Refused, ahead: Ahead, now: Instant) -> Duration {
        self.expire(now);
        if let Some(early) = self.by_digest.get(&work.digest).filter(|booking| booking.due > now) {
            return whole_seconds((early.due - now).as_secs_f64());
        }
        self.remove(work.digest);
        let delay = ahead.earliest + self.likely(self.booked) * ahead.token_seconds;
        // Who gets no place is told to come when all who have one are through.
        let told = match self.by_digest.len() < MOST_PLACES {
            true => self.free_second(work.tokens, whole_seconds(delay), ahead, now),
            false => MOST,
        };
        if told < MOST {
            let due = now + told;
            self.by_digest.insert(work.digest, Booking { work, due });
            self.in_order.insert((due, work.digest));
            *self.booked.of(&work) += work.tokens;
            *self.slots.entry(slot(self.epoch, due)).or_default().of(&work) += work.tokens;
        }
        told
    }

    /// The first second from `told` on around which there is time for so many more tokens. Those who were refused together
    /// are told different seconds that way.
    fn free_second(&self, tokens: usize, told: Duration, ahead: Ahead, now: Instant) -> Duration {
        let half = Duration::from_secs_f64((ahead.window / 2.0).min(LEAST.as_secs_f64()));
        let time_for = ahead.window / ahead.token_seconds;
        let is_free = |told: &Duration| {
            let due = now + *told;
            let around = self.slots.range(slot(self.epoch, due - half)..=slot(self.epoch, due + half));
            let booked: f64 = around.map(|(_, booked)| self.likely(*booked)).sum();
            booked == 0.0 || booked + tokens as f64 <= time_for
        };
        (0..MOST_SECONDS_TRIED).map(|more| told + LEAST * more).find(is_free).unwrap_or(told).min(MOST)
    }

    /// Tokens of the booked ones that will be sent.
    fn likely(&self, booked: Booked) -> f64 {
        let (times, more) = MARGIN;
        booked.first as f64 * (times * self.came + more).min(1.0) + booked.again as f64
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, digest)) = self.in_order.first().copied().filter(|(due, _)| *due + GRACE < now) {
            if self.remove(digest).is_some_and(|work| !work.again) {
                self.came -= NEWS * self.came;
            }
        }
    }
}

fn slot(epoch: Instant, at: Instant) -> u64 {
    (at.saturating_duration_since(epoch).as_secs_f64() * SLOTS) as u64
}

/// Rounded up, so that who obeys is not early.
fn whole_seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.ceil().clamp(LEAST.as_secs_f64(), MOST.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn book(
        bookings: &mut Bookings,
        digest: u64,
        tokens: usize,
        earliest: f64,
        token_seconds: f64,
        now: Instant,
    ) -> Duration {
        let work = Refused { digest, tokens, again: false };
        bookings.book(work, Ahead { earliest, token_seconds, window: 1.0 }, now)
    }

    #[test]
    fn places_follow_each_other_at_the_speed_of_the_model() {
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        let told: Vec<_> = (0..4).map(|work| book(&mut bookings, work, 100, 0.5, 0.02, now).as_secs()).collect();
        assert_eq!(told, [1, 3, 5, 7], "each takes 2 s");
        assert_eq!(book(&mut bookings, 2, 100, 0.5, 0.02, now + SECOND).as_secs(), 4, "asking again changes nothing");
    }

    #[test]
    fn who_comes_when_told_is_known_and_only_once() {
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        assert_eq!(book(&mut bookings, 1, 100, 2.5, 1e-9, now), 3 * SECOND);
        assert!(!bookings.redeem(1, now + SECOND), "too early");
        assert_eq!(bookings.expected(now + SECOND, 1000), 0);
        assert_eq!(bookings.expected(now + 3 * SECOND, 1000), 100);
        assert_eq!(bookings.expected(now + 3 * SECOND, 30), 30);
        assert!(bookings.redeem(1, now + 3 * SECOND));
        assert!(!bookings.redeem(1, now + 3 * SECOND), "the place is used up");
        assert_eq!(bookings.expected(now + 3 * SECOND, 1000), 0);
    }

    /// The longest that anybody is told, and how many tokens of those who obey come in a second at most, when ten times too much
    /// is offered for so long and this part of it obeys.
    fn offered_tenfold(obeying: f64, seconds: usize) -> (u64, usize) {
        let (mut bookings, start) = (Bookings::default(), Instant::now());
        let (mut longest, mut returning) = (0, vec![0; seconds + MOST.as_secs() as usize + 32]);
        let mut coming: BTreeSet<(u64, u64)> = BTreeSet::new();
        for millis in 0..seconds as u64 * 1000 {
            let now = start + Duration::from_millis(millis);
            while let Some(&(due, work)) = coming.first().filter(|(due, _)| *due <= millis) {
                coming.remove(&(due, work));
                assert!(bookings.redeem(work, now), "who obeys is known");
                returning[due as usize / 1000] += 10;
            }
            // The model does 1000 tokens in a second; 10 of 10 000 come in each millisecond.
            let told = book(&mut bookings, millis, 10, 0.0, 1e-3, now).as_secs();
            longest = longest.max(told);
            if told < MOST.as_secs() && (millis % 1000) as f64 / 1000.0 < obeying {
                coming.insert((millis + told * 1000, millis));
            }
        }
        (longest, returning[20..seconds].iter().copied().max().unwrap_or(0))
    }

    #[test]
    fn those_who_never_come_back_hold_nobody_up() {
        let (longest, returning) = offered_tenfold(0.02, 120);
        assert!(longest < 120 && returning <= 1000, "{longest} s, {returning} tokens in a second");
        let (longest, returning) = offered_tenfold(0.0, 120);
        assert!(longest < 120, "{longest} s");
        assert_eq!(returning, 0);
        let (longest, returning) = offered_tenfold(1.0, 60);
        assert!(longest > 400 && returning <= 2000, "all obey: {longest} s, {returning} tokens in a second");
    }

    #[test]
    fn a_place_is_not_kept_for_ever_and_there_are_only_so_many() {
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        book(&mut bookings, 0, 100, 0.0, 1e-9, now);
        assert!(!bookings.redeem(0, now + SECOND + GRACE + SECOND));
        assert_eq!(bookings.booked, Booked::default());
        for work in 0..2 * MOST_PLACES as u64 {
            book(&mut bookings, work, 1, 0.0, 1e-9, now);
        }
        assert_eq!((bookings.by_digest.len(), bookings.booked.first), (MOST_PLACES, MOST_PLACES));
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        assert_eq!(book(&mut bookings, 0, 100, 1e9, 1e-9, now), MOST);
        assert_eq!(bookings.booked, Booked::default(), "nothing is promised so far ahead");
    }
}
