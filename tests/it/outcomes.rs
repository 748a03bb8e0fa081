//! The stream of outcomes: cursors, filters, checkpoints, and watchers that come back on another server.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taghook::domain;
use taghook::domain::delivery::Reason;
use taghook::domain::outcome::{Outcome, Position};
use taghook::ids::WebhookId;
use taghook::outcomes::cursor;
use taghook::store::{self, Store, Tx};
use taghook_client::contact::by_email;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::stream_outcomes_request::Position as StartPosition;
use taghook_client::v1::stream_outcomes_request::Start as Named;
use taghook_client::v1::stream_outcomes_response::Entry;
use taghook_client::v1::{
    self, ApiKey, BatchTagContactsRequest, ErrorReason, OutcomeFilter, StreamOutcomesRequest, TagContactRequest,
};
use taghook_client::{Code, Error, Start};
use tokio::sync::Semaphore;

use crate::support::{Database, FromDatabase, Gate, Receiver, Taghook, Watch, both, within};

const DAY: Duration = Duration::from_hours(24);

/// The error that a stream is refused or ended with.
async fn refusal(t: &Taghook, request: StreamOutcomesRequest) -> Error {
    match t.client.deliveries().stream_outcomes(request).await {
        Err(status) => status.into(),
        Ok(stream) => {
            within("the end of the stream", stream.into_inner().message()).await.expect_err("a refusal").into()
        }
    }
}

fn after(cursor: impl Into<String>) -> StreamOutcomesRequest {
    StreamOutcomesRequest { position: Some(StartPosition::AfterCursor(cursor.into())), ..Default::default() }
}

/// The cursor of a position of the default workspace, as the server writes it.
fn cursor_at(t: &Taghook, position: i64) -> String {
    let facts = t.store().facts();
    cursor::encode(facts, facts.default_workspace, Position(position))
}

