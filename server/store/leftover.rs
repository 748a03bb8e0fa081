//! What a change of many rows leaves to be done in steps.
//!
//! Resuming or deleting a webhook, and deleting a tag, can touch a million rows. One statement for all would hold the
//! gate, so that nobody plans meanwhile, and past the statement's time limit the change could never be made. The
//! transaction of the change does a first step, which is all in most cases, and writes down that there is more. The rest
//! is done in short transactions, by this server or, after a crash, by any. Until then nothing is wrong: what is held is
//! sent later, what belongs to a webhook or a tag that is gone is sent by nobody and shown to nobody.

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use uuid::Uuid;

use super::delivery::end::{self, Which};
use super::delivery::queue;
use super::{Store, Tx, campaign, campaign_node, contact_tag, cooldown, enrollment, extra_attempt};
use crate::domain::campaign::CampaignState;
use crate::domain::delivery::{Reason, State};
use crate::domain::webhook::WebhookState;
use crate::error::{Error, Result};
use crate::ids::{CampaignId, TagId, WebhookId, WorkspaceId, uuid_v7};

/// The rows of each kind in one step.
const STEP: i64 = 1_000;

/// What is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// To take a tag that was deleted off its contacts.
    DeletedTag(TagId),
    /// To end what a webhook that was deleted still owes, and to forget its cooldowns.
    DeletedWebhook(WebhookId),
    /// To put what a webhook that was resumed held back into the queue.
    ResumedWebhook(WebhookId),
    /// To put what a campaign that is active again held back into the queue, and to let contacts go whose node was removed.
    ResumedCampaign(CampaignId),
    /// To remove the enrollments of a campaign that was deleted.
    DeletedCampaign(CampaignId),
}

impl Leftover {
    const fn code(self) -> (i16, Uuid) {
        match self {
            Self::DeletedTag(id) => (1, id.0),
            Self::DeletedWebhook(id) => (2, id.0),
            Self::ResumedWebhook(id) => (3, id.0),
            Self::ResumedCampaign(id) => (4, id.0),
            Self::DeletedCampaign(id) => (5, id.0),
        }
    }

    fn from_code(kind: i16, subject: Uuid) -> Result<Self> {
        match kind {
            1 => Ok(Self::DeletedTag(TagId(subject))),
            2 => Ok(Self::DeletedWebhook(WebhookId(subject))),
            3 => Ok(Self::ResumedWebhook(WebhookId(subject))),
            4 => Ok(Self::ResumedCampaign(CampaignId(subject))),
            5 => Ok(Self::DeletedCampaign(CampaignId(subject))),
            _ => Err(Error::internal(format!("there is no leftover of kind {kind}"))),
        }
    }
}

/// Does a first step after the change itself, in its transaction, and writes down if there is more. The caller has taken
/// the gate in exclusive mode.
///
/// # Errors
///
/// The database's.
pub async fn begin(tx: &Tx, workspace: WorkspaceId, leftover: Leftover) -> Result<()> {
    if step(tx, workspace, leftover).await? {
        return Ok(());
    }
    let (kind, subject) = leftover.code();
    let sql = "INSERT INTO leftovers (id, workspace_id, kind, subject_id) VALUES ($1, $2, $3, $4)";
    let id = uuid_v7(tx.now(), tx.store().entropy());
    tx.db().execute_raw(statement(tx, sql, vec![id.into(), workspace.0.into(), kind.into(), subject.into()])).await?;
    tx.announce_leftovers();
    Ok(())
}

