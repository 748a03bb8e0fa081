//! Campaigns: how contacts enter, what is done with them, and what no crash undoes.

mod actions;
mod crash;
mod definitions;
mod enrollments;

use prost_types::Duration;
use sea_orm::{ConnectionTrait, Statement};
use taghook_client::contact::by_id;
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::enrollment::State;
use taghook_client::v1::wait_action::Until;
use taghook_client::v1::{
    ActivateCampaignRequest, AssignTagsAction, Campaign, CampaignNode, Contact, CreateCampaignRequest, DecisionAction,
    EnrollContactRequest, EnrollContactResponse, Enrollment, ExitAction, GoToAction, ListEnrollmentsRequest,
    PauseCampaignRequest, RemoveTagsAction, SetFieldAction, StartCampaignAction, StopCampaignAction, Tag, WaitAction,
    Webhook, WebhookAction,
};

use crate::support::{Api, Taghook, within};

/// A node that another follows.
pub(crate) fn node(key: &str, next: &str, action: Action) -> CampaignNode {
    CampaignNode { key: key.into(), next_key: next.into(), action: Some(action) }
}

fn call(webhook: &Webhook) -> Action {
    Action::Webhook(WebhookAction { webhook_id: webhook.id.clone() })
}

fn assign(tag: &Tag) -> Action {
    Action::AssignTags(AssignTagsAction { tag_ids: vec![tag.id.clone()] })
}

fn remove(tag: &Tag) -> Action {
    Action::RemoveTags(RemoveTagsAction { tag_ids: vec![tag.id.clone()] })
}

pub(crate) fn wait(seconds: i64) -> Action {
    Action::Wait(WaitAction { until: Some(Until::Duration(Duration { seconds, nanos: 0 })) })
}

fn wait_until(field: &str) -> Action {
    Action::Wait(WaitAction { until: Some(Until::FieldKey(field.into())) })
}

pub(crate) fn set(field: &str, value: &str) -> Action {
    Action::SetField(SetFieldAction { field_key: field.into(), value: value.into() })
}

fn ask(key: &str, condition: &str, then_key: &str, else_key: &str) -> CampaignNode {
    let (then_key, else_key) = (then_key.into(), else_key.into());
    let decision = DecisionAction { condition: condition.into(), then_key, else_key };
    node(key, "", Action::Decision(decision))
}

fn go_to(key: &str, to: &str) -> CampaignNode {
    node(key, "", Action::GoTo(GoToAction { node_key: to.into() }))
}

fn start(campaign: &Campaign) -> Action {
    Action::StartCampaign(StartCampaignAction { campaign_id: campaign.id.clone() })
}

fn stop(campaign: &Campaign) -> Action {
    Action::StopCampaign(StopCampaignAction { campaign_id: campaign.id.clone() })
}

pub(crate) fn exit() -> CampaignNode {
    node("exit", "", Action::Exit(ExitAction {}))
}

fn draft(name: &str, tag: Option<&Tag>, nodes: Vec<CampaignNode>) -> Campaign {
    let start_tag_id = tag.map(|tag| tag.id.clone()).unwrap_or_default();
    Campaign { name: name.into(), start_tag_id, nodes, ..Default::default() }
}

async fn create(api: &Api, campaign: Campaign) -> Campaign {
    let request = CreateCampaignRequest { campaign: Some(campaign), ..Default::default() };
    api.client.campaigns().create_campaign(request).await.expect("a campaign").into_inner()
}

async fn activate(api: &Api, campaign: &Campaign) -> Campaign {
    let request = ActivateCampaignRequest { id: campaign.id.clone(), ..Default::default() };
    api.client.campaigns().activate_campaign(request).await.expect("an active campaign").into_inner()
}

async fn pause(api: &Api, campaign: &Campaign) -> Campaign {
    let request = PauseCampaignRequest { id: campaign.id.clone(), ..Default::default() };
    api.client.campaigns().pause_campaign(request).await.expect("a paused campaign").into_inner()
}

/// An active campaign.
pub(crate) async fn campaign(api: &Api, name: &str, tag: Option<&Tag>, nodes: Vec<CampaignNode>) -> Campaign {
    activate(api, &create(api, draft(name, tag, nodes)).await).await
}

pub(crate) async fn enroll(api: &Api, campaign: &Campaign, contact: &Contact) -> EnrollContactResponse {
    let request =
        EnrollContactRequest { campaign_id: campaign.id.clone(), contact: by_id(&contact.id), ..Default::default() };
    api.client.campaigns().enroll_contact(request).await.expect("an enrollment").into_inner()
}

/// The first ways through a campaign.
async fn enrollments(api: &Api, campaign: &Campaign) -> Vec<Enrollment> {
    let request = ListEnrollmentsRequest { campaign_id: campaign.id.clone(), page_size: 1_000, ..Default::default() };
    api.client.campaigns().list_enrollments(request).await.expect("enrollments").into_inner().enrollments
}

/// Waits until all ways through a campaign have ended.
pub(crate) async fn ended(api: &Api, campaign: &Campaign) -> Vec<Enrollment> {
    within("the end of all ways", async {
        loop {
            let all = enrollments(api, campaign).await;
            if all.iter().all(|way| way.state() != State::Running) {
                return all;
            }
        }
    })
    .await
}

/// Waits until the one way through a campaign stands at a node, and its wait has begun.
pub(crate) async fn stands_at(api: &Api, campaign: &Campaign, node: &str) -> Enrollment {
    within("the contact at its node", async {
        loop {
            let way = enrollments(api, campaign).await.into_iter().find(|way| way.state() == State::Running);
            let has_begun = |way: &Enrollment| way.due_time != way.create_time;
            if let Some(way) = way.filter(|way| way.node_key == node && has_begun(way)) {
                return way;
            }
        }
    })
    .await
}

/// How many rows of enrollments there are for which a condition holds.
async fn rows(t: &Taghook, condition: &str) -> i64 {
    let db = t.store().read();
    let sql = format!("SELECT COUNT(*) AS n FROM enrollments WHERE {condition}");
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.expect("the rows");
    row.expect("a count").try_get("", "n").expect("a number")
}
