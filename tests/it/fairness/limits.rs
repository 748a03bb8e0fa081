//! Caps and rates.

use std::time::Duration;

use taghook_client::Code;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{self, ErrorReason, Webhook, WebhookEvent};

use super::{Healthy, count_in, fire, planned, until_in, webhook};
use crate::support::{
    Answer, Database, Gate, Receiver, Taghook, Watch, both, check_error, check_invalid, delays, within,
};

both! {
    async fn no_more_are_in_flight_than_the_cap(t: Taghook) {
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 3).await;
        let contact = t.contact("ada@example.com").await;
        let ids = fire(&t, &webhook, &contact, 20).await;
        receiver.recv_all(3).await;
        healthy.is_served(&t).await;
        assert_eq!(receiver.count(), 3);
        until_in(&t, &webhook, State::Waiting, 17).await;
        // What waits has used up nothing, and nobody can say when it is sent.
        let last = t.delivery(&ids[19]).await;
        assert_eq!((last.state(), last.attempt_count, last.next_attempt_time), (State::Waiting, 0, None));

        // A test asks nobody.
        let tested = tokio::spawn({
            let (api, webhook, contact) = ((*t).clone(), webhook.clone(), contact.clone());
            async move { api.test(&webhook, &contact).await }
        });
        receiver.recv().await;
        gate.open();
        assert_eq!(within("the test", tested).await.unwrap().delivery.unwrap().state(), State::Delivered);
        until_in(&t, &webhook, State::Delivered, 21).await;
        assert_eq!((receiver.count(), receiver.peak()), (21, 4));
        assert_eq!(t.attempts(&ids[19]).await.len(), 1);
    }

    /// A larger cap counts at once, also for what waits.
    async fn a_new_cap_counts_for_what_waits(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        let contact = t.contact("ada@example.com").await;
        fire(&t, &webhook, &contact, 6).await;
        receiver.recv().await;
        t.update(&webhook, &["max_concurrency"], |webhook| webhook.max_concurrency = 4).await;
        receiver.recv_all(3).await;
        until_in(&t, &webhook, State::Waiting, 2).await;
        gate.open();
        until_in(&t, &webhook, State::Delivered, 6).await;
        assert_eq!(receiver.peak(), 4);
    }

    /// What a second allows at once, then one after the other; the clock is the test's.
    async fn no_more_are_sent_than_the_rate(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        let webhook = webhook(&t, &receiver, |webhook| webhook.rate_limit = 2.0).await;
        let contact = t.contact("ada@example.com").await;
        fire(&t, &webhook, &contact, 8).await;
        receiver.recv_all(2).await;
        for (wait_ms, more) in [(0, 0), (499, 0), (1, 1), (499, 0), (1, 1), (10_000, 2), (499, 0), (1, 1)] {
            let before = receiver.count();
            clock.advance(Duration::from_millis(wait_ms));
            receiver.recv_all(more).await;
            healthy.is_served(&t).await;
            assert_eq!(receiver.count(), before + more);
        }
        assert_eq!(count_in(&t, &webhook, State::Waiting).await, 1);
        t.update(&webhook, &["rate_limit"], |webhook| webhook.rate_limit = 0.0).await;
        receiver.recv().await;
        until_in(&t, &webhook, State::Delivered, 8).await;
    }

    /// Many calls at once: each gets its request, by as many at a time as the cap says and as many in a second as the rate.
    async fn a_flood_keeps_to_the_cap_and_the_rate(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        let webhook = webhook(&t, &receiver, |webhook| {
            webhook.max_concurrency = 10;
            webhook.rate_limit = 50.0;
        })
        .await;
        let contact = t.contact("ada@example.com").await;
        let mut gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        futures_util::future::join_all((0..200).map(|_| t.trigger(&webhook, &contact))).await;
        for sent in (10..=200).step_by(10) {
            receiver.recv_all(10).await;
            healthy.is_served(&t).await;
            assert_eq!(receiver.count(), sent);
            let answered = std::mem::replace(&mut gate, Gate::closed());
            receiver.answer(Answer::ok().behind(&gate));
            answered.open();
            if sent % 50 == 0 {
                until_in(&t, &webhook, State::Delivered, sent).await;
                healthy.is_served(&t).await;
                assert_eq!(receiver.count(), sent);
                clock.advance(Duration::from_secs(1));
            }
        }
        assert_eq!(receiver.peak(), 10);
    }

    /// What waits until the rate allows it has no next time, nor has a retry whose time has passed meanwhile.
    async fn nothing_is_planned_in_the_past_while_the_rate_is_used_up(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        receiver.answer(Answer::status(500));
        let webhook = webhook(&t, &receiver, |webhook| {
            webhook.rate_limit = 0.001;
            webhook.retry_policy = delays(&[10]);
        })
        .await;
        let contact = t.contact("ada@example.com").await;
        let mut watch = Watch::now(&t.client).await;
        fire(&t, &webhook, &contact, 3).await;
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        assert_eq!(planned(&t, &webhook, &clock).await, 1);
        clock.advance(Duration::from_secs(60));
        healthy.is_served(&t).await;
        assert_eq!(planned(&t, &webhook, &clock).await, 0);
        assert_eq!((count_in(&t, &webhook, State::Waiting).await, receiver.count()), (3, 1));
    }

    /// People who want an attempt now don't wait.
    async fn a_manual_attempt_is_not_kept_waiting(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        let contact = t.contact("ada@example.com").await;
        let ids = fire(&t, &webhook, &contact, 2).await;
        receiver.recv().await;
        until_in(&t, &webhook, State::Waiting, 1).await;
        receiver.answer(Answer::ok());
        t.retry(&ids[1]).await.unwrap();
        assert_eq!(receiver.recv().await.webhook_id(), ids[1]);
        until_in(&t, &webhook, State::Delivered, 1).await;
        gate.open();
        until_in(&t, &webhook, State::Delivered, 2).await;
        assert_eq!(receiver.count(), 2);
    }

    async fn the_settings_have_defaults_and_bounds(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        assert_eq!((webhook.max_concurrency, webhook.rate_limit, webhook.ordered), (32, 0.0, false));
        let changed = t
            .update(&webhook, &["max_concurrency", "rate_limit", "ordered"], |webhook| {
                webhook.max_concurrency = 1_000;
                webhook.rate_limit = 0.001;
                webhook.ordered = true;
            })
            .await;
        assert_eq!((changed.max_concurrency, changed.rate_limit, changed.ordered), (1_000, 0.001, true));
        assert_eq!(t.current(&webhook).await, changed);
        let reset = t.update(&webhook, &["max_concurrency", "ordered"], |it| *it = of(&it.id)).await;
        assert_eq!((reset.max_concurrency, reset.rate_limit, reset.ordered), (32, 0.001, false));

        let create = async |webhook: Webhook| {
            let webhook = Webhook {
                name: "bad".into(),
                url: receiver.url("/"),
                events: vec![WebhookEvent::default()],
                ..webhook
            };
            let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
            t.client.webhooks().create_webhook(request).await
        };
        for rate_limit in [0.000_999, -1.0, 10_000.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            check_invalid(create(Webhook { rate_limit, ..Default::default() }).await, &["webhook.rate_limit"]);
        }
        for max_concurrency in [-1, 1_001] {
            check_invalid(create(Webhook { max_concurrency, ..Default::default() }).await, &["webhook.max_concurrency"]);
        }
        check_error(t.retry("dlv_00000000000000000000000000").await, Code::NotFound, ErrorReason::NotFound);
    }
}