both! {
    async fn the_first_message_is_a_checkpoint_with_the_start(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let contact = t.contact("ada@example.com").await;
        t.assign(&contact, &tag).await;
        Watch::beginning(&t.client).await.expect(Kind::Delivered).await;
        let mut cursors = Vec::new();
        for start in [Named::Unspecified, Named::Now, Named::Beginning] {
            let request = StreamOutcomesRequest { position: Some(StartPosition::StartAt(start.into())), ..Default::default() };
            let mut stream = t.client.deliveries().stream_outcomes(request).await.unwrap().into_inner();
            let first = within("the first message", stream.message()).await.unwrap().unwrap();
            assert!(matches!(first.entry, Some(Entry::Checkpoint(ref it)) if it.time.is_some()), "{first:?}");
            cursors.push(first.cursor);
        }
        assert_eq!(cursors[0], cursors[1]);
        assert_ne!(cursors[1], cursors[2]);
        let mut watch = Watch::with(&t.client, OutcomeFilter::default(), Start::After(cursors[2].clone())).await;
        assert_eq!(watch.expect(Kind::Delivered).await.contact_id, contact.id);
    }

    async fn a_filter_selects_and_cursors_are_good_whatever_it_is(t: Taghook) {
        let receiver = Receiver::start().await;
        let (first_tag, second_tag) = (t.tag("first").await, t.tag("second").await);
        let first = t.webhook(&receiver, &first_tag, |_| {}).await;
        t.webhook(&receiver, &second_tag, |_| {}).await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let mut all = Watch::now(&t.client).await;
        let mut entries = Vec::new();
        // One after the other, so that the order is known.
        for (contact, tag) in [(&ada, &first_tag), (&ada, &second_tag), (&bob, &first_tag), (&ada, &first_tag)] {
            t.assign(contact, tag).await;
            entries.push(all.entry().await);
        }
        let kinds: Vec<_> = entries.iter().map(|entry| entry.outcome.kind()).collect();
        assert_eq!(kinds, [Kind::Delivered, Kind::Delivered, Kind::Delivered, Kind::Suppressed]);
        let filters = [
            (OutcomeFilter { webhook_ids: vec![first.id.clone()], ..Default::default() }, &[0, 2, 3][..]),
            (OutcomeFilter { contact_ids: vec![bob.id.clone()], ..Default::default() }, &[2]),
            (OutcomeFilter { kinds: vec![Kind::Suppressed.into()], ..Default::default() }, &[3]),
            (OutcomeFilter { tag_ids: vec![second_tag.id.clone()], ..Default::default() }, &[1]),
            (
                OutcomeFilter {
                    webhook_ids: vec![first.id.clone()],
                    contact_ids: vec![ada.id.clone()],
                    kinds: vec![Kind::Delivered.into(), Kind::Suppressed.into()],
                    ..Default::default()
                },
                &[0, 3],
            ),
        ];
        for (filter, expected) in filters {
            let mut watch = Watch::with(&t.client, filter.clone(), Start::Beginning).await;
            for index in expected {
                let entry = watch.entry().await;
                assert_eq!(entry, entries[*index], "{filter:?}");
                // What follows this cursor without a filter is what follows the entry.
                if let Some(next) = entries.get(index + 1) {
                    let start = Start::After(entry.cursor);
                    let mut rest = Watch::with(&t.client, OutcomeFilter::default(), start).await;
                    assert_eq!(rest.entry().await, *next);
                }
            }
        }
    }

    async fn a_cursor_that_is_not_ours_is_refused(t: Taghook) {
        let good = Watch::now(&t.client).await.cursor().to_owned();
        let mut forged = URL_SAFE_NO_PAD.decode(&good).unwrap();
        forged[40] ^= 1;
        let other = v1::Workspace { name: "other".into(), ..Default::default() };
        let other = v1::CreateWorkspaceRequest { workspace: Some(other), ..Default::default() };
        let other = t.root.workspaces().create_workspace(other).await.unwrap().into_inner().id;
        let api_key = ApiKey { name: "k".into(), scopes: vec![v1::api_key::Scope::Read.into()], ..Default::default() };
        let request = v1::CreateApiKeyRequest { workspace_id: other, api_key: Some(api_key) };
        let secret = t.root.workspaces().create_api_key(request).await.unwrap().into_inner().secret;
        let foreign = Watch::now(&t.client_with(Some(&secret))).await.cursor().to_owned();
        let (forged, cut) = (URL_SAFE_NO_PAD.encode(forged), good.chars().skip(1).collect());
        for cursor in [forged, cut, foreign, "x".into(), "\u{0}".into(), format!("{good}=")] {
            let error = refusal(&t, after(cursor.clone())).await;
            assert_eq!((error.code, error.reason), (Code::InvalidArgument, ErrorReason::CursorInvalid), "{cursor:?}");
        }
    }

    async fn a_cursor_beyond_the_log_is_told_where_the_log_is(t: Taghook) {
        let end = Watch::now(&t.client).await.cursor().to_owned();
        let error = refusal(&t, after(cursor_at(&t, 1_000_000))).await;
        assert_eq!((error.code, error.reason), (Code::OutOfRange, ErrorReason::CursorAhead));
        assert_eq!(error.metadata["newest_cursor"], end);
        let error = refusal(&t, after(cursor_at(&t, -1))).await;
        assert_eq!((error.code, error.reason), (Code::OutOfRange, ErrorReason::CursorExpired));
        assert_eq!(error.metadata["oldest_cursor"], cursor_at(&t, 0));
        Watch::with(&t.client, OutcomeFilter::default(), Start::After(error.metadata["oldest_cursor"].clone())).await;
    }

    /// What retention has removed is gone, and a cursor before it isn't good any more; the oldest one that is comes along.
    async fn a_cursor_below_retention_is_told_where_the_log_begins(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let mut watch = Watch::now(&t.client).await;
        let first = watch.cursor().to_owned();
        t.trigger(&webhook, &ada).await;
        let second = watch.entry().await.cursor;
        clock.advance(30 * DAY);
        t.trigger(&webhook, &bob).await;
        let third = watch.entry().await.cursor;
        clock.advance(DAY);
        assert_eq!(store::retention::outcomes(t.store(), 30 * DAY).await.unwrap(), 1);

        let error = refusal(&t, after(first)).await;
        assert_eq!((error.code, error.reason), (Code::OutOfRange, ErrorReason::CursorExpired));
        let oldest = error.metadata["oldest_cursor"].clone();
        assert_eq!(oldest, second);
        for start in [Start::After(oldest), Start::Beginning] {
            let mut watch = Watch::with(&t.client, OutcomeFilter::default(), start).await;
            let entry = watch.entry().await;
            assert_eq!((entry.outcome.contact_id, &entry.cursor), (bob.id.clone(), &third));
        }
    }

    async fn a_thousand_watchers_see_the_same(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let contact = t.contact("ada@example.com").await;
        let mut watches = futures_util::future::join_all((0..1_000).map(|_| Watch::now(&t.client))).await;
        let trigger = t.trigger(&webhook, &contact).await;
        let seen = futures_util::future::join_all(watches.iter_mut().map(Watch::entry)).await;
        assert_eq!([seen[0].outcome.delivery_id.as_str()], trigger.delivery_ids[..]);
        assert!(seen.iter().all(|entry| *entry == seen[0]));
    }

    /// Watchers that read nothing hold back nobody else.
    async fn a_stuck_watcher_harms_no_other(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let mut stuck = Vec::new();
        for _ in 0..20 {
            let request = StreamOutcomesRequest::default();
            stuck.push(t.client_with(Some(&t.key())).deliveries().stream_outcomes(request).await.unwrap().into_inner());
        }
        let mut watch = Watch::now(&t.client).await;
        let contacts = contacts(&t, "stuck", 300).await;
        batch(&t, &contacts, &tag.id).await;
        let mut seen = HashSet::new();
        while seen.len() < contacts.len() {
            assert!(seen.insert(watch.expect(Kind::Delivered).await.contact_id));
        }
        // They find all of it, when they look at last.
        for mut stream in stuck {
            let mut outcomes = 0;
            while outcomes < contacts.len() {
                let message = within("a message", stream.message()).await.unwrap().unwrap();
                outcomes += usize::from(matches!(message.entry, Some(Entry::Outcome(_))));
            }
        }
    }
}

