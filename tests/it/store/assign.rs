//! Assigning tags: cooldown, deferral, and several servers at once.

use std::time::Duration;

use sea_orm::{ConnectionTrait, TransactionTrait};
use taghook::clock::Clock;
use taghook::domain::delivery::{Decision, Reason};
use taghook::domain::request::{ParameterDefinition, Source, SystemValue};
use taghook::domain::webhook::{CooldownPolicy, WebhookState};
use taghook::ids::{TagId, WebhookId};
use taghook::store;

use super::{START, Server, both, postgres, someone_waits};

const COOLDOWN: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn of_many_claims_on_two_servers_one_is_accepted() {
    let url = postgres().await;
    let servers = [Server::open(&url, Clock::system()).await, Server::open(&url, Clock::system()).await];
    let (contact, tag) = (servers[0].contact("ada").await, servers[0].tag("buyer").await);
    servers[0].webhook(&[tag], |_| {}).await;
    let claims = (0..100).map(|index| servers[index % 2].assign_one(contact, tag));
    let assigned = futures_util::future::join_all(claims).await;
    let count = |decision| assigned.iter().filter(|assigned| assigned.triggers[0].decision == decision).count();
    assert_eq!((count(Decision::Scheduled), count(Decision::Suppressed)), (1, 99));
    assert_eq!(assigned.iter().filter(|assigned| assigned.tags[0].is_new).count(), 1);
    assert_eq!(servers[1].number("SELECT count(*) FROM deliveries").await, 100);
}

#[tokio::test]
async fn a_window_ends_exactly_at_its_end() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
        server.webhook(&[tag], |webhook| webhook.definition.cooldown = COOLDOWN).await;
        let decide = async || server.assign_one(contact, tag).await.triggers[0].decision;
        assert_eq!(decide().await, Decision::Scheduled);
        hand.advance(COOLDOWN - Duration::from_micros(1));
        assert_eq!(decide().await, Decision::Suppressed);
        hand.advance(Duration::from_micros(1));
        assert_eq!(decide().await, Decision::Scheduled);
    }
}

/// The clocks of two servers differ, and a transaction that began earlier may come second.
#[tokio::test]
async fn without_a_cooldown_every_trigger_is_accepted() {
    let url = postgres().await;
    let late = Server::open(&url, Clock::manual(START).0).await;
    let early = Server::open(&url, Clock::manual(START.saturating_sub(Duration::from_millis(1))).0).await;
    let (contact, tag) = (late.contact("ada").await, late.tag("buyer").await);
    late.webhook(&[tag], |webhook| webhook.definition.cooldown = Duration::ZERO).await;
    for server in [&late, &early] {
        let decided = server.assign_one(contact, tag).await.triggers[0].decision;
        assert_eq!(decided, Decision::Scheduled);
    }
}

/// A batch is decided as its items would be one after another.
#[tokio::test]
async fn a_batch_is_decided_in_its_order() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let (contact, tags) = (server.contact("ada").await, [server.tag("a").await, server.tag("b").await]);
        let suppress = server.webhook(&tags, |_| {}).await.id;
        let defer =
            server.webhook(&tags, |webhook| webhook.definition.cooldown_policy = CooldownPolicy::Defer).await.id;
        let always = server.webhook(&tags, |webhook| webhook.definition.cooldown = Duration::ZERO).await.id;
        let new_only = server.webhook(&tags, |webhook| webhook.definition.only_when_newly_assigned = true).await.id;
        let items = [&tags[..1], &tags[1..], &tags[..]].map(|tags| server.assignment(contact, tags));
        let assigned: Vec<_> = server.assign(&items).await.into_iter().map(Result::unwrap).collect();
        let decisions = |webhook: WebhookId| -> Vec<Decision> {
            let of = |triggers: &[taghook::automation::TriggerDecision]| {
                triggers.iter().find(|trigger| trigger.webhook_id == webhook).unwrap().decision
            };
            assigned.iter().map(|assigned| of(&assigned.triggers)).collect()
        };
        assert_eq!(decisions(suppress), [Decision::Scheduled, Decision::Suppressed, Decision::Suppressed]);
        assert_eq!(decisions(defer), [Decision::Scheduled, Decision::Deferred, Decision::Deferred]);
        assert_eq!(decisions(always), [Decision::Scheduled; 3]);
        assert_eq!(decisions(new_only), [Decision::Scheduled, Decision::Suppressed, Decision::Skipped]);
        let last = &assigned[2].triggers.iter().find(|trigger| trigger.webhook_id == new_only).unwrap();
        assert_eq!((last.reason, last.delivery_ids.len()), (Reason::AlreadyAssigned, 0));
        let new: Vec<Vec<bool>> =
            assigned.iter().map(|assigned| assigned.tags.iter().map(|tag| tag.is_new).collect()).collect();
        assert_eq!(new, [vec![true], vec![true], vec![false, false]]);
        assert_eq!(server.number("SELECT count(*) FROM deliveries WHERE state = 1").await, 1);
        assert_eq!(server.number("SELECT coalesced_count FROM deliveries WHERE state = 1").await, 1);
        // Later calls are taken in by the deferral that stands.
        let later = server.assign(&items[..2]).await;
        assert!(later.iter().all(Result::is_ok));
        assert_eq!(server.number("SELECT coalesced_count FROM deliveries WHERE state = 1").await, 3);
    }
}

