//! Requests go on with the trace of the call that set them off (W3C Trace Context).

use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{TagContactRequest, TestWebhookRequest, TriggerWebhookRequest};
use tonic::Request;

use crate::support::{Answer, Database, Received, Receiver, Taghook, Watch, both, delays};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-";

fn traced<T>(message: T, parent: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header"));
    request
}

/// Checks that a request belongs to the trace of [`PARENT`]; its own span.
#[track_caller]
fn check_span(received: &Received) -> &str {
    let text = received.header("traceparent");
    let span = text.strip_prefix(TRACE).and_then(|rest| rest.strip_suffix("-01")).unwrap_or_else(|| panic!("{text}"));
    let is_hex = span.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    assert!(span.len() == 16 && is_hex && span != "0000000000000000", "{text}");
    assert_ne!(span, "b7ad6b7169203331", "the parent's span isn't the request's");
    span
}

both! {
    async fn every_call_that_sends_hands_on_its_trace(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[5])).await;
        let mut watch = Watch::now(&t.client).await;

        let (contact_id, id) = (contact.id.clone(), webhook.id.clone());
        let tagged = TagContactRequest {
            contact_id: contact_id.clone(),
            tag_ids: vec![tag.id.clone()],
            ..Default::default()
        };
        t.client.contacts().tag_contact(traced(tagged, PARENT)).await.expect("an assignment");
        let first = receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        // Another attempt is another span, and the trace has been kept meanwhile.
        clock.advance_to(failed.next_attempt_time.expect("a retry"));
        let second = receiver.recv().await;
        assert_eq!(first.webhook_id(), second.webhook_id());
        watch.expect(Kind::Delivered).await;

        let trigger =
            TriggerWebhookRequest { id: id.clone(), contact_id: contact_id.clone(), ..Default::default() };
        t.client.webhooks().trigger_webhook(traced(trigger, PARENT)).await.expect("a trigger");
        let third = receiver.recv().await;
        let test = TestWebhookRequest { id, contact_id, ..Default::default() };
        t.client.webhooks().test_webhook(traced(test, PARENT)).await.expect("a test");
        let fourth = receiver.recv().await;

        let mut spans: Vec<_> = [&first, &second, &third, &fourth].map(check_span).into();
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), 4, "each has a span of its own");
    }

    /// Section 3.2: a trace context that can't be read is none; nothing is made up in its place.
    async fn a_call_without_a_trace_sends_none(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        t.assign(&contact, &tag).await;
        assert!(!receiver.recv().await.headers.contains_key("traceparent"));
        for parent in [
            "0af7651916cd43dd8448eb211c80319c",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        ] {
            let trigger =
                TriggerWebhookRequest { id: webhook.id.clone(), contact_id: contact.id.clone(), ..Default::default() };
            t.client.webhooks().trigger_webhook(traced(trigger, parent)).await.expect("a trigger");
            assert!(!receiver.recv().await.headers.contains_key("traceparent"), "{parent}");
        }
    }
}
