//! The store and the automation on it, without the wire: what callers can't bring about at will.

mod assign;
mod batch;
mod commit;
mod erase;
mod identity;
mod lease;
mod leftover;
mod open;
mod outcomes;
mod plans;
mod replay;
mod settle;
mod values;

use std::time::Duration;

use sea_orm::{ConnectionTrait, Statement};
use taghook::automation::{self, Assigned, Assignment, Origin};
use taghook::clock::{Clock, Entropy};
use taghook::domain::campaign::{self, Campaign, CampaignState, Enrollment, EnrollmentState, Node, Reentry};
use taghook::domain::contact::{Contact, ContactStatus, Email};
use taghook::domain::delivery::Reason;
use taghook::domain::request::{Encoding, EventDefinition, Method};
use taghook::domain::retry::Schedule;
use taghook::domain::tag::{Tag, TagKind, TagRef};
use taghook::domain::time::Micros;
use taghook::domain::webhook::{CooldownPolicy, Definition, Webhook, WebhookState};
use taghook::error::Result;
use taghook::ids::{CampaignId, ContactId, EnrollmentId, TagId, TypedId, WebhookEventId, WebhookId, WorkspaceId};
use taghook::secrets::Sealer;
use taghook::store::contact::ContactRef;
use taghook::store::lease::Handover;
use taghook::store::open::OpenOptions;
use taghook::store::{self, Store};
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use crate::support::postgres::Postgres;

/// The time that manual clocks begin at.
pub(crate) const START: Micros = Micros(1_800_000_000_000_000);
const KEY: [u8; 32] = [7; 32];

/// Looks again and again until `holds` says so.
pub(crate) async fn until(holds: impl AsyncFn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let met = async {
        while !holds().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), met).await.expect("the condition within 20 s");
}

/// Waits until a session of PostgreSQL waits for a lock of another one.
pub(crate) async fn someone_waits(server: &Server) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until(async || server.number(sql).await > 0).await;
}

/// Makes the database refuse rows of a table unless a column is so.
pub(crate) async fn refuse_unless(server: &Server, table: &str, column: &str, is_so: &str) {
    let sql = if server.store.is_sqlite() {
        format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN NOT (NEW.{column} {is_so}) \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    } else {
        format!("ALTER TABLE {table} ADD CHECK ({column} {is_so})")
    };
    let sql = &sql;
    let refuse = |tx: store::Tx| async move { Ok(tx.db().execute_unprepared(sql).await?) };
    server.store.write("refuse", refuse).await.unwrap();
}

/// One server on a database.
pub(crate) struct Server {
    pub(crate) store: Store,
    pub(crate) handovers: UnboundedReceiver<Handover>,
    pub(crate) workspace: WorkspaceId,
}

/// A URL of a new database of each kind; the folder of the first goes with the guard.
pub(crate) async fn both() -> (tempfile::TempDir, [String; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("taghook.db").display());
    (folder, [sqlite, postgres().await])
}

/// The URL of a new PostgreSQL database.
pub(crate) async fn postgres() -> String {
    Postgres::shared()
        .database(async |url: &str| {
            taghook::store::open::migrate(&options(url, Clock::system()), taghook::store::open::Migration::Up)
                .await
                .unwrap();
        })
        .await
}

pub(crate) fn options(url: &str, clock: Clock) -> OpenOptions {
    OpenOptions { url: url.to_owned(), connections: 16, migrate: true, senders: 64, clock, entropy: Entropy::system() }
}

impl Server {
    pub(crate) async fn open(url: &str, clock: Clock) -> Self {
        Self::open_with(&options(url, clock)).await
    }

    pub(crate) async fn open_with(options: &OpenOptions) -> Self {
        let (store, handovers) = Store::open(options, Sealer::from_key_bytes(&KEY)).await.unwrap();
        let workspace = store.facts().default_workspace;
        Self { store, handovers, workspace }
    }

    /// An active campaign.
    pub(crate) async fn campaign(&self, nodes: Vec<Node>) -> Campaign {
        let now = self.store.clock().now();
        let campaign = Campaign {
            id: CampaignId::generate(now, self.store.entropy()),
            workspace_id: self.workspace,
            name: "campaign".to_owned(),
            key: None,
            labels: std::collections::BTreeMap::new(),
            description: String::new(),
            state: CampaignState::Active,
            definition: campaign::Definition { start_tag: None, reentry: Reentry::AfterExit, nodes },
            version: 1,
            created: now,
            updated: now,
        };
        let new = &campaign;
        self.store.write("campaign", |tx| async move { store::campaign::insert(&tx, new).await }).await.unwrap();
        campaign
    }

    /// Lets so many contacts wait at a node until a time.
    pub(crate) async fn stand_at(&self, campaign: &Campaign, node: &str, count: usize, until: Micros) {
        let (now, entropy) = (self.store.clock().now(), self.store.entropy());
        let way = |_| Enrollment {
            id: EnrollmentId::generate(now, entropy),
            workspace_id: self.workspace,
            campaign_id: campaign.id,
            contact_id: ContactId::generate(now, entropy),
            state: EnrollmentState::Running,
            node: node.to_owned(),
            due: Some(until),
            is_waiting: true,
            steps: 0,
            failures: 0,
            error: String::new(),
            depth: 0,
            traceparent: None,
            data: None,
            created: now,
            ended: None,
        };
        let ways: Vec<Enrollment> = (0..count).map(way).collect();
        let ways = &ways;
        let stand = |tx| async move {
            store::enrollment::insert(&tx, ways).await?;
            store::enrollment::update(&tx, ways).await
        };
        self.store.write("stand", stand).await.unwrap();
    }

