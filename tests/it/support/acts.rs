//! What tests do with the resources that they began with.

use prost_types::{Duration, FieldMask, Timestamp};
use taghook_client::contact::by_id;
use taghook_client::v1::{
    self, Contact, Delivery, DeliveryFilter, Replay, ReplayFilter, RetryPolicy, Tag, TestWebhookResponse,
    TriggerDecision, Webhook,
};
use tonic::{Response, Status};

use super::taghook::MANUAL_START;
use super::{Api, within};

impl Api {
    /// Assigns several tags in one call.
    pub(crate) async fn assign_all(&self, contact: &Contact, tags: &[&Tag]) -> v1::TagContactResponse {
        let tag_ids = tags.iter().map(|tag| tag.id.clone()).collect();
        let request = v1::TagContactRequest { contact: by_id(&contact.id), tag_ids, ..Default::default() };
        self.client.contacts().tag_contact(request).await.expect("an assignment").into_inner()
    }

    /// Assigns a tag that activates one webhook; what that meant for it.
    pub(crate) async fn decide(&self, contact: &Contact, tag: &Tag) -> TriggerDecision {
        let mut tagged = self.assign(contact, tag).await;
        assert_eq!(tagged.triggers.len(), 1, "{tagged:#?}");
        tagged.triggers.remove(0)
    }

    /// Takes a tag off.
    pub(crate) async fn untag(&self, contact: &Contact, tag: &Tag) {
        let tag_ids = vec![tag.id.clone()];
        let request = v1::UntagContactRequest { contact: by_id(&contact.id), tag_ids, ..Default::default() };
        let removed = self.client.contacts().untag_contact(request).await.expect("an end").into_inner();
        assert_eq!(removed.removed_tag_ids, [tag.id.as_str()]);
    }

    /// The ids of the tags that a contact holds.
    pub(crate) async fn held_tags(&self, contact: &Contact) -> Vec<String> {
        let request =
            v1::ListContactTagsRequest { contact: by_id(&contact.id), page_size: 1_000, ..Default::default() };
        let list = self.client.contacts().list_contact_tags(request).await.expect("its tags").into_inner();
        list.contact_tags.into_iter().map(|tag| tag.tag_id).collect()
    }

    /// Changes values of a contact.
    pub(crate) async fn set_values(&self, contact: &Contact, values: &[(&str, &str)]) {
        let paths = values.iter().map(|(key, _)| format!("values.{key}")).collect();
        let update_mask = Some(FieldMask { paths });
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let contact = Contact { id: contact.id.clone(), values, ..Default::default() };
        let request = v1::UpdateContactRequest { contact: Some(contact), update_mask, ..Default::default() };
        self.client.contacts().update_contact(request).await.expect("a change");
    }

    /// Deletes a contact; what that meant for webhooks.
    pub(crate) async fn delete_contact(&self, contact: &Contact) -> Vec<TriggerDecision> {
        let request = v1::DeleteContactRequest { id: contact.id.clone(), ..Default::default() };
        self.client.contacts().delete_contact(request).await.expect("a deletion").into_inner().triggers
    }

    /// Fires a webhook for a contact.
    pub(crate) async fn trigger(&self, webhook: &Webhook, contact: &Contact) -> TriggerDecision {
        let request =
            v1::TriggerWebhookRequest { id: webhook.id.clone(), contact: by_id(&contact.id), ..Default::default() };
        let answer = self.client.webhooks().trigger_webhook(request).await.expect("a trigger").into_inner();
        answer.trigger.expect("a decision")
    }

    /// Tries a webhook out.
    pub(crate) async fn test(&self, webhook: &Webhook, contact: &Contact) -> TestWebhookResponse {
        let request =
            v1::TestWebhookRequest { id: webhook.id.clone(), contact: by_id(&contact.id), ..Default::default() };
        self.client.webhooks().test_webhook(request).await.expect("a test").into_inner()
    }

    /// A webhook as it is now.
    pub(crate) async fn current(&self, webhook: &Webhook) -> Webhook {
        let request = v1::GetWebhookRequest { id: webhook.id.clone() };
        self.client.webhooks().get_webhook(request).await.expect("a webhook").into_inner()
    }