/// Every trigger leaves one delivery for each webhook event, also for an event that is newer than the deferral.
#[tokio::test]
async fn a_deferred_trigger_reaches_events_that_were_added_meanwhile() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
        let mut webhook =
            server.webhook(&[tag], |webhook| webhook.definition.cooldown_policy = CooldownPolicy::Defer).await;
        for decision in [Decision::Scheduled, Decision::Deferred] {
            assert_eq!(server.assign_one(contact, tag).await.triggers[0].decision, decision);
        }
        let event = server.event();
        server.update(&mut webhook, |webhook| webhook.definition.events.push(event)).await;
        let trigger = server.assign_one(contact, tag).await.triggers.remove(0);
        assert_eq!((trigger.decision, trigger.delivery_ids.len()), (Decision::Deferred, 2));
    }
}

/// A deferral that is due opens a new window, also when its tag has gone.
#[tokio::test]
async fn a_deferral_fires_once_at_the_end_of_its_window() {
    let (_folder, urls) = both().await;
    for url in urls {
        let (clock, hand) = Clock::manual(START);
        let server = Server::open(&url, clock).await;
        let (contact, tag) = (server.contact("ada").await, server.tag("buyer").await);
        server
            .webhook(&[tag], |webhook| {
                webhook.definition.cooldown = COOLDOWN;
                webhook.definition.cooldown_policy = CooldownPolicy::Defer;
                let time = ParameterDefinition {
                    name: "time".into(),
                    source: Source::System(SystemValue::TriggerTime),
                    default: None,
                };
                webhook.definition.events[0].parameters.push(time);
            })
            .await;
        server.assign_one(contact, tag).await;
        hand.advance(COOLDOWN / 2);
        let deferred = server.assign_one(contact, tag).await.triggers[0].delivery_ids[0];
        let workspace = server.workspace;
        let claim = async || {
            let claim = |tx: store::Tx| async move {
                tx.gate_shared().await?;
                let config = tx.config(workspace).await?;
                let leased = store::delivery::queue::claim(&tx, 8, taghook::store::delivery::queue::Look::Full).await?;
                let leased = leased.into_iter().map(|leased| {
                    let webhook = config.webhook(leased.webhook_id).unwrap().clone();
                    (leased, config.clone(), webhook)
                });
                taghook::automation::defer::promote(&tx, leased.collect()).await
            };
            server.store.write("claim", claim).await.unwrap()
        };
        hand.advance(COOLDOWN / 2 - Duration::from_micros(1));
        assert_eq!(claim().await.len(), 0);
        let untag =
            |tx: store::Tx| async move { store::contact_tag::remove(&tx, &[(server.workspace, contact, tag)]).await };
        server.store.write("untag", untag).await.unwrap();
        hand.advance(Duration::from_micros(1));
        let promoted = claim().await;
        assert_eq!(promoted.iter().map(|(leased, _)| leased.id).collect::<Vec<_>>(), [deferred]);
        // The time is that of the last trigger; START is 2027-01-15 08:00 in UTC.
        let sent = &promoted[0].0.snapshot.as_ref().unwrap().parameters;
        let time = sent.iter().find(|parameter| parameter.name == "time").unwrap();
        assert_eq!(time.value.as_deref(), Some("2027-01-15T08:30:00Z"));
        assert_eq!(server.number("SELECT max(reason) FROM deliveries WHERE state = 2").await, 0);
        assert_eq!(claim().await.len(), 0);
        // The window began anew when it fired.
        hand.advance(COOLDOWN - Duration::from_micros(1));
        assert_eq!(server.assign_one(contact, tag).await.triggers[0].decision, Decision::Deferred);
    }
}

