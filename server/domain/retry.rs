//! What an attempt's result means, and when the next one is made.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::coded::coded;
use super::delivery::{Reason, State};
use super::outcome::Kind;
use super::template::RenderError;
use super::time::Micros;

/// The most delays of a schedule, that is, the most retries.
pub const MAX_DELAYS: usize = 20;
/// The shortest delay.
pub const MIN_DELAY: Duration = Duration::from_secs(1);
/// The longest delay: 7 days.
pub const MAX_DELAY: Duration = Duration::from_hours(7 * 24);
/// The longest that an endpoint can put off an attempt by Retry-After: 24 hours.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);
/// How far a delay is moved at random, either way.
const JITTER: f64 = 0.1;
/// The example schedule of the Standard Webhooks specification: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
const STANDARD_DELAYS_S: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

coded! {
    /// What went wrong in an attempt.
    pub enum ErrorClass {
        /// The status isn't 2xx.
        HttpStatus = 1, "HTTP_STATUS";
        /// The host's name couldn't be resolved.
        Dns = 2, "DNS";
        /// Nothing listens there.
        ConnectionRefused = 3, "CONNECTION_REFUSED";
        /// The peer broke the connection.
        ConnectionReset = 4, "CONNECTION_RESET";
        /// The peer closed the connection before the response ended.
        ConnectionClosed = 5, "CONNECTION_CLOSED";
        /// There is no route to the host or network.
        Unreachable = 6, "UNREACHABLE";
        /// The TLS handshake failed, or the certificate isn't trusted.
        Tls = 7, "TLS";
        /// The deadline passed, connecting and body included.
        Timeout = 8, "TIMEOUT";
        /// The response's headers are beyond the limit.
        HeadersTooLarge = 9, "HEADERS_TOO_LARGE";
        /// The response isn't HTTP.
        Protocol = 10, "PROTOCOL";
        /// The operator's policy forbids the address, port or scheme. Retried: names change their addresses, and
        /// operators their policy.
        EgressDenied = 11, "EGRESS_DENIED";
        /// A placeholder has no value. Final.
        Template = 12, "TEMPLATE";
        /// The URL or the body is too long. Final.
        RequestTooLarge = 13, "REQUEST_TOO_LARGE";
        /// A value would make a path segment `.` or `..`. Final.
        UnsafePath = 14, "UNSAFE_PATH";
        /// The request can't be built. Final.
        RequestInvalid = 15, "REQUEST_INVALID";
        /// None of the others.
        Other = 16, "OTHER";
    }
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpResult {
    /// A response that ended, or reached its cap, before the deadline.
    Response {
        /// The status, 100 to 599 and whatever else an endpoint makes up.
        status: u16,
    },
    /// No such response.
    Failure(ErrorClass),
}

/// What an attempt's result means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint accepted the delivery.
    Delivered,
    /// It's to be tried again.
    Retry {
        /// Whether the endpoint said that it's overloaded, so that everything to it is to slow down.
        slow_endpoint: bool,
    },
    /// The endpoint is gone for good (410): the webhook is disabled. The delivery itself goes on as after any failure,
    /// which matters once the webhook is resumed.
    DisableWebhook,
    /// Another attempt would fail the same way.
    Final(Reason),
}

/// What comes next for a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it's delivered.
    Delivered,
    /// It waits for an attempt that is due then.
    RetryAt(Micros),
    /// It's given up, and why: the schedule is used up or another attempt would fail the same way.
    Exhausted(Reason),
}

impl Next {
    /// The delivery's state then.
    #[must_use]
    pub const fn state(self) -> State {
        match self {
            Self::Delivered => State::Delivered,
            Self::RetryAt(_) => State::Waiting,
            Self::Exhausted(_) => State::Exhausted,
        }
    }

    /// Why it is in that state.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Exhausted(reason) => reason,
            Self::Delivered | Self::RetryAt(_) => Reason::None,
        }
    }

    /// When the next attempt is due.
    #[must_use]
    pub const fn due(self) -> Option<Micros> {
        match self {
            Self::RetryAt(due) => Some(due),
            Self::Delivered | Self::Exhausted(_) => None,
        }
    }

    /// What watchers are told.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Delivered => Kind::Delivered,
            Self::RetryAt(_) => Kind::AttemptFailed,
            Self::Exhausted(_) => Kind::Exhausted,
        }
    }
}

