//! What deliveries of a deleted contact keep.

use std::time::Duration;

use taghook::automation::{self, Origin, Trigger};
use taghook::clock::Clock;
use taghook::domain::delivery::{Attempt, Cause, Reason, Source, State};
use taghook::domain::retry::Next;
use taghook::domain::webhook::Webhook;
use taghook::ids::DeliveryId;
use taghook::store::contact::ContactRef;
use taghook::store::delivery::end::{self, Which};
use taghook::store::delivery::settle::{Settlement, settle};
use taghook::store::{self, extra_attempt};

use super::{START, Server, both};

/// A delivery that the deletion of a contact has set off, not leased.
async fn farewell(server: &Server) -> (Webhook, DeliveryId) {
    let contact = server.contact("ada").await;
    let webhook = server.webhook(&[], |webhook| webhook.definition.on_contact_deleted = true).await;
    let (workspace, id) = (server.workspace, webhook.id);
    server.store.local().close();
    let decided = server
        .store
        .write("fire", |tx| async move {
            tx.gate_exclusive().await?;
            let config = tx.config(workspace).await?;
            let contact = store::contact::get(tx.db(), workspace, &ContactRef::Id(contact)).await?;
            let trigger = Trigger {
                webhook: config.webhook(id).unwrap().clone(),
                config: config.clone(),
                contact: contact.into(),
                workspace_id: workspace,
                source: Source::ContactDeleted,
                tags: Vec::new(),
                only: None,
                campaign: None,
                origin: Origin::default(),
            };
            automation::fire(&tx, &[trigger]).await
        })
        .await
        .unwrap();
    (webhook, decided[0].delivery_ids[0])
}

async fn check_erased(server: &Server, state: State) {
    assert_eq!(server.number("SELECT state FROM deliveries").await, i64::from(state.code()));
    let kept = "SELECT count(*) FROM deliveries WHERE snapshot IS NOT NULL OR erased = FALSE";
    assert_eq!(server.number(kept).await, 0);
    assert_eq!(server.number("SELECT count(*) FROM outcomes WHERE url <> ''").await, 0);
}

fn attempt(cause: Cause) -> Attempt {
    Attempt {
        number: 0,
        cause,
        started: START,
        duration: Duration::from_millis(5),
        url: "https://example.com/?email=ada%40example.com".into(),
        status_code: Some(200),
        response_body: b"ada".to_vec(),
        response_truncated: false,
        response_location: String::new(),
        retry_after: None,
        error_class: None,
        error_detail: String::new(),
        lease_lost: false,
    }
}

#[tokio::test]
async fn a_cancelled_farewell_keeps_nothing() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let (webhook, _) = farewell(&server).await;
        server
            .store
            .write("end", |tx| async move {
                let which = Which::Webhook(webhook.id, 10);
                end::end(&tx, webhook.workspace_id, which, State::Cancelled, Reason::WebhookDeleted).await
            })
            .await
            .unwrap();
        check_erased(&server, State::Cancelled).await;
    }
}

#[tokio::test]
async fn a_farewell_that_a_manual_attempt_delivers_keeps_nothing() {
    let (_folder, urls) = both().await;
    for url in urls {
        let server = Server::open(&url, Clock::manual(START).0).await;
        let (webhook, delivery) = farewell(&server).await;
        server
            .store
            .write("retry", |tx| async move {
                extra_attempt::insert(&tx, webhook.workspace_id, delivery, webhook.id, Cause::Manual).await
            })
            .await
            .unwrap();
        server
            .store
            .write("extra", |tx| async move {
                let leased = extra_attempt::claim(&tx, 1).await?.remove(0);
                let settlement = Settlement {
                    reference: leased.reference,
                    workspace_id: leased.workspace_id,
                    webhook_id: leased.webhook_id,
                    lease_token: leased.lease_token,
                    extra_id: leased.extra_id,
                    attempt: attempt(Cause::Manual),
                    next: Next::Delivered,
                };
                settle(&tx, &[&settlement]).await
            })
            .await
            .unwrap();
        check_erased(&server, State::Delivered).await;
    }
}
