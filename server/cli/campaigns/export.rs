//! `taghook campaigns export`.

use std::collections::BTreeMap;

use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::{AssignTagsAction, Campaign, RemoveTagsAction, StartCampaignAction, StopCampaignAction};

use super::Result;
use super::file::{File, Kind};
use super::names::Names;

/// A campaign as a file.
///
/// # Errors
///
/// There is no such campaign; the server's.
pub(super) async fn run(names: &mut Names, name: &str) -> Result<String> {
    let id = names.existing_campaign(name).await?;
    let campaign = names.campaign(&id).await?;
    let mut known: BTreeMap<(Kind, String), String> = BTreeMap::new();
    for (kind, id) in ids(&campaign) {
        let name = names.name(kind, id).await?;
        known.insert((kind, id.to_owned()), name);
    }
    let called = |kind: Kind, id: &str| known.get(&(kind, id.to_owned())).cloned().unwrap_or_else(|| id.to_owned());
    Ok(File::of(&campaign, &called).write()?)
}

/// What a campaign names.
fn ids(campaign: &Campaign) -> impl Iterator<Item = (Kind, &str)> {
    let start = Some(campaign.start_tag_id.as_str()).filter(|id| !id.is_empty()).map(|id| (Kind::Tag, id));
    let nodes = campaign.nodes.iter().flat_map(|node| match &node.action {
        Some(Action::Webhook(it)) => vec![(Kind::Webhook, it.webhook_id.as_str())],
        Some(Action::AssignTags(AssignTagsAction { tag_ids }) | Action::RemoveTags(RemoveTagsAction { tag_ids })) => {
            tag_ids.iter().map(|id| (Kind::Tag, id.as_str())).collect()
        }
        Some(
            Action::StartCampaign(StartCampaignAction { campaign_id })
            | Action::StopCampaign(StopCampaignAction { campaign_id }),
        ) => vec![(Kind::Campaign, campaign_id.as_str())],
        _ => Vec::new(),
    });
    start.into_iter().chain(nodes)
}