    pub(crate) async fn contact(&self, name: &str) -> ContactId {
        let (workspace, id) = (self.workspace, ContactId::generate(self.store.clock().now(), self.store.entropy()));
        let contact = Contact {
            id,
            email: Some(Email::parse(&format!("{name}@example.com")).unwrap()),
            phone: None,
            external_id: None,
            status: ContactStatus::Subscribed,
            values: serde_json::Map::new(),
            version: 1,
            created: START,
            updated: START,
        };
        let contact = &contact;
        self.store
            .write("contact", |tx| async move { store::contact::insert(&tx, workspace, contact).await })
            .await
            .unwrap();
        id
    }

    pub(crate) async fn tag(&self, name: &str) -> TagId {
        let tag = self.new_tag(name);
        let (workspace, stored) = (self.workspace, &tag);
        self.store.write("tag", |tx| async move { store::tag::insert(&tx, workspace, stored).await }).await.unwrap();
        tag.id
    }

    pub(crate) fn new_tag(&self, name: &str) -> Tag {
        Tag {
            id: TagId::generate(self.store.clock().now(), self.store.entropy()),
            name: name.to_owned(),
            kind: TagKind::Manual,
            description: String::new(),
            labels: Default::default(),
            effects: Default::default(),
            rule: None,
            version: 1,
            created: START,
            updated: START,
        }
    }

    pub(crate) fn event(&self) -> EventDefinition {
        EventDefinition {
            id: WebhookEventId::generate(self.store.clock().now(), self.store.entropy()),
            key: None,
            method: Method::Post,
            encoding: Encoding::Form,
            event_type: "contact.tagged".into(),
            email_parameter_name: "email".into(),
            parameters: Vec::new(),
        }
    }

    /// A webhook of one event, after `change`.
    pub(crate) async fn webhook(&self, tags: &[TagId], change: impl FnOnce(&mut Webhook)) -> Webhook {
        let mut webhook = Webhook {
            id: WebhookId::generate(self.store.clock().now(), self.store.entropy()),
            workspace_id: self.workspace,
            name: "hook".into(),
            key: None,
            labels: Default::default(),
            state: WebhookState::Active,
            state_reason: Reason::None,
            state_since: START,
            definition: Definition {
                url: "https://example.com/".into(),
                activation_tag_ids: tags.to_vec(),
                on_contact_deleted: false,
                only_when_newly_assigned: false,
                condition: None,
                cooldown: Duration::from_secs(6 * 3_600),
                cooldown_policy: CooldownPolicy::Suppress,
                events: vec![self.event()],
                headers: Vec::new(),
                timeout: Duration::from_secs(15),
                schedule: Schedule::default(),
                max_concurrency: 32,
                rate_limit: 0.0,
                ordered: false,
            },
            secrets: Vec::new(),
            failing_since: None,
            version: 1,
            created: START,
            updated: START,
        };
        change(&mut webhook);
        let stored = &webhook;
        self.store
            .write("webhook", |tx| async move {
                tx.gate_exclusive().await?;
                store::webhook::insert(&tx, stored).await
            })
            .await
            .unwrap();
        webhook
    }

    pub(crate) async fn update(&self, webhook: &mut Webhook, change: impl FnOnce(&mut Webhook)) {
        change(webhook);
        webhook.version += 1;
        let stored = &*webhook;
        self.store
            .write("webhook", |tx| async move {
                tx.gate_exclusive().await?;
                store::webhook::update(&tx, stored).await
            })
            .await
            .unwrap();
    }

    pub(crate) fn assignment(&self, contact: ContactId, tags: &[TagId]) -> Assignment {
        Assignment {
            workspace_id: self.workspace,
            contact: ContactRef::Id(contact),
            tags: tags.iter().copied().map(TagRef::Id).collect(),
            kind: TagKind::Manual,
            origin: Origin::default(),
        }
    }

    /// Assigns tags to one contact after another, in one transaction.
    pub(crate) async fn assign(&self, assignments: &[Assignment]) -> Vec<Result<Assigned>> {
        self.store.write("assign", |tx| async move { automation::assign(&tx, assignments).await }).await.unwrap()
    }

    pub(crate) async fn assign_one(&self, contact: ContactId, tag: TagId) -> Assigned {
        self.assign(&[self.assignment(contact, &[tag])]).await.pop().unwrap().unwrap()
    }

    /// A UUID for SQL text.
    pub(crate) fn literal(&self, id: Uuid) -> String {
        if self.store.is_sqlite() { format!("x'{}'", id.simple()) } else { format!("'{id}'") }
    }

    /// A number that a query answers with.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let db = self.store.read();
        let sql = format!("SELECT CAST(({sql}) AS BIGINT)");
        let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap().unwrap();
        row.try_get_by_index(0).unwrap()
    }
}