/// Does one step of what was left first. Answers with whether there may be more to do; what another server is at isn't.
///
/// # Errors
///
/// The database's.
pub async fn go_on(store: &Store) -> Result<bool> {
    let db = store.read();
    let sql = "SELECT id, workspace_id, kind, subject_id FROM leftovers ORDER BY id LIMIT 1";
    let first = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await?;
    let Some(row) = first else { return Ok(false) };
    let leftover = Leftover::from_code(row.try_get("", "kind")?, row.try_get("", "subject_id")?)?;
    let (id, workspace) = (row.try_get::<Uuid>("", "id")?, WorkspaceId(row.try_get("", "workspace_id")?));
    store
        .write("leftover", |tx| async move {
            match leftover {
                // Nobody can see them any more.
                Leftover::DeletedTag(_) | Leftover::DeletedCampaign(_) => {}
                Leftover::ResumedWebhook(_) | Leftover::ResumedCampaign(_) => tx.gate_shared().await?,
                // Settlements of the same deliveries lock them in another order.
                Leftover::DeletedWebhook(_) => tx.gate_exclusive().await?,
            }
            if !take(&tx, id).await? {
                return Ok(false);
            }
            if step(&tx, workspace, leftover).await? {
                tx.db().execute_raw(statement(&tx, "DELETE FROM leftovers WHERE id = $1", vec![id.into()])).await?;
            }
            Ok(true)
        })
        .await
}

/// Keeps other servers off it until the commit: who finds the rows of a step locked would count none, and think it done.
async fn take(tx: &Tx, id: Uuid) -> Result<bool> {
    let lock = match tx.db().get_database_backend() {
        DbBackend::Postgres => "FOR UPDATE SKIP LOCKED",
        _ => "",
    };
    let sql = format!("SELECT id FROM leftovers WHERE id = $1 {lock}");
    Ok(tx.db().query_one_raw(statement(tx, &sql, vec![id.into()])).await?.is_some())
}

/// Answers with whether it was the last step.
async fn step(tx: &Tx, workspace: WorkspaceId, leftover: Leftover) -> Result<bool> {
    let is_short = |count: u64| i64::try_from(count).unwrap_or(i64::MAX) < STEP;
    match leftover {
        Leftover::DeletedTag(tag) => Ok(is_short(contact_tag::remove_tag(tx, tag, STEP).await?)),
        Leftover::ResumedWebhook(webhook) => {
            // If it was paused again it holds what it holds.
            Ok(!is_active(tx, webhook).await? || queue::unpark(tx, workspace, webhook, STEP).await?)
        }
        Leftover::ResumedCampaign(campaign) => resume_campaign(tx, workspace, campaign).await,
        Leftover::DeletedCampaign(campaign) => {
            let enrollments = enrollment::forget_campaign(tx, campaign, STEP).await?;
            let counters = campaign_node::forget_campaign(tx, campaign, STEP).await?;
            Ok(is_short(enrollments) && is_short(counters))
        }
        Leftover::DeletedWebhook(webhook) => {
            let which = Which::Webhook(webhook, STEP);
            let ended = end::end(tx, workspace, which, State::Cancelled, Reason::WebhookDeleted).await?;
            let dropped = extra_attempt::forget(tx, webhook, STEP).await?;
            let forgotten = cooldown::forget_webhook(tx, webhook, STEP).await?;
            let ended = u64::try_from(ended).unwrap_or(u64::MAX);
            Ok([ended, dropped, forgotten].into_iter().all(is_short))
        }
    }
}

async fn is_active(tx: &Tx, webhook: WebhookId) -> Result<bool> {
    let sql = "SELECT id FROM webhooks WHERE id = $1 AND state = $2";
    let values = vec![webhook.0.into(), WebhookState::Active.code().into()];
    Ok(tx.db().query_one_raw(statement(tx, sql, values)).await?.is_some())
}

/// Puts back what the campaign held, and lets go whose node was removed. Returns whether it was the last step.
async fn resume_campaign(tx: &Tx, workspace: WorkspaceId, id: CampaignId) -> Result<bool> {
    let campaign = match campaign::get(tx.db(), workspace, id).await {
        Err(Error::NotFound { .. }) => return Ok(true),
        campaign => campaign?,
    };
    if campaign.state != CampaignState::Active {
        // It was paused again and holds what it holds.
        return Ok(true);
    }
    Ok(enrollment::unpark(tx, id, STEP).await? && enrollment::hasten_gone(tx, &campaign, STEP).await?)
}

fn statement(tx: &Tx, sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values)
}
