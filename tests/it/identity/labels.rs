//! Labels of webhooks, tags and campaigns.

use std::collections::BTreeMap;

use taghook_client::v1::{self, Campaign, Tag, Webhook};

use crate::support::{Receiver, Taghook, both, check_invalid, mask};

type Labels = BTreeMap<String, String>;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn tag_with(t: &Taghook, name: &str, labels: Labels) -> Tag {
    let tag = Some(Tag { name: name.into(), labels, ..Default::default() });
    let request = v1::CreateTagRequest { tag, ..Default::default() };
    t.client.tags().create_tag(request).await.expect("a tag").into_inner()
}

async fn tags_with(t: &Taghook, labels: Labels) -> Vec<String> {
    let filter = Some(v1::list_tags_request::Filter { labels, ..Default::default() });
    let request = v1::ListTagsRequest { filter, ..Default::default() };
    let tags = t.client.tags().list_tags(request).await.expect("tags").into_inner().tags;
    tags.into_iter().map(|tag| tag.name).collect()
}

both! {
    async fn all_labels_of_a_filter_must_be_there(t: Taghook) {
        let quotes = "x\",\"team\":\"b";
        tag_with(&t, "first", labels(&[("team", "a"), ("env", "prod"), ("empty", "")])).await;
        tag_with(&t, "second", labels(&[("team", "a")])).await;
        tag_with(&t, "third", labels(&[("note", quotes), ("xteam", "a"), ("team.x", "a")])).await;
        t.tag("plain").await;
        assert_eq!(tags_with(&t, labels(&[("team", "a")])).await, ["first", "second"]);
        assert_eq!(tags_with(&t, labels(&[("team", "a"), ("env", "prod")])).await, ["first"]);
        assert_eq!(tags_with(&t, labels(&[("note", quotes)])).await, ["third"]);
        assert_eq!(tags_with(&t, labels(&[("empty", "")])).await, ["first"]);
        // What only looks alike: another case, the beginning of a value, a value that has a pair in it.
        for (key, value) in [("team", "A"), ("env", "pro"), ("team", "b"), ("team", ""), ("env", "")] {
            assert_eq!(tags_with(&t, labels(&[(key, value)])).await, [""; 0], "{key}: {value}");
        }
        assert_eq!(tags_with(&t, Labels::new()).await.len(), 4);
    }

    async fn labels_are_changed_one_by_one_and_all_at_once(t: Taghook) {
        let tag = tag_with(&t, "first", labels(&[("team", "a"), ("env", "prod")])).await;
        assert_eq!(tag.labels, labels(&[("team", "a"), ("env", "prod")]));
        let update = async |paths: &[&str], pairs: &[(&str, &str)]| {
            let tag = Some(Tag { id: tag.id.clone(), labels: labels(pairs), ..Default::default() });
            let request = v1::UpdateTagRequest { tag, update_mask: mask(paths), ..Default::default() };
            t.client.tags().update_tag(request).await
        };
        let one = update(&["labels.env", "labels.team"], &[("env", "test")]).await.unwrap().into_inner();
        assert_eq!(one.labels, labels(&[("env", "test")]));
        let all = update(&["labels"], &[("owner/x", "ä\n")]).await.unwrap().into_inner();
        assert_eq!(all.labels, labels(&[("owner/x", "ä\n")]));
        assert_ne!(all.etag, one.etag);
        assert_eq!(update(&["labels"], &[("owner/x", "ä\n")]).await.unwrap().into_inner(), all, "no change");
        check_invalid(update(&["labels"], &[("Team", "a")]).await, &["tag.labels[\"Team\"]"]);
    }

    async fn webhooks_and_campaigns_have_labels_too(t: Taghook) {
        let (receiver, tag) = (Receiver::start().await, t.tag("buyer").await);
        let blue = labels(&[("colour", "blue")]);
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.labels = labels(&[("colour", "red")])).await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let changed = Some(Webhook { labels: blue.clone(), ..webhook });
        let request =
            v1::UpdateWebhookRequest { webhook: changed, update_mask: mask(&["labels"]), ..Default::default() };
        let webhook = t.client.webhooks().update_webhook(request).await.unwrap().into_inner();
        assert_eq!(webhook.labels, blue);
        let filter = Some(v1::list_webhooks_request::Filter { labels: blue.clone(), ..Default::default() });
        let request = v1::ListWebhooksRequest { filter, ..Default::default() };
        assert_eq!(t.client.webhooks().list_webhooks(request).await.unwrap().into_inner().webhooks, [webhook]);

        let create = async |name: &str, labels: Labels| {
            let campaign = Some(Campaign { name: name.into(), labels, ..Default::default() });
            let request = v1::CreateCampaignRequest { campaign, ..Default::default() };
            t.client.campaigns().create_campaign(request).await.unwrap().into_inner()
        };
        let campaign = create("first", labels(&[("colour", "red")])).await;
        create("second", Labels::new()).await;
        let changed = Some(Campaign { labels: blue.clone(), ..campaign });
        let request =
            v1::UpdateCampaignRequest { campaign: changed, update_mask: mask(&["labels"]), ..Default::default() };
        let campaign = t.client.campaigns().update_campaign(request).await.unwrap().into_inner();
        let filter = Some(v1::list_campaigns_request::Filter { labels: blue, ..Default::default() });
        let request = v1::ListCampaignsRequest { filter, ..Default::default() };
        assert_eq!(t.client.campaigns().list_campaigns(request).await.unwrap().into_inner().campaigns, [campaign]);
    }
}
