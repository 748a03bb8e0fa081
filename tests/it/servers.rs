//! The life and death of servers: killed, stopped, frozen, several at once, and without their database.

use std::collections::HashSet;
use std::time::Duration;

use taghook_client::contact::by_id;
use taghook_client::v1::attempt::Cause;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::stream_outcomes_response::Entry;
use taghook_client::v1::trigger_decision::Decision;
use taghook_client::v1::{
    BatchTagContactsRequest, Contact, DeliveryFilter, ErrorReason, GetTagRequest, OutcomeFilter, StreamOutcomesRequest,
    TagContactRequest, TriggerWebhookRequest,
};
use taghook_client::{Code, Start};

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::postgres::Postgres;
use crate::support::{
    Answer, Api, Database, FromDatabase, Gate, Health, Process, Receiver, Settings, Taghook, Watch, both, check_error,
    seconds, within,
};

/// Contacts, named from 0 on.
async fn contacts(api: &Api, count: usize) -> Vec<Contact> {
    let mut all = Vec::with_capacity(count);
    for index in 0..count {
        all.push(api.contact(&format!("c{index}@example.com")).await);
    }
    all
}

fn with_senders(database: &Database, senders: usize) -> Settings {
    let mut settings = database.settings();
    settings.config.dispatch.senders = senders;
    settings
}