/// Makes contacts; answers with their e-mails.
async fn contacts(t: &Taghook, name: &str, count: usize) -> Vec<String> {
    let places = Semaphore::new(32);
    let emails: Vec<String> = (0..count).map(|index| format!("{name}{index}@example.com")).collect();
    futures_util::future::join_all(emails.iter().map(async |email| {
        let _place = places.acquire().await.unwrap();
        t.contact(email).await;
    }))
    .await;
    emails
}

async fn batch(t: &Taghook, emails: &[String], tag: &str) {
    let item = |email: &String| TagContactRequest {
        contact: by_email(email),
        tag_ids: vec![tag.to_owned()],
        ..Default::default()
    };
    let request = BatchTagContactsRequest { requests: emails.iter().map(item).collect() };
    let results = t.client.contacts().batch_tag_contacts(request).await.unwrap().into_inner().results;
    let is_good = |result: &v1::batch_tag_contacts_response::Result| {
        matches!(result.result, Some(v1::batch_tag_contacts_response::result::Result::Response(_)))
    };
    assert!(results.iter().all(is_good), "{results:?}");
}

/// Two servers share the work; either's stream shows all, and a cursor of one is good at the other.
#[tokio::test]
async fn either_server_streams_what_the_other_did() {
    let first = Taghook::on(Database::postgres().await).await;
    let second = first.another().await;
    let receiver = Receiver::start().await;
    let tag = first.tag("customer").await;
    first.webhook(&receiver, &tag, |_| {}).await;
    let mut watch = Watch::now(&second.client).await;

    let ada = first.contact("ada@example.com").await;
    first.assign(&ada, &tag).await;
    assert_eq!(watch.expect(Kind::Delivered).await.contact_id, ada.id);
    let cursor = watch.cursor().to_owned();
    drop(watch);
    let bob = second.contact("bob@example.com").await;
    second.assign(&bob, &tag).await;

    let mut watch = Watch::with(&first.client, OutcomeFilter::default(), Start::After(cursor)).await;
    assert_eq!(watch.expect(Kind::Delivered).await.contact_id, bob.id);
    assert_eq!(receiver.count(), 2);
}

