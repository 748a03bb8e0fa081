//! Keys of webhooks, webhook events, SmartLinks and campaigns.

use taghook_client::Code;
use taghook_client::v1::{self, Campaign, ErrorReason, SmartLink, Webhook, WebhookEvent};
use tonic::{Response, Status};
use tonic_types::StatusExt;

use crate::support::{Receiver, Taghook, both, check_error, check_invalid, mask};

/// Checks that a key is refused since the resource with this id has it.
#[track_caller]
fn check_taken<T>(result: Result<Response<T>, Status>, resource: &str, holder: &str) {
    let error = check_error(result, Code::AlreadyExists, ErrorReason::AlreadyExists);
    assert_eq!((error.metadata["resource"].as_str(), error.metadata["field"].as_str()), (resource, "key"));
    assert_eq!(error.status.get_details_resource_info().expect("the holder").resource_name, holder);
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn create_campaign(t: &Taghook, name: &str, key: &str) -> Result<Response<Campaign>, Status> {
    let campaign = Campaign { name: name.into(), key: key.into(), ..Default::default() };
    let request = v1::CreateCampaignRequest { campaign: Some(campaign), ..Default::default() };
    t.client.campaigns().create_campaign(request).await
}

async fn create_link(t: &Taghook, name: &str, key: &str) -> Result<Response<SmartLink>, Status> {
    let target_url = "https://shop.example/".into();
    let link = SmartLink { name: name.into(), key: key.into(), target_url, ..Default::default() };
    let request = v1::CreateSmartLinkRequest { smart_link: Some(link), ..Default::default() };
    t.client.smart_links().create_smart_link(request).await
}

both! {
    async fn a_webhook_is_found_by_its_key(t: Taghook) {
        let (receiver, tag) = (Receiver::start().await, t.tag("buyer").await);
        let crm = t.webhook(&receiver, &tag, |webhook| webhook.key = "crm.main-1".into()).await;
        let shop = t.webhook(&receiver, &tag, |webhook| webhook.key = "shop".into()).await;
        let plain = t.webhook(&receiver, &tag, |_| {}).await;
        assert_eq!((crm.key.as_str(), plain.key.as_str()), ("crm.main-1", ""));
        let list = async |keys: &[&str]| {
            let filter = v1::list_webhooks_request::Filter { keys: texts(keys), ..Default::default() };
            let request = v1::ListWebhooksRequest { filter: Some(filter), ..Default::default() };
            t.client.webhooks().list_webhooks(request).await.unwrap().into_inner().webhooks
        };
        assert_eq!(list(&["shop", "none"]).await, std::slice::from_ref(&shop));
        assert_eq!(list(&["shop", "crm.main-1"]).await, [crm.clone(), shop.clone()]);
        assert_eq!(list(&["crm"]).await, []);

        let again = Webhook { id: String::new(), key: "shop".into(), ..plain.clone() };
        let request = v1::CreateWebhookRequest { webhook: Some(again), ..Default::default() };
        check_taken(t.client.webhooks().create_webhook(request).await, "webhook", &shop.id);
        let update = async |webhook: &Webhook, key: &str| {
            let webhook = Some(Webhook { key: key.into(), ..webhook.clone() });
            let request =
                v1::UpdateWebhookRequest { webhook, update_mask: mask(&["key"]), ..Default::default() };
            t.client.webhooks().update_webhook(request).await
        };
        check_taken(update(&plain, "shop").await, "webhook", &shop.id);
        assert_eq!(update(&shop, "shop").await.unwrap().into_inner(), shop, "no change");
        assert_eq!(update(&shop, "").await.unwrap().into_inner().key, "");
        assert_eq!(update(&plain, "shop").await.unwrap().into_inner().key, "shop");
        for bad in ["Shop", ".shop", "a b", &"x".repeat(64)] {
            check_invalid(update(&crm, bad).await, &["webhook.key"]);
        }
    }

    async fn links_and_campaigns_are_found_by_their_keys(t: Taghook) {
        let link = create_link(&t, "first", "spring").await.unwrap().into_inner();
        let other = create_link(&t, "second", "").await.unwrap().into_inner();
        check_taken(create_link(&t, "third", "spring").await, "smart_link", &link.id);
        let changed = Some(SmartLink { key: "spring".into(), ..other });
        let request =
            v1::UpdateSmartLinkRequest { smart_link: changed, update_mask: mask(&["key"]), ..Default::default() };
        check_taken(t.client.smart_links().update_smart_link(request).await, "smart_link", &link.id);
        let filter = v1::list_smart_links_request::Filter { keys: texts(&["spring"]), ..Default::default() };
        let request = v1::ListSmartLinksRequest { filter: Some(filter), ..Default::default() };
        assert_eq!(t.client.smart_links().list_smart_links(request).await.unwrap().into_inner().smart_links, [link]);

        // A key is unique for its noun.
        let campaign = create_campaign(&t, "first", "spring").await.unwrap().into_inner();
        let other = create_campaign(&t, "second", "").await.unwrap().into_inner();
        check_taken(create_campaign(&t, "third", "spring").await, "campaign", &campaign.id);
        let update = async |key: &str| {
            let changed = Some(Campaign { key: key.into(), ..other.clone() });
            let request =
                v1::UpdateCampaignRequest { campaign: changed, update_mask: mask(&["key"]), ..Default::default() };
            t.client.campaigns().update_campaign(request).await
        };
        check_taken(update("spring").await, "campaign", &campaign.id);
        assert_eq!(update("summer").await.unwrap().into_inner().key, "summer");
        let filter = v1::list_campaigns_request::Filter { keys: texts(&["spring"]), ..Default::default() };
        let request = v1::ListCampaignsRequest { filter: Some(filter), ..Default::default() };
        assert_eq!(t.client.campaigns().list_campaigns(request).await.unwrap().into_inner().campaigns, [campaign]);
    }

    async fn webhook_events_are_matched_by_their_keys(t: Taghook) {
        let (receiver, tag) = (Receiver::start().await, t.tag("buyer").await);
        let event = |id: &str, key: &str, name: &str| WebhookEvent {
            id: id.into(),
            key: key.into(),
            email_parameter_name: name.into(),
            ..Default::default()
        };
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.events = vec![event("", "one", "a"), event("", "two", "b"), event("", "", "c")];
            })
            .await;
        let [one, two, plain] = webhook.events.as_slice() else { panic!("{webhook:?}") };
        let update = async |events: Vec<WebhookEvent>| {
            let webhook = Some(Webhook { id: webhook.id.clone(), events, ..Default::default() });
            let request =
                v1::UpdateWebhookRequest { webhook, update_mask: mask(&["events"]), ..Default::default() };
            t.client.webhooks().update_webhook(request).await
        };
        check_invalid(update(vec![event("", "one", "a"), event("", "one", "b")]).await, &["webhook.events[1].key"]);
        check_invalid(update(vec![event("", "One", "a")]).await, &["webhook.events[0].key"]);

        // By key, by id with another key, and a new one that takes over the key.
        let events = vec![event("", "two", "x"), event(&one.id, "first", "y"), event("", "one", "z")];
        let events = update(events).await.unwrap().into_inner().events;
        let names = |event: &WebhookEvent| (event.key.clone(), event.email_parameter_name.clone());
        assert_eq!(events.iter().map(names).collect::<Vec<_>>(), [
            ("two".into(), "x".into()),
            ("first".into(), "y".into()),
            ("one".into(), "z".into())
        ]);
        assert_eq!((&events[0].id, &events[1].id), (&two.id, &one.id));
        assert!([one, two, plain].iter().all(|former| former.id != events[2].id));
    }
}