both! {
    /// Killed in the middle of many calls: a contact that holds the tag has its delivery, one that doesn't has none, and
    /// whatever was answered is there and is sent, under the ids of the answers.
    async fn a_kill_leaves_nothing_half_done_and_loses_no_answer(database: Database) {
        const COUNT: usize = 60;
        let mut receiver = Receiver::start().await;
        let server = Process::serve(&database).await;
        let contacts = contacts(&server, COUNT).await;
        let tag = server.tag("customer").await;
        server.webhook(&receiver, &tag, |_| {}).await;
        let mut calls = JoinSet::new();
        for contact in &contacts {
            let (contact_id, tag_ids) = (contact.id.clone(), vec![tag.id.clone()]);
            let request = TagContactRequest { contact: by_id(contact_id), tag_ids, ..Default::default() };
            let client = server.client.clone();
            calls.spawn(async move { client.contacts().tag_contact(request).await });
        }
        // One has been answered; the others are at all stages of their way.
        let first = within("an answer", calls.join_next()).await.unwrap().unwrap().unwrap();
        server.kill().await;
        let mut answered: HashSet<_> = first.into_inner().triggers.remove(0).delivery_ids.into_iter().collect();
        while let Some(call) = within("the end of the calls", calls.join_next()).await {
            if let Ok(answer) = call.unwrap() {
                answered.extend(answer.into_inner().triggers.remove(0).delivery_ids);
            }
        }

        let server = Process::serve(&database).await;
        let deliveries = server.deliveries(DeliveryFilter::default()).await;
        for contact in &contacts {
            let owed = deliveries.iter().filter(|delivery| delivery.contact_id == contact.id).count();
            assert_eq!(owed, server.held_tags(contact).await.len(), "{}", contact.email);
        }
        let owed: HashSet<_> = deliveries.into_iter().map(|delivery| delivery.id).collect();
        assert!(answered.is_subset(&owed), "{} of {} answers", answered.intersection(&owed).count(), answered.len());
        let mut watch = Watch::beginning(&server.client).await;
        let mut delivered = HashSet::new();
        while delivered.len() < owed.len() {
            assert!(delivered.insert(watch.expect(Kind::Delivered).await.delivery_id));
        }
        assert_eq!(delivered, owed);
        // All that was sent was owed; twice came only what was in flight.
        let received = receiver.recv_all(receiver.count()).await;
        assert!(received.iter().all(|received| owed.contains(received.webhook_id())));
        server.kill().await;
    }

    /// An attempt that its server's death cut off is made again, under the same id.
    async fn what_was_in_flight_at_a_kill_is_sent_again(database: Database) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer_next([Answer::ok().behind(&gate)]);
        let server = Process::serve(&database).await;
        let contact = server.contact("ada@example.com").await;
        let tag = server.tag("customer").await;
        let webhook = server.webhook(&receiver, &tag, |_| {}).await;
        let id = server.decide(&contact, &tag).await.delivery_ids.remove(0);
        let first = receiver.recv().await;
        let secret = server.secret(&webhook).await;
        server.kill().await;

        let server = Process::serve(&database).await;
        let second = receiver.recv().await;
        assert_eq!((first.webhook_id(), second.webhook_id()), (id.as_str(), id.as_str()));
        assert_eq!(first.body, second.body);
        second.verify(&secret).unwrap();
        let mut watch = Watch::beginning(&server.client).await;
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, id);
        // The one that was cut off left no trace: nobody knows what came of it.
        assert_eq!(server.attempts(&id).await.len(), 1);
        assert_eq!(receiver.count(), 2);
        server.kill().await;
    }

    /// SIGTERM: health says so first, what is in flight ends and is recorded, streams end with a cursor, the program
    /// ends well.
    async fn a_graceful_stop_finishes_its_work(database: Database) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let server = Process::serve(&database).await;
        let mut health = Health::watch(&server.authority).await;
        health.until(true).await;
        let contact = server.contact("ada@example.com").await;
        let tag = server.tag("customer").await;
        server.webhook(&receiver, &tag, |_| {}).await;
        let client = server.client.clone();
        let request = StreamOutcomesRequest::default();
        let mut stream = client.deliveries().stream_outcomes(request).await.unwrap().into_inner();
        let start = stream.message().await.unwrap().unwrap();
        assert!(matches!(start.entry, Some(Entry::Checkpoint(_))));
        let id = server.decide(&contact, &tag).await.delivery_ids.remove(0);
        receiver.recv().await;
        // Something has happened since the start of the stream.
        assert_eq!(server.decide(&contact, &tag).await.decision(), Decision::Suppressed);
        let suppressed = within("an outcome", stream.message()).await.unwrap().unwrap();
        assert!(matches!(suppressed.entry, Some(Entry::Outcome(_))), "{suppressed:#?}");

        let stopping = tokio::spawn(server.terminate());
        health.until(false).await;
        let mut rest = Vec::new();
        while let Some(message) = within("the end of the stream", stream.message()).await.unwrap() {
            rest.push(message);
        }
        let last = rest.pop().expect("a last message");
        assert!(matches!(last.entry, Some(Entry::Checkpoint(_))), "{last:#?}");
        assert_ne!(last.cursor, start.cursor);
        assert!(!stopping.is_finished());
        gate.open();
        let (status, log) = within("the end of the program", stopping).await.unwrap();
        assert!(status.success(), "{status}: {log:#?}");

        let server = Process::serve(&database).await;
        assert_eq!(server.delivery(&id).await.state(), State::Delivered);
        let mut watch = Watch::with(&server.client, OutcomeFilter::default(), Start::After(last.cursor)).await;
        let outcome = watch.expect(Kind::Delivered).await;
        assert_eq!((outcome.delivery_id, outcome.attempt.unwrap().number), (id, 1));
        assert_eq!((receiver.count(), receiver.connections()), (1, 1));
        let (status, _) = server.terminate().await;
        assert!(status.success(), "{status}");
    }

    /// SIGTERM while a call waits for its attempt: whoever follows the health is told before the server is gone, nobody else
    /// is let in, and the call gets its answer.
    async fn a_stopping_server_says_so_first_and_answers_whom_it_has_let_in(database: Database) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let server = Process::serve(&database).await;
        let mut health = Health::watch(&server.authority).await;
        health.until(true).await;
        let (contact, tag) = (server.contact("ada@example.com").await, server.tag("customer").await);
        let webhook = server.webhook(&receiver, &tag, |webhook| webhook.timeout = seconds(30)).await;
        let call = tokio::spawn({
            let api = (*server).clone();
            async move { api.test(&webhook, &contact).await }
        });
        receiver.recv().await;

        let authority = server.authority.clone();
        let stopping = tokio::spawn(server.terminate());
        health.until(false).await;
        let refused = async { while TcpStream::connect(&authority).await.is_ok() {} };
        within("the end of the listener", refused).await;
        assert!(!call.is_finished() && !stopping.is_finished());
        gate.open();
        assert_eq!(within("an answer", call).await.unwrap().delivery.unwrap().state(), State::Delivered);
        let (status, log) = within("the end of the program", stopping).await.unwrap();
        assert!(status.success(), "{status}: {log:#?}");
        assert_eq!(receiver.count(), 1);
    }

    /// What isn't finished within the grace is cut off, the program says so by its status, and the next one sends it again.
    async fn an_attempt_that_outlasts_the_grace_is_sent_again(database: Database) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer_next([Answer::ok().behind(&gate)]);
        let server = Process::serve_with(&database, &[("TAGHOOK_SHUTDOWN_GRACE_SECONDS", "1")]).await;
        let contact = server.contact("ada@example.com").await;
        let tag = server.tag("customer").await;
        server.webhook(&receiver, &tag, |webhook| webhook.timeout = seconds(30)).await;
        let id = server.decide(&contact, &tag).await.delivery_ids.remove(0);
        let first = receiver.recv().await;

        let began = Instant::now();
        let (status, log) = server.terminate().await;
        let took = began.elapsed();
        // Long before the attempt's own end.
        assert!((Duration::from_secs(1)..Duration::from_secs(10)).contains(&took), "{took:?}");
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        assert!(log.iter().any(|line| line.contains("the stop is forced")), "{log:#?}");

        let server = Process::serve(&database).await;
        let second = receiver.recv().await;
        assert_eq!((first.webhook_id(), second.webhook_id()), (id.as_str(), id.as_str()));
        let mut watch = Watch::beginning(&server.client).await;
        assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, id);
        // Nobody knows what came of the first.
        assert_eq!((server.attempts(&id).await.len(), receiver.count()), (1, 2));
        server.kill().await;
    }
}

