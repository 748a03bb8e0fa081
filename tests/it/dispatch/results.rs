//! What answers, and their absence, mean.

use std::time::Duration;

use taghook_client::v1::attempt::ErrorClass;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::webhook::{DisableReason, State as WebhookState};
use taghook_client::v1::{Attempt, DeliveryReason, GetWebhookRequest, ResumeWebhookRequest, RetryPolicy, Tag};

use crate::support::{Answer, Receiver, Taghook, Watch, both};

/// The most that is kept of a body.
const KEPT_BYTES: usize = 16 * 1024;

/// A webhook that makes one attempt within a second, and those who follow it.
struct Endpoint {
    t: Taghook,
    receiver: Receiver,
    watch: Watch,
    tag: Tag,
    contacts: u32,
}

impl Endpoint {
    async fn new(t: Taghook) -> Self {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| {
            webhook.timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
            webhook.retry_policy = Some(RetryPolicy::default());
        })
        .await;
        let watch = Watch::now(&t.client).await;
        Self { t, receiver, watch, tag, contacts: 0 }
    }

    /// Sends a request that gets this answer; the attempt that came of it.
    async fn attempt(&mut self, answer: Answer, kind: Kind) -> Attempt {
        self.receiver.answer(answer);
        self.contacts += 1;
        let contact = self.t.contact(&format!("{}@example.com", self.contacts)).await;
        self.t.assign(&contact, &self.tag).await;
        let outcome = self.watch.expect(kind).await;
        let reason =
            if kind == Kind::Delivered { DeliveryReason::Unspecified } else { DeliveryReason::ScheduleExhausted };
        assert_eq!(outcome.reason(), reason);
        let [attempt] = &self.t.attempts(&outcome.delivery_id).await[..] else { panic!("one attempt") };
        let streamed = Attempt { response_body: "".into(), ..attempt.clone() };
        assert_eq!(outcome.attempt, Some(streamed), "the stream tells the same, without the body");
        // Nothing is sent that isn't logged.
        assert_eq!(self.receiver.count(), self.contacts as usize);
        attempt.clone()
    }

    async fn check_failure(&mut self, answer: Answer, expected: ErrorClass) -> Attempt {
        let attempt = self.attempt(answer, Kind::Exhausted).await;
        assert_eq!(attempt.error_class(), expected, "{attempt:?}");
        attempt
    }
}

