//! Proof that something isn't sent.

use std::time::Duration;

use taghook_client::Start;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{self, OutcomeFilter, Webhook, WebhookEvent};

use super::acts::delays;
use super::{Answer, Api, Receiver, Watch};

/// A request that is due about a minute after it was raised. The queue is served in the order of due times: once it has
/// come, whatever was due earlier has been looked at.
pub(crate) struct Fence {
    receiver: Receiver,
    watch: Watch,
}

impl Fence {
    /// How far to move a manual clock so that the request is due.
    pub(crate) const DELAY: Duration = Duration::from_secs(70);

    /// Owes the request.
    pub(crate) async fn raise(api: &Api) -> Self {
        let mut receiver = Receiver::start().await;
        receiver.answer_next([Answer::status(500)]);
        let webhook = Webhook {
            name: "fence".into(),
            url: receiver.url("/fence"),
            events: vec![WebhookEvent::default()],
            retry_policy: delays(&[60]),
            ..Default::default()
        };
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        let webhook = api.client.webhooks().create_webhook(request).await.expect("a webhook").into_inner();
        let filter = OutcomeFilter { webhook_ids: vec![webhook.id.clone()], ..Default::default() };
        let mut watch = Watch::with(&api.client, filter, Start::Now).await;
        let contact = api.contact(&format!("{}@fence.example", webhook.id)).await;
        api.trigger(&webhook, &contact).await;
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        Self { receiver, watch }
    }

    /// Waits until the request has come and is settled. The clock must have been moved.
    pub(crate) async fn passed(mut self) {
        self.receiver.recv().await;
        self.watch.expect(Kind::Delivered).await;
    }
}
