//! What is counted of outcomes, and how durations are summed up.
//!
//! Durations are counted in classes whose bounds grow by a fifth, so that a percentile told by its class is within 10
//! percent of the true one, and any two sets of counts can be added up.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use super::delivery::{Cause, Source};
use super::outcome::{Kind, Outcome};
use super::time::Micros;

/// The width of what counts are kept for: a quarter of an hour.
pub const BUCKET: Duration = Duration::from_mins(15);
/// How much wider each class of durations is than the one before.
const GROWTH: f64 = 1.2;
/// The first class ends here; what is shorter counts as that.
const SHORTEST: Duration = Duration::from_millis(1);
/// The classes: the last one begins at about 14 weeks.
const CLASSES: usize = 125;
/// Where the numbers of the metrics begin; below are the kinds of outcomes.
const DURATIONS: i16 = 1_000;
const LATENCIES: i16 = 2_000;

/// The upper bounds of the classes, in microseconds.
static BOUNDS: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let mut bounds = Vec::with_capacity(CLASSES);
    let mut bound = SHORTEST.as_secs_f64() * 1e6;
    for _ in 0..CLASSES {
        // Positive, and below 2^53.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        bounds.push(bound.round() as u64);
        bound *= GROWTH;
    }
    bounds
});

/// What is counted, by the number that the database keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric(pub i16);

impl Metric {
    /// Outcomes of a kind.
    #[must_use]
    pub const fn of_kind(kind: Kind) -> Self {
        Self(kind.code())
    }

    fn in_class(base: i16, duration: Duration) -> Self {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS.partition_point(|bound| *bound < us).min(CLASSES - 1);
        Self(base + i16::try_from(class).unwrap_or(0))
    }
}

/// What an outcome counts for; nothing for tests and for changes of webhooks. `recorded` is when its delivery was.
#[must_use]
pub fn metrics_of(outcome: &Outcome, recorded: Option<Micros>) -> Vec<Metric> {
    if outcome.delivery.as_ref().is_none_or(|delivery| delivery.source == Source::Test) {
        return Vec::new();
    }
    let mut metrics = vec![Metric::of_kind(outcome.kind)];
    let Some(attempt) = &outcome.attempt else { return metrics };
    metrics.push(Metric::in_class(DURATIONS, attempt.duration));
    if outcome.kind == Kind::Delivered
        && attempt.cause == Cause::Scheduled
        && let Some(recorded) = recorded
    {
        let ended = attempt.started.saturating_add(attempt.duration);
        metrics.push(Metric::in_class(LATENCIES, ended.saturating_since(recorded)));
    }
    metrics
}

/// The start of the bucket that a time is in.
#[must_use]
pub fn bucket_of(time: Micros) -> Micros {
    Micros(time.0 - time.0.rem_euclid(bucket_us()))
}

/// The start of the first bucket that begins at a time or later.
#[must_use]
pub fn bucket_from(time: Micros) -> Micros {
    let start = bucket_of(time);
    if start == time { start } else { start.saturating_add(BUCKET) }
}

/// The width of a bucket, in microseconds.
#[must_use]
pub fn bucket_us() -> i64 {
    i64::try_from(BUCKET.as_micros()).unwrap_or(i64::MAX)
}

/// Counts, by what they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures(BTreeMap<Metric, u64>);

/// What a set of durations comes to; `None` where there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many there were.
    pub count: u64,
    /// Half of them didn't exceed it.
    pub p50: Option<Duration>,
    /// 95 in 100 of them didn't exceed it.
    pub p95: Option<Duration>,
    /// 99 in 100 of them didn't exceed it.
    pub p99: Option<Duration>,
}

impl Figures {
    /// Adds a count.
    pub fn add(&mut self, metric: Metric, count: u64) {
        *self.0.entry(metric).or_default() += count;
    }

    /// Adds all counts of others.
    pub fn add_all(&mut self, others: &Self) {
        for (metric, count) in &others.0 {
            self.add(*metric, *count);
        }
    }

    /// How many outcomes of a kind there were.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> u64 {
        self.0.get(&Metric::of_kind(kind)).copied().unwrap_or(0)
    }

    /// How long attempts took.
    #[must_use]
    pub fn durations(&self) -> Percentiles {
        self.percentiles(DURATIONS)
    }

    /// How long it took from the record of a delivery to its success.
    #[must_use]
    pub fn latencies(&self) -> Percentiles {
        self.percentiles(LATENCIES)
    }

    fn percentiles(&self, base: i16) -> Percentiles {
        let classes = i16::try_from(CLASSES).unwrap_or(i16::MAX);
        let counts: Vec<(usize, u64)> = self
            .0
            .range(Metric(base)..Metric(base + classes))
            .map(|(metric, count)| (usize::try_from(metric.0 - base).unwrap_or(0), *count))
            .collect();
        let count = counts.iter().map(|(_, count)| count).sum();
        let at = |percent: u64| rank(&counts, count, percent).map(middle);
        Percentiles { count, p50: at(50), p95: at(95), p99: at(99) }
    }
}

/// The class of the smallest duration that so many in a hundred don't exceed.
fn rank(counts: &[(usize, u64)], total: u64, percent: u64) -> Option<usize> {
    let wanted = (total * percent).div_ceil(100);
    let mut seen = 0;
    counts.iter().find_map(|(class, count)| {
        seen += count;
        (seen >= wanted && total > 0).then_some(*class)
    })
}

