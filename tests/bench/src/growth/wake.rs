//! How soon watchers hear of an outcome, at a steady rate.
//!
//! The moment of a commit is the database's and is told to nobody. Two moments before it are known. `outcome_time` is when
//! the transaction began that recorded the outcome: from there to the message is the transaction, its commit, the wake-up, the
//! read and the stream, so that it is never less than what is asked for. The end of the attempt is when the answer was read:
//! from there, there is the wait for the settler's batch as well. All by the wall clock of one machine.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use taghook_client::v1::OutcomeFilter;
use taghook_client::{Outcomes, Start};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{PATIENCE, Scene};
use crate::database::Kind;
use crate::report::{Row, percentile_ms};
use crate::{Failure, meter};

/// The steady rate, in calls a second, and how many there are before the measuring and in it.
const PER_S: u32 = 1_000;
const WARM_UP: usize = 3_000;
const CALLS: usize = 20_000;

/// What watchers saw, in nanoseconds.
#[derive(Default)]
struct Seen {
    since_record: Vec<u64>,
    since_attempt: Vec<u64>,
}

/// Measures with so many watchers of everything.
pub(super) async fn measure(program: &Path, kind: Kind, watchers: usize) -> Result<Vec<Row>, Failure> {
    let scene = Scene::new(program, kind, 1 + WARM_UP + CALLS).await?;
    let client = scene.server.client()?;
    let mut streams = JoinSet::new();
    for _ in 0..watchers {
        let mut outcomes = client.outcomes(OutcomeFilter::default(), Start::Now);
        outcomes.ready().await?;
        streams.spawn(watch(outcomes));
    }
    scene.load.paced(1..1 + WARM_UP, PER_S, &scene.sink).await?;
    let cpu = meter::cpu_s(scene.server.pid());
    let answered = scene.load.paced(1 + WARM_UP..1 + WARM_UP + CALLS, PER_S, &scene.sink).await?;
    scene.arrived(1 + WARM_UP + CALLS).await?;
    let seen = timeout(PATIENCE, streams.join_all()).await.map_err(|_| "a watcher didn't see all outcomes")?;
    let seen: Vec<Seen> = seen.into_iter().collect::<Result<_, _>>()?;
    let mut since_record: Vec<u64> = seen.iter().flat_map(|seen| seen.since_record.iter().copied()).collect();
    let mut since_attempt: Vec<u64> = seen.iter().flat_map(|seen| seen.since_attempt.iter().copied()).collect();
    let row = |what: &str, times: &mut Vec<u64>| Row {
        database: kind.name().to_owned(),
        what: format!("{what}, {watchers} watching, {PER_S} a second"),
        p50_ms: percentile_ms(times, 50),
        p99_ms: percentile_ms(times, 99),
        ..Row::default()
    };
    let record = Row {
        delivered_per_s: Some(CALLS as f64 / answered.took.as_secs_f64()),
        server_cpu_s: Some((meter::cpu_s(scene.server.pid()) - cpu) / CALLS as f64 * 1e3),
        ..row("from outcome_time to the watcher", &mut since_record)
    };
    Ok(vec![record, row("from the end of the attempt to the watcher", &mut since_attempt)])
}

/// Reads all that is measured, after the warm-up.
async fn watch(mut outcomes: Outcomes) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    for number in 0..WARM_UP + CALLS {
        let outcome = outcomes.next().await.ok_or("a watcher's stream ended")??.outcome;
        if number >= WARM_UP {
            let attempt = outcome.attempt.unwrap_or_default();
            let duration = attempt.duration.unwrap_or_default();
            let (now, ended) = (now_ns()?, ns(attempt.start_time) + to_ns(duration.seconds, duration.nanos));
            seen.since_record.push(u64::try_from(now - ns(outcome.outcome_time)).unwrap_or(0));
            seen.since_attempt.push(u64::try_from(now - ended).unwrap_or(0));
        }
    }
    Ok(seen)
}

/// The time, in nanoseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "it is compared with the server's own")]
fn now_ns() -> Result<i128, Failure> {
    Ok(i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

fn ns(time: Option<Timestamp>) -> i128 {
    time.map_or(0, |time| to_ns(time.seconds, time.nanos))
}

fn to_ns(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}
