//! Conversions that several nouns share.

use std::time::Duration;

use prost::Message;

use crate::domain::time::Micros;
use crate::error::Violations;

/// A time on the wire.
pub(super) fn timestamp(time: Micros) -> prost_types::Timestamp {
    let (seconds, nanos) = time.to_unix();
    prost_types::Timestamp { seconds, nanos }
}

/// A duration on the wire.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A time from the wire.
pub(super) fn parse_time(
    field: &str,
    time: Option<prost_types::Timestamp>,
    violations: &mut Violations,
) -> Option<Micros> {
    let time = time?;
    let parsed = Micros::from_unix(time.seconds, time.nanos);
    if parsed.is_none() {
        violations.add_if_new(
            field,
            "TIMESTAMP",
            "must be a time in the years 0001 to 9999 with 0 to 999,999,999 nanos",
        );
    }
    parsed
}

/// A duration from the wire; whether it is within bounds is the proto's rule.
pub(super) fn parse_duration(
    field: &str,
    duration: Option<prost_types::Duration>,
    violations: &mut Violations,
) -> Option<Duration> {
    let duration = duration?;
    let parsed = u64::try_from(duration.seconds)
        .ok()
        .zip(u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000))
        .map(|(seconds, nanos)| Duration::new(seconds, nanos));
    if parsed.is_none() {
        violations.add_if_new(field, "DURATION", "must not be negative");
    }
    parsed
}

/// A text that may be absent; an empty one is.
pub(super) fn optional(text: &str) -> Option<String> {
    Some(text).filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

/// Refuses NUL, which PostgreSQL keeps in no text.
pub(super) fn refuse_nul(field: &str, text: &str, violations: &mut Violations) {
    if text.contains('\0') {
        violations.add_if_new(field, "CONTROL_CHARACTER", "must not have the character U+0000");
    }
}

/// The most bytes of a definition as a message, so that every response can be read.
const MAX_DEFINITION_BYTES: usize = 1024 * 1024;

/// Refuses a definition that is too large to be shown.
pub(super) fn check_size(field: &str, definition: &impl Message, violations: &mut Violations) {
    let bytes = definition.encoded_len();
    if bytes > MAX_DEFINITION_BYTES {
        let rule = format!("must be at most {MAX_DEFINITION_BYTES} bytes as a message; has {bytes}");
        violations.add_if_new(field, "TOO_LARGE", rule);
    }
}

/// The number of a wire enum's value, which is that of the domain's.
pub(super) fn code(value: impl Into<i32>) -> i16 {
    i16::try_from(value.into()).unwrap_or(0)
}

/// Ids on the wire.
pub(super) fn texts<I: ToString>(ids: &[I]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}