    /// Changes the named fields of a webhook.
    pub(crate) async fn update(&self, webhook: &Webhook, paths: &[&str], change: impl FnOnce(&mut Webhook)) -> Webhook {
        let mut webhook = Webhook { etag: String::new(), ..self.current(webhook).await };
        change(&mut webhook);
        let request =
            v1::UpdateWebhookRequest { webhook: Some(webhook), update_mask: mask(paths), ..Default::default() };
        self.client.webhooks().update_webhook(request).await.expect("a change").into_inner()
    }

    /// Pauses a webhook.
    pub(crate) async fn pause(&self, webhook: &Webhook) -> Webhook {
        let request = v1::PauseWebhookRequest { id: webhook.id.clone(), ..Default::default() };
        self.client.webhooks().pause_webhook(request).await.expect("a pause").into_inner()
    }

    /// Resumes a webhook.
    pub(crate) async fn resume(&self, webhook: &Webhook) -> Webhook {
        let request = v1::ResumeWebhookRequest { id: webhook.id.clone(), ..Default::default() };
        self.client.webhooks().resume_webhook(request).await.expect("its end").into_inner()
    }

    /// Deletes a webhook.
    pub(crate) async fn delete_webhook(&self, webhook: &Webhook) {
        let request = v1::DeleteWebhookRequest { id: webhook.id.clone(), ..Default::default() };
        self.client.webhooks().delete_webhook(request).await.expect("a deletion");
    }

    /// Asks for one more attempt.
    pub(crate) async fn retry(&self, delivery_id: &str) -> Result<Response<Delivery>, Status> {
        let request = v1::RetryDeliveryRequest { id: delivery_id.into(), ..Default::default() };
        self.client.deliveries().retry_delivery(request).await
    }

    /// Ends a delivery.
    pub(crate) async fn cancel(&self, delivery_id: &str) -> Result<Response<Delivery>, Status> {
        let request = v1::CancelDeliveryRequest { id: delivery_id.into(), ..Default::default() };
        self.client.deliveries().cancel_delivery(request).await
    }

    /// Begins a replay.
    pub(crate) async fn replay(&self, rate: i32, filter: ReplayFilter) -> Result<Response<Replay>, Status> {
        let replay = Replay { filter: Some(filter), attempts_per_second: rate, ..Default::default() };
        let request = v1::CreateReplayRequest { replay: Some(replay), ..Default::default() };
        self.client.deliveries().create_replay(request).await
    }

    /// A replay as it is now.
    pub(crate) async fn replay_now(&self, id: &str) -> Replay {
        let request = v1::GetReplayRequest { id: id.into() };
        self.client.deliveries().get_replay(request).await.expect("a replay").into_inner()
    }

    /// Ends a replay.
    pub(crate) async fn cancel_replay(&self, id: &str) -> Result<Response<Replay>, Status> {
        let request = v1::CancelReplayRequest { id: id.into(), ..Default::default() };
        self.client.deliveries().cancel_replay(request).await
    }

    /// Looks at a replay again and again until `holds` says so; as it was then.
    pub(crate) async fn replay_until(&self, id: &str, mut holds: impl FnMut(&Replay) -> bool) -> Replay {
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(10));
        let look = async {
            loop {
                let replay = self.replay_now(id).await;
                if holds(&replay) {
                    return replay;
                }
                looks.tick().await;
            }
        };
        within("what is awaited of the replay", look).await
    }

    /// All deliveries that a filter selects, the newest first, read in pages of 40.
    pub(crate) async fn deliveries(&self, filter: DeliveryFilter) -> Vec<Delivery> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListDeliveriesRequest { page_size: 40, page_token, filter: Some(filter.clone()) };
            let page = self.client.deliveries().list_deliveries(request).await.expect("a page").into_inner();
            all.extend(page.deliveries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    }
}

/// The mask of an update.
pub(crate) fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// A duration on the wire.
pub(crate) fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

/// A retry policy with these delays in seconds.
pub(crate) fn delays(delays_s: &[i64]) -> Option<RetryPolicy> {
    Some(RetryPolicy { delays: delays_s.iter().filter_map(|delay| seconds(*delay)).collect() })
}

/// Microseconds from the start of manual clocks.
#[track_caller]
pub(crate) fn since_start_us(time: Option<Timestamp>) -> i64 {
    let time = time.expect("a time");
    time.seconds * 1_000_000 + i64::from(time.nanos / 1_000) - MANUAL_START.0
}