/// The delays after the first attempt and after each further one: 0 to 20 of 1 second to 7 days. None means that there
/// is one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
pub struct Schedule(Vec<Duration>);

/// Why delays make no schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// More than [`MAX_DELAYS`].
    #[error("must have at most {MAX_DELAYS} delays; has {count}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Shorter than [`MIN_DELAY`] or longer than [`MAX_DELAY`].
    #[error("must be from 1 second to 7 days")]
    Delay {
        /// Which of the delays, from 0 on.
        index: usize,
    },
}

/// What is known when the next attempt is planned.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The webhook's schedule as it is now.
    pub schedule: &'a Schedule,
    /// How many attempts of the schedule were made, the one just made included; manual ones and replays don't count.
    pub attempts_made: u32,
    /// What the attempt just made means.
    pub verdict: Verdict,
    /// What the response asked for; see [`parse_retry_after`].
    pub retry_after: Option<Duration>,
    /// When the attempt ended.
    pub now: Micros,
    /// A random number from -1 to 1: by how much of the jitter the delay is moved.
    pub jitter_unit: f64,
}

impl ErrorClass {
    /// Why a delivery with this error is given up at once; `None` if it's tried again.
    #[must_use]
    pub const fn final_reason(self) -> Option<Reason> {
        match self {
            Self::Template => Some(Reason::Template),
            Self::RequestTooLarge => Some(Reason::RequestTooLarge),
            Self::UnsafePath => Some(Reason::UnsafePath),
            Self::RequestInvalid => Some(Reason::RequestInvalid),
            Self::HttpStatus
            | Self::Dns
            | Self::ConnectionRefused
            | Self::ConnectionReset
            | Self::ConnectionClosed
            | Self::Unreachable
            | Self::Tls
            | Self::Timeout
            | Self::HeadersTooLarge
            | Self::Protocol
            | Self::EgressDenied
            | Self::Other => None,
        }
    }
}

impl From<&RenderError> for ErrorClass {
    fn from(error: &RenderError) -> Self {
        match error {
            RenderError::MissingValue { .. } => Self::Template,
            RenderError::DotSegment => Self::UnsafePath,
            RenderError::UrlTooLarge | RenderError::BodyTooLarge => Self::RequestTooLarge,
        }
    }
}

impl HttpResult {
    /// What went wrong; `None` on success.
    #[must_use]
    pub const fn error_class(self) -> Option<ErrorClass> {
        match self {
            Self::Response { status: 200..=299 } => None,
            Self::Response { .. } => Some(ErrorClass::HttpStatus),
            Self::Failure(class) => Some(class),
        }
    }

    /// What the result means. Success is 2xx alone: redirects are never followed.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Response { status: 200..=299 } => Verdict::Delivered,
            Self::Response { status: 410 } => Verdict::DisableWebhook,
            Self::Response { status } => Verdict::Retry { slow_endpoint: matches!(status, 429 | 502..=504) },
            Self::Failure(class) => match class.final_reason() {
                Some(reason) => Verdict::Final(reason),
                None => Verdict::Retry { slow_endpoint: false },
            },
        }
    }
}

impl Schedule {
    /// A schedule of these delays.
    ///
    /// # Errors
    ///
    /// All delays that are out of range, or that there are too many.
    pub fn new(delays: Vec<Duration>) -> Result<Self, Vec<ScheduleError>> {
        if delays.len() > MAX_DELAYS {
            return Err(vec![ScheduleError::TooMany { count: delays.len() }]);
        }
        let is_bad = |delay: &Duration| !(MIN_DELAY..=MAX_DELAY).contains(delay);
        let bad = delays.iter().enumerate().filter(|(_, delay)| is_bad(delay));
        let errors: Vec<_> = bad.map(|(index, _)| ScheduleError::Delay { index }).collect();
        if errors.is_empty() { Ok(Self(delays)) } else { Err(errors) }
    }

    /// One attempt, and no further one.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// The delays.
    #[must_use]
    pub fn delays(&self) -> &[Duration] {
        &self.0
    }

