//! Campaigns: contacts enter, and are led from action to action.
//!
//! Who is who:
//! - [`enroll`]: how contacts enter, whatever lets them in.
//! - [`mod@run`]: the engine. It takes ways that are due and does their steps.
//! - [`steps`]: the steps of many ways in one transaction, in step with each other. All that a step does is a change of the
//!   database, the deliveries that it owes too, and is committed together with the way's new place: whatever crashes, a step
//!   was made or it wasn't.

mod run;
mod steps;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, json};

pub use run::run;

use super::Origin;
use super::happen::{Happening, note};
use super::react::react;
use crate::domain::campaign::{Enrollment, EnrollmentState, Reentry};
use crate::domain::delivery::MAX_CAUSATION_DEPTH;
use crate::domain::event::{CAMPAIGN_FINISHED, CAMPAIGN_NOT_STARTED, CAMPAIGN_STARTED};
use crate::domain::timeline::HoldReason;
use crate::error::Result;
use crate::ids::{CampaignId, ContactId, EnrollmentId, TypedId};
use crate::store::config::{PreparedCampaign, WorkspaceConfig};
use crate::store::{Tx, enrollment};

/// A contact that is to enter a campaign.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The config that it is part of.
    pub config: Arc<WorkspaceConfig>,
    /// The campaign.
    pub campaign: Arc<PreparedCampaign>,
    /// The contact, of the same workspace.
    pub contact_id: ContactId,
    /// Where it comes from.
    pub origin: Origin,
}

/// Contacts that entered campaigns.
#[derive(Debug, Default)]
pub struct Enrolled {
    /// The ways that begin.
    pub new: Vec<Enrollment>,
    /// That they began, where somebody listens: for the caller to let smart tags know.
    pub(super) started: Vec<Happening>,
}

/// Lets contacts enter campaigns, as far as these are active and let them in. The caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn enroll(tx: &Tx, entries: Vec<Entry>) -> Result<Enrolled> {
    if entries.is_empty() {
        return Ok(Enrolled::default());
    }
    let mut seen = HashSet::new();
    let (entries, deep): (Vec<Entry>, Vec<Entry>) = entries
        .into_iter()
        .filter(|entry| entry.campaign.is_active() && seen.insert((entry.campaign.campaign.id, entry.contact_id)))
        .partition(|entry| entry.origin.depth <= MAX_CAUSATION_DEPTH);
    note(tx, &deep.iter().map(|entry| too_deep(tx, entry)).collect::<Vec<_>>()).await?;
    let once: Vec<(CampaignId, ContactId)> = entries
        .iter()
        .filter(|entry| entry.campaign.campaign.definition.reentry == Reentry::Never)
        .map(|entry| (entry.campaign.campaign.id, entry.contact_id))
        .collect();
    let met = enrollment::met(tx, &once).await?;
    let ways: Vec<(Enrollment, Entry)> = entries
        .into_iter()
        .filter(|entry| !met.contains(&(entry.campaign.campaign.id, entry.contact_id)))
        .filter_map(|entry| Some((begin(tx, &entry)?, entry)))
        .collect();
    let new: Vec<Enrollment> = ways.iter().map(|(way, _)| way.clone()).collect();
    let inserted = enrollment::insert(tx, &new).await?;
    let mut enrolled = Enrolled::default();
    for (way, entry) in ways.into_iter().filter(|(way, _)| inserted.contains(&way.id)) {
        if !entry.config.listeners(CAMPAIGN_STARTED).is_empty() {
            enrolled.started.push(happening(tx, &entry.campaign, &way, CAMPAIGN_STARTED, &[]).derived());
        }
        enrolled.new.push(way);
    }
    Ok(enrolled)
}

fn begin(tx: &Tx, entry: &Entry) -> Option<Enrollment> {
    let campaign = &entry.campaign.campaign;
    Some(Enrollment {
        id: EnrollmentId::generate(tx.now(), tx.store().entropy()),
        workspace_id: campaign.workspace_id,
        campaign_id: campaign.id,
        contact_id: entry.contact_id,
        state: EnrollmentState::Running,
        node: campaign.definition.entry()?.key.clone(),
        due: Some(tx.now()),
        is_waiting: false,
        steps: 0,
        failures: 0,
        error: String::new(),
        depth: entry.origin.depth,
        traceparent: entry.origin.traceparent.clone(),
        data: entry.origin.data.clone(),
        created: tx.now(),
        ended: None,
    })
}

fn too_deep(tx: &Tx, entry: &Entry) -> Happening {
    let campaign = &entry.campaign.campaign;
    let attributes = json!({
        "campaign_id": campaign.id.to_string(),
        "name": campaign.name,
        "reason": HoldReason::CausationDepth.as_str(),
        "depth": entry.origin.depth,
    });
    let contact = (campaign.workspace_id, entry.contact_id);
    Happening::now(tx, contact, CAMPAIGN_NOT_STARTED, attributes, entry.origin.clone())
}

/// Something that happened to a contact on its way. `more` are its attributes beside the campaign and the enrollment.
fn happening(
    tx: &Tx,
    campaign: &PreparedCampaign,
    way: &Enrollment,
    event_type: &str,
    more: &[(&str, &str)],
) -> Happening {
    let mut attributes = Map::from_iter([
        ("campaign_id".to_owned(), campaign.campaign.id.to_string().into()),
        ("name".to_owned(), campaign.campaign.name.as_str().into()),
        ("enrollment_id".to_owned(), way.id.to_string().into()),
    ]);
    attributes.extend(more.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())));
    Happening::now(tx, (way.workspace_id, way.contact_id), event_type, attributes.into(), origin_of(way))
}

/// Where what happens on a way comes from.
fn origin_of(way: &Enrollment) -> Origin {
    Origin { depth: way.depth, cause_id: Some(way.id.0), traceparent: way.traceparent.clone(), data: way.data.clone() }
}

/// Takes contacts out of campaigns. Answers with the ways that ended, and what smart tags are to hear.
///
/// # Errors
///
/// The database's.
async fn take_out(
    tx: &Tx,
    config: &WorkspaceConfig,
    pairs: &[(CampaignId, ContactId)],
) -> Result<(Vec<Enrollment>, Vec<Happening>)> {
    let stopped = enrollment::stop(tx, pairs).await?;
    let finished = stopped.iter().filter_map(|way| finished(tx, config, way)).collect();
    Ok((stopped, finished))
}

/// That a way has ended, where somebody listens. The enrollment says so too.
fn finished(tx: &Tx, config: &WorkspaceConfig, way: &Enrollment) -> Option<Happening> {
    let campaign = config.campaign(way.campaign_id)?;
    let is_heard = !config.listeners(CAMPAIGN_FINISHED).is_empty();
    is_heard.then(|| happening(tx, campaign, way, CAMPAIGN_FINISHED, &[("how", way.state.as_str())]).derived())
}

/// Lets one contact enter a campaign, with all that follows. The caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn enroll_one(tx: &Tx, entry: Entry) -> Result<Option<Enrollment>> {
    let mut enrolled = enroll(tx, vec![entry]).await?;
    react(tx, enrolled.started).await?;
    Ok(enrolled.new.pop())
}

/// Takes a contact out of a campaign, with all that follows. The caller has taken the gate.
///
/// # Errors
///
/// The database's.
pub async fn exit_one(
    tx: &Tx,
    config: &WorkspaceConfig,
    campaign: CampaignId,
    contact: ContactId,
) -> Result<Option<Enrollment>> {
    let (mut stopped, finished) = take_out(tx, config, &[(campaign, contact)]).await?;
    react(tx, finished).await?;
    Ok(stopped.pop())
}