both! {
    /// A server that stops finishes what is in flight and begins nothing, though it has a sender for it then: neither what
    /// waits in a lane, nor what waits in the queue, nor what people asked for. The next one sends all of it.
    async fn a_stopping_server_claims_nothing_more(database: Database) {
        let t = Taghook::start(database.clone(), with_senders(&database, 1)).await;
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let contacts = contacts(&t, 2).await;
        let (narrow, wide) = (t.tag("narrow").await, t.tag("wide").await);
        t.webhook(&receiver, &narrow, |webhook| webhook.max_concurrency = 1).await;
        t.webhook(&receiver, &wide, |_| {}).await;
        let mut ids = Vec::new();
        for (contact, tag) in [(&contacts[0], &narrow), (&contacts[1], &narrow), (&contacts[0], &wide)] {
            ids.extend(t.decide(contact, tag).await.delivery_ids);
        }
        assert_eq!(receiver.recv().await.webhook_id(), ids[0]);
        t.retry(&ids[0]).await.unwrap();
        let client = t.client.clone();
        let request = StreamOutcomesRequest::default();
        let mut stream = client.deliveries().stream_outcomes(request).await.unwrap().into_inner();
        let stopping = tokio::spawn(t.stop());
        while within("the end of the stream", stream.message()).await.unwrap().is_some() {}
        gate.open();
        within("the stop", stopping).await.unwrap();
        assert_eq!(receiver.count(), 1);

        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut watch = Watch::beginning(&t.client).await;
        let mut made = HashSet::new();
        for _ in 0..4 {
            let outcome = watch.expect(Kind::Delivered).await;
            let attempt = outcome.attempt.unwrap();
            made.insert((outcome.delivery_id, attempt.number, attempt.cause()));
        }
        let first = |id: &String| (id.clone(), 1, Cause::Scheduled);
        assert_eq!(made, ids.iter().map(first).chain([(ids[0].clone(), 2, Cause::Manual)]).collect());
        assert_eq!(receiver.count(), 4);
    }
}