both! {
    async fn only_2xx_is_success(t: Taghook) {
        let mut endpoint = Endpoint::new(t).await;
        for status in [200, 201, 202, 204, 299] {
            let attempt = endpoint.attempt(Answer::status(status), Kind::Delivered).await;
            assert_eq!((attempt.status_code, attempt.error_class()), (i32::from(status), ErrorClass::Unspecified));
        }
        for status in [304, 400, 401, 404, 500, 599] {
            let attempt = endpoint.check_failure(Answer::status(status), ErrorClass::HttpStatus).await;
            assert_eq!(attempt.status_code, i32::from(status));
        }
    }

    async fn redirects_fail_and_are_not_followed(t: Taghook) {
        let mut endpoint = Endpoint::new(t).await;
        let elsewhere = Receiver::start().await;
        for status in [301, 302, 303, 307, 308] {
            let location = elsewhere.url("/there");
            let answer = Answer::new(status, &[("location", &location)], "");
            let attempt = endpoint.check_failure(answer, ErrorClass::HttpStatus).await;
            assert_eq!(attempt.response_location, location);
        }
        assert_eq!(elsewhere.count(), 0);
    }

    async fn every_way_to_fail_has_its_class(t: Taghook) {
        let mut endpoint = Endpoint::new(t).await;
        endpoint.check_failure(Answer::reset(), ErrorClass::ConnectionReset).await;
        endpoint.check_failure(Answer::close(), ErrorClass::ConnectionClosed).await;
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
        let attempt = endpoint.check_failure(Answer::close_after(half), ErrorClass::ConnectionClosed).await;
        assert_eq!((attempt.status_code, attempt.response_body.as_ref()), (200, &b"half"[..]));
        endpoint.check_failure(Answer::close_after("220 mail.example.com ESMTP\r\n"), ErrorClass::Protocol).await;
        let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1024 * 1024));
        endpoint.check_failure(Answer::close_after(large), ErrorClass::HeadersTooLarge).await;
    }

    /// One deadline covers headers and body.
    async fn slow_answers_end_at_the_deadline(t: Taghook) {
        let mut endpoint = Endpoint::new(t).await;
        let drip = Answer::drip("x".repeat(60), Duration::from_millis(100));
        let attempt = endpoint.check_failure(drip, ErrorClass::Timeout).await;
        let duration = attempt.duration.expect("a duration");
        assert!((1..=3).contains(&duration.seconds), "{duration:?}");
        assert!(attempt.response_body.starts_with(b"x"), "what had come is kept");
    }

    async fn bodies_are_kept_byte_for_byte_up_to_16_kib(t: Taghook) {
        let mut endpoint = Endpoint::new(t).await;
        let exact: Vec<u8> = (0..=255).cycle().take(KEPT_BYTES).collect();
        let attempt = endpoint.attempt(Answer::new(200, &[], &exact), Kind::Delivered).await;
        assert_eq!((attempt.response_body.as_ref(), attempt.response_body_truncated), (&exact[..], false));
        let over = [&exact[..], b"x"].concat();
        let attempt = endpoint.attempt(Answer::new(200, &[], over), Kind::Delivered).await;
        assert_eq!((attempt.response_body.as_ref(), attempt.response_body_truncated), (&exact[..], true));
        let attempt = endpoint.attempt(Answer::flood(), Kind::Delivered).await;
        assert_eq!((attempt.response_body.len(), attempt.response_body_truncated), (KEPT_BYTES, true));
    }

    async fn gone_disables_the_webhook(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        receiver.answer(Answer::status(410));
        let ada = t.contact("ada@example.com").await;
        t.assign(&ada, &tag).await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        assert_eq!(failed.attempt.as_ref().expect("the attempt").status_code, 410);
        let disabled = watch.expect(Kind::WebhookDisabled).await;
        assert_eq!((disabled.webhook_id, disabled.delivery_id.as_str()), (webhook.id.clone(), ""));
        let webhook = t.client.webhooks().get_webhook(GetWebhookRequest { id: webhook.id }).await.unwrap().into_inner();
        assert_eq!((webhook.state(), webhook.disable_reason()), (WebhookState::Disabled, DisableReason::Gone));

        // What failed is held; what comes is skipped.
        let held = t.delivery(&failed.delivery_id).await;
        assert_eq!((held.state(), held.next_attempt_time), (State::Waiting, None));
        let bob = t.contact("bob@example.com").await;
        let tagged = t.assign(&bob, &tag).await;
        let skipped = watch.expect(Kind::Skipped).await;
        assert_eq!(skipped.reason(), DeliveryReason::WebhookDisabled);
        assert_eq!([skipped.delivery_id.as_str()], tagged.triggers[0].delivery_ids[..]);
        assert_eq!(t.delivery(&skipped.delivery_id).await.state(), State::Skipped);
        receiver.recv().await;
        assert_eq!(receiver.count(), 1);

        // People resume it: the one that was held goes out, the skipped one doesn't.
        receiver.answer(Answer::ok());
        let resume = ResumeWebhookRequest { id: webhook.id, ..Default::default() };
        t.client.webhooks().resume_webhook(resume).await.unwrap();
        watch.expect(Kind::WebhookResumed).await;
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, failed.delivery_id);
        assert_eq!(receiver.recv().await.webhook_id(), failed.delivery_id);
        assert_eq!(receiver.count(), 2);
    }
}