/// Begins a transaction, and reports something and commits only when the gate is open.
async fn report_slowly(store: &Store, gate: &Gate) {
    let write = store.write("slow", |tx: Tx| async move {
        store::workspace::get(tx.db(), tx.store().facts().default_workspace).await?;
        gate.passed().await;
        tx.report(Outcome {
            workspace_id: tx.store().facts().default_workspace,
            kind: domain::outcome::Kind::WebhookPaused,
            reason: Reason::None,
            recorded: tx.now(),
            webhook_id: WebhookId(uuid::Uuid::nil()),
            delivery: None,
            attempt: None,
            next_attempt: None,
        });
        Ok(())
    });
    write.await.expect("a slow commit");
}

/// 5,000 deliveries run on two servers, transactions hang with their changes made and not committed, and a watcher comes
/// back at the other server every hundred outcomes with its last cursor: nothing is missing, nothing comes twice.
#[tokio::test]
async fn a_watcher_that_changes_servers_misses_nothing_and_sees_nothing_twice() {
    const CONTACTS: usize = 500;
    const WEBHOOKS: usize = 10;
    /// Slow transactions, and how many of them are open at a time.
    const SLOW: usize = 24;
    const LANES: usize = 4;
    let first = Taghook::on(Database::postgres().await).await;
    let second = first.another().await;
    let receiver = Receiver::start().await;
    let tag = first.tag("customer").await;
    for _ in 0..WEBHOOKS {
        first.webhook(&receiver, &tag, |_| {}).await;
    }
    let emails = contacts(&first, "c", CONTACTS).await;
    let start = Watch::now(&first.client).await.cursor().to_owned();

    let gates: Vec<Gate> = (0..SLOW).map(|_| Gate::closed()).collect();
    let lane = async |number: usize| {
        let server = if number.is_multiple_of(2) { &first } else { &second };
        for gate in gates.iter().skip(number).step_by(LANES) {
            report_slowly(server.store(), gate).await;
        }
    };
    let tagging = async {
        for (index, emails) in emails.chunks(50).enumerate() {
            batch(if index % 2 == 0 { &first } else { &second }, emails, &tag.id).await;
        }
    };
    let watching = async {
        let (mut cursor, mut seen, mut turns) = (start, HashSet::new(), 0);
        let mut slow = 0;
        while seen.len() + slow < CONTACTS * WEBHOOKS + SLOW {
            let server = if turns % 2 == 0 { &second } else { &first };
            let mut watch = Watch::with(&server.client, OutcomeFilter::default(), Start::After(cursor)).await;
            for _ in 0..100 {
                if seen.len() + slow == CONTACTS * WEBHOOKS + SLOW {
                    break;
                }
                let outcome = watch.next().await;
                if outcome.kind() == Kind::WebhookPaused {
                    slow += 1;
                    continue;
                }
                assert_eq!(outcome.kind(), Kind::Delivered);
                assert!(seen.insert(outcome.delivery_id.clone()), "{outcome:?} came twice");
                if seen.len().is_multiple_of(200)
                    && let Some(gate) = gates.get(seen.len() / 200 - 1)
                {
                    gate.open();
                }
            }
            cursor = watch.cursor().to_owned();
            turns += 1;
        }
        cursor
    };
    let lanes = futures_util::future::join_all((0..LANES).map(lane));
    let ((), cursor, _) = tokio::join!(tagging, watching, lanes);
    assert_eq!(Watch::now(&first.client).await.cursor(), cursor, "something is after the last one");
    assert_eq!(receiver.count(), CONTACTS * WEBHOOKS);
}