/// What stands for the durations of a class: their geometric mean, which is nearest to both ends.
fn middle(class: usize) -> Duration {
    let upper = BOUNDS.get(class).copied().unwrap_or(0);
    if class == 0 {
        return Duration::from_micros(upper);
    }
    let upper = Duration::from_micros(upper);
    upper.div_f64(GROWTH.sqrt())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::delivery::{Attempt, Reason};
    use crate::domain::outcome::DeliveryRef;
    use crate::ids::{ContactId, DeliveryId, WebhookEventId, WebhookId, WorkspaceId};

    /// Durations of all sizes are told within 10 percent.
    #[test]
    fn a_class_stands_for_its_durations() {
        let mut us = 1_000;
        while us < 5 * 24 * 3_600 * 1_000_000_u64 {
            let duration = Duration::from_micros(us);
            let mut figures = Figures::default();
            figures.add(Metric::in_class(DURATIONS, duration), 1);
            let told = figures.durations().p50.unwrap();
            let ratio = told.as_secs_f64() / duration.as_secs_f64();
            assert!((0.9..=1.1).contains(&ratio), "{duration:?} is told as {told:?}");
            us += us / 7 + 1;
        }
        for (duration, told) in [(0, 1), (1, 1)] {
            let mut figures = Figures::default();
            figures.add(Metric::in_class(LATENCIES, Duration::from_millis(duration)), 1);
            assert_eq!(figures.latencies().p99, Some(Duration::from_millis(told)));
        }
        let endless = Metric::in_class(LATENCIES, Duration::MAX);
        assert_eq!(endless, Metric(LATENCIES + 124));
    }

    #[test]
    fn percentiles_are_those_of_the_whole_set() {
        let mut figures = Figures::default();
        assert_eq!(figures.durations(), Percentiles::default());
        for ms in 1..=1_000 {
            figures.add(Metric::in_class(DURATIONS, Duration::from_millis(ms)), 1);
        }
        let told = figures.durations();
        assert_eq!((told.count, figures.latencies().count), (1_000, 0));
        for (told, ms) in [(told.p50, 500.0), (told.p95, 950.0), (told.p99, 990.0)] {
            let ratio = told.unwrap().as_secs_f64() * 1_000.0 / ms;
            assert!((0.9..=1.1).contains(&ratio), "{ms} ms is told as {told:?}");
        }
        let mut twice = figures.clone();
        twice.add_all(&figures);
        assert_eq!(twice.durations().p95, figures.durations().p95);
        assert_eq!(twice.durations().count, 2_000);
    }

    #[test]
    fn buckets_begin_at_quarters_of_an_hour() {
        let quarter = 900_000_000;
        for (time, start, from) in [(0, 0, 0), (1, 0, 1), (quarter - 1, 0, 1), (quarter, 1, 1), (-1, -1, 0)] {
            assert_eq!(bucket_of(Micros(time)), Micros(start * quarter), "{time}");
            assert_eq!(bucket_from(Micros(time)), Micros(from * quarter), "{time}");
        }
    }

    fn outcome(source: Source, kind: Kind, cause: Option<Cause>) -> Outcome {
        let attempt = cause.map(|cause| Attempt {
            number: 1,
            cause,
            started: Micros(2_000_000),
            duration: Duration::from_millis(100),
            url: String::new(),
            status_code: Some(200),
            response_body: Vec::new(),
            response_truncated: false,
            response_location: String::new(),
            retry_after: None,
            error_class: None,
            error_detail: String::new(),
            lease_lost: false,
        });
        Outcome {
            workspace_id: WorkspaceId(Uuid::nil()),
            kind,
            reason: Reason::None,
            recorded: Micros(0),
            webhook_id: WebhookId(Uuid::nil()),
            delivery: Some(DeliveryRef {
                id: DeliveryId(Uuid::nil()),
                webhook_event_id: WebhookEventId(Uuid::nil()),
                contact_id: ContactId(Uuid::nil()),
                source,
                tag_ids: Vec::new(),
            }),
            attempt,
            next_attempt: None,
        }
    }

    #[track_caller]
    fn check(outcome: &Outcome, attempts: u64, latencies: u64, counts: u64) {
        let mut figures = Figures::default();
        for metric in metrics_of(outcome, Some(Micros(0))) {
            figures.add(metric, 1);
        }
        let told = (figures.durations().count, figures.latencies().count, figures.of_kind(outcome.kind));
        assert_eq!(told, (attempts, latencies, counts), "{outcome:?}");
    }

    #[test]
    fn what_an_outcome_counts_for() {
        check(&outcome(Source::Tag, Kind::Delivered, Some(Cause::Scheduled)), 1, 1, 1);
        check(&outcome(Source::Tag, Kind::Delivered, Some(Cause::Replay)), 1, 0, 1);
        check(&outcome(Source::Api, Kind::AttemptFailed, Some(Cause::Scheduled)), 1, 0, 1);
        check(&outcome(Source::Tag, Kind::Suppressed, None), 0, 0, 1);
        check(&outcome(Source::Test, Kind::Delivered, Some(Cause::Scheduled)), 0, 0, 0);
        let of_webhook = Outcome { delivery: None, ..outcome(Source::Tag, Kind::WebhookPaused, None) };
        check(&of_webhook, 0, 0, 0);
    }
}