/// A webhook with nothing but its id.
fn of(id: &str) -> Webhook {
    Webhook { id: id.to_owned(), ..Default::default() }
}

/// Waits until two servers share what endpoints take.
async fn know_each_other(first: &Taghook, second: &Taghook) {
    let both_known = async {
        while [first, second].iter().any(|server| server.store().local().endpoints().servers() != 2) {
            tokio::task::yield_now().await;
        }
    };
    within("the other server", both_known).await;
}

/// A rate is that of the endpoint: two servers together keep it; the clock is the test's.
#[tokio::test]
async fn servers_share_a_rate() {
    let database = Database::postgres().await;
    let (settings, clock) = database.settings().with_manual_clock();
    let first = Taghook::start(database, settings).await;
    let second = first.another().await;
    know_each_other(&first, &second).await;
    let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&first).await);
    let webhook = webhook(&first, &receiver, |webhook| webhook.rate_limit = 4.0).await;
    let contact = first.contact("ada@example.com").await;
    for server in [&first, &second].into_iter().cycle().take(18) {
        fire(server, &webhook, &contact, 1).await;
    }
    receiver.recv_all(4).await;
    for (wait_ms, more) in [(0, 0), (499, 0), (1, 2), (499, 0), (1, 2), (10_000, 4), (499, 0), (1, 2)] {
        let before = receiver.count();
        clock.advance(Duration::from_millis(wait_ms));
        receiver.recv_all(more).await;
        healthy.is_served(&first).await;
        healthy.is_served(&second).await;
        assert_eq!(receiver.count(), before + more);
    }
    until_in(&first, &webhook, State::Delivered, 14).await;
    assert_eq!(count_in(&second, &webhook, State::Waiting).await, 4);
}

/// A cap is that of the endpoint: two servers take half of it each.
#[tokio::test]
async fn servers_share_a_cap_and_the_work() {
    let database = Database::postgres().await;
    let settings = database.settings();
    let first = Taghook::start(database, settings).await;
    let second = first.another().await;
    know_each_other(&first, &second).await;
    let mut receiver = Receiver::start().await;
    let gate = Gate::closed();
    receiver.answer(Answer::ok().behind(&gate));
    let webhook = webhook(&first, &receiver, |webhook| webhook.max_concurrency = 4).await;
    let contact = first.contact("ada@example.com").await;
    for server in [&first, &second].into_iter().cycle().take(30) {
        fire(server, &webhook, &contact, 1).await;
    }
    receiver.recv_all(4).await;
    let mut healthy = Healthy::new(&first).await;
    healthy.is_served(&first).await;
    healthy.is_served(&second).await;
    assert_eq!(receiver.count(), 4);
    gate.open();
    until_in(&first, &webhook, State::Delivered, 30).await;
    assert_eq!((receiver.count(), receiver.peak()), (30, 4));
}
