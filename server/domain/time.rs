//! Points in time as the domain and both databases keep them: whole microseconds since the Unix epoch.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Serialize};

const US_PER_SECOND: i64 = 1_000_000;
const US_PER_MILLISECOND: i64 = 1_000;
const NS_PER_US: i32 = 1_000;
const NS_PER_SECOND: i32 = 1_000_000_000;
/// 1970-01-01T00:00:00 in UTC. Calendar arithmetic is done on civil times, since `jiff::Timestamp` ends a day before
/// the year 9999 does.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Microseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// Meant to lie between [`Micros::MIN`] and [`Micros::MAX`], the years 0001 to 9999 that RFC 3339 and
/// `google.protobuf.Timestamp` can write; all constructors and all arithmetic here stay inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
    /// 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_799_999_999);
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// From the two numbers of a `google.protobuf.Timestamp`; what is finer than a microsecond is cut off.
    /// `None` if `nanos` isn't 0 to 999,999,999 or the time is outside the years 0001 to 9999.
    #[must_use]
    pub fn from_unix(seconds: i64, nanos: i32) -> Option<Self> {
        if !(0..NS_PER_SECOND).contains(&nanos) {
            return None;
        }
        let whole_us = seconds.checked_mul(US_PER_SECOND)?;
        let us = whole_us.checked_add(i64::from(nanos / NS_PER_US))?;
        Self(us).in_range()
    }

    /// The two numbers of a `google.protobuf.Timestamp`: seconds since the epoch, and 0 to 999,999,000 nanoseconds.
    #[must_use]
    pub fn to_unix(self) -> (i64, i32) {
        let subsecond_us = i32::try_from(self.0.rem_euclid(US_PER_SECOND)).unwrap_or(0);
        (self.unix_seconds(), subsecond_us * NS_PER_US)
    }

    /// Whole seconds since the epoch, rounded down: what the `webhook-timestamp` header carries.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(US_PER_SECOND)
    }

    /// The time `delay` later, or `None` past [`Micros::MAX`].
    #[must_use]
    pub fn checked_add(self, delay: Duration) -> Option<Self> {
        Self(self.0.checked_add(whole_us(delay)?)?).in_range()
    }

    /// The time `delay` earlier, or `None` before [`Micros::MIN`].
    #[must_use]
    pub fn checked_sub(self, delay: Duration) -> Option<Self> {
        Self(self.0.checked_sub(whole_us(delay)?)?).in_range()
    }

    /// The time `delay` later, [`Micros::MAX`] at most.
    #[must_use]
    pub fn saturating_add(self, delay: Duration) -> Self {
        let delay_us = whole_us(delay).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(delay_us)).clamped()
    }

    /// The time `delay` earlier, [`Micros::MIN`] at least.
    #[must_use]
    pub fn saturating_sub(self, delay: Duration) -> Self {
        let delay_us = whole_us(delay).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(delay_us)).clamped()
    }

    /// How long after `earlier` this is; zero if it isn't after it.
    #[must_use]
    pub fn saturating_since(self, earlier: Self) -> Duration {
        let us = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(us).unwrap_or(0))
    }

    /// RFC 3339 in UTC with `Z`: no fraction for whole seconds, else 3 or 6 digits (as `ProtoJSON` writes times, and
    /// since some parsers take no other number of digits). Times outside the range are shown as its nearest end.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let us = self.clamped().0;
        let digits = match (us.rem_euclid(US_PER_SECOND), us.rem_euclid(US_PER_MILLISECOND)) {
            (0, _) => 0,
            (_, 0) => 3,
            _ => 6,
        };
        let utc = EPOCH.saturating_add(SignedDuration::from_micros(us));
        let mut text = DateTimePrinter::new().precision(Some(digits)).datetime_to_string(&utc);
        text.push('Z');
        text
    }

    /// Reads RFC 3339 strictly: `YYYY-MM-DDTHH:MM:SS`, an optional fraction of 1 to 9 digits, then `Z` or `+HH:MM`.
    /// `T` and `Z` may be in lower case (RFC 3339, 5.6). A leap second (`:60`) counts as second 59. What is finer
    /// than a microsecond is cut off. `None` for anything else and for times outside the years 0001 to 9999 in UTC.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (local, rest) = text.split_at_checked(19)?;
        // The date library reads far more than RFC 3339 (the basic format, a space for the `T`), and what an API
        // accepts once it must accept for ever.
        if !matches_shape(local.as_bytes(), b"9999-99-99T99:99:99") {
            return None;
        }
        let local: DateTime = local.parse().ok()?;
        let (fraction_us, offset) = split_fraction(rest)?;
        let utc = local.duration_since(EPOCH).checked_sub(parse_offset(offset)?)?;
        let us = i64::try_from(utc.as_micros()).ok()?;
        Self(us.checked_add(fraction_us)?).in_range()
    }

    fn clamped(self) -> Self {
        self.clamp(Self::MIN, Self::MAX)
    }

    fn in_range(self) -> Option<Self> {
        (self == self.clamped()).then_some(self)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_rfc3339())
    }
}

