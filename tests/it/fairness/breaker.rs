//! Endpoints that are down.

use std::time::Duration;

use taghook_client::Start;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{OutcomeFilter, Webhook};

use super::{Healthy, count_in, fire, planned, until_in, webhook};
use crate::support::{Answer, Api, Database, Gate, Receiver, Taghook, Watch, both};

async fn watch_of(t: &Api, webhook: &Webhook) -> Watch {
    let filter = OutcomeFilter { webhook_ids: vec![webhook.id.clone()], ..Default::default() };
    Watch::with(&t.client, filter, Start::Now).await
}

/// Fires a webhook whose endpoint fails until its breaker opens. The deliveries: five have failed, the others wait.
async fn open(t: &Api, webhook: &Webhook, receiver: &mut Receiver, count: usize) -> Vec<String> {
    let mut watch = watch_of(t, webhook).await;
    let contact = t.contact("ada@example.com").await;
    let ids = fire(t, webhook, &contact, count).await;
    receiver.recv_all(5).await;
    for _ in 0..5 {
        watch.expect(Kind::AttemptFailed).await;
    }
    ids
}

/// How many of the deliveries no attempt was made for.
async fn untouched(t: &Api, ids: &[String]) -> usize {
    let mut count = 0;
    for id in ids {
        count += usize::from(t.delivery(id).await.attempt_count == 0);
    }
    count
}

both! {
    /// Five failures in a row and nothing more is sent but probes, later and later; one that is answered lets all go.
    async fn what_waits_for_an_endpoint_that_is_down_uses_up_nothing(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        receiver.answer(Answer::close());
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        let ids = open(&t, &webhook, &mut receiver, 12).await;
        healthy.is_served(&t).await;
        assert_eq!((receiver.count(), untouched(&t, &ids).await), (5, 7));
        let mut watch = watch_of(&t, &webhook).await;
        // The least of each pause, then all of it. Retries come due meanwhile, and wait as well.
        for (pause_ms, sent) in [(5_000, 6), (10_000, 7), (20_000, 8), (40_000, 9)] {
            clock.advance(Duration::from_millis(pause_ms * 9 / 10 - 1));
            healthy.is_served(&t).await;
            assert_eq!(receiver.count(), sent - 1);
            clock.advance(Duration::from_millis(pause_ms * 2 / 10 + 1));
            receiver.recv().await;
            watch.expect(Kind::AttemptFailed).await;
            healthy.is_served(&t).await;
            // The oldest probe first.
            assert_eq!((receiver.count(), untouched(&t, &ids).await), (sent, 12 - sent));
        }

        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        clock.advance(Duration::from_secs(66));
        receiver.recv().await;
        healthy.is_served(&t).await;
        assert_eq!(receiver.count(), 10);
        gate.open();
        // All that is due, and what isn't yet.
        receiver.recv_all(2).await;
        clock.advance(Duration::from_secs(400));
        until_in(&t, &webhook, State::Delivered, 12).await;
        assert_eq!(receiver.peak(), 1);
    }

    /// What became due while nobody is asked has no next time: the one that it had has passed.
    async fn nothing_is_planned_in_the_past_while_it_is_open(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        receiver.answer(Answer::close());
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        open(&t, &webhook, &mut receiver, 7).await;
        assert_eq!(planned(&t, &webhook, &clock).await, 5);
        // The probe fails, when the retries are due: it alone has another attempt before it.
        let mut watch = watch_of(&t, &webhook).await;
        clock.advance(Duration::from_millis(5_500));
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        healthy.is_served(&t).await;
        assert_eq!(planned(&t, &webhook, &clock).await, 1);
        assert_eq!((count_in(&t, &webhook, State::Waiting).await, receiver.count()), (7, 6));
    }

    /// An endpoint that says when it wants to be asked again isn't asked before, about whatever.
    async fn what_an_endpoint_asks_for_counts_for_all(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut receiver, mut healthy) = (Receiver::start().await, Healthy::new(&t).await);
        receiver.answer_next([Answer::new(429, &[("retry-after", "90")], "")]);
        let webhook = webhook(&t, &receiver, |_| {}).await;
        let mut watch = watch_of(&t, &webhook).await;
        let contact = t.contact("ada@example.com").await;
        fire(&t, &webhook, &contact, 1).await;
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        let waiting = fire(&t, &webhook, &contact, 3).await;
        clock.advance(Duration::from_millis(89_999));
        healthy.is_served(&t).await;
        assert_eq!((receiver.count(), untouched(&t, &waiting).await), (1, 3));
        clock.advance(Duration::from_millis(1));
        receiver.recv_all(3).await;
        clock.advance(Duration::from_secs(10));
        until_in(&t, &webhook, State::Delivered, 4).await;
    }

    /// Answers that only say no to the request don't open it.
    async fn refusals_are_no_illness(t: Taghook) {
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        let contact = t.contact("ada@example.com").await;
        fire(&t, &webhook, &contact, 12).await;
        receiver.recv_all(12).await;
    }

    /// The endpoint is the origin: what was learnt of the old one says nothing of the new one.
    async fn another_url_starts_afresh(database: Database) {
        let (settings, _clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (mut dead, mut alive) = (Receiver::start().await, Receiver::start().await);
        dead.answer(Answer::status(502));
        let webhook = webhook(&t, &dead, |webhook| webhook.max_concurrency = 1).await;
        open(&t, &webhook, &mut dead, 9).await;
        t.update(&webhook, &["url"], |webhook| webhook.url = alive.url("/hook")).await;
        alive.recv_all(4).await;
        until_in(&t, &webhook, State::Delivered, 4).await;
        assert_eq!(dead.count(), 5);
    }

    /// People may ask an endpoint that is down at any time; if it answers, all goes on.
    async fn a_manual_attempt_that_succeeds_closes_it(database: Database) {
        let (settings, _clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::status(504));
        let webhook = webhook(&t, &receiver, |webhook| webhook.max_concurrency = 1).await;
        let ids = open(&t, &webhook, &mut receiver, 9).await;
        t.retry(&ids[0]).await.unwrap();
        assert_eq!(receiver.recv().await.webhook_id(), ids[0]);
        receiver.answer(Answer::ok());
        t.retry(&ids[1]).await.unwrap();
        assert_eq!(receiver.recv().await.webhook_id(), ids[1]);
        receiver.recv_all(4).await;
        until_in(&t, &webhook, State::Delivered, 5).await;
    }
}
