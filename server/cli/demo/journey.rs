//! The second act: a click sets a tag, the tag begins a campaign, and the campaign waits, decides and calls a webhook.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{DIM, Demo, EMAIL, GOOD, NAME, Result, expect, quote, say, step};
use http::Uri;
use taghook_client::contact::by_email;
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::enrollment::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::wait_action::Until;
use taghook_client::v1::{self, CampaignNode, DecisionAction, ExitAction, WaitAction, WebhookAction};

/// How long the campaign waits.
const WAIT_SECONDS: i64 = 2;
/// The most bytes of a redirect that are read.
const MAX_REDIRECT: u64 = 16 * 1024;

impl Demo {
    /// Makes a link, a campaign that its tag begins, and the webhook that this calls; then clicks.
    pub(super) async fn journey(&mut self) -> Result<()> {
        step(4, "SmartLink", "a contact's own link tags whoever clicks it, and its tag begins a campaign:")?;
        let link = v1::SmartLink {
            name: "Summer sale".into(),
            target_url: format!("http://{}/shop/__first_name__", self.receiver.address()),
            ..Default::default()
        };
        let request = v1::CreateSmartLinkRequest { smart_link: Some(link), ..Default::default() };
        let link = self.client.smart_links().create_smart_link(request).await?.into_inner();
        let campaign = self.campaign(&link).await?;
        let request =
            v1::CreateTrackedUrlRequest { smart_link_id: link.id, contact: by_email(EMAIL), ..Default::default() };
        let url = self.client.smart_links().create_tracked_url(request).await?.into_inner().url;
        say(&format!("   {DIM}link{DIM:#}      {url}"))?;
        say(&format!("   {DIM}campaign{DIM:#}  wait {WAIT_SECONDS} s, ask {CONDITION}, call the webhook"))?;

        step(5, "Click", "the link redirects at once, and remembers:")?;
        let clicked = Instant::now();
        let target = click(&url).await?;
        quote(&format!("GET /l/…  {GOOD}302{GOOD:#}  {target}"))?;
        let way = self.way(&campaign).await?;
        expect("the contact's way", way.state(), State::Running)?;
        say(&format!("   {DIM}campaign{DIM:#}  {EMAIL} stands at {NAME}{}{NAME:#}", way.node_key))?;

        let received = self.receiver.next().await?;
        step(6, "Campaign", &format!("{} ms after the click the webhook is called:", clicked.elapsed().as_millis()))?;
        quote(&format!("{} {}", received.method, received.uri))?;
        say("")?;
        self.outcome(Kind::Delivered).await?;
        let way = self.way(&campaign).await?;
        expect("the contact's way", way.state(), State::Finished)?;
        say(&format!("   {DIM}campaign{DIM:#}  {EMAIL} has finished after {} steps", way.step_count))
    }

    async fn campaign(&self, link: &v1::SmartLink) -> Result<v1::Campaign> {
        let url = format!("http://{}/crm/coupons", self.receiver.address());
        let webhook = v1::Webhook { name: "Coupons".into(), ..super::webhook(url, String::new()) };
        let webhook = v1::Webhook { activation_tag_ids: Vec::new(), ..webhook };
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        let webhook_id = self.client.webhooks().create_webhook(request).await?.into_inner().id;
        let node = |key: &str, next: &str, action| CampaignNode {
            key: key.into(),
            next_key: next.into(),
            action: Some(action),
        };
        let wait = prost_types::Duration { seconds: WAIT_SECONDS, nanos: 0 };
        let decision = DecisionAction { condition: CONDITION.into(), then_key: "call".into(), else_key: "end".into() };
        let nodes = vec![
            node("wait", "ask", Action::Wait(WaitAction { until: Some(Until::Duration(wait)) })),
            node("ask", "", Action::Decision(decision)),
            node("call", "end", Action::Webhook(WebhookAction { webhook_id })),
            node("end", "", Action::Exit(ExitAction {})),
        ];
        let campaign =
            v1::Campaign { name: "Summer".into(), start_tag_id: link.tag_id.clone(), nodes, ..Default::default() };
        let request = v1::CreateCampaignRequest { campaign: Some(campaign), ..Default::default() };
        let id = self.client.campaigns().create_campaign(request).await?.into_inner().id;
        let request = v1::ActivateCampaignRequest { id, ..Default::default() };
        Ok(self.client.campaigns().activate_campaign(request).await?.into_inner())
    }

    /// The contact's way through the campaign.
    async fn way(&self, campaign: &v1::Campaign) -> Result<v1::Enrollment> {
        let request = v1::ListEnrollmentsRequest { campaign_id: campaign.id.clone(), ..Default::default() };
        let ways = self.client.campaigns().list_enrollments(request).await?.into_inner().enrollments;
        Ok(ways.into_iter().next().ok_or("nobody is in the campaign")?)
    }
}

/// What the campaign asks.
const CONDITION: &str = "'Newsletter' in contact.tags";

/// Follows a link as far as its redirect; where that leads.
async fn click(url: &str) -> Result<String> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().ok_or("the link has no host")?;
    let mut connection = TcpStream::connect(authority.as_str()).await?;
    let request = format!("GET {} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n", uri.path());
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.take(MAX_REDIRECT).read_to_string(&mut answer).await?;
    let location = answer.lines().find_map(|line| line.strip_prefix("location: "));
    Ok(location.ok_or("the link doesn't redirect")?.to_owned())
}
