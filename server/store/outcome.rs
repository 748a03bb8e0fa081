//! The outcome log: appended by transactions with their commit, read by watchers and as the attempts of a delivery.

use std::fmt::Write as _;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement};
use uuid::Uuid;

use super::bulk::Bulk;
use super::{LOCK_CLASS, LOCK_OUTCOMES};
use crate::domain::delivery::{Attempt, Cause, Reason, Source};
use crate::domain::outcome::{DeliveryRef, Kind, Outcome, Position};
use crate::domain::retry::ErrorClass;
use crate::domain::time::Micros;
use crate::error::{Error, Result};
use crate::ids::{ContactId, DeliveryId, TagId, WebhookEventId, WebhookId, WorkspaceId};

/// The columns of a row without the response's body, which streams don't carry.
const COLUMNS: &str = "seq, workspace_id, kind, reason, recorded_us, webhook_id, webhook_event_id, delivery_id, contact_id, \
     tag_ids, source, next_attempt_us, attempt_number, cause, started_us, duration_us, url, status_code, \
     response_truncated, response_location, retry_after_us, error_class, error_detail, lease_lost";

/// Appends outcomes at the end of the log. Their positions are given out under a lock that is held until the commit, so
/// that whoever sees a position has seen all before it. To be called as the last step of a transaction.
pub(super) async fn append(db: &impl ConnectionTrait, outcomes: Vec<Outcome>) -> Result<(), DbErr> {
    if db.get_database_backend() == DbBackend::Postgres {
        let sql = format!("SELECT pg_advisory_xact_lock({LOCK_CLASS}, {LOCK_OUTCOMES})");
        db.execute_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    }
    bulk_of(db, outcomes)
        .execute(db, |rows| {
            format!(
                "INSERT INTO outcomes (workspace_id, kind, reason, recorded_us, webhook_id, webhook_event_id, delivery_id, \
                 contact_id, tag_ids, source, next_attempt_us, attempt_number, cause, started_us, duration_us, url, \
                 status_code, response_body, response_truncated, response_location, retry_after_us, error_class, \
                 error_detail, lease_lost) \
                 SELECT workspace_id, kind, reason, recorded_us, webhook_id, webhook_event_id, delivery_id, contact_id, \
                 tag_ids, source, next_attempt_us, attempt_number, cause, started_us, duration_us, url, status_code, \
                 response_body, response_truncated = 1, response_location, retry_after_us, error_class, error_detail, \
                 lease_lost = 1 FROM {rows}"
            )
        })
        .await?;
    Ok(())
}

fn bulk_of(db: &impl ConnectionTrait, mut outcomes: Vec<Outcome>) -> Bulk {
    // The texts and bodies are moved out, the rest is copied.
    let texts: Vec<Texts> = outcomes.iter_mut().map(|outcome| Texts::take(outcome.attempt.as_mut())).collect();
    let each = || outcomes.iter();
    let delivery = || each().map(|outcome| outcome.delivery.as_ref());
    let attempt = || each().map(|outcome| outcome.attempt.as_ref());
    let attempt_int = |get: fn(&Attempt) -> i64| attempt().map(move |attempt| attempt.map_or(0, get));
    let mut columns = [Vec::new(), Vec::new(), Vec::new()];
    let mut bodies = Vec::with_capacity(texts.len());
    for Texts { texts, body } in texts {
        columns.iter_mut().zip(texts).for_each(|(column, text)| column.push(text));
        bodies.push(body);
    }
    let [urls, locations, details] = columns;
    Bulk::new(db)
        .uuid("workspace_id", each().map(|outcome| outcome.workspace_id.0))
        .int("kind", each().map(|outcome| outcome.kind.code().into()))
        .int("reason", each().map(|outcome| outcome.reason.code().into()))
        .int("recorded_us", each().map(|outcome| outcome.recorded.0))
        .uuid("webhook_id", each().map(|outcome| outcome.webhook_id.0))
        .optional_uuid("webhook_event_id", delivery().map(|delivery| delivery.map(|it| it.webhook_event_id.0)))
        .optional_uuid("delivery_id", delivery().map(|delivery| delivery.map(|it| it.id.0)))
        .optional_uuid("contact_id", delivery().map(|delivery| delivery.map(|it| it.contact_id.0)))
        .text("tag_ids", delivery().map(|delivery| tags_to_json(delivery.map_or(&[], |it| &it.tag_ids))))
        .int("source", delivery().map(|delivery| delivery.map_or(0, |it| it.source.code().into())))
        .optional_int("next_attempt_us", each().map(|outcome| outcome.next_attempt.map(|time| time.0)))
        .optional_int("attempt_number", attempt().map(|attempt| attempt.map(|it| it.number.into())))
        .int("cause", attempt_int(|attempt| attempt.cause.code().into()))
        .int("started_us", attempt_int(|attempt| attempt.started.0))
        .int("duration_us", attempt_int(|attempt| micros(attempt.duration)))
        .text("url", urls)
        .int("status_code", attempt_int(|attempt| attempt.status_code.unwrap_or(0).into()))
        .bytes("response_body", bodies)
        .int("response_truncated", attempt_int(|attempt| attempt.response_truncated.into()))
        .text("response_location", locations)
        .optional_int("retry_after_us", attempt().map(|attempt| attempt.and_then(|it| it.retry_after).map(micros)))
        .int("error_class", attempt_int(|attempt| attempt.error_class.map_or(0, |class| class.code().into())))
        .text("error_detail", details)
        .int("lease_lost", attempt_int(|attempt| attempt.lease_lost.into()))
}

