//! One attempt: what is sent, what comes back, and what it means.

use std::time::Duration;

use super::request;
use super::send::{SendReport, Sender};
use crate::domain::delivery::{Attempt, Source};
use crate::domain::retry::{
    ErrorClass, HttpResult, Next, Plan, Schedule, Verdict, parse_retry_after, plan_next_attempt,
};
use crate::store::Store;
use crate::store::delivery::settle::Settlement;
use crate::store::lease::Job;

/// Makes an attempt. No transaction, lock or connection of the database is held meanwhile.
pub(super) async fn make(store: &Store, sender: &Sender, job: &Job) -> (Settlement, Verdict) {
    let delivery = &job.delivery;
    let started = store.clock().now();
    let mut attempt = Attempt {
        // Given by the settlement.
        number: 0,
        cause: delivery.cause,
        started,
        duration: Duration::ZERO,
        url: String::new(),
        status_code: None,
        response_body: Vec::new(),
        response_truncated: false,
        response_location: String::new(),
        retry_after: None,
        error_class: None,
        error_detail: String::new(),
        lease_lost: false,
    };
    let built = delivery.snapshot.as_ref().map(|snapshot| {
        let traceparent = delivery.traceparent.as_deref();
        request::build(&job.webhook, snapshot, delivery.id, delivery.trigger_time, started, traceparent)
    });
    let result = match built {
        Some(Ok(request)) => {
            attempt.url = request.url.to_string();
            note(&mut attempt, sender.send(request).await, store)
        }
        Some(Err(error)) => {
            attempt.error_detail = error.to_string();
            HttpResult::Failure(error.class())
        }
        None => {
            "the delivery has no values".clone_into(&mut attempt.error_detail);
            HttpResult::Failure(ErrorClass::RequestInvalid)
        }
    };
    attempt.error_class = result.error_class();
    let verdict = result.verdict();
    let next = plan(store, job, verdict, attempt.retry_after);
    let settlement = Settlement {
        reference: delivery.reference.clone(),
        workspace_id: delivery.workspace_id,
        webhook_id: delivery.webhook_id,
        lease_token: delivery.lease_token,
        extra_id: delivery.extra_id,
        attempt,
        next,
    };
    (settlement, verdict)
}

/// Writes the response down.
fn note(attempt: &mut Attempt, report: SendReport, store: &Store) -> HttpResult {
    attempt.duration = report.duration;
    attempt.response_body = report.body.to_vec();
    attempt.response_truncated = report.body_truncated;
    match report.result {
        Ok(head) => {
            let now = store.clock().now();
            attempt.status_code = Some(head.status.as_u16());
            attempt.response_location = head.location.unwrap_or_default();
            attempt.retry_after = head.retry_after.and_then(|header| parse_retry_after(&header, now));
            if !head.status.is_success() {
                attempt.error_detail = format!("the endpoint answered {}", head.status);
            }
            HttpResult::Response { status: head.status.as_u16() }
        }
        Err(error) => {
            attempt.status_code = error.status.map(|status| status.as_u16());
            attempt.error_detail = error.detail;
            HttpResult::Failure(error.class)
        }
    }
}

fn plan(store: &Store, job: &Job, verdict: Verdict, retry_after: Option<Duration>) -> Next {
    // A test is tried once.
    let once = Schedule::none();
    let is_test = job.delivery.reference.source == Source::Test;
    plan_next_attempt(&Plan {
        schedule: if is_test { &once } else { &job.webhook.webhook.definition.schedule },
        attempts_made: job.delivery.scheduled_count + 1,
        verdict,
        retry_after,
        now: store.clock().now(),
        jitter_unit: store.entropy().jitter_unit(),
    })
}