/// What one server can't send, the other one does; either streams all of it.
#[tokio::test]
async fn two_servers_share_the_work() {
    let database = Database::postgres().await;
    let first = Taghook::start(database.clone(), with_senders(&database, 1)).await;
    let second = first.another().await;
    let mut receiver = Receiver::start().await;
    let gate = Gate::closed();
    receiver.answer(Answer::ok().behind(&gate));
    let contacts = contacts(&first, 2).await;
    let tag = first.tag("customer").await;
    first.webhook(&receiver, &tag, |_| {}).await;
    let (mut here, mut there) = (Watch::now(&first.client).await, Watch::now(&second.client).await);
    let mut owed = HashSet::new();
    for contact in &contacts {
        owed.extend(first.decide(contact, &tag).await.delivery_ids);
    }
    // Both are in flight, though neither server may have two.
    receiver.recv_all(2).await;
    gate.open();
    for watch in [&mut here, &mut there] {
        let mut seen = HashSet::new();
        for _ in 0..2 {
            seen.insert(watch.expect(Kind::Delivered).await.delivery_id);
        }
        assert_eq!(seen, owed);
    }
    assert_eq!(receiver.count(), 2);
}

/// Two servers that claim from one queue: each delivery is sent once, and both streams tell of each once, in one order.
#[tokio::test]
async fn no_delivery_is_claimed_twice() {
    const COUNT: usize = 120;
    let database = Database::postgres().await;
    let first = Taghook::start(database.clone(), with_senders(&database, 8)).await;
    let second = first.another().await;
    let mut receiver = Receiver::start().await;
    let contact = first.contact("ada@example.com").await;
    let tag = first.tag("customer").await;
    let webhook = first.webhook(&receiver, &tag, |webhook| webhook.cooldown = seconds(0)).await;
    let mut owed = HashSet::new();
    let gate = Gate::closed();
    receiver.answer(Answer::ok().behind(&gate));
    for server in [&first, &second].into_iter().cycle().take(COUNT) {
        owed.extend(server.trigger(&webhook, &contact).await.delivery_ids);
    }
    let (mut here, mut there) = (Watch::beginning(&first.client).await, Watch::beginning(&second.client).await);
    gate.open();
    let received: Vec<_> =
        receiver.recv_all(COUNT).await.iter().map(|received| received.webhook_id().to_owned()).collect();
    assert_eq!(received.iter().cloned().collect::<HashSet<_>>(), owed);
    let mut orders = Vec::new();
    for watch in [&mut here, &mut there] {
        let mut order = Vec::new();
        for _ in 0..COUNT {
            order.push(watch.expect(Kind::Delivered).await.delivery_id);
        }
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1]);
    assert_eq!(orders[0].iter().cloned().collect::<HashSet<_>>(), owed);
    assert_eq!(receiver.count(), COUNT);
}

/// A server that freezes loses its lease: another one sends. When it comes to, its result is recorded as what it is.
#[tokio::test]
async fn a_frozen_server_loses_its_lease() {
    let database = Database::postgres().await;
    let mut receiver = Receiver::start().await;
    let gate = Gate::closed();
    receiver.answer_next([Answer::status(500).behind(&gate)]);
    let frozen = Process::serve(&database).await;
    let contact = frozen.contact("ada@example.com").await;
    let tag = frozen.tag("customer").await;
    frozen.webhook(&receiver, &tag, |webhook| webhook.timeout = seconds(30)).await;
    let id = frozen.decide(&contact, &tag).await.delivery_ids.remove(0);
    receiver.recv().await;
    frozen.signal("STOP");

    let other = Taghook::on(database).await;
    let mut watch = Watch::beginning(&other.client).await;
    assert_eq!(receiver.recv().await.webhook_id(), id);
    let outcome = watch.expect(Kind::Delivered).await;
    assert_eq!((&outcome.delivery_id, outcome.attempt.unwrap().number), (&id, 1));
    frozen.signal("CONT");
    gate.open();
    let lost = watch.expect(Kind::AttemptFailed).await;
    assert_eq!((&lost.delivery_id, lost.next_attempt_time), (&id, None));
    let attempt = lost.attempt.unwrap();
    assert_eq!((attempt.number, attempt.status_code, attempt.lease_lost), (2, 500, true));
    let delivery = other.delivery(&id).await;
    assert_eq!((delivery.state(), delivery.attempt_count), (State::Delivered, 2));
    let attempts = other.attempts(&id).await;
    assert_eq!(attempts.iter().map(|attempt| attempt.lease_lost).collect::<Vec<_>>(), [false, true]);
    assert!(attempts.iter().all(|attempt| attempt.cause() == Cause::Scheduled));
    // It goes on as if nothing had been.
    let bob = frozen.contact("bob@example.com").await;
    let id = frozen.decide(&bob, &tag).await.delivery_ids.remove(0);
    assert_eq!(receiver.recv().await.webhook_id(), id);
    assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, id);
    assert_eq!(receiver.count(), 3);
    frozen.kill().await;
}

