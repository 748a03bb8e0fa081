//! Assignments of several callers in one batch.

use std::cell::Cell;
use std::time::Duration;

use taghook::automation::{Assignment, run_each};
use taghook::clock::Clock;
use taghook::error::Error;
use taghook::ids::{ContactId, TypedId};
use taghook::store::request::RequestKey;

use super::{START, Server, both, refuse_unless};

fn key(server: &Server, body: u8) -> RequestKey {
    RequestKey {
        workspace: server.workspace.0,
        method: "ContactService/TagContact",
        request_id: "r1".into(),
        body_hash: [body; 32],
    }
}

/// Failures aren't remembered, not even for the others of the same batch.
#[tokio::test]
async fn a_request_id_whose_first_use_fails_is_free_for_the_next_one() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let tag = server.tag("buyer").await;
        server.webhook(&[tag], |webhook| webhook.definition.cooldown = Duration::ZERO).await;
        let nobody = server.assignment(ContactId::generate(START, server.store.entropy()), &[tag]);
        let (ada, bob) = (server.contact("ada").await, server.contact("bob").await);
        let (ada, bob) = (server.assignment(ada, &[tag]), server.assignment(bob, &[tag]));
        let keys = [1, 2, 3].map(|body| key(&server, body));
        let wishes = [(&nobody, 0), (&nobody, 0), (&ada, 1), (&ada, 1), (&bob, 2)];
        let wishes = wishes.map(|(assignment, key)| (assignment, Some(&keys[key])));
        let results = run_each(&server.store, &wishes, |_| true).await.unwrap();
        let [first, double, next, its_double, other] = results.try_into().unwrap();
        assert!(matches!((first, double), (Err(Error::NotFound { .. }), Err(Error::NotFound { .. }))));
        assert_eq!(next.unwrap(), its_double.unwrap());
        assert!(matches!(other, Err(Error::RequestIdReused)));
        assert_eq!(server.number("SELECT count(*) FROM deliveries").await, 1);
        assert_eq!(server.number("SELECT count(*) FROM requests").await, 1);
    }
}

/// Of a batch that fails as a whole, what nobody waits for any more is not made behind its caller's back.
#[tokio::test]
async fn who_has_gone_away_when_a_batch_fails_gets_nothing() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let tag = server.tag("buyer").await;
        let contacts = [server.contact("ada").await, server.contact("bob").await, server.contact("cyd").await];
        let assignments = contacts.map(|contact| server.assignment(contact, &[tag]));
        let is_another = format!("<> {}", server.literal(contacts[0].0));
        refuse_unless(&server, "contact_tags", "contact_id", &is_another).await;
        let wishes: Vec<_> = assignments.iter().map(|assignment| (assignment, None)).collect();
        let asked = Cell::new(0);
        // Bob goes away after the batch has begun.
        let is_wanted = |index: usize| {
            asked.set(asked.get() + 1);
            index != 1 || asked.get() <= wishes.len()
        };
        let results = run_each(&server.store, &wishes, is_wanted).await.unwrap();
        let is_ok: Vec<bool> = results.iter().map(Result::is_ok).collect();
        assert_eq!(is_ok, [false, false, true], "{results:?}");
        assert_eq!(server.number("SELECT count(*) FROM contact_tags").await, 1);
    }
}

/// A transaction that writes too much is too long for all others.
#[tokio::test]
async fn a_batch_that_sets_off_much_is_committed_in_parts() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let tag = server.tag("buyer").await;
        let events = (0..700).map(|_| server.event()).collect();
        server.webhook(&[tag], |webhook| webhook.definition.events = events).await;
        let mut assignments: Vec<Assignment> = Vec::new();
        for name in ["ada", "bob", "cyd", "dan", "eve", "fay"] {
            assignments.push(server.assignment(server.contact(name).await, &[tag]));
        }
        let wishes: Vec<_> = assignments.iter().map(|assignment| (assignment, None)).collect();
        // What a tag sets off is known once it was used.
        for (wishes, transactions) in [(&wishes[..1], 1), (&wishes[1..], 1 + 3)] {
            let results = run_each(&server.store, wishes, |_| true).await.unwrap();
            assert!(results.iter().all(Result::is_ok));
            assert_eq!(server.number("SELECT count(DISTINCT created_us) FROM deliveries").await, transactions);
        }
        assert_eq!(server.number("SELECT count(*) FROM deliveries").await, 6 * 700);
    }
}
