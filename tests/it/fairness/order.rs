//! Webhooks whose deliveries to one contact follow each other.

use std::collections::HashMap;
use std::time::Duration;

use sea_orm::ConnectionTrait;
use taghook_client::Start;
use taghook_client::contact::by_id;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{self, OutcomeFilter, Webhook};

use super::backlog::{all_know, clone_waiting};
use super::{Healthy, count_in, fire, until_in, webhook};
use crate::support::{Answer, Api, Database, Gate, Process, Received, Receiver, Taghook, Watch, both, delays, seconds};

async fn ordered(t: &Api, receiver: &Receiver) -> Webhook {
    webhook(t, receiver, |webhook| webhook.ordered = true).await
}

async fn watch_of(t: &Api, webhook: &Webhook) -> Watch {
    let filter = OutcomeFilter { webhook_ids: vec![webhook.id.clone()], ..Default::default() };
    Watch::with(&t.client, filter, Start::Now).await
}

fn ids_of(received: &[Received]) -> Vec<&str> {
    received.iter().map(Received::webhook_id).collect()
}

/// Fires an ordered webhook for several contacts, through the servers in turn; some attempts fail. Checks the order of each
/// contact's requests.
async fn keep_the_order(servers: &[&Taghook]) {
    const ROUNDS: usize = 5;
    let mut receiver = Receiver::start().await;
    let webhook = webhook(servers[0], &receiver, |webhook| {
        webhook.ordered = true;
        webhook.retry_policy = delays(&[1, 1, 1, 1]);
    })
    .await;
    receiver.answer_next([500, 200, 404, 500, 200, 200, 500].map(Answer::status));
    let mut turns = servers.iter().cycle();
    let mut expected = HashMap::new();
    let contacts = [servers[0].contact("ada@example.com").await, servers[0].contact("bob@example.com").await];
    for _ in 0..ROUNDS {
        for contact in &contacts {
            let server = turns.next().expect("a server");
            let id = fire(server, &webhook, contact, 1).await.remove(0);
            expected.entry(contact.email.clone()).or_insert_with(Vec::new).push(id);
        }
        // Each server has its turn with each contact.
        turns.next();
    }
    let received = receiver.recv_all(2 * ROUNDS + 4).await;
    until_in(servers[0], &webhook, State::Delivered, 2 * ROUNDS).await;
    for (email, expected) in expected {
        let of_contact = received.iter().filter(|received| received.form()[0].1 == email);
        let mut ids: Vec<_> = of_contact.map(Received::webhook_id).collect();
        ids.dedup();
        assert_eq!(ids, expected);
    }
}

/// Two servers send what is fired on both; a contact's requests follow each other all the same.
#[tokio::test]
async fn servers_keep_an_order_together() {
    let database = Database::postgres().await;
    let mut settings = database.settings();
    // So that neither sends alone.
    settings.config.dispatch.senders = 1;
    let first = Taghook::start(database, settings).await;
    let second = first.another().await;
    keep_the_order(&[&first, &second]).await;

    let mut receiver = Receiver::start().await;
    let gate = Gate::closed();
    receiver.answer(Answer::ok().behind(&gate));
    let webhook = ordered(&first, &receiver).await;
    let contacts = [first.contact("eva@example.com").await, first.contact("flo@example.com").await];
    let mut expected = [Vec::new(), Vec::new()];
    for server in [&first, &second].into_iter().cycle().take(20) {
        for (contact, expected) in contacts.iter().zip(&mut expected) {
            expected.extend(fire(server, &webhook, contact, 1).await);
        }
    }
    // One at each server, and one of each contact.
    let mut received = receiver.recv_all(2).await;
    gate.open();
    received.extend(receiver.recv_all(38).await);
    until_in(&first, &webhook, State::Delivered, 40).await;
    for (contact, expected) in contacts.iter().zip(&expected) {
        let own = received.iter().filter(|received| received.form()[0].1 == contact.email);
        assert_eq!(own.map(Received::webhook_id).collect::<Vec<_>>(), *expected);
    }
    assert_eq!((receiver.count(), receiver.peak()), (40, 2));
}