/// What came from outside in an attempt: URL, location, detail; and the body.
#[derive(Default)]
struct Texts {
    texts: [String; 3],
    body: Vec<u8>,
}

impl Texts {
    fn take(attempt: Option<&mut Attempt>) -> Self {
        let Some(attempt) = attempt else { return Self::default() };
        let texts = [&mut attempt.url, &mut attempt.response_location, &mut attempt.error_detail];
        Self {
            texts: texts.map(|text| storable(std::mem::take(text))),
            body: std::mem::take(&mut attempt.response_body),
        }
    }
}

/// What a text column takes: PostgreSQL has no place for U+0000, and these texts come from outside.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// Outcomes of all workspaces after a position, in the log's order, without the responses' bodies.
///
/// # Errors
///
/// The database's.
pub async fn after(db: &impl ConnectionTrait, position: Position, limit: u64) -> Result<Vec<(Position, Outcome)>> {
    let sql = format!("SELECT {COLUMNS} FROM outcomes WHERE seq > $1 ORDER BY seq LIMIT $2");
    read(db, &sql, vec![position.0.into(), limit.into()]).await
}

/// Outcomes of one workspace after a position, in the log's order, without the responses' bodies.
///
/// # Errors
///
/// The database's.
pub async fn after_in(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    position: Position,
    limit: u64,
) -> Result<Vec<(Position, Outcome)>> {
    let sql = format!("SELECT {COLUMNS} FROM outcomes WHERE workspace_id = $1 AND seq > $2 ORDER BY seq LIMIT $3");
    read(db, &sql, vec![workspace.0.into(), position.0.into(), limit.into()]).await
}

/// The attempts of a delivery after a position of the log, in their order, with the responses' bodies.
///
/// # Errors
///
/// The database's.
pub async fn attempts(
    db: &impl ConnectionTrait,
    workspace: WorkspaceId,
    delivery: DeliveryId,
    after: i64,
    limit: u64,
) -> Result<Vec<(Position, Attempt)>> {
    let sql = format!(
        "SELECT {COLUMNS}, response_body FROM outcomes WHERE delivery_id = $1 AND workspace_id = $2 AND seq > $3 \
         AND attempt_number IS NOT NULL ORDER BY seq LIMIT $4"
    );
    let values = vec![delivery.0.into(), workspace.0.into(), after.into(), limit.into()];
    let outcomes = read(db, &sql, values).await?;
    Ok(outcomes.into_iter().filter_map(|(position, outcome)| Some((position, outcome.attempt?))).collect())
}

/// The newest position of the log; zero when it is empty.
///
/// # Errors
///
/// The database's.
pub async fn end(db: &impl ConnectionTrait) -> Result<Position> {
    let row = db
        .query_one_raw(Statement::from_string(db.get_database_backend(), "SELECT MAX(seq) AS seq FROM outcomes"))
        .await?;
    let seq: Option<i64> = row.map(|row| row.try_get("", "seq")).transpose()?.flatten();
    Ok(Position(seq.unwrap_or(0)))
}

