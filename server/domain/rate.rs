//! The rate of an endpoint's requests: a token bucket, kept as the one time at which it would be full again (GCRA), so
//! that whole microseconds are all that it counts with.

use std::time::Duration;

use super::time::Micros;

/// How fast requests may follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From one request to the next, when they are many.
    interval_us: i64,
    /// How many may come at once after a quiet time: what a second allows, one at least.
    burst: i64,
}

impl Rate {
    /// So many requests per second, shared by so many servers. `None` for no limit: 0, and what is no number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bounded before")]
    pub fn per_second(requests: f64, servers: u32) -> Option<Self> {
        let own = requests / f64::from(servers.max(1));
        if !own.is_finite() || own <= 0.0 {
            return None;
        }
        // Rounded so that the limit holds.
        let interval_us = (1_000_000.0 / own).ceil().clamp(1.0, 1e15) as i64;
        Some(Self { interval_us, burst: own.floor().clamp(1.0, 1e9) as i64 })
    }

    /// The same rate, with so many at once after a quiet time.
    #[must_use]
    pub fn with_burst(self, burst: u32) -> Self {
        Self { burst: i64::from(burst).max(1), ..self }
    }

    fn times(self, count: i64) -> i64 {
        self.interval_us.saturating_mul(count)
    }

    /// How many tokens are worth waiting for at once: those of 20 ms, so that a fast endpoint isn't asked about one by one.
    fn portion(self) -> i64 {
        (20_000 / self.interval_us).clamp(1, self.burst)
    }
}

/// The tokens of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When it is full.
    full_us: i64,
}

impl Bucket {
    /// How many requests may be sent now.
    #[must_use]
    pub fn available(&mut self, rate: Rate, now: Micros) -> usize {
        self.move_on(rate, now);
        let missing_us = self.full_us - now.0;
        let free = rate.burst - (missing_us + rate.interval_us - 1) / rate.interval_us;
        usize::try_from(free).unwrap_or(0)
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate, now: Micros) -> bool {
        let has_one = self.available(rate, now) > 0;
        if has_one {
            self.force(rate, now);
        }
        has_one
    }

    /// Takes a token that may be missing; no more are owed than a full bucket has.
    pub fn force(&mut self, rate: Rate, now: Micros) {
        self.move_on(rate, now);
        self.full_us = self.full_us.saturating_add(rate.interval_us);
    }

    /// Gives a token back that wasn't used.
    pub fn give_back(&mut self, rate: Rate) {
        self.full_us = self.full_us.saturating_sub(rate.interval_us);
    }

    /// When there are tokens again, enough to be worth a look.
    #[must_use]
    pub fn next(&mut self, rate: Rate, now: Micros) -> Micros {
        self.move_on(rate, now);
        let us = rate.times(rate.burst - rate.portion());
        Micros(self.full_us).saturating_sub(Duration::from_micros(u64::try_from(us).unwrap_or(0)))
    }

    /// Whether it is full.
    #[must_use]
    pub const fn is_full(self, now: Micros) -> bool {
        self.full_us <= now.0
    }

    /// Never in the past, and, where the clock was set back, not further ahead than two buckets.
    fn move_on(&mut self, rate: Rate, now: Micros) {
        let latest = now.0.saturating_add(rate.times(rate.burst).saturating_mul(2));
        self.full_us = self.full_us.clamp(now.0, latest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_767_254_400_000_000);

    fn after_us(us: i64) -> Micros {
        Micros(NOW.0 + us)
    }

    /// How many tokens can be taken at a time.
    fn drain(bucket: &mut Bucket, rate: Rate, now: Micros) -> usize {
        let available = bucket.available(rate, now);
        let taken = std::iter::repeat_with(|| bucket.take(rate, now)).take_while(|taken| *taken).count();
        assert_eq!(taken, available);
        taken
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (rate, mut bucket) = (Rate::per_second(10.0, 1).unwrap(), Bucket::default());
        assert_eq!(drain(&mut bucket, rate, NOW), 10);
        assert_eq!(bucket.next(rate, NOW), after_us(100_000));
        assert_eq!(drain(&mut bucket, rate, after_us(99_999)), 0);
        assert_eq!(drain(&mut bucket, rate, after_us(100_000)), 1);
        assert_eq!(drain(&mut bucket, rate, after_us(600_000)), 5);
        assert_eq!(drain(&mut bucket, rate, after_us(60_000_000)), 10);
    }

    #[test]
    fn slow_rates_send_one_at_a_time() {
        let (rate, mut bucket) = (Rate::per_second(0.001, 1).unwrap(), Bucket::default());
        assert_eq!(drain(&mut bucket, rate, NOW), 1);
        assert_eq!(bucket.next(rate, NOW), after_us(1_000_000_000));
        assert_eq!(drain(&mut bucket, rate, after_us(999_999_999)), 0);
        assert_eq!(drain(&mut bucket, rate, after_us(1_000_000_000)), 1);
    }

    /// A third of a second is no whole number of microseconds: the limit holds all the same.
    #[test]
    fn no_window_has_more_than_the_rate_and_the_burst() {
        let (rate, mut bucket) = (Rate::per_second(3.0, 1).unwrap(), Bucket::default());
        let taken: usize = (0..=30_000_000).step_by(777).map(|us| drain(&mut bucket, rate, after_us(us))).sum();
        assert_eq!(taken, 3 + 30 * 3 - 1);
    }

    #[test]
    fn servers_share_a_rate() {
        assert_eq!(Rate::per_second(10.0, 2), Rate::per_second(5.0, 1));
        assert_eq!(Rate::per_second(10.0, 0), Rate::per_second(10.0, 1));
        for unlimited in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::per_second(unlimited, 1), None);
        }
    }

    #[test]
    fn fast_rates_are_waited_for_in_portions() {
        let (rate, mut bucket) = (Rate::per_second(1_000.0, 1).unwrap(), Bucket::default());
        assert_eq!(drain(&mut bucket, rate, NOW), 1_000);
        assert_eq!(bucket.next(rate, NOW), after_us(20_000));
        assert_eq!(drain(&mut bucket, rate, after_us(20_000)), 20);
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_again() {
        let (rate, mut bucket) = (Rate::per_second(2.0, 1).unwrap(), Bucket::default());
        assert_eq!(drain(&mut bucket, rate, NOW), 2);
        bucket.give_back(rate);
        assert_eq!(drain(&mut bucket, rate, NOW), 1);
        assert!(!bucket.is_full(NOW) && bucket.is_full(after_us(1_000_000)));
    }

    #[test]
    fn forced_requests_are_counted() {
        let (rate, mut bucket) = (Rate::per_second(1.0, 1).unwrap(), Bucket::default());
        bucket.force(rate, NOW);
        bucket.force(rate, NOW);
        assert_eq!(drain(&mut bucket, rate, after_us(1_000_000)), 0);
        assert_eq!(drain(&mut bucket, rate, after_us(2_000_000)), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_it() {
        let (rate, mut bucket) = (Rate::per_second(1.0, 1).unwrap(), Bucket::default());
        assert_eq!(drain(&mut bucket, rate, NOW), 1);
        let back = NOW.saturating_sub(Duration::from_hours(1));
        assert!(bucket.next(rate, back) <= back.saturating_add(Duration::from_secs(2)));
        assert_eq!(drain(&mut bucket, rate, back.saturating_add(Duration::from_secs(2))), 1);
    }
}
