//! Values that the two databases might keep differently.

use std::time::Duration;

use taghook::clock::Clock;
use taghook::domain::delivery::{Attempt, Cause, Reason, Source};
use taghook::domain::outcome::{DeliveryRef, Kind, Outcome, Position};
use taghook::domain::retry::ErrorClass;
use taghook::domain::time::Micros;
use taghook::ids::{ContactId, DeliveryId, TagId, TypedId, WebhookEventId, WebhookId};
use taghook::store::request::{self, RequestKey};
use taghook::store::{contact, contact_tag, outcome};

use super::{START, Server, both};

const TEXTS: [&str; 9] =
    ["", " ", "O'Neil \"x\" \\ {a,NULL}", "NULL", "$1 ?1 %s", "naïve 😀 \u{202e}", "\t\r\n", "[\"json\"]", "1e3"];

fn full(server: &Server, text: &str, body: &[u8], number: u32) -> Outcome {
    let entropy = server.store.entropy();
    let delivery = DeliveryRef {
        id: DeliveryId::generate(START, entropy),
        webhook_event_id: WebhookEventId::generate(START, entropy),
        contact_id: ContactId::generate(START, entropy),
        source: Source::Api,
        tag_ids: vec![TagId::generate(START, entropy)],
    };
    Outcome {
        workspace_id: server.workspace,
        kind: Kind::AttemptFailed,
        reason: Reason::CausationDepth,
        recorded: Micros::MAX,
        webhook_id: WebhookId::generate(START, entropy),
        delivery: Some(delivery),
        attempt: Some(Attempt {
            number,
            cause: Cause::Replay,
            started: Micros(-1),
            duration: Duration::from_micros(u64::from(u32::MAX) * 7),
            url: text.into(),
            status_code: Some(599),
            response_body: body.to_vec(),
            response_truncated: true,
            response_location: text.into(),
            retry_after: Some(Duration::ZERO),
            error_class: ErrorClass::from_code(1),
            error_detail: text.into(),
            lease_lost: true,
        }),
        next_attempt: Some(Micros(0)),
    }
}

#[tokio::test]
async fn outcomes_come_back_as_they_were_reported() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let bodies: [&[u8]; 3] = [b"", b"\0\xff\xfe'", b"plain"];
        let mut reported: Vec<Outcome> =
            TEXTS.iter().enumerate().map(|(at, text)| full(&server, text, bodies[at % 3], 1)).collect();
        reported.push(Outcome { delivery: None, attempt: None, next_attempt: None, ..reported[0].clone() });
        let outcomes = &reported;
        server
            .store
            .write("report", |tx| async move {
                outcomes.iter().cloned().for_each(|outcome| tx.report(outcome));
                Ok(())
            })
            .await
            .unwrap();
        let db = server.store.read();
        let log = outcome::after(db, Position(0), 100).await.unwrap();
        assert_eq!(log.len(), reported.len());
        for ((_, read), wrote) in log.iter().zip(&reported) {
            let bodiless = |outcome: &Outcome| {
                let mut outcome = outcome.clone();
                outcome.attempt.iter_mut().for_each(|attempt| attempt.response_body.clear());
                format!("{outcome:?}")
            };
            assert_eq!(bodiless(read), bodiless(wrote));
            let Some(delivery) = &wrote.delivery else { continue };
            let attempts = outcome::attempts(db, server.workspace, delivery.id, 0, 10).await.unwrap();
            let attempts: Vec<Option<Attempt>> = attempts.into_iter().map(|(_, attempt)| Some(attempt)).collect();
            assert_eq!(attempts.as_slice(), std::slice::from_ref(&wrote.attempt));
        }
    }
}

#[tokio::test]
async fn requests_are_found_among_their_likes() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let keys: Vec<RequestKey> = TEXTS
            .iter()
            .map(|text| RequestKey {
                workspace: server.workspace.0,
                method: "M",
                request_id: (*text).into(),
                body_hash: [0xab; 32],
            })
            .collect();
        let keys: Vec<&RequestKey> = keys.iter().collect();
        let (keys, db) = (&keys, server.store.read());
        assert!(request::find(db, &[], START).await.unwrap().is_empty());
        assert!(request::find(db, keys, START).await.unwrap().iter().all(Option::is_none));
        let remember = |from: usize| {
            server.store.write("remember", move |tx| async move {
                let answers: Vec<_> =
                    keys[from..].iter().zip(&TEXTS[from..]).map(|(key, text)| (*key, (*text).to_owned())).collect();
                request::remember(&tx, &answers).await
            })
        };
        remember(9).await.unwrap();
        remember(8).await.unwrap();
        assert!(matches!(remember(0).await, Err(taghook::error::Error::MetDouble)));
        let found = request::find(db, keys, START).await.unwrap();
        assert_eq!(found.iter().filter(|found| found.is_some()).count(), 1);
        assert_eq!(keys[8].answer_of(found[8].as_ref().unwrap()).unwrap(), "1e3");
        // Asked twice in one statement, answered twice.
        assert!(request::find(db, &[keys[8], keys[8]], START).await.unwrap().iter().all(Option::is_some));
    }
}

#[tokio::test]
async fn tags_are_assigned_to_none_one_and_many() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let workspace = server.workspace;
        let rows: Vec<_> = (0..600)
            .map(|_| {
                (
                    workspace,
                    ContactId::generate(START, server.store.entropy()),
                    TagId::generate(START, server.store.entropy()),
                )
            })
            .collect();
        let rows = &rows;
        let assign = |range: std::ops::Range<usize>| {
            server.store.write("assign", move |tx| {
                let range = range.clone();
                async move { contact_tag::assign(&tx, &rows[range]).await }
            })
        };
        assert_eq!(assign(0..0).await.unwrap().len(), 0);
        assert_eq!(assign(0..1).await.unwrap().len(), 1);
        let all = assign(0..600).await.unwrap();
        assert_eq!(all.len(), 600);
        assert_eq!(all.values().filter(|assigned| !assigned.is_new).count(), 1);
        assert!(contact::find_many(server.store.read(), &[]).await.unwrap().is_empty());
    }
}
