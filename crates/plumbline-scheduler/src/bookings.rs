//! Places for work that was refused: who comes back when told to finds room.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::Class;

/// Advice is never shorter: HTTP counts `Retry-After` in whole seconds.
const LEAST: Duration = Duration::from_secs(1);

/// Advice is never longer, and nothing is promised beyond: by then the measurement is stale.
const MOST: Duration = Duration::from_secs(600);

/// Places that are kept at most.
const MOST_PLACES: usize = 16_384;

/// Seconds that are looked at for a place.
const MOST_SECONDS_TRIED: u32 = 16;

/// How long a place is kept for one who is late.
const GRACE: Duration = Duration::from_secs(3);

/// How much earlier than told one may come.
const EARLY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
struct Booking {
    class: Class,
    tokens: usize,
    due: Instant,
}

/// Refused work that was told when to come again. It is recognised by its content.
#[derive(Debug, Default)]
pub(crate) struct Bookings {
    by_digest: HashMap<u64, Booking>,
    in_order: BTreeSet<(Instant, u64)>,
    /// Tokens of each class.
    tokens: [usize; 3],
}

impl Bookings {
    /// Whether this work was told to come about now. Then its place is used up.
    pub(crate) fn redeem(&mut self, digest: u64, now: Instant) -> bool {
        self.expire(now);
        let due = self.by_digest.get(&digest).is_some_and(|booking| booking.due <= now + EARLY);
        if due {
            self.remove(digest);
        }
        due
    }

    /// Work was admitted: a place that it may have is free.
    pub(crate) fn remove(&mut self, digest: u64) {
        if let Some(booking) = self.by_digest.remove(&digest) {
            self.in_order.remove(&(booking.due, digest));
            self.tokens[booking.class.index()] -= booking.tokens;
        }
    }

    /// Tokens of a class whose owners are expected now, counted up to `most`.
    pub(crate) fn expected(&mut self, class: Class, now: Instant, most: usize) -> usize {
        self.expire(now);
        let mut tokens = 0;
        for (_, digest) in self.in_order.iter().take_while(|(due, _)| *due <= now + EARLY) {
            tokens += self.by_digest.get(digest).filter(|place| place.class == class).map_or(0, |place| place.tokens);
            if tokens >= most {
                return most;
            }
        }
        tokens
    }

    /// Finds refused work a time to come again: when there is room for it after `earliest` and after all that was booked
    /// before, which takes `token_seconds` for each token. No `window` of seconds is booked for more than it has time.
    #[expect(
        clippy::too_many_arguments,
        reason = "what is asked for and the line that it stands in: one caller knows all of it"
    )]
    pub(crate) fn book(
        &mut self,
        class: Class,
        digest: u64,
        tokens: usize,
        earliest: f64,
        token_seconds: f64,
        window: f64,
        now: Instant,
    ) -> Duration {
        self.expire(now);
        if let Some(early) = self.by_digest.get(&digest).filter(|booking| booking.due > now) {
            return whole_seconds((early.due - now).as_secs_f64());
        }
        self.remove(digest);
        let delay = earliest + self.tokens[class.index()] as f64 * token_seconds;
        let told = self.free_second(class, tokens, whole_seconds(delay), token_seconds, window, now);
        if told < MOST && self.by_digest.len() < MOST_PLACES {
            self.by_digest.insert(digest, Booking { class, tokens, due: now + told });
            self.in_order.insert((now + told, digest));
            self.tokens[class.index()] += tokens;
        }
        told
    }

    /// The first second from `told` on around which there is time for so many more tokens. Those who were refused together
    /// are told different seconds that way.
    fn free_second(
        &self,
        class: Class,
        tokens: usize,
        told: Duration,
        token_seconds: f64,
        window: f64,
        now: Instant,
    ) -> Duration {
        let half = Duration::from_secs_f64((window / 2.0).min(LEAST.as_secs_f64()));
        let time_for = window / token_seconds;
        let is_free = |told: &Duration| {
            let due = now + *told;
            let around = self.in_order.range((due - half, 0)..=(due + half, u64::MAX));
            let own = around.filter_map(|(_, digest)| self.by_digest.get(digest).filter(|place| place.class == class));
            let booked: usize = own.map(|place| place.tokens).sum();
            booked == 0 || (booked.saturating_add(tokens)) as f64 <= time_for
        };
        (0..MOST_SECONDS_TRIED).map(|more| told + LEAST * more).find(is_free).unwrap_or(told).min(MOST)
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, digest)) = self.in_order.first().copied().filter(|(due, _)| *due + GRACE < now) {
            self.remove(digest);
        }
    }
}

/// Rounded up, so that who obeys is not early.
fn whole_seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.ceil().clamp(LEAST.as_secs_f64(), MOST.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const CLASS: Class = Class::Interactive;

    #[test]
    fn places_follow_each_other_at_the_speed_of_the_model() {
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        let told: Vec<_> = (0..4).map(|work| bookings.book(CLASS, work, 100, 0.5, 0.02, 1.0, now).as_secs()).collect();
        assert_eq!(told, [1, 3, 5, 7], "each takes 2 s");
        assert_eq!(bookings.book(Class::Bulk, 99, 100, 0.5, 0.02, 1.0, now), SECOND, "another class, another line");
        assert_eq!(
            bookings.book(CLASS, 2, 100, 0.5, 0.02, 1.0, now + SECOND).as_secs(),
            4,
            "asking again changes nothing"
        );
    }

    #[test]
    fn who_comes_when_told_is_known_and_only_once() {
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        assert_eq!(bookings.book(CLASS, 1, 100, 2.5, 1e-9, 1.0, now), 3 * SECOND);
        assert!(!bookings.redeem(1, now + SECOND), "too early");
        assert_eq!(bookings.expected(CLASS, now + SECOND, 1000), 0);
        assert_eq!(bookings.expected(CLASS, now + 3 * SECOND, 1000), 100);
        assert_eq!(bookings.expected(CLASS, now + 3 * SECOND, 30), 30);
        assert_eq!(bookings.expected(Class::Bulk, now + 3 * SECOND, 1000), 0);
        assert!(bookings.redeem(1, now + 3 * SECOND));
        assert!(!bookings.redeem(1, now + 3 * SECOND), "the place is used up");
        assert_eq!(bookings.expected(CLASS, now + 3 * SECOND, 1000), 0);
    }

    #[test]
    fn a_place_is_not_kept_for_ever_and_there_are_only_so_many() {
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        bookings.book(CLASS, 0, 100, 0.0, 1e-9, 1.0, now);
        assert!(!bookings.redeem(0, now + SECOND + GRACE + SECOND));
        assert_eq!(bookings.tokens, [0; 3]);
        for work in 0..2 * MOST_PLACES as u64 {
            bookings.book(CLASS, work, 1, 0.0, 1e-9, 1.0, now);
        }
        assert_eq!((bookings.by_digest.len(), bookings.tokens[0]), (MOST_PLACES, MOST_PLACES));
        let (mut bookings, now) = (Bookings::default(), Instant::now());
        assert_eq!(bookings.book(CLASS, 0, 100, 1e9, 1e-9, 1.0, now), MOST);
        assert_eq!(bookings.tokens, [0; 3], "nothing is promised so far ahead");
    }
}
