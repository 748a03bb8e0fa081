//! From a trigger to a request, its result and its outcome.

mod requests;
mod results;

use std::time::Duration;

use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::webhook_event::Parameter;
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::{DeliveryReason, attempt};

use crate::support::{Answer, Database, Gate, Process, Receiver, Taghook, Watch, both, within};

fn parameter(name: &str, contact_field: &str) -> Parameter {
    let source = ValueSource::ContactField(contact_field.into());
    Parameter { name: name.into(), source: Some(source), default_value: None }
}

both! {
    /// The main job: a contact is tagged, the webhook arrives, the outcome is streamed.
    async fn a_tag_sends_the_webhook_and_its_outcome_is_streamed(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact_with("ada@example.com", &[("first_name", "Zoë & B")]).await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| webhook.events[0].parameters = vec![parameter("name", "first_name")])
            .await;
        let mut watch = Watch::now(&t.client).await;

        let tagged = t.assign(&contact, &tag).await;
        assert_eq!(tagged.contact_id, contact.id);
        assert_eq!(tagged.assignments.len(), 1);
        assert!(tagged.assignments[0].newly_assigned);
        let [trigger] = &tagged.triggers[..] else { panic!("one trigger: {tagged:#?}") };
        assert_eq!(trigger.decision(), Decision::Scheduled);
        assert_eq!(trigger.webhook_id, webhook.id);
        assert_eq!(trigger.activation_tag_ids, [tag.id.as_str()]);
        assert_eq!(trigger.delivery_ids.len(), 1);

        let received = receiver.recv().await;
        assert_eq!((received.method.as_str(), received.target.as_str()), ("POST", "/hook"));
        assert_eq!(received.header("content-type"), "application/x-www-form-urlencoded");
        assert_eq!(received.text(), "email=ada%40example.com&name=Zo%C3%AB+%26+B");
        assert_eq!(received.webhook_id(), trigger.delivery_ids[0]);
        received.verify(&t.secret(&webhook).await).unwrap();

        let outcome = watch.expect(Kind::Delivered).await;
        assert_eq!(outcome.delivery_id, trigger.delivery_ids[0]);
        assert_eq!((&outcome.webhook_id, &outcome.contact_id), (&webhook.id, &contact.id));
        assert_eq!(outcome.source(), Source::Tag);
        assert_eq!(outcome.activation_tag_ids, [tag.id.as_str()]);
        let attempt = outcome.attempt.expect("the attempt");
        assert_eq!((attempt.number, attempt.status_code), (1, 200));
        assert_eq!(attempt.cause(), attempt::Cause::Scheduled);

        let delivery = t.delivery(&trigger.delivery_ids[0]).await;
        assert_eq!((delivery.state(), delivery.attempt_count), (State::Delivered, 1));
        assert!(delivery.finish_time.is_some() && delivery.next_attempt_time.is_none());
    }

    async fn within_the_cooldown_a_tag_is_suppressed_and_says_so(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;
        receiver.recv().await;
        watch.expect(Kind::Delivered).await;

        let again = t.assign(&contact, &tag).await;
        assert!(!again.assignments[0].newly_assigned);
        assert_eq!(again.triggers[0].decision(), Decision::Suppressed);
        assert_eq!(again.triggers[0].reason(), DeliveryReason::Cooldown);
        let outcome = watch.expect(Kind::Suppressed).await;
        assert_eq!(outcome.reason(), DeliveryReason::Cooldown);
        assert_eq!([outcome.delivery_id.as_str()], again.triggers[0].delivery_ids[..]);
        assert!(outcome.attempt.is_none());
        let delivery = t.delivery(&outcome.delivery_id).await;
        assert_eq!((delivery.state(), delivery.parameters.len()), (State::Suppressed, 0));
        assert_eq!(receiver.count(), 1);
    }

    /// The window is six hours from the last accepted trigger; exactly at its end the next one is accepted.
    async fn the_cooldown_ends_after_six_hours(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        assert_eq!(t.assign(&contact, &tag).await.triggers[0].decision(), Decision::Scheduled);
        clock.advance(Duration::from_hours(6) - Duration::from_micros(1));
        assert_eq!(t.assign(&contact, &tag).await.triggers[0].decision(), Decision::Suppressed);
        clock.advance(Duration::from_micros(1));
        assert_eq!(t.assign(&contact, &tag).await.triggers[0].decision(), Decision::Scheduled);
        let [first, second] = &receiver.recv_all(2).await[..] else { panic!("two requests") };
        assert_ne!(first.webhook_id(), second.webhook_id());
    }

    async fn a_failed_attempt_is_repeated_under_the_same_id(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::new(503, &[("retry-after", "60")], "busy"), Answer::reset()]);
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;

        let first = receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        assert_eq!(failed.attempt.as_ref().unwrap().error_class(), attempt::ErrorClass::HttpStatus);
        // As late as it asked for, jittered by 10 %, though the schedule says 5 s.
        let wished = clock.advance_to(failed.next_attempt_time.unwrap());
        assert!((Duration::from_secs(60)..=Duration::from_secs(66)).contains(&wished), "{wished:?}");
        let second = receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        assert_eq!(failed.attempt.as_ref().unwrap().error_class(), attempt::ErrorClass::ConnectionReset);
        let delay = clock.advance_to(failed.next_attempt_time.unwrap());
        assert!((Duration::from_secs(270)..=Duration::from_secs(330)).contains(&delay), "5 min, jittered: {delay:?}");
        let third = receiver.recv().await;
        watch.expect(Kind::Delivered).await;

        let secret = t.secret(&webhook).await;
        assert_eq!(first.header("webhook-timestamp"), "1767225600");
        assert_eq!(second.header("webhook-timestamp"), (1_767_225_600 + wished.as_secs()).to_string());
        for received in [&first, &second, &third] {
            assert_eq!((received.webhook_id(), &received.body), (first.webhook_id(), &first.body));
            received.verify(&secret).unwrap();
        }
        let attempts = t.attempts(first.webhook_id()).await;
        let statuses: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.status_code)).collect();
        assert_eq!(statuses, [(1, 503), (2, 0), (3, 200)]);
        assert_eq!(attempts[0].response_body, "busy");
        assert_eq!((receiver.count(), receiver.try_recv().is_none()), (3, true));
    }

    async fn a_graceful_stop_lets_the_attempt_in_flight_finish(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        t.assign(&contact, &tag).await;
        let received = receiver.recv().await;
        assert_eq!(t.delivery(received.webhook_id()).await.state(), State::Sending);

        let restarted = tokio::spawn(t.restart());
        gate.open();
        let t = within("the restart", restarted).await.unwrap();
        assert_eq!(t.delivery(received.webhook_id()).await.state(), State::Delivered);
        assert_eq!((receiver.count(), receiver.connections()), (1, 1));
    }

    /// The answer is durable: whoever is killed right after it still sends, under the same id.
    async fn a_killed_server_sends_what_it_has_answered(database: Database) {
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::close());
        let server = Process::serve(&database).await;
        let contact = server.contact("ada@example.com").await;
        let tag = server.tag("customer").await;
        server.webhook(&receiver, &tag, |_| {}).await;
        let tagged = server.assign(&contact, &tag).await;
        server.kill().await;

        receiver.answer(Answer::ok());
        let server = Process::serve(&database).await;
        let mut watch = Watch::beginning(&server.client).await;
        let outcome = watch.until(Kind::Delivered).await;
        assert_eq!([outcome.delivery_id.as_str()], tagged.triggers[0].delivery_ids[..]);
        let received = receiver.recv_all(receiver.count()).await;
        assert!(received.iter().all(|received| received.webhook_id() == outcome.delivery_id));
        let (status, _) = server.terminate().await;
        assert!(status.success(), "{status}");
    }
}