/// While the database is away calls fail with a hint when to come back, and the log says it once; then all goes on, and
/// what was in flight is recorded.
#[tokio::test]
async fn an_absent_database_is_told_and_survived() {
    let postgres = Postgres::start();
    let server = Process::serve(&Database::on_server(&postgres).await).await;
    let mut receiver = Receiver::start().await;
    let gate = Gate::closed();
    receiver.answer_next([Answer::ok().behind(&gate)]);
    let mut health = Health::watch(&server.authority).await;
    health.until(true).await;
    let mut watch = Watch::now(&server.client).await;
    let contact = server.contact("ada@example.com").await;
    let tag = server.tag("customer").await;
    let webhook = server.webhook(&receiver, &tag, |_| {}).await;
    let id = server.decide(&contact, &tag).await.delivery_ids.remove(0);
    receiver.recv().await;

    postgres.crash();
    health.until(false).await;
    let get = GetTagRequest { id: tag.id.clone() };
    let (contact_id, tag_ids) = (contact.id.clone(), vec![tag.id.clone()]);
    let request = TagContactRequest { contact: by_id(contact_id), tag_ids, ..Default::default() };
    let batch = BatchTagContactsRequest { requests: vec![request.clone(); 2] };
    let trigger = TriggerWebhookRequest { id: webhook.id.clone(), contact: by_id(&contact.id), ..Default::default() };
    let (mut tags, mut contacts, mut batches) =
        (server.client.tags(), server.client.contacts(), server.client.contacts());
    let (mut webhooks, mut deliveries) = (server.client.webhooks(), server.client.deliveries());
    let (read, tagged, all_tagged, triggered, streamed) = tokio::join!(
        tags.get_tag(get),
        contacts.tag_contact(request),
        batches.batch_tag_contacts(batch),
        webhooks.trigger_webhook(trigger),
        deliveries.stream_outcomes(StreamOutcomesRequest::default()),
    );
    for error in [
        check_error(read, Code::Unavailable, ErrorReason::DatabaseUnavailable),
        check_error(tagged, Code::Unavailable, ErrorReason::DatabaseUnavailable),
        check_error(all_tagged, Code::Unavailable, ErrorReason::DatabaseUnavailable),
        check_error(triggered, Code::Unavailable, ErrorReason::DatabaseUnavailable),
        check_error(streamed, Code::Unavailable, ErrorReason::DatabaseUnavailable),
    ] {
        assert!(error.retry_after.is_some_and(|wait| wait > Duration::ZERO), "{error:?}");
        assert!(!error.message.contains("taghook-pg"), "{error:?}");
    }
    gate.open();

    postgres.begin();
    health.until(true).await;
    // The request wasn't sent again: its result waited for the database.
    assert_eq!(watch.expect(Kind::Delivered).await.delivery_id, id);
    assert_eq!(server.attempts(&id).await.len(), 1);
    assert_eq!(server.decide(&contact, &tag).await.decision(), Decision::Suppressed);
    watch.expect(Kind::Suppressed).await;
    let again = server.trigger(&webhook, &contact).await;
    assert_eq!([receiver.recv().await.webhook_id()], again.delivery_ids[..]);
    watch.expect(Kind::Delivered).await;
    assert_eq!(receiver.count(), 2);
    let (status, log) = server.terminate().await;
    assert!(status.success(), "{status}");
    let alarms: Vec<_> = log.iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert_eq!(alarms.len(), 1, "{alarms:#?}");
    assert!(alarms[0].contains("the database can't be reached"), "{alarms:#?}");
}
