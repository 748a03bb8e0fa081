//! Changes of more rows than one transaction takes.

use std::time::Duration;

use sea_orm::{ConnectionTrait, TransactionTrait};
use taghook::clock::Clock;
use taghook::domain::campaign::{Action, Node};
use taghook::domain::timeline::{Entry, Fact};
use taghook::domain::webhook::{Webhook, WebhookState};
use taghook::ids::{ContactId, TypedId};
use taghook::store::contact::{ContactFilter, ContactRef};
use taghook::store::leftover::{self, Leftover};
use taghook::store::timeline::TimelineFilter;
use taghook::store::{self, Tx, contact_tag};

use super::{START, Server, both, postgres};

const MANY: usize = 2_500;

/// A webhook that holds one delivery for each of its many events.
async fn held(server: &Server) -> Webhook {
    let tag = server.tag("buyer").await;
    let events = (0..MANY).map(|_| server.event()).collect();
    let mut webhook = server.webhook(&[tag], |webhook| webhook.definition.events = events).await;
    server.store.local().close();
    server.assign_one(server.contact("ada").await, tag).await;
    let park = |tx: Tx| async move { Ok(tx.db().execute_unprepared("UPDATE deliveries SET parked = TRUE").await?) };
    server.store.write("park", park).await.unwrap();
    server.update(&mut webhook, |webhook| webhook.state = WebhookState::Paused).await;
    webhook
}

async fn begin(server: &Server, leftover: Leftover) {
    let workspace = server.workspace;
    let begin = |tx: Tx| async move {
        tx.gate_exclusive().await?;
        match leftover {
            Leftover::DeletedTag(tag) => store::tag::delete(&tx, workspace, tag).await?,
            Leftover::DeletedWebhook(webhook) => store::webhook::delete(&tx, workspace, webhook).await?,
            Leftover::ResumedWebhook(_) | Leftover::ResumedCampaign(_) | Leftover::DeletedCampaign(_) => {}
        }
        leftover::begin(&tx, workspace, leftover).await
    };
    server.store.write("begin", begin).await.unwrap();
}

/// Does what is left; answers with a number after the change and after each step.
async fn steps(server: &Server, sql: &str) -> Vec<i64> {
    let mut numbers = vec![server.number(sql).await];
    while leftover::go_on(&server.store).await.unwrap() {
        numbers.push(server.number(sql).await);
    }
    assert_eq!(server.number("SELECT count(*) FROM leftovers").await, 0);
    numbers
}

#[tokio::test]
async fn a_resume_puts_what_was_held_back_in_steps() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let mut webhook = held(&server).await;
        let unparked = "SELECT count(*) FROM deliveries WHERE parked = FALSE";
        server.update(&mut webhook, |webhook| webhook.state = WebhookState::Active).await;
        begin(&server, Leftover::ResumedWebhook(webhook.id)).await;
        // It was paused again meanwhile: what it still holds stays held.
        server.update(&mut webhook, |webhook| webhook.state = WebhookState::Paused).await;
        assert_eq!(steps(&server, unparked).await, [1_000, 1_000]);
        server.update(&mut webhook, |webhook| webhook.state = WebhookState::Active).await;
        begin(&server, Leftover::ResumedWebhook(webhook.id)).await;
        assert_eq!(steps(&server, unparked).await, [2_000, 2_500]);
    }
}

#[tokio::test]
async fn a_deleted_webhook_owes_nothing_in_the_end() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let webhook = held(&server).await;
        begin(&server, Leftover::DeletedWebhook(webhook.id)).await;
        let live = "SELECT count(*) FROM deliveries WHERE state IN (1, 2)";
        assert_eq!(steps(&server, live).await, [1_500, 500, 0]);
        assert_eq!(server.number("SELECT count(*) FROM outcomes WHERE kind = 7").await, 2_500);
        assert_eq!(server.number("SELECT count(*) FROM cooldowns").await, 0);
    }
}

/// Until it is taken off the last one, nobody sees it any more.
#[tokio::test]
async fn a_deleted_tag_is_taken_off_all_its_contacts() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let (workspace, tag) = (server.workspace, server.tag("buyer").await);
        let generate = |_| (workspace, ContactId::generate(START, server.store.entropy()), tag);
        let rows: Vec<_> = (0..MANY).map(generate).collect();
        let rows = &rows;
        server.store.write("assign", |tx| async move { contact_tag::assign(&tx, rows).await }).await.unwrap();
        // The last one of all, by its id.
        let ada = server.contact("ada").await;
        server.assign_one(ada, tag).await;
        begin(&server, Leftover::DeletedTag(tag)).await;

        let db = server.store.read();
        let held = contact_tag::list(db, ada, None, 10).await.unwrap();
        assert!(held.iter().all(|held| held.name.is_none()));
        let filter = ContactFilter { tag_ids: vec![tag], ..ContactFilter::default() };
        assert!(store::contact::list(db, workspace, &filter, None, 10).await.unwrap().is_empty());
        let timeline = store::timeline::list(db, ada, &TimelineFilter::default(), None, 10).await.unwrap();
        assert!(matches!(timeline.as_slice(), [(_, Entry { fact: Fact::ContactCreated, .. })]), "{timeline:?}");
        assert_eq!(steps(&server, "SELECT count(*) FROM contact_tags").await, [1_501, 501, 0]);
        assert!(store::contact::get(db, workspace, &ContactRef::Id(ada)).await.is_ok());
    }
}

/// Whoever finds the rows of a step locked by another server would think that there are none.
#[tokio::test]
async fn what_another_server_is_at_is_left_to_it() {
    let url = postgres().await;
    let server = Server::open(&url, Clock::system()).await;
    let webhook = held(&server).await;
    begin(&server, Leftover::DeletedWebhook(webhook.id)).await;
    let other = sea_orm::Database::connect(&url).await.unwrap();
    let tx = other.begin().await.unwrap();
    tx.execute_unprepared("SELECT id FROM leftovers FOR UPDATE").await.unwrap();
    assert!(!leftover::go_on(&server.store).await.unwrap());
    tx.rollback().await.unwrap();
    assert_eq!(steps(&server, "SELECT count(*) FROM deliveries WHERE state = 2").await, [1_500, 500, 0]);
}

/// Contacts whose node was removed go on in the course of time, and nobody else before its time.
#[tokio::test]
async fn a_removed_node_lets_its_contacts_go_in_steps() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::system()).await;
        let node = |key: &str| Node { key: key.to_owned(), next: None, action: Action::Exit };
        let campaign = server.campaign(vec![node("b"), node("d")]).await;
        let in_a_year = server.store.clock().now().saturating_add(Duration::from_hours(8_760));
        for (node, count) in [("a", MANY), ("b", 1), ("c", 3), ("d", 1), ("e", 1)] {
            server.stand_at(&campaign, node, count, in_a_year).await;
        }
        begin(&server, Leftover::ResumedCampaign(campaign.id)).await;
        let waiting = format!("SELECT count(*) FROM enrollments WHERE due_us = {}", in_a_year.0);
        assert_eq!(steps(&server, &waiting).await, [1_506, 506, 2]);
        let kept = format!("{waiting} AND node IN ('b', 'd')");
        assert_eq!(server.number(&kept).await, 2);
        // 500 a second, whatever their nodes.
        let (first, last) = ("SELECT min(due_us) FROM enrollments", "SELECT max(due_us) FROM enrollments");
        let last = server.number(&format!("{last} WHERE due_us < {}", in_a_year.0)).await;
        assert_eq!(last - server.number(first).await, 2_503 * 2_000);
    }
}
