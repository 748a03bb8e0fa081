//! The circuit breaker of an endpoint: after a number of failures in a row nothing is sent for a while, then one request,
//! the probe, shows whether the endpoint is back.
//!
//! Its times are the caller's, its state is one server's.

use std::time::Duration;

use super::delivery::Attempt;
use super::retry::ErrorClass;
use super::time::Micros;

/// How many failures in a row open it.
pub const THRESHOLD: u32 = 5;
/// The pauses in seconds before the first probe, the second, and so on; the last one is repeated. Each is moved by up to
/// 10 %.
const PAUSES_S: [u64; 5] = [5, 10, 20, 40, 60];
/// The longest that an endpoint can close itself by Retry-After: 5 minutes; then a probe asks again. The delivery itself
/// waits as long as it was asked to.
pub const MAX_WISH: Duration = Duration::from_mins(5);
/// The shortest Retry-After that counts.
const MIN_WISH: Duration = Duration::from_secs(1);
/// How far a pause is moved at random, either way.
const JITTER: f64 = 0.1;

/// What an attempt says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It answered, whatever it thought of the request.
    Well,
    /// It didn't answer, or said that it can't (429, 502, 503, 504).
    Unwell {
        /// How long it wants to be left alone, by the Retry-After of a 429 or 503.
        wish: Option<Duration>,
    },
    /// Nothing: no request reached it.
    Nothing,
}

impl Signal {
    /// What an attempt says.
    #[must_use]
    pub fn of(attempt: &Attempt) -> Self {
        match attempt.error_class {
            None => Self::Well,
            Some(ErrorClass::HttpStatus) => match attempt.status_code {
                Some(429 | 503) => Self::Unwell { wish: attempt.retry_after },
                Some(502 | 504) => Self::Unwell { wish: None },
                _ => Self::Well,
            },
            Some(
                ErrorClass::EgressDenied
                | ErrorClass::Template
                | ErrorClass::RequestTooLarge
                | ErrorClass::UnsafePath
                | ErrorClass::RequestInvalid,
            ) => Self::Nothing,
            Some(
                ErrorClass::Dns
                | ErrorClass::ConnectionRefused
                | ErrorClass::ConnectionReset
                | ErrorClass::ConnectionClosed
                | ErrorClass::Unreachable
                | ErrorClass::Tls
                | ErrorClass::Timeout
                | ErrorClass::HeadersTooLarge
                | ErrorClass::Protocol
                | ErrorClass::Other,
            ) => Self::Unwell { wish: None },
        }
    }
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Any number.
    Free,
    /// One, to see whether the endpoint is back.
    Probe,
    /// None before that time.
    ShutUntil(Micros),
    /// None before the probe in flight has ended.
    Probing,
}

/// The breaker of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    state: State,
    /// Raised whenever it opens: what was sent before says nothing about the time after.
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Micros, probes: usize },
    Probing { probes: usize },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// What a request that was let through is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    epoch: u64,
    is_probe: bool,
}

impl Breaker {
    /// Whether a request may be sent now.
    #[must_use]
    pub fn passage(&self, now: Micros) -> Passage {
        match self.state {
            State::Closed { .. } => Passage::Free,
            State::Open { until, .. } if until <= now => Passage::Probe,
            // No pause is longer than that: the clock was set back.
            State::Open { until, .. } if until > now.saturating_add(MAX_WISH) => Passage::Probe,
            State::Open { until, .. } => Passage::ShutUntil(until),
            State::Probing { .. } => Passage::Probing,
        }
    }

    /// Forgets all, also of what is in flight.
    pub const fn start_afresh(&mut self) {
        self.state = State::Closed { failures: 0 };
        self.epoch += 1;
    }

