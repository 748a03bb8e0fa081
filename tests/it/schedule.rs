//! When failed attempts are repeated, with what, and when they aren't any more.

use std::time::Duration;

use taghook_client::v1::attempt::{Cause, ErrorClass};
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::webhook::Header;
use taghook_client::v1::webhook_event::Parameter;
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::{DeliveryReason, Webhook};

use crate::support::{Answer, Database, Receiver, Taghook, Watch, both, delays, since_start_us};

fn first_name(name: &str) -> Parameter {
    let source = ValueSource::ContactField("first_name".into());
    Parameter { name: name.into(), source: Some(source), default_value: None }
}

both! {
    /// The first attempt comes at once, one more after each delay, and then none.
    async fn the_standard_schedule_has_ten_attempts(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = None).await;
        let mut watch = Watch::now(&t.client).await;
        let id = t.decide(&contact, &tag).await.delivery_ids.remove(0);

        let mut due_us = vec![0];
        for (number, delay_s) in (1..).zip([5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]) {
            assert_eq!(receiver.recv().await.webhook_id(), id);
            let failed = watch.expect(Kind::AttemptFailed).await;
            assert_eq!(failed.attempt.as_ref().unwrap().number, number);
            let delivery = t.delivery(&id).await;
            assert_eq!((delivery.state(), delivery.attempt_count), (State::Waiting, number));
            assert_eq!(delivery.next_attempt_time, failed.next_attempt_time);
            let next = failed.next_attempt_time.unwrap();
            let wait = clock.advance_to(next);
            due_us.push(since_start_us(Some(next)));
            let (least, most) = (Duration::from_millis(900 * delay_s), Duration::from_millis(1_100 * delay_s));
            assert!((least..=most).contains(&wait), "{wait:?} before attempt {}", number + 1);
        }
        receiver.recv().await;
        let last = watch.expect(Kind::Exhausted).await;
        assert_eq!((last.reason(), last.attempt.unwrap().number), (DeliveryReason::ScheduleExhausted, 10));
        assert_eq!(last.next_attempt_time, None);
        let delivery = t.delivery(&id).await;
        assert_eq!((delivery.state(), delivery.reason()), (State::Exhausted, DeliveryReason::ScheduleExhausted));
        assert!(delivery.finish_time.is_some() && delivery.next_attempt_time.is_none());
        let attempts = t.attempts(&id).await;
        let started: Vec<_> = attempts.iter().map(|attempt| since_start_us(attempt.start_time)).collect();
        assert_eq!(started, due_us);
        assert!(attempts.iter().all(|attempt| attempt.cause() == Cause::Scheduled));

        clock.advance(Duration::from_hours(24 * 30));
        // What is sent next is another trigger's.
        receiver.answer(Answer::ok());
        let other = t.contact("bob@example.com").await;
        let next = t.decide(&other, &tag).await.delivery_ids.remove(0);
        assert_eq!(receiver.recv().await.webhook_id(), next);
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, next);
        assert_eq!((receiver.count(), t.attempts(&id).await.len()), (11, 10));
    }

    async fn an_empty_schedule_is_one_attempt(t: Taghook) {
        let receiver = Receiver::start().await;
        receiver.answer(Answer::status(503));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[])).await;
        let mut watch = Watch::now(&t.client).await;
        let id = t.decide(&contact, &tag).await.delivery_ids.remove(0);
        let outcome = watch.expect(Kind::Exhausted).await;
        assert_eq!((&outcome.delivery_id, outcome.reason()), (&id, DeliveryReason::ScheduleExhausted));
        assert_eq!((t.delivery(&id).await.state(), receiver.count()), (State::Exhausted, 1));
    }

    /// The schedule that counts is the webhook's present one.
    async fn a_new_schedule_counts_for_what_waits(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[10, 10, 10])).await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;
        receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        t.update(&webhook, &["retry_policy"], |webhook| webhook.retry_policy = delays(&[600, 600])).await;
        let wait = clock.advance_to(failed.next_attempt_time.unwrap());
        assert!(wait <= Duration::from_secs(11), "{wait:?}");
        receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        let wait = clock.advance_to(failed.next_attempt_time.unwrap());
        assert!((540..=660).contains(&wait.as_secs()), "{wait:?}");
        receiver.recv().await;
        watch.expect(Kind::Exhausted).await;
    }

    /// The values are those of the trigger, whatever was changed since; where they go is looked up at each attempt.
    async fn a_corrected_webhook_heals_what_waits_and_its_values_stay(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut wrong, mut right) = (Receiver::start().await, Receiver::start().await);
        wrong.answer(Answer::status(404));
        let contact = t.contact_with("ada@example.com", &[("first_name", "Ada"), ("city", "Bath")]).await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&wrong, &tag, |webhook| {
                webhook.url = wrong.url("/old?n=__name__");
                webhook.events[0].parameters = vec![first_name("name")];
                webhook.headers = vec![Header { name: "X-Key".into(), value: "old".into(), sensitive: true }];
            })
            .await;
        let mut watch = Watch::now(&t.client).await;
        let id = t.decide(&contact, &tag).await.delivery_ids.remove(0);
        let received = wrong.recv().await;
        assert_eq!((received.target.as_str(), received.header("x-key")), ("/old?n=Ada", "old"));
        assert_eq!(received.text(), "email=ada%40example.com&name=Ada");
        let failed = watch.expect(Kind::AttemptFailed).await;

        t.set_values(&contact, &[("first_name", "Augusta")]).await;
        t.update(&webhook, &["url", "headers", "events"], |webhook| {
            webhook.url = right.url("/new/__name__");
            webhook.headers = vec![Header { name: "x-key".into(), value: "new".into(), sensitive: true }];
            let event = &mut webhook.events[0];
            event.email_parameter_name = "mail".into();
            let city = ValueSource::ContactField("city".into());
            event.parameters.push(Parameter { name: "city".into(), source: Some(city), default_value: None });
        })
        .await;
        clock.advance_to(failed.next_attempt_time.unwrap());
        let received = right.recv().await;
        assert_eq!((received.target.as_str(), received.header("x-key")), ("/new/Ada", "new"));
        assert_eq!((received.text(), received.webhook_id()), ("email=ada%40example.com&name=Ada", id.as_str()));
        watch.expect(Kind::Delivered).await;
        let urls: Vec<_> = t.attempts(&id).await.into_iter().map(|attempt| attempt.url).collect();
        assert_eq!(urls, [wrong.url("/old?n=Ada"), right.url("/new/Ada")]);

        // The next trigger takes all that is new.
        let decision = t.trigger(&webhook, &contact).await;
        let received = right.recv().await;
        assert_eq!(received.target, "/new/Augusta");
        assert_eq!(received.text(), "mail=ada%40example.com&name=Augusta&city=Bath");
        assert_eq!(received.webhook_id(), decision.delivery_ids[0]);
        assert_eq!((wrong.count(), right.count()), (1, 2));
    }

    async fn a_placeholder_that_the_values_lack_is_final(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let contact = t.contact_with("ada@example.com", &[("first_name", "Ada")]).await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let id = t.decide(&contact, &tag).await.delivery_ids.remove(0);
        receiver.recv().await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        t.update(&webhook, &["url", "events"], |webhook: &mut Webhook| {
            webhook.url = receiver.url("/__name__");
            webhook.events[0].parameters = vec![first_name("name")];
        })
        .await;
        clock.advance_to(failed.next_attempt_time.unwrap());
        let outcome = watch.expect(Kind::Exhausted).await;
        assert_eq!((&outcome.delivery_id, outcome.reason()), (&id, DeliveryReason::Template));
        let attempt = outcome.attempt.unwrap();
        assert_eq!((attempt.number, attempt.error_class(), attempt.status_code), (2, ErrorClass::Template, 0));
        assert_eq!((attempt.url.as_str(), receiver.count()), ("", 1));
        assert!(attempt.error_detail.contains("name"), "{}", attempt.error_detail);
        let delivery = t.delivery(&id).await;
        assert_eq!((delivery.state(), delivery.reason()), (State::Exhausted, DeliveryReason::Template));
    }

    /// A time that has passed while nobody could send is no plan.
    async fn the_next_attempt_is_never_planned_in_the_past(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let id = t.decide(&contact, &tag).await.delivery_ids.remove(0);
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        assert!(since_start_us(t.delivery(&id).await.next_attempt_time) >= 4_500_000);
        t.pause(&webhook).await;
        assert_eq!(t.delivery(&id).await.next_attempt_time, None);
        clock.advance(Duration::from_hours(1));
        assert_eq!(t.delivery(&id).await.next_attempt_time, None);
        t.resume(&webhook).await;
        assert_eq!(receiver.recv().await.webhook_id(), id);
        watch.until(Kind::Delivered).await;
        assert_eq!(t.delivery(&id).await.next_attempt_time, None);
    }
}