    /// The delay before the next attempt, without jitter; `None` if all were made.
    #[must_use]
    pub fn delay_after(&self, attempts_made: u32) -> Option<Duration> {
        let index = usize::try_from(attempts_made.saturating_sub(1)).ok()?;
        self.0.get(index).copied()
    }
}

/// The schedule of a webhook that has none of its own: that of the Standard Webhooks specification.
impl Default for Schedule {
    fn default() -> Self {
        Self(STANDARD_DELAYS_S.map(Duration::from_secs).to_vec())
    }
}

/// Stored as microseconds.
impl From<Schedule> for Vec<u64> {
    fn from(schedule: Schedule) -> Self {
        let us = |delay: &Duration| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        schedule.0.iter().map(us).collect()
    }
}

impl TryFrom<Vec<u64>> for Schedule {
    type Error = &'static str;

    fn try_from(delays_us: Vec<u64>) -> Result<Self, Self::Error> {
        let delays = delays_us.into_iter().map(Duration::from_micros).collect();
        Self::new(delays).map_err(|_| "must be at most 20 delays of 1 second to 7 days")
    }
}

/// Reads a Retry-After header (RFC 9110, 10.2.3): seconds, or a date in one of the three forms of HTTP. A time in the
/// past is zero, one beyond [`MAX_RETRY_AFTER`] is that; `None` for anything else.
#[must_use]
pub fn parse_retry_after(header: &[u8], now: Micros) -> Option<Duration> {
    let text = std::str::from_utf8(header).ok()?.trim_ascii();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large to read is a long wait.
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Micros::UNIX_EPOCH.saturating_add(since_epoch).saturating_since(now)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Decides what comes next for a delivery after an attempt.
///
/// The delay of the schedule is moved by up to 10 % either way. Retry-After can make it longer, up to 24 hours, never
/// shorter; what it asks for is moved by up to 10 % to later only, so that the endpoint doesn't get everything that
/// it put off at once.
#[must_use]
pub fn plan_next_attempt(plan: &Plan<'_>) -> Next {
    match plan.verdict {
        Verdict::Delivered => return Next::Delivered,
        Verdict::Final(reason) => return Next::Exhausted(reason),
        Verdict::Retry { .. } | Verdict::DisableWebhook => {}
    }
    let Some(delay) = plan.schedule.delay_after(plan.attempts_made) else {
        return Next::Exhausted(Reason::ScheduleExhausted);
    };
    let unit = if plan.jitter_unit.is_finite() { plan.jitter_unit.clamp(-1.0, 1.0) } else { 0.0 };
    let scheduled = delay.mul_f64(1.0 + JITTER * unit);
    let asked = plan.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
    let asked = asked.mul_f64(1.0 + JITTER * unit.abs()).min(MAX_RETRY_AFTER);
    Next::RetryAt(plan.now.saturating_add(scheduled.max(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_767_254_400_000_000); // Thu, 01 Jan 2026 08:00:00 GMT

    #[track_caller]
    fn check_verdict(status: u16, expected: Verdict) {
        assert_eq!(HttpResult::Response { status }.verdict(), expected, "{status}");
    }

    #[test]
    fn statuses_mean_what_the_specification_says() {
        for status in [200, 201, 202, 204, 206, 299] {
            check_verdict(status, Verdict::Delivered);
            assert_eq!(HttpResult::Response { status }.error_class(), None);
        }
        for status in [
            100, 101, 199, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 408, 409, 411, 422, 428, 430, 500, 501,
            505, 599, 999, 0,
        ] {
            check_verdict(status, Verdict::Retry { slow_endpoint: false });
            assert_eq!(HttpResult::Response { status }.error_class(), Some(ErrorClass::HttpStatus));
        }
        for status in [429, 502, 503, 504] {
            check_verdict(status, Verdict::Retry { slow_endpoint: true });
        }
        check_verdict(410, Verdict::DisableWebhook);
        assert_eq!(HttpResult::Response { status: 410 }.error_class(), Some(ErrorClass::HttpStatus));
    }

    #[test]
    fn only_what_fails_the_same_way_again_is_final() {
        let finals = [
            (ErrorClass::Template, Reason::Template),
            (ErrorClass::RequestTooLarge, Reason::RequestTooLarge),
            (ErrorClass::UnsafePath, Reason::UnsafePath),
            (ErrorClass::RequestInvalid, Reason::RequestInvalid),
        ];
        for class in ErrorClass::ALL {
            let result = HttpResult::Failure(*class);
            let reason = finals.iter().find(|(candidate, _)| candidate == class).map(|(_, reason)| *reason);
            let expected = reason.map_or(Verdict::Retry { slow_endpoint: false }, Verdict::Final);
            assert_eq!(result.verdict(), expected, "{class:?}");
            assert_eq!(result.error_class(), Some(*class));
        }
    }

    #[test]
    fn render_errors_have_a_class() {
        let missing = RenderError::MissingValue { name: "a".to_owned() };
        assert_eq!(ErrorClass::from(&missing), ErrorClass::Template);
        assert_eq!(ErrorClass::from(&RenderError::DotSegment), ErrorClass::UnsafePath);
        assert_eq!(ErrorClass::from(&RenderError::UrlTooLarge), ErrorClass::RequestTooLarge);
        assert_eq!(ErrorClass::from(&RenderError::BodyTooLarge), ErrorClass::RequestTooLarge);
    }

    #[track_caller]
    fn check_retry_after(header: &str, expected_s: Option<u64>) {
        let wait = parse_retry_after(header.as_bytes(), NOW);
        assert_eq!(wait, expected_s.map(Duration::from_secs), "{header:?}");
    }

    #[test]
    fn reads_retry_after() {
        check_retry_after("0", Some(0));
        check_retry_after("120", Some(120));
        check_retry_after(" 007\t", Some(7));
        check_retry_after("86400", Some(86_400));
        check_retry_after("86401", Some(86_400));
        check_retry_after("99999999999999999999999999", Some(86_400));
        check_retry_after("Thu, 01 Jan 2026 08:02:00 GMT", Some(120));
        check_retry_after("Thursday, 01-Jan-26 08:02:00 GMT", Some(120));
        check_retry_after("Thu Jan  1 08:02:00 2026", Some(120));
        check_retry_after("Thu, 01 Jan 2026 08:00:00 GMT", Some(0));
        check_retry_after("Thu, 01 Jan 2026 07:00:00 GMT", Some(0));
        check_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", Some(0));
        check_retry_after("Thu, 31 Dec 2099 08:00:00 GMT", Some(86_400));
        for garbage in [
            "",
            " ",
            "-5",
            "+5",
            "1.5",
            "5s",
            "soon",
            "1 2",
            "٣",
            "2026-01-01T08:02:00Z",
            "Thu, 99 Jan 2026 08:02:00 GMT",
            "0x10",
        ] {
            check_retry_after(garbage, None);
        }
        assert_eq!(parse_retry_after(b"\xff\xfe", NOW), None);
    }

    #[test]
    fn schedules_are_checked() {
        let seconds = |seconds: &[u64]| seconds.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        assert!(Schedule::new(Vec::new()).unwrap().delays().is_empty());
        assert_eq!(Schedule::new(seconds(&[1, 604_800])).unwrap().delays(), seconds(&[1, 604_800]));
        assert!(Schedule::new(seconds(&[1; 20])).is_ok());
        assert_eq!(Schedule::new(seconds(&[1; 21])), Err(vec![ScheduleError::TooMany { count: 21 }]));
        let errors = Schedule::new(seconds(&[0, 1, 604_801]));
        assert_eq!(errors, Err(vec![ScheduleError::Delay { index: 0 }, ScheduleError::Delay { index: 2 }]));
        assert!(Schedule::new(vec![Duration::from_millis(999)]).is_err());
    }

    #[test]
    fn schedules_are_stored_as_microseconds() {
        let schedule = Schedule::new(vec![Duration::from_millis(1_500), Duration::from_secs(5)]).unwrap();
        assert_eq!(serde_json::to_string(&schedule).unwrap(), "[1500000,5000000]");
        assert_eq!(serde_json::from_str::<Schedule>("[1500000,5000000]").unwrap(), schedule);
        assert!(serde_json::from_str::<Schedule>("[1]").is_err());
    }

    fn plan(schedule: &Schedule, attempts_made: u32) -> Plan<'_> {
        let verdict = Verdict::Retry { slow_endpoint: false };
        Plan { schedule, attempts_made, verdict, retry_after: None, now: NOW, jitter_unit: 0.0 }
    }

    #[track_caller]
    fn check_wait(plan: &Plan<'_>, expected: Duration) {
        let due = Micros(NOW.0 + i64::try_from(expected.as_micros()).unwrap());
        assert_eq!(plan_next_attempt(plan), Next::RetryAt(due), "{plan:?}");
    }

    #[test]
    fn the_default_schedule_is_that_of_standard_webhooks() {
        let schedule = Schedule::default();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let hours = |hours: u64| Duration::from_secs(3_600 * hours);
        check_wait(&plan(&schedule, 1), Duration::from_secs(5));
        check_wait(&plan(&schedule, 2), minutes(5));
        check_wait(&plan(&schedule, 3), minutes(30));
        for (attempts_made, delay_h) in [(4, 2), (5, 5), (6, 10), (7, 14), (8, 20), (9, 24)] {
            check_wait(&plan(&schedule, attempts_made), hours(delay_h));
        }
        for attempts_made in [10, 11, u32::MAX] {
            let next = plan_next_attempt(&plan(&schedule, attempts_made));
            assert_eq!(next, Next::Exhausted(Reason::ScheduleExhausted));
        }
    }

    #[test]
    fn an_empty_schedule_is_one_attempt() {
        let schedule = Schedule::new(Vec::new()).unwrap();
        let asked = Plan { retry_after: Some(Duration::from_secs(5)), ..plan(&schedule, 1) };
        assert_eq!(plan_next_attempt(&asked), Next::Exhausted(Reason::ScheduleExhausted));
    }

    #[test]
    fn verdicts_lead_on() {
        let schedule = Schedule::default();
        let next = |verdict| plan_next_attempt(&Plan { verdict, ..plan(&schedule, 1) });
        assert_eq!(next(Verdict::Delivered), Next::Delivered);
        assert_eq!(next(Verdict::Final(Reason::Template)), Next::Exhausted(Reason::Template));
        assert_eq!(next(Verdict::DisableWebhook), Next::RetryAt(Micros(NOW.0 + 5_000_000)));
        assert_eq!(next(Verdict::Retry { slow_endpoint: true }), Next::RetryAt(Micros(NOW.0 + 5_000_000)));
    }

    #[test]
    fn delays_are_jittered_by_a_tenth() {
        let schedule = Schedule::default();
        let with = |jitter_unit| Plan { jitter_unit, ..plan(&schedule, 2) };
        check_wait(&with(-1.0), Duration::from_secs(270));
        check_wait(&with(-0.5), Duration::from_secs(285));
        check_wait(&with(1.0), Duration::from_secs(330));
        check_wait(&with(7.0), Duration::from_secs(330));
        check_wait(&with(f64::NEG_INFINITY), Duration::from_secs(300));
        check_wait(&with(f64::NAN), Duration::from_secs(300));
    }

    #[test]
    fn retry_after_makes_it_later_never_earlier() {
        let schedule = Schedule::default();
        let with = |asked_s, jitter_unit| {
            let retry_after = Some(Duration::from_secs(asked_s));
            Plan { retry_after, jitter_unit, ..plan(&schedule, 2) }
        };
        check_wait(&with(0, 0.0), Duration::from_secs(300));
        check_wait(&with(299, 0.0), Duration::from_secs(300));
        check_wait(&with(600, 0.0), Duration::from_secs(600));
        check_wait(&with(600, -1.0), Duration::from_secs(660));
        check_wait(&with(600, 0.5), Duration::from_secs(630));
        check_wait(&with(86_400, 1.0), Duration::from_secs(86_400));
        check_wait(&with(u64::MAX, 0.0), Duration::from_secs(86_400));
        // A schedule of its own may wait longer than Retry-After can.
        let weekly = Schedule::new(vec![MAX_DELAY]).unwrap();
        check_wait(&Plan { retry_after: Some(Duration::MAX), ..plan(&weekly, 1) }, MAX_DELAY);
    }

    #[test]
    fn the_last_moment_is_not_passed() {
        let schedule = Schedule::default();
        let last = Plan { now: Micros::MAX, ..plan(&schedule, 1) };
        assert_eq!(plan_next_attempt(&last), Next::RetryAt(Micros::MAX));
    }
}