both! {
    /// The clock stands: the order is that of the triggers, not that of times.
    async fn one_contact_gets_them_in_order_others_do_not_wait(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut receiver = Receiver::start().await;
        let webhook = ordered(&t, &receiver).await;
        let mut watch = watch_of(&t, &webhook).await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        receiver.answer_next([Answer::status(500)]);
        let mut of_ada = fire(&t, &webhook, &ada, 1).await;
        assert_eq!(receiver.recv().await.webhook_id(), of_ada[0]);
        watch.expect(Kind::AttemptFailed).await;
        of_ada.extend(fire(&t, &webhook, &ada, 4).await);
        let of_bob = fire(&t, &webhook, &bob, 2).await;
        assert_eq!(ids_of(&receiver.recv_all(2).await), of_bob);
        // The first one waits for its retry, and the others for it.
        clock.advance(Duration::from_millis(4_499));
        let of_bob = fire(&t, &webhook, &bob, 1).await;
        assert_eq!(ids_of(&receiver.recv_all(1).await), of_bob);
        assert_eq!(count_in(&t, &webhook, State::Waiting).await, 5);
        clock.advance(Duration::from_millis(1_001));
        assert_eq!(ids_of(&receiver.recv_all(5).await), of_ada);
        until_in(&t, &webhook, State::Delivered, 8).await;
        assert_eq!(receiver.count(), 9);
    }

    /// Failures between, of another contact too, move nothing; never two of one contact at a time.
    async fn failures_between_change_no_order(t: Taghook) {
        keep_the_order(&[&t]).await;
    }

    /// Given up, cancelled: the next one's turn has come.
    async fn the_end_of_one_is_the_turn_of_the_next(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let webhook = webhook(&t, &receiver, |webhook| {
            webhook.ordered = true;
            webhook.retry_policy = delays(&[]);
        })
        .await;
        let gate = Gate::closed();
        receiver.answer_next([Answer::status(500).behind(&gate)]);
        let contact = t.contact("ada@example.com").await;
        let ids = fire(&t, &webhook, &contact, 4).await;
        assert_eq!(receiver.recv().await.webhook_id(), ids[0]);
        t.cancel(&ids[1]).await.unwrap();
        let mut healthy = Healthy::new(&t).await;
        healthy.is_served(&t).await;
        assert_eq!(receiver.count(), 1);
        gate.open();
        assert_eq!(ids_of(&receiver.recv_all(2).await), ids[2..]);
        until_in(&t, &webhook, State::Delivered, 2).await;
        assert_eq!(t.delivery(&ids[0]).await.state(), State::Exhausted);
        assert_eq!(t.delivery(&ids[1]).await.state(), State::Cancelled);
    }

    /// The first one is cancelled while it waits for its retry, an hour ahead.
    async fn a_cancelled_retry_lets_the_next_one_go(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let webhook = webhook(&t, &receiver, |webhook| {
            webhook.ordered = true;
            webhook.retry_policy = delays(&[3_600]);
        })
        .await;
        let mut watch = watch_of(&t, &webhook).await;
        receiver.answer_next([Answer::status(500)]);
        let contact = t.contact("ada@example.com").await;
        let ids = fire(&t, &webhook, &contact, 3).await;
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        t.cancel(&ids[0]).await.unwrap();
        assert_eq!(ids_of(&receiver.recv_all(2).await), ids[1..]);
    }

    /// Two triggers in one transaction.
    async fn triggers_of_one_call_keep_their_order(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.cooldown = seconds(0);
                webhook.ordered = true;
            })
            .await;
        let contact = t.contact("ada@example.com").await;
        let one = v1::TagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tag.id.clone()],
            ..Default::default()
        };
        let request = v1::BatchTagContactsRequest { requests: vec![one; 8] };
        let answer = t.client.contacts().batch_tag_contacts(request).await.unwrap().into_inner();
        let text = format!("{answer:?}");
        let received = receiver.recv_all(8).await;
        until_in(&t, &webhook, State::Delivered, 8).await;
        let places: Vec<_> = received.iter().map(|received| text.find(received.webhook_id()).unwrap()).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(receiver.peak(), 1);
    }

    /// A contact with very many that wait stands before others in the lane, but not in their way.
    async fn a_long_chain_is_in_nobodys_way(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer_next([Answer::ok().behind(&gate)]);
        let webhook = ordered(&t, &receiver).await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let mut of_ada = fire(&t, &webhook, &ada, 3).await;
        assert_eq!(receiver.recv().await.webhook_id(), of_ada[0]);
        clone_waiting(&t, &of_ada[2], 3_000, 1).await;
        all_know(&t, &webhook);
        let of_bob = fire(&t, &webhook, &bob, 20).await;
        assert_eq!(ids_of(&receiver.recv_all(20).await), of_bob);
        until_in(&t, &webhook, State::Sending, 1).await;
        gate.open();
        of_ada.remove(0);
        assert_eq!(ids_of(&receiver.recv_all(2).await), of_ada);
        receiver.recv_all(40).await;
        t.pause(&webhook).await;
        assert_eq!(receiver.peak(), 2);
    }

    /// Killed with one of each contact in flight: it comes again, under its id and before all that were triggered later, also
    /// those that came to the next server.
    async fn a_kill_changes_no_order(database: Database) {
        let mut receiver = Receiver::start().await;
        // Nobody opens it: who waits for these answers is killed.
        receiver.answer(Answer::ok().behind(&Gate::closed()));
        receiver.answer_next([Answer::ok(), Answer::ok()]);
        let server = Process::serve(&database).await;
        let webhook = ordered(&server, &receiver).await;
        let contacts = [server.contact("ada@example.com").await, server.contact("bob@example.com").await];
        let mut expected = [Vec::new(), Vec::new()];
        for _ in 0..4 {
            for (contact, expected) in contacts.iter().zip(&mut expected) {
                expected.extend(fire(&server, &webhook, contact, 1).await);
            }
        }
        let before = receiver.recv_all(4).await;
        server.kill().await;

        receiver.answer(Answer::ok());
        let server = Process::serve(&database).await;
        for (contact, expected) in contacts.iter().zip(&mut expected) {
            expected.extend(fire(&server, &webhook, contact, 1).await);
        }
        let after = receiver.recv_all(8).await;
        until_in(&server, &webhook, State::Delivered, 10).await;
        for (contact, expected) in contacts.iter().zip(expected) {
            let of_contact = |all: &[Received]| {
                let own = all.iter().filter(|received| received.form()[0].1 == contact.email);
                own.map(|received| received.webhook_id().to_owned()).collect::<Vec<_>>()
            };
            let (before, after) = (of_contact(&before), of_contact(&after));
            let in_flight = before.len().checked_sub(1).expect("one in flight");
            assert_eq!((&before[..], &after[..]), (&expected[..=in_flight], &expected[in_flight..]));
        }
        assert_eq!(receiver.count(), 12);
        server.kill().await;
    }

    /// A server that dies between the end of one and the turn of the next leaves a chain that nobody would move.
    async fn a_chain_that_was_left_behind_is_found(t: Taghook) {
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500)]);
        let webhook = webhook(&t, &receiver, |webhook| {
            webhook.ordered = true;
            webhook.retry_policy = delays(&[3_600]);
        })
        .await;
        let mut watch = watch_of(&t, &webhook).await;
        let contact = t.contact("ada@example.com").await;
        let ids = fire(&t, &webhook, &contact, 4).await;
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        let end = |tx: taghook::store::Tx| async move {
            let behind = "UPDATE deliveries SET lane = 2 WHERE attempt_count = 0";
            tx.db().execute_unprepared(behind).await?;
            let end = "UPDATE deliveries SET state = 8, due_us = NULL WHERE attempt_count = 1";
            Ok(tx.db().execute_unprepared(end).await?)
        };
        t.store().write("end", end).await.unwrap();
        assert_eq!(ids_of(&receiver.recv_all(3).await), ids[1..]);
        until_in(&t, &webhook, State::Delivered, 3).await;
    }
}
