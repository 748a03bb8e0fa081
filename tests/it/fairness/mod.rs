//! What one endpoint can take, and that it is nobody else's loss: caps, rates, breakers and order.

mod backlog;
mod breaker;
mod limits;
mod order;

use taghook_client::v1::delivery::State;
use taghook_client::v1::{Contact, DeliveryFilter, Webhook};

use crate::support::{Api, Hand, Receiver, delays, seconds, within};

/// A webhook that is fired by calls, and so is its own endpoint.
async fn webhook(t: &Api, receiver: &Receiver, change: impl FnOnce(&mut Webhook)) -> Webhook {
    let tag = t.tag(&format!("of {}", receiver.url(""))).await;
    t.webhook(receiver, &tag, |webhook| {
        webhook.cooldown = seconds(0);
        change(webhook);
    })
    .await
}

/// Fires a webhook `count` times for a contact; the deliveries, in the order of their triggers.
async fn fire(t: &Api, webhook: &Webhook, contact: &Contact, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        ids.extend(t.trigger(webhook, contact).await.delivery_ids);
    }
    ids
}

/// How many deliveries of a webhook are in a state.
async fn count_in(t: &Api, webhook: &Webhook, state: State) -> usize {
    let filter =
        DeliveryFilter { webhook_ids: vec![webhook.id.clone()], states: vec![state.into()], ..Default::default() };
    t.deliveries(filter).await.len()
}

/// How many deliveries of a webhook have a time for their next attempt, which must not have come yet.
async fn planned(t: &Api, webhook: &Webhook, clock: &Hand) -> usize {
    let filter = DeliveryFilter { webhook_ids: vec![webhook.id.clone()], ..Default::default() };
    let mut count = 0;
    for delivery in t.deliveries(filter).await {
        assert_eq!(t.delivery(&delivery.id).await.next_attempt_time, delivery.next_attempt_time);
        if let Some(time) = delivery.next_attempt_time {
            assert!(!clock.until(time).is_zero(), "{delivery:#?}");
            count += 1;
        }
    }
    count
}

/// Waits until so many deliveries of a webhook are in a state.
async fn until_in(t: &Api, webhook: &Webhook, state: State, count: usize) {
    let met = async {
        while count_in(t, webhook, state).await != count {
            tokio::task::yield_now().await;
        }
    };
    within(&format!("{count} deliveries in {state:?}"), met).await;
}

/// Another endpoint, to which a request goes whatever the others do: when it has come, the dispatcher has had the occasion
/// to send more than it should.
struct Healthy {
    receiver: Receiver,
    webhook: Webhook,
    contact: Contact,
}

impl Healthy {
    async fn new(t: &Api) -> Self {
        let receiver = Receiver::start().await;
        let webhook = webhook(t, &receiver, |webhook| webhook.retry_policy = delays(&[])).await;
        let contact = t.contact(&format!("healthy@{}.example", receiver.url("").len())).await;
        Self { receiver, webhook, contact }
    }

    /// Sends some requests there and back.
    async fn is_served(&mut self, t: &Api) {
        for _ in 0..3 {
            let id = t.trigger(&self.webhook, &self.contact).await.delivery_ids.remove(0);
            assert_eq!(self.receiver.recv().await.webhook_id(), id);
        }
    }
}
