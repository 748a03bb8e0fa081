//! The figures of DeliveryService.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::Services;
use super::call::Call;
use super::convert::{duration, parse_duration, parse_time, timestamp};
use crate::domain::outcome::Kind;
use crate::domain::stats::{Figures, Percentiles, bucket_from, bucket_of, bucket_us};
use crate::domain::time::Micros;
use crate::error::{Error, Result, Violations};
use crate::ids::WebhookId;
use crate::pb;
use crate::store;
use crate::store::stats::{Backlog, Subject};

/// The window if nothing else is said.
const DEFAULT_WINDOW: Duration = Duration::from_hours(24);
/// The longest window.
const MAX_WINDOW: Duration = Duration::from_hours(31 * 24);
/// The most parts of a window.
const MAX_PARTS: i64 = 1_000;

pub(super) async fn get(
    services: &Services,
    request: Request<pb::GetDeliveryStatsRequest>,
) -> Result<Response<pb::DeliveryStats>, Status> {
    let mut call = Call::open(request)?;
    let now = services.store.clock().now();
    let pb::GetDeliveryStatsRequest { webhook_id, start_time, end_time, bucket } = std::mem::take(&mut call.message);
    let webhook_id: Option<WebhookId> = call.violations.optional_id("webhook_id", &webhook_id);
    let end = parse_time("end_time", end_time, &mut call.violations);
    let start = parse_time("start_time", start_time, &mut call.violations);
    let width = parse_duration("bucket", bucket, &mut call.violations);
    let window = Window::new(start, end, width, now, &mut call.violations);
    call.finish()?;
    let (db, workspace_id) = (services.store.read(), call.workspace()?);
    if let Some(id) = webhook_id {
        let config = services.store.config(workspace_id).await?;
        config.webhook(id).ok_or_else(|| Error::not_found(id))?;
    }
    let subject = Subject { workspace_id, webhook_id };
    let parts = store::stats::figures(db, subject, (window.start, window.end), window.part_us()).await?;
    let backlog = store::stats::backlog(db, subject, now).await?;
    Ok(Response::new(to_pb(&window, &parts, &backlog)))
}

/// The window that is asked for, in whole quarters of an hour.
struct Window {
    start: Micros,
    end: Micros,
    /// The width of its parts; `None` for no parts.
    width_us: Option<i64>,
}

impl Window {
    fn new(
        start: Option<Micros>,
        end: Option<Micros>,
        width: Option<Duration>,
        now: Micros,
        violations: &mut Violations,
    ) -> Self {
        let end = bucket_from(end.unwrap_or(now));
        let start = bucket_of(start.unwrap_or_else(|| end.saturating_sub(DEFAULT_WINDOW)));
        if end <= start {
            violations.add_if_new("end_time", "WINDOW", "must be after start_time");
        } else if end.saturating_since(start) > MAX_WINDOW {
            violations.add_if_new("end_time", "WINDOW", "must be at most 31 days after start_time");
        }
        let width_us = width.map(|width| i64::try_from(width.as_micros()).unwrap_or(i64::MAX));
        let mut window = Self { start, end, width_us };
        if let Some(width_us) = width_us.filter(|width| *width > 0) {
            if width_us % bucket_us() != 0 {
                violations.add_if_new("bucket", "MULTIPLE", "must be a multiple of 15 minutes");
            } else if window.count() > MAX_PARTS {
                violations.add_if_new("bucket", "PARTS", "must make at most 1,000 parts of the window");
            }
        } else {
            window.width_us = None;
        }
        window
    }

    /// The width of what is read: the whole window, if it has no parts.
    fn part_us(&self) -> i64 {
        self.width_us.unwrap_or_else(|| (self.end.0 - self.start.0).max(bucket_us()))
    }

    /// How many parts there are; the last one may be shorter.
    fn count(&self) -> i64 {
        (self.end.0 - self.start.0).max(0).div_euclid(self.part_us())
            + i64::from((self.end.0 - self.start.0) % self.part_us() != 0)
    }
}

fn to_pb(window: &Window, parts: &BTreeMap<i64, Figures>, backlog: &Backlog) -> pb::DeliveryStats {
    let mut total = Figures::default();
    for figures in parts.values() {
        total.add_all(figures);
    }
    let nothing = Figures::default();
    let count = window.width_us.map_or(0, |_| window.count());
    let bucket = |part: i64| pb::delivery_stats::Bucket {
        start_time: Some(timestamp(Micros(window.start.0 + part * window.part_us()))),
        figures: Some(figures_to_pb(parts.get(&part).unwrap_or(&nothing))),
    };
    pb::DeliveryStats {
        start_time: Some(timestamp(window.start)),
        end_time: Some(timestamp(window.end)),
        total: Some(figures_to_pb(&total)),
        buckets: (0..count).map(bucket).collect(),
        backlog: Some(pb::delivery_stats::Backlog {
            due_count: backlog.due,
            later_count: backlog.later,
            held_count: backlog.held,
            is_capped: backlog.is_capped,
            oldest_due_time: backlog.oldest_due.map(timestamp),
        }),
    }
}

fn figures_to_pb(figures: &Figures) -> pb::delivery_stats::Figures {
    let of = |kind| int(figures.of_kind(kind));
    pb::delivery_stats::Figures {
        delivered_count: of(Kind::Delivered),
        attempt_failed_count: of(Kind::AttemptFailed),
        exhausted_count: of(Kind::Exhausted),
        suppressed_count: of(Kind::Suppressed),
        skipped_count: of(Kind::Skipped),
        deferred_count: of(Kind::Deferred),
        cancelled_count: of(Kind::Cancelled),
        attempt_duration: Some(percentiles_to_pb(figures.durations())),
        delivery_latency: Some(percentiles_to_pb(figures.latencies())),
    }
}

fn percentiles_to_pb(percentiles: Percentiles) -> pb::delivery_stats::Percentiles {
    pb::delivery_stats::Percentiles {
        count: int(percentiles.count),
        p50: percentiles.p50.map(duration),
        p95: percentiles.p95.map(duration),
        p99: percentiles.p99.map(duration),
    }
}

fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
