//! What names stand for, asked of the server.

use std::collections::BTreeMap;

use taghook_client::v1::{
    self, Campaign, GetCampaignRequest, GetTagRequest, GetWebhookRequest, ListCampaignsRequest, ListTagsRequest,
    ListWebhooksRequest,
};
use taghook_client::{Client, Code};
use tonic::Status;

use super::Result;
use super::connect::told;
use super::file::Kind;

/// The items of a page.
const PAGE: i32 = 1_000;

/// A server's names, each asked for once.
pub(super) struct Names {
    client: Client,
    found: BTreeMap<(Kind, String), Vec<String>>,
    /// All campaigns by name; asked for when the first is looked for.
    campaigns: Option<BTreeMap<String, String>>,
}

impl Names {
    pub(super) fn new(client: Client) -> Self {
        Self { client, found: BTreeMap::new(), campaigns: None }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The ids of what has a name: none, one, or, of webhooks, several. An id stands for itself.
    ///
    /// # Errors
    ///
    /// The server's.
    pub(super) async fn ids(&mut self, kind: Kind, name: &str) -> Result<Vec<String>> {
        if kind.is_id(name) {
            return Ok(vec![name.to_owned()]);
        }
        let key = (kind, name.to_owned());
        if let Some(ids) = self.found.get(&key) {
            return Ok(ids.clone());
        }
        let ids = match kind {
            Kind::Tag => self.tags(name).await?,
            Kind::Webhook => self.webhooks(name).await?,
            Kind::Campaign => self.campaigns().await?.get(name).cloned().into_iter().collect(),
        };
        self.found.insert(key, ids.clone());
        Ok(ids)
    }

    /// The id of a campaign that must be there.
    ///
    /// # Errors
    ///
    /// There is none with that name; the server's.
    pub(super) async fn existing_campaign(&mut self, name: &str) -> Result<String> {
        let id = self.ids(Kind::Campaign, name).await?.pop();
        id.ok_or_else(|| format!("there is no campaign {name:?}").into())
    }

    /// A campaign as it is now.
    ///
    /// # Errors
    ///
    /// The server's.
    pub(super) async fn campaign(&self, id: &str) -> Result<Campaign> {
        let request = GetCampaignRequest { id: id.to_owned(), ..Default::default() };
        Ok(self.client.campaigns().get_campaign(request).await.map_err(told)?.into_inner())
    }

    /// What to call something in a file: its name, or its id if that is clearer.
    ///
    /// # Errors
    ///
    /// The server's.
    pub(super) async fn name(&mut self, kind: Kind, id: &str) -> Result<String> {
        let name = match kind {
            Kind::Tag => {
                let answer = self.client.tags().get_tag(GetTagRequest { id: id.to_owned() }).await;
                present(answer.map(|tag| tag.into_inner().name))?
            }
            Kind::Webhook => {
                let answer = self.client.webhooks().get_webhook(GetWebhookRequest { id: id.to_owned() }).await;
                present(answer.map(|webhook| webhook.into_inner().name))?
            }
            Kind::Campaign => {
                self.campaigns().await?.iter().find(|(_, known)| *known == id).map(|(name, _)| name.clone())
            }
        };
        match name {
            // What is gone has no name, and another one may have the same.
            Some(name) if self.ids(kind, &name).await? == [id] => Ok(name),
            _ => Ok(id.to_owned()),
        }
    }

    async fn tags(&self, name: &str) -> Result<Vec<String>> {
        let (mut ids, mut page_token) = (Vec::new(), String::new());
        loop {
            let filter = v1::list_tags_request::Filter { name_prefix: name.to_owned(), ..Default::default() };
            let request = ListTagsRequest { page_size: PAGE, page_token, filter: Some(filter) };
            let page = self.client.tags().list_tags(request).await.map_err(told)?.into_inner();
            ids.extend(page.tags.into_iter().filter(|tag| tag.name == name).map(|tag| tag.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(ids);
            }
        }
    }

    async fn webhooks(&self, name: &str) -> Result<Vec<String>> {
        let (mut ids, mut page_token) = (Vec::new(), String::new());
        loop {
            let filter = v1::list_webhooks_request::Filter { name_prefix: name.to_owned(), ..Default::default() };
            let request = ListWebhooksRequest { page_size: PAGE, page_token, filter: Some(filter) };
            let page = self.client.webhooks().list_webhooks(request).await.map_err(told)?.into_inner();
            ids.extend(page.webhooks.into_iter().filter(|webhook| webhook.name == name).map(|webhook| webhook.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(ids);
            }
        }
    }

    async fn campaigns(&mut self) -> Result<&BTreeMap<String, String>> {
        if self.campaigns.is_none() {
            let (mut all, mut page_token) = (BTreeMap::new(), String::new());
            loop {
                let request = ListCampaignsRequest { page_size: PAGE, page_token, ..Default::default() };
                let page = self.client.campaigns().list_campaigns(request).await.map_err(told)?.into_inner();
                all.extend(page.campaigns.into_iter().map(|campaign| (campaign.name, campaign.id)));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            self.campaigns = Some(all);
        }
        Ok(self.campaigns.get_or_insert_default())
    }
}

/// `None` for what isn't there any more.
fn present(answer: Result<String, Status>) -> Result<Option<String>> {
    match answer {
        Ok(name) => Ok(Some(name)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(told(status)),
    }
}