/// Erases what a contact's attempts show of its data: URLs, responses, error texts.
///
/// # Errors
///
/// The database's.
pub async fn erase_contact(tx: &super::Tx, contact: ContactId) -> Result<()> {
    let sql = "UPDATE outcomes SET url = '', response_body = $2, response_location = '', error_detail = '' \
               WHERE delivery_id IN (SELECT id FROM deliveries WHERE contact_id = $1) AND attempt_number IS NOT NULL";
    let values = [contact.0.into(), Vec::<u8>::new().into()];
    tx.forget_outcomes_of(contact);
    tx.db().execute_raw(Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)).await?;
    Ok(())
}

async fn read(db: &impl ConnectionTrait, sql: &str, values: Vec<sea_orm::Value>) -> Result<Vec<(Position, Outcome)>> {
    let rows = db.query_all_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await?;
    rows.iter().map(outcome_of).collect()
}

fn outcome_of(row: &QueryResult) -> Result<(Position, Outcome)> {
    let kind: i16 = row.try_get("", "kind")?;
    let reason: i16 = row.try_get("", "reason")?;
    let next_attempt: Option<i64> = row.try_get("", "next_attempt_us")?;
    let outcome = Outcome {
        workspace_id: WorkspaceId(row.try_get("", "workspace_id")?),
        kind: Kind::try_from(kind).map_err(Error::internal)?,
        reason: Reason::try_from(reason).map_err(Error::internal)?,
        recorded: Micros(row.try_get("", "recorded_us")?),
        webhook_id: WebhookId(row.try_get("", "webhook_id")?),
        delivery: delivery_of(row)?,
        attempt: attempt_of(row)?,
        next_attempt: next_attempt.map(Micros),
    };
    Ok((Position(row.try_get("", "seq")?), outcome))
}

fn delivery_of(row: &QueryResult) -> Result<Option<DeliveryRef>> {
    let id: Option<Uuid> = row.try_get("", "delivery_id")?;
    let Some(id) = id else { return Ok(None) };
    let source: i16 = row.try_get("", "source")?;
    let tags: String = row.try_get("", "tag_ids")?;
    Ok(Some(DeliveryRef {
        id: DeliveryId(id),
        webhook_event_id: WebhookEventId(row.try_get("", "webhook_event_id")?),
        contact_id: ContactId(row.try_get("", "contact_id")?),
        source: Source::try_from(source).map_err(Error::internal)?,
        tag_ids: tags_from_json(&tags)?,
    }))
}

fn attempt_of(row: &QueryResult) -> Result<Option<Attempt>> {
    let number: Option<i32> = row.try_get("", "attempt_number")?;
    let Some(number) = number else { return Ok(None) };
    let (cause, class): (i16, i16) = (row.try_get("", "cause")?, row.try_get("", "error_class")?);
    let (duration_us, status): (i64, i32) = (row.try_get("", "duration_us")?, row.try_get("", "status_code")?);
    let retry_after_us: Option<i64> = row.try_get("", "retry_after_us")?;
    Ok(Some(Attempt {
        number: u32::try_from(number).unwrap_or(0),
        cause: Cause::try_from(cause).map_err(Error::internal)?,
        started: Micros(row.try_get("", "started_us")?),
        duration: duration(duration_us),
        url: row.try_get("", "url")?,
        status_code: u16::try_from(status).ok().filter(|status| *status != 0),
        // Not read by streams.
        response_body: row.try_get("", "response_body").unwrap_or_default(),
        response_truncated: row.try_get("", "response_truncated")?,
        response_location: row.try_get("", "response_location")?,
        retry_after: retry_after_us.map(duration),
        error_class: ErrorClass::from_code(class),
        error_detail: row.try_get("", "error_detail")?,
        lease_lost: row.try_get("", "lease_lost")?,
    }))
}

/// Tag ids as the JSON list that rows keep.
pub(super) fn tags_to_json(tags: &[TagId]) -> String {
    let mut json = String::with_capacity(2 + tags.len() * 35);
    json.push('[');
    for (index, tag) in tags.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a String can't fail.
        let _ = write!(json, "{comma}\"{}\"", tag.0.simple());
    }
    json.push(']');
    json
}

/// Tag ids from the JSON list that rows keep.
pub(super) fn tags_from_json(json: &str) -> Result<Vec<TagId>> {
    serde_json::from_str(json).map_err(Error::internal)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn duration(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}