fn whole_us(duration: Duration) -> Option<i64> {
    i64::try_from(duration.as_micros()).ok()
}

/// Splits `.123Z` into its microseconds, rounded down, and what follows; no fraction is 0.
fn split_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(fraction) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let end = fraction.find(|c: char| !c.is_ascii_digit())?;
    let (digits, offset) = fraction.split_at_checked(end)?;
    if !(1..=9).contains(&digits.len()) {
        return None;
    }
    let us = digits.bytes().chain(std::iter::repeat(b'0')).take(6);
    Some((us.fold(0, |us, digit| us * 10 + i64::from(digit - b'0')), offset))
}

/// Reads `Z` or `+HH:MM`, up to 23:59 either way (RFC 3339, `time-offset`).
fn parse_offset(text: &str) -> Option<SignedDuration> {
    if text.eq_ignore_ascii_case("z") {
        return Some(SignedDuration::ZERO);
    }
    let east = text.starts_with('+');
    let unsigned = text.strip_prefix(['+', '-'])?;
    if !matches_shape(unsigned.as_bytes(), b"99:99") {
        return None;
    }
    let (hours, minutes) = unsigned.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = SignedDuration::from_mins(hours * 60 + minutes);
    Some(if east { offset } else { -offset })
}

fn matches_shape(text: &[u8], shape: &[u8]) -> bool {
    text.len() == shape.len()
        && text.iter().zip(shape).all(|(byte, shape)| match shape {
            b'9' => byte.is_ascii_digit(),
            _ => byte.eq_ignore_ascii_case(shape),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_text(us: i64, expected: &str) {
        assert_eq!(Micros(us).to_rfc3339(), expected);
        assert_eq!(Micros(us).to_string(), expected);
        assert_eq!(Micros::parse_rfc3339(expected), Some(Micros(us)), "{expected} read back");
    }

    #[test]
    fn renders_rfc3339_in_utc() {
        check_text(0, "1970-01-01T00:00:00Z");
        check_text(1, "1970-01-01T00:00:00.000001Z");
        check_text(1_000, "1970-01-01T00:00:00.001Z");
        check_text(500_000, "1970-01-01T00:00:00.500Z");
        check_text(-1, "1969-12-31T23:59:59.999999Z");
        check_text(-1_000_000, "1969-12-31T23:59:59Z");
        check_text(1_709_210_096_789_000, "2024-02-29T12:34:56.789Z");
        check_text(Micros::MIN.0, "0001-01-01T00:00:00Z");
        check_text(Micros::MAX.0, "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn renders_out_of_range_times_as_the_nearest_end() {
        assert_eq!(Micros(i64::MAX).to_rfc3339(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Micros(i64::MIN).to_rfc3339(), "0001-01-01T00:00:00Z");
    }

    #[track_caller]
    fn check_parse(text: &str, expected: Option<i64>) {
        assert_eq!(Micros::parse_rfc3339(text), expected.map(Micros), "{text}");
    }

    #[test]
    fn reads_rfc3339_strictly() {
        check_parse("1970-01-01T01:00:00+01:00", Some(0));
        check_parse("1969-12-31T19:30:00-04:30", Some(0));
        check_parse("1970-01-01t00:00:00z", Some(0));
        check_parse("1970-01-01T00:00:00-00:00", Some(0));
        check_parse("1970-01-01T00:00:00.123456789Z", Some(123_456));
        check_parse("1969-12-31T23:59:59.9999999Z", Some(-1));
        check_parse("2016-12-31T23:59:60Z", Some(1_483_228_799_000_000));
        check_parse("1970-01-01T23:59:00+23:59", Some(0));
        for bad in [
            "",
            "Z",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00,5Z",
            "1970-01-01T00:00:00.1234567890Z",
            "19700101T000000Z",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+01",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00+01:60",
            "1970-01-01T00:00:00Z[UTC]",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:61Z",
            "1970-02-30T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            " 1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z ",
            "+01970-01-01T00:00:00Z",
            "१९७०-01-01T00:00:00Z",
        ] {
            check_parse(bad, None);
        }
    }

    #[track_caller]
    fn check_unix(seconds: i64, nanos: i32, expected: Option<i64>) {
        assert_eq!(Micros::from_unix(seconds, nanos), expected.map(Micros));
    }

    #[test]
    fn converts_protobuf_timestamps() {
        check_unix(0, 0, Some(0));
        check_unix(1, 1_999, Some(1_000_001));
        check_unix(-1, 999_999_999, Some(-1));
        check_unix(253_402_300_799, 999_999_999, Some(Micros::MAX.0));
        check_unix(-62_135_596_800, 0, Some(Micros::MIN.0));
        check_unix(253_402_300_800, 0, None);
        check_unix(-62_135_596_801, 999_999_999, None);
        check_unix(0, -1, None);
        check_unix(0, 1_000_000_000, None);
        check_unix(i64::MAX, 0, None);
        check_unix(i64::MIN, 0, None);
        assert_eq!(Micros(-1).to_unix(), (-1, 999_999_000));
        assert_eq!(Micros(1_500_000).to_unix(), (1, 500_000_000));
        assert_eq!(Micros(-1).unix_seconds(), -1);
    }

    #[test]
    fn arithmetic_stays_in_range() {
        let second = Duration::from_secs(1);
        assert_eq!(Micros(5).saturating_add(second), Micros(1_000_005));
        assert_eq!(Micros(5).saturating_sub(second), Micros(-999_995));
        assert_eq!(Micros::MAX.saturating_add(second), Micros::MAX);
        assert_eq!(Micros::MIN.saturating_sub(second), Micros::MIN);
        assert_eq!(Micros(0).saturating_add(Duration::MAX), Micros::MAX);
        assert_eq!(Micros(0).saturating_sub(Duration::MAX), Micros::MIN);
        assert_eq!(Micros(0).checked_add(second), Some(Micros(1_000_000)));
        assert_eq!(Micros(0).checked_sub(second), Some(Micros(-1_000_000)));
        assert_eq!(Micros::MAX.checked_add(second), None);
        assert_eq!(Micros::MIN.checked_sub(second), None);
        assert_eq!(Micros(0).checked_add(Duration::MAX), None);
        assert_eq!(Micros(0).saturating_add(Duration::from_nanos(1_999)), Micros(1));
        assert_eq!(Micros(7).saturating_since(Micros(5)), Duration::from_micros(2));
        assert_eq!(Micros(5).saturating_since(Micros(7)), Duration::ZERO);
        assert_eq!(Micros(i64::MAX).saturating_since(Micros(i64::MIN)), Duration::from_micros(i64::MAX as u64));
    }

    #[test]
    fn serialises_as_a_number() {
        assert_eq!(serde_json::to_string(&Micros(42)).unwrap(), "42");
        assert_eq!(serde_json::from_str::<Micros>("-7").unwrap(), Micros(-7));
    }
}