    /// Whether there is nothing to remember.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        matches!(self.state, State::Closed { failures: 0 })
    }

    /// Lets a request through; `None` if it may not be sent.
    pub fn enter(&mut self, now: Micros) -> Option<Ticket> {
        match self.passage(now) {
            Passage::Free => Some(Ticket { epoch: self.epoch, is_probe: false }),
            Passage::Probe => {
                let State::Open { probes, .. } = self.state else { return None };
                self.state = State::Probing { probes };
                Some(Ticket { epoch: self.epoch, is_probe: true })
            }
            Passage::ShutUntil(_) | Passage::Probing => None,
        }
    }

    /// Lets a request through that people want to be sent, whatever the state.
    #[must_use]
    pub const fn force(&self) -> Ticket {
        Ticket { epoch: self.epoch, is_probe: false }
    }

    /// Whether a request that was let through may still be sent: nothing has been learnt since.
    #[must_use]
    pub const fn is_valid(&self, ticket: Ticket) -> bool {
        ticket.epoch == self.epoch
    }

    /// Takes in what came of a request. `jitter_unit` is -1.0 to 1.0.
    pub fn record(&mut self, ticket: Ticket, signal: Signal, now: Micros, jitter_unit: f64) {
        if ticket.epoch != self.epoch {
            return;
        }
        match (signal, self.state) {
            (Signal::Well, _) => self.state = State::Closed { failures: 0 },
            (Signal::Nothing, _) => self.abandon(ticket, now),
            (Signal::Unwell { wish }, State::Closed { failures }) => {
                let wish = wish.filter(|wish| *wish >= MIN_WISH);
                if wish.is_some() || failures + 1 >= THRESHOLD {
                    self.open(0, wish, now, jitter_unit);
                } else {
                    self.state = State::Closed { failures: failures + 1 };
                }
            }
            (Signal::Unwell { wish }, State::Probing { probes }) if ticket.is_probe => {
                self.open(probes + 1, wish.filter(|wish| *wish >= MIN_WISH), now, jitter_unit);
            }
            (Signal::Unwell { .. }, State::Open { .. } | State::Probing { .. }) => {}
        }
    }

    /// A request that was let through isn't sent after all.
    pub fn abandon(&mut self, ticket: Ticket, now: Micros) {
        if let State::Probing { probes } = self.state
            && ticket.is_probe
            && ticket.epoch == self.epoch
        {
            self.state = State::Open { until: now, probes };
            self.epoch += 1;
        }
    }

    fn open(&mut self, probes: usize, wish: Option<Duration>, now: Micros, jitter_unit: f64) {
        let [.., last] = PAUSES_S;
        let unit = if jitter_unit.is_finite() { jitter_unit.clamp(-1.0, 1.0) } else { 0.0 };
        let pause = Duration::from_secs(PAUSES_S.get(probes).copied().unwrap_or(last)).mul_f64(1.0 + JITTER * unit);
        // What it asked for counts as it is: the deliveries that it put off come back then.
        let pause = wish.map_or(pause, |wish| wish.min(MAX_WISH));
        self.state = State::Open { until: now.saturating_add(pause), probes };
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_767_254_400_000_000);
    const UNWELL: Signal = Signal::Unwell { wish: None };

    fn later(seconds: u64) -> Micros {
        NOW.saturating_add(Duration::from_secs(seconds))
    }

    fn wish(seconds: u64) -> Signal {
        Signal::Unwell { wish: Some(Duration::from_secs(seconds)) }
    }

    /// A breaker that has just opened at `NOW`, for 5 seconds.
    fn open() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..THRESHOLD {
            let ticket = breaker.enter(NOW).unwrap();
            breaker.record(ticket, UNWELL, NOW, 0.0);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let mut breaker = Breaker::default();
        for signals in [vec![UNWELL; 4], vec![Signal::Well], vec![UNWELL; 2], vec![Signal::Nothing], vec![UNWELL; 2]] {
            for signal in signals {
                let ticket = breaker.enter(NOW).unwrap();
                breaker.record(ticket, signal, NOW, 0.0);
            }
        }
        assert_eq!(breaker.passage(NOW), Passage::Free);
        let ticket = breaker.enter(NOW).unwrap();
        breaker.record(ticket, UNWELL, NOW, 0.0);
        assert_eq!(breaker.passage(NOW), Passage::ShutUntil(later(5)));
        assert_eq!(breaker.enter(later(4)), None);
    }

    #[test]
    fn one_probe_is_let_through_and_closes_it() {
        let mut breaker = open();
        let probe = breaker.enter(later(5)).unwrap();
        assert_eq!((breaker.passage(later(100)), breaker.enter(later(100))), (Passage::Probing, None));
        breaker.record(probe, Signal::Well, later(6), 0.0);
        assert!(breaker.is_fresh());
    }

    #[test]
    fn the_pauses_grow_up_to_a_minute() {
        let (mut breaker, mut at) = (open(), NOW);
        for pause in [5, 10, 20, 40, 60, 60, 60] {
            let next = at.saturating_add(Duration::from_secs(pause));
            assert_eq!(breaker.passage(at), Passage::ShutUntil(next), "{pause}");
            at = next;
            let probe = breaker.enter(at).unwrap();
            breaker.record(probe, UNWELL, at, 0.0);
        }
    }

    #[test]
    fn pauses_are_jittered_by_a_tenth() {
        for (unit, ms) in [(-1.0, 4_500), (0.5, 5_250), (7.0, 5_500), (f64::NAN, 5_000)] {
            let mut breaker = Breaker::default();
            for _ in 0..THRESHOLD {
                let ticket = breaker.enter(NOW).unwrap();
                breaker.record(ticket, UNWELL, NOW, unit);
            }
            let until = NOW.saturating_add(Duration::from_millis(ms));
            assert_eq!(breaker.passage(NOW), Passage::ShutUntil(until), "{unit}");
        }
    }

    #[test]
    fn a_wish_opens_it_at_once_up_to_its_cap() {
        for (asked, expected) in
            [(0, Passage::Free), (1, Passage::ShutUntil(later(1))), (90, Passage::ShutUntil(later(90)))]
        {
            let mut breaker = Breaker::default();
            let ticket = breaker.enter(NOW).unwrap();
            breaker.record(ticket, wish(asked), NOW, 1.0);
            assert_eq!(breaker.passage(NOW), expected, "{asked}");
        }
        let mut breaker = Breaker::default();
        let ticket = breaker.enter(NOW).unwrap();
        breaker.record(ticket, wish(86_400), NOW, 1.0);
        assert_eq!(breaker.passage(NOW), Passage::ShutUntil(NOW.saturating_add(MAX_WISH)));
    }

    #[test]
    fn what_was_sent_before_it_opened_says_nothing() {
        let mut breaker = Breaker::default();
        let early = breaker.enter(NOW).unwrap();
        let mut breaker = {
            for _ in 0..THRESHOLD {
                let ticket = breaker.enter(NOW).unwrap();
                breaker.record(ticket, UNWELL, NOW, 0.0);
            }
            breaker
        };
        assert!(!breaker.is_valid(early));
        breaker.record(early, Signal::Well, NOW, 0.0);
        assert_eq!(breaker.passage(NOW), Passage::ShutUntil(later(5)));
        let probe = breaker.enter(later(5)).unwrap();
        breaker.record(early, UNWELL, later(5), 0.0);
        assert_eq!(breaker.passage(later(5)), Passage::Probing);
        breaker.record(probe, Signal::Well, later(5), 0.0);
        breaker.record(early, wish(60), later(5), 0.0);
        assert!(breaker.is_fresh());
    }

    #[test]
    fn a_probe_that_is_not_sent_makes_way_for_another() {
        let mut breaker = open();
        let probe = breaker.enter(later(5)).unwrap();
        breaker.abandon(probe, later(6));
        assert_eq!(breaker.passage(later(6)), Passage::Probe);
        let probe = breaker.enter(later(6)).unwrap();
        breaker.record(probe, Signal::Nothing, later(7), 0.0);
        assert_eq!(breaker.passage(later(7)), Passage::Probe);
        // A second word about it says nothing of the next one.
        breaker.enter(later(7)).unwrap();
        breaker.abandon(probe, later(8));
        assert_eq!(breaker.passage(later(8)), Passage::Probing);
    }

    #[test]
    fn a_success_that_people_forced_closes_it_a_failure_changes_nothing() {
        let mut breaker = open();
        let forced = breaker.force();
        breaker.record(forced, UNWELL, later(1), 0.0);
        assert_eq!(breaker.passage(later(1)), Passage::ShutUntil(later(5)));
        breaker.record(forced, Signal::Well, later(1), 0.0);
        assert!(breaker.is_fresh());
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_it_open() {
        let breaker = open();
        assert_eq!(breaker.passage(NOW.saturating_sub(Duration::from_hours(1))), Passage::Probe);
    }

    #[track_caller]
    fn check(error_class: Option<ErrorClass>, status_code: Option<u16>, expected: Signal) {
        let attempt = Attempt {
            number: 1,
            cause: crate::domain::delivery::Cause::Scheduled,
            started: NOW,
            duration: Duration::ZERO,
            url: String::new(),
            status_code,
            response_body: Vec::new(),
            response_truncated: false,
            response_location: String::new(),
            retry_after: Some(Duration::from_secs(7)),
            error_class,
            error_detail: String::new(),
            lease_lost: false,
        };
        assert_eq!(Signal::of(&attempt), expected, "{error_class:?} {status_code:?}");
    }

    #[test]
    fn attempts_tell_how_the_endpoint_is() {
        check(None, Some(200), Signal::Well);
        for status in [301, 400, 401, 404, 408, 410, 500, 501] {
            check(Some(ErrorClass::HttpStatus), Some(status), Signal::Well);
        }
        for status in [429, 503] {
            check(Some(ErrorClass::HttpStatus), Some(status), wish(7));
        }
        for status in [502, 504] {
            check(Some(ErrorClass::HttpStatus), Some(status), UNWELL);
        }
        check(Some(ErrorClass::Timeout), Some(200), UNWELL);
        check(Some(ErrorClass::ConnectionRefused), None, UNWELL);
        for class in [ErrorClass::EgressDenied, ErrorClass::Template, ErrorClass::RequestInvalid] {
            check(Some(class), None, Signal::Nothing);
        }
    }
}