/// The other server has the webhook in its cache, and a transaction under way that has planned with it.
#[tokio::test]
async fn a_pause_waits_for_who_has_planned_and_holds_on_every_server() {
    let url = postgres().await;
    let (ours, theirs) = (Server::open(&url, Clock::system()).await, Server::open(&url, Clock::system()).await);
    let (contact, tag) = (ours.contact("ada").await, ours.tag("buyer").await);
    let mut webhook = ours.webhook(&[tag], |webhook| webhook.definition.cooldown = Duration::ZERO).await;
    let items = &[theirs.assignment(contact, &[tag])];
    let (has_planned, may_end) = (&tokio::sync::Notify::new(), &tokio::sync::Notify::new());
    let slow = theirs.store.write("assign", |tx| async move {
        let assigned = taghook::automation::assign(&tx, items).await;
        has_planned.notify_one();
        may_end.notified().await;
        assigned
    });
    let pause = async {
        has_planned.notified().await;
        let pause = ours.update(&mut webhook, |webhook| webhook.state = WebhookState::Paused);
        let release = async {
            someone_waits(&ours).await;
            assert_eq!(ours.number("SELECT state FROM webhooks").await, 1);
            may_end.notify_one();
        };
        tokio::join!(pause, release);
        theirs.assign_one(contact, tag).await.triggers.remove(0)
    };
    let (first, second) = tokio::join!(slow, pause);
    assert_eq!(first.unwrap()[0].as_ref().unwrap().triggers[0].decision, Decision::Scheduled);
    assert_eq!((second.decision, second.reason), (Decision::Skipped, Reason::WebhookPaused));
}

/// The tag is held when it is assigned, and gone when it is looked up.
#[tokio::test]
async fn a_tag_that_is_removed_meanwhile_is_assigned_anew() {
    let url = postgres().await;
    let server = Server::open(&url, Clock::system()).await;
    let contact = server.contact("ada").await;
    let mut tags = [server.tag("a").await, server.tag("b").await];
    tags.sort_unstable();
    let [held, contested]: [TagId; 2] = tags;
    server.webhook(&[held], |webhook| webhook.definition.cooldown = Duration::ZERO).await;
    server.assign_one(contact, held).await;

    // Another session is assigning the second tag, so that the statement stops at it.
    let other = sea_orm::Database::connect(&url).await.unwrap();
    let tx = other.begin().await.unwrap();
    let sql =
        format!("INSERT INTO contact_tags SELECT contact_id, '{}', workspace_id, 0 FROM contact_tags", contested.0);
    tx.execute_unprepared(&sql).await.unwrap();
    let assign = server.assign(std::slice::from_ref(Box::leak(Box::new(server.assignment(contact, &tags)))));
    let meanwhile = async {
        someone_waits(&server).await;
        let removed = server
            .store
            .write(
                "untag",
                |db| async move { store::contact_tag::remove(&db, &[(server.workspace, contact, held)]).await },
            )
            .await
            .unwrap();
        assert_eq!(removed.len(), 1);
        tx.commit().await.unwrap();
    };
    let (mut assigned, ()) = tokio::join!(assign, meanwhile);
    let assigned = assigned.pop().unwrap().unwrap();
    let got: Vec<TagId> = assigned.tags.iter().map(|tag| tag.tag_id).collect();
    assert_eq!(got, tags);
    assert_eq!(assigned.triggers.len(), 1);
}
