//! Durations as people write them: `2s`, `5m`, `3h`, `2d`, and several of them together, as `1d12h`.

use prost_types::Duration;

/// The units, the longest first, and their nanoseconds.
const UNITS: [(&str, i128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const NS_PER_SECOND: i128 = 1_000_000_000;
/// The most digits of a number: more is no duration that anything takes.
const MAX_DIGITS: usize = 12;

/// Reads a duration; `None` if it is none.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut total_ns) = (text, 0);
    while !rest.is_empty() || text.is_empty() {
        let (digits, after) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
        if digits.is_empty() || digits.len() > MAX_DIGITS {
            return None;
        }
        let (unit, after) = after.split_at_checked(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()))?;
        let (_, ns) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total_ns += digits.parse::<i128>().ok()? * ns;
        rest = after;
    }
    let seconds = i64::try_from(total_ns / NS_PER_SECOND).ok()?;
    let nanos = i32::try_from(total_ns % NS_PER_SECOND).ok()?;
    Some(Duration { seconds, nanos })
}

/// Writes a duration that isn't negative so that [`parse`] reads it.
pub(super) fn write(duration: &Duration) -> String {
    let mut rest_ns = i128::from(duration.seconds) * NS_PER_SECOND + i128::from(duration.nanos);
    let mut text = String::new();
    for (unit, ns) in UNITS {
        let count = rest_ns / ns;
        rest_ns %= ns;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(i64, i32)>, written: &str) {
        let expected = expected.map(|(seconds, nanos)| Duration { seconds, nanos });
        let parsed = parse(text);
        assert_eq!(parsed, expected, "{text:?}");
        if let Some(duration) = parsed {
            assert_eq!(write(&duration), written);
            assert_eq!(parse(written), Some(duration), "{written:?}");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        check("2s", Some((2, 0)), "2s");
        check("5m", Some((300, 0)), "5m");
        check("3h", Some((10_800, 0)), "3h");
        check("2d", Some((172_800, 0)), "2d");
        check("36h", Some((129_600, 0)), "1d12h");
        check("1d12h", Some((129_600, 0)), "1d12h");
        check("1s500ms", Some((1, 500_000_000)), "1s500ms");
        check("0s", Some((0, 0)), "0s");
        for text in ["", "5", "d", "5 m", "-5m", "+5m", "5w", "1.5h", "5m2", "9999999999999s", "5µs", "５m"] {
            check(text, None, "");
        }
    }
}
