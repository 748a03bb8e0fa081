//! The resources that tests begin with.

use taghook_client::Client;
use taghook_client::contact::by_id;
use taghook_client::v1::{self, Attempt, Contact, Delivery, Tag, TagContactResponse, Webhook, WebhookEvent};

use super::Receiver;

/// A client of the default workspace, with what tests begin with. All of it is made through the API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// Opens the default workspace, with all scopes.
    pub(crate) client: Client,
}

impl Api {
    /// A contact.
    pub(crate) async fn contact(&self, email: &str) -> Contact {
        self.contact_with(email, &[]).await
    }

    /// A contact with values.
    pub(crate) async fn contact_with(&self, email: &str, values: &[(&str, &str)]) -> Contact {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let contact = Contact { email: email.into(), values, ..Default::default() };
        let request = v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
        self.client.contacts().create_contact(request).await.expect("a contact").into_inner()
    }

    /// A custom field.
    pub(crate) async fn custom_field(&self, key: &str, r#type: v1::field::ValueType) {
        let field =
            v1::Field { key: key.into(), display_name: key.into(), value_type: r#type.into(), ..Default::default() };
        let request = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
        self.client.fields().create_field(request).await.expect("a field");
    }

    /// A tag.
    pub(crate) async fn tag(&self, name: &str) -> Tag {
        let tag = Tag { name: name.into(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
        self.client.tags().create_tag(request).await.expect("a tag").into_inner()
    }

    /// A webhook that a tag activates, which posts the e-mail to a receiver, and is otherwise as `change` makes it.
    pub(crate) async fn webhook(&self, receiver: &Receiver, tag: &Tag, change: impl FnOnce(&mut Webhook)) -> Webhook {
        let mut webhook = Webhook {
            name: "test".into(),
            url: receiver.url("/hook"),
            activation_tag_ids: vec![tag.id.clone()],
            events: vec![WebhookEvent::default()],
            ..Default::default()
        };
        change(&mut webhook);
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        self.client.webhooks().create_webhook(request).await.expect("a webhook").into_inner()
    }

    /// The newest secret of a webhook.
    pub(crate) async fn secret(&self, webhook: &Webhook) -> String {
        self.secrets(webhook).await[0].value.clone()
    }

    /// The live secrets of a webhook.
    pub(crate) async fn secrets(&self, webhook: &Webhook) -> Vec<v1::webhook_secret::Secret> {
        let request = v1::GetWebhookSecretRequest { id: webhook.id.clone() };
        self.client.webhooks().get_webhook_secret(request).await.expect("its secrets").into_inner().secrets
    }

    /// Assigns a tag.
    pub(crate) async fn assign(&self, contact: &Contact, tag: &Tag) -> TagContactResponse {
        let request =
            v1::TagContactRequest { contact: by_id(&contact.id), tag_ids: vec![tag.id.clone()], ..Default::default() };
        self.client.contacts().tag_contact(request).await.expect("an assignment").into_inner()
    }

    /// A delivery as it is now.
    pub(crate) async fn delivery(&self, id: &str) -> Delivery {
        let request = v1::GetDeliveryRequest { id: id.into() };
        self.client.deliveries().get_delivery(request).await.expect("a delivery").into_inner()
    }

    /// The attempts of a delivery so far.
    pub(crate) async fn attempts(&self, delivery_id: &str) -> Vec<Attempt> {
        let request =
            v1::ListAttemptsRequest { delivery_id: delivery_id.into(), page_size: 1_000, ..Default::default() };
        self.client.deliveries().list_attempts(request).await.expect("attempts").into_inner().attempts
    }
}
