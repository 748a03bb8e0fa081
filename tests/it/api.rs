//! What all methods have in common: repeatable calls, etags, masks.

use std::time::Duration;

use prost_reflect::{DynamicMessage, Kind, MethodDescriptor, Value};
use prost_types::FieldMask;
use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::outcome::Kind as OutcomeKind;
use taghook_client::v1::{self, Contact, ErrorReason, Field, Tag, Webhook, Workspace};

use crate::support::schema::{everything, methods, path};
use crate::support::{Answer, Database, Receiver, Taghook, Watch, both, check_error, check_invalid, delays, mask};

/// Makes a call twice with one request id, and once more with the id and another body: the second gets the answer of the
/// first, the third is refused. The answer.
macro_rules! repeated {
    ($client:expr, $method:ident, $request:expr, $change:expr) => {{
        let mut request = $request;
        request.request_id = "2f1c7b1e-same".into();
        let first = $client.$method(request.clone()).await.expect(stringify!($method)).into_inner();
        let second = $client.$method(request.clone()).await.expect(stringify!($method)).into_inner();
        assert_eq!(first, second, stringify!($method));
        change(&mut request, $change);
        check_error($client.$method(request).await, Code::AlreadyExists, ErrorReason::RequestIdReused);
        first
    }};
}

fn change<R>(request: &mut R, change: fn(&mut R)) {
    change(request);
}

fn is_read(method: &MethodDescriptor) -> bool {
    ["Get", "List", "Lookup", "Preview", "Stream", "WhoAmI"].iter().any(|verb| method.name().starts_with(verb))
}

/// A method's request that names a resource by `id` and says which version of it is meant by `etag`, both of the request
/// itself or of the resource in it; `None` for methods without an etag.
fn guarded(method: &MethodDescriptor, id: &str, etag: &str) -> Option<DynamicMessage> {
    let fill = |message: &mut DynamicMessage| {
        message.set_field_by_name("id", Value::String(id.to_owned()));
        message.set_field_by_name("etag", Value::String(etag.to_owned()));
    };
    let mut request = DynamicMessage::new(method.input());
    if method.input().get_field_by_name("etag").is_some() {
        fill(&mut request);
        return Some(request);
    }
    let resource =
        method.input().fields().find(|field| method.name().strip_prefix("Update") == Some(kind_name(&field.kind())))?;
    let Kind::Message(descriptor) = resource.kind() else { return None };
    let mut inner = DynamicMessage::new(descriptor);
    fill(&mut inner);
    request.set_field(&resource, Value::Message(inner));
    let mask = method.input().get_field_by_name("update_mask")?;
    let Kind::Message(descriptor) = mask.kind() else { return None };
    request.set_field(&mask, Value::Message(everything(descriptor)));
    Some(request)
}

fn kind_name(kind: &Kind) -> &str {
    if let Kind::Message(message) = kind { message.name() } else { "" }
}

/// Every method that changes something can be repeated, but for those whose comment says why not.
#[test]
fn every_change_takes_a_request_id() {
    for method in methods().iter().filter(|method| !is_read(method)) {
        let has_id = method.input().get_field_by_name("request_id").is_some();
        let is_exempt = matches!(
            method.name(),
            "CreateApiKey" | "RotateApiKey" | "BatchTagContacts" | "BatchRecordEvents" | "CreateTrackedUrl"
        );
        assert_eq!(has_id, !is_exempt, "{}", path(method));
    }
}

both! {
    async fn a_repeated_change_of_a_definition_gets_the_first_answer(t: Taghook) {
        let (mut fields, mut tags, mut root) = (t.client.fields(), t.client.tags(), t.root.workspaces());

        let field = Field { key: "score".into(), value_type: v1::field::ValueType::Integer.into(), ..Default::default() };
        let request = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
        let field = repeated!(fields, create_field, request, |it| it.field.as_mut().unwrap().key = "b".into());
        let named = Field { id: field.id.clone(), display_name: "Score".into(), ..Default::default() };
        let request = v1::UpdateFieldRequest { field: Some(named), update_mask: mask(&["display_name"]), ..Default::default() };
        repeated!(fields, update_field, request, |it| it.field.as_mut().unwrap().display_name = "b".into());
        let request = v1::DeleteFieldRequest { id: field.id, ..Default::default() };
        repeated!(fields, delete_field, request, |it| it.etag = "b".into());

        let tag = Tag { name: "customer".into(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
        let tag = repeated!(tags, create_tag, request, |it| it.tag.as_mut().unwrap().name = "b".into());
        let named = Tag { id: tag.id.clone(), name: "client".into(), ..Default::default() };
        let request = v1::UpdateTagRequest { tag: Some(named), update_mask: mask(&["name"]), ..Default::default() };
        repeated!(tags, update_tag, request, |it| it.update_mask = mask(&["*"]));
        let request = v1::DeleteTagRequest { id: tag.id, ..Default::default() };
        repeated!(tags, delete_tag, request, |it| it.force = true);

        let workspace = Workspace { name: "other".into(), ..Default::default() };
        let request = v1::CreateWorkspaceRequest { workspace: Some(workspace), ..Default::default() };
        let workspace = repeated!(root, create_workspace, request, |it| {
            it.workspace.as_mut().unwrap().name = "b".into();
        });
        let named = Workspace { id: workspace.id.clone(), name: "second".into(), ..Default::default() };
        let request = v1::UpdateWorkspaceRequest { workspace: Some(named), update_mask: mask(&["name"]), ..Default::default() };
        repeated!(root, update_workspace, request, |it| it.update_mask = mask(&["*"]));
        let api_key = v1::ApiKey { name: "k".into(), scopes: vec![1], ..Default::default() };
        let request = v1::CreateApiKeyRequest { workspace_id: workspace.id.clone(), api_key: Some(api_key) };
        let api_key = root.create_api_key(request).await.unwrap().into_inner().api_key.unwrap();
        let request = v1::RevokeApiKeyRequest { id: api_key.id, ..Default::default() };
        repeated!(root, revoke_api_key, request, |it| it.id.clear_and("key_00000000000000000000000000"));
        let request = v1::DeleteWorkspaceRequest { id: workspace.id, ..Default::default() };
        repeated!(root, delete_workspace, request, |it| it.etag = "b".into());
    }

    async fn a_repeated_change_of_a_contact_happens_once(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (mut contacts, mut events) = (t.client.contacts(), t.client.events());
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |it| it.cooldown = Some(prost_types::Duration::default())).await;

        let ada = Contact { email: "ada@example.com".into(), ..Default::default() };
        let request = v1::CreateContactRequest { contact: Some(ada), ..Default::default() };
        let ada = repeated!(contacts, create_contact, request, |it| {
            it.contact.as_mut().unwrap().email = "b@example.com".into();
        });
        let values = [("city".to_owned(), "Bonn".to_owned())].into();
        let request = v1::UpdateContactRequest {
            contact: Some(Contact { id: ada.id.clone(), values, ..Default::default() }),
            update_mask: mask(&["values.city"]),
            ..Default::default()
        };
        repeated!(contacts, update_contact, request, |it| it.update_mask = mask(&["values"]));
        let request =
            v1::TagContactRequest { contact: by_id(&ada.id), tag_ids: vec![tag.id.clone()], ..Default::default() };
        let tagged = repeated!(contacts, tag_contact, request, |it| {
            it.contact = by_id("con_00000000000000000000000000");
        });
        assert!(tagged.assignments[0].newly_assigned);
        let bob = Contact { email: "bob@example.com".into(), ..Default::default() };
        let request =
            v1::UpsertContactRequest { contact: Some(bob), tag_ids: vec![tag.id.clone()], ..Default::default() };
        let upserted = repeated!(contacts, upsert_contact, request, |it| it.tag_ids.clear());
        assert!(upserted.created && upserted.assignments[0].newly_assigned);
        let request =
            v1::UntagContactRequest { contact: by_id(&ada.id), tag_ids: vec![tag.id.clone()], ..Default::default() };
        let untagged = repeated!(contacts, untag_contact, request, |it| {
            it.contact = by_id("con_00000000000000000000000000");
        });
        assert_eq!(untagged.removed_tag_ids, [tag.id.as_str()]);
        let event = v1::Event { r#type: "form.subscribed".into(), ..Default::default() };
        let request = v1::RecordEventRequest { contact: by_id(&ada.id), event: Some(event), ..Default::default() };
        repeated!(events, record_event, request, |it| it.event.as_mut().unwrap().r#type = "form.seen".into());
        assert_eq!(t.recorded(&ada, "form.").await.len(), 1);
        let request = v1::DeleteContactRequest { id: ada.id, ..Default::default() };
        repeated!(contacts, delete_contact, request, |it| it.etag = "b".into());

        // One request for each of the two contacts that were tagged.
        let received: Vec<_> = receiver.recv_all(2).await.iter().map(|it| it.webhook_id().to_owned()).collect();
        let triggers = [&tagged.triggers[0].delivery_ids[0], &upserted.triggers[0].delivery_ids[0]];
        assert!(triggers.iter().all(|id| received.contains(id)), "{received:?}");
        let request = v1::ListDeliveriesRequest::default();
        let deliveries = t.client.deliveries().list_deliveries(request).await.unwrap().into_inner().deliveries;
        assert_eq!(deliveries.len(), 2);
    }

    async fn a_repeated_call_of_a_webhook_sends_once(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let (mut webhooks, mut deliveries) = (t.client.webhooks(), t.client.deliveries());
        let (tag, contact) = (t.tag("customer").await, t.contact("ada@example.com").await);
        let webhook = Webhook {
            name: "test".into(),
            url: receiver.url("/hook"),
            activation_tag_ids: vec![tag.id.clone()],
            events: vec![v1::WebhookEvent::default()],
            retry_policy: delays(&[3_600]),
            ..Default::default()
        };
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        let webhook = repeated!(webhooks, create_webhook, request, |it| it.webhook.as_mut().unwrap().name = "b".into());
        let named = Webhook { id: webhook.id.clone(), name: "named".into(), ..Default::default() };
        let request = v1::UpdateWebhookRequest { webhook: Some(named), update_mask: mask(&["name"]), ..Default::default() };
        repeated!(webhooks, update_webhook, request, |it| it.update_mask = mask(&["ordered"]));
        let request =
            v1::TestWebhookRequest { id: webhook.id.clone(), contact: by_id(&contact.id), ..Default::default() };
        repeated!(webhooks, test_webhook, request, |it| it.contact = by_id("con_00000000000000000000000000"));
        receiver.recv().await;

        let mut watch = Watch::now(&t.client).await;
        receiver.answer_next([Answer::status(500)]);
        let request =
            v1::TriggerWebhookRequest { id: webhook.id.clone(), contact: by_id(&contact.id), ..Default::default() };
        let trigger = repeated!(webhooks, trigger_webhook, request, |it| {
            it.contact = by_id("con_00000000000000000000000000");
        });
        let delivery = trigger.trigger.unwrap().delivery_ids.remove(0);
        receiver.recv().await;
        watch.expect(OutcomeKind::AttemptFailed).await;

        receiver.answer_next([Answer::status(500)]);
        for _ in 0..2 {
            let request = v1::RetryDeliveryRequest { id: delivery.clone(), request_id: "retry".into() };
            deliveries.retry_delivery(request).await.unwrap();
        }
        receiver.recv().await;
        watch.expect(OutcomeKind::AttemptFailed).await;
        assert_eq!(t.delivery(&delivery).await.attempt_count, 2);
        let request = v1::CancelDeliveryRequest { id: delivery.clone(), ..Default::default() };
        repeated!(deliveries, cancel_delivery, request, |it| it.id.clear_and("dlv_00000000000000000000000000"));

        let request = v1::PauseWebhookRequest { id: webhook.id.clone(), ..Default::default() };
        repeated!(webhooks, pause_webhook, request, |it| it.etag = "b".into());
        let request = v1::ResumeWebhookRequest { id: webhook.id.clone(), ..Default::default() };
        repeated!(webhooks, resume_webhook, request, |it| it.etag = "b".into());
        let request = v1::DeleteWebhookRequest { id: webhook.id, ..Default::default() };
        repeated!(webhooks, delete_webhook, request, |it| it.etag = "b".into());
        assert_eq!(receiver.count(), 3);
    }

    async fn doubles_at_the_same_time_make_one(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = Tag { name: "customer".into(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(tag), request_id: "once".into() };
        let made = futures_util::future::join_all((0..20).map(|_| {
            let (mut tags, request) = (t.client.tags(), request.clone());
            async move { tags.create_tag(request).await.expect("the tag").into_inner() }
        }));
        let made = made.await;
        assert!(made.iter().all(|tag| *tag == made[0]), "{made:#?}");

        t.webhook(&receiver, &made[0], |it| it.cooldown = Some(prost_types::Duration::default())).await;
        let contact = t.contact("ada@example.com").await;
        let request = v1::TagContactRequest {
            contact: by_id(contact.id),
            tag_ids: vec![made[0].id.clone()],
            request_id: "once".into(),
            ..Default::default()
        };
        let tagged = futures_util::future::join_all((0..20).map(|_| {
            let (mut contacts, request) = (t.client.contacts(), request.clone());
            async move { contacts.tag_contact(request).await.expect("the assignment").into_inner() }
        }));
        let tagged = tagged.await;
        assert!(tagged.iter().all(|answer| *answer == tagged[0]), "{tagged:#?}");
        let deliveries = t.client.deliveries().list_deliveries(v1::ListDeliveriesRequest::default()).await.unwrap();
        assert_eq!(deliveries.into_inner().deliveries.len(), 1);
    }

    async fn a_failure_is_not_remembered(t: Taghook) {
        let ada = t.contact("ada@example.com").await;
        let contact = Contact { email: "ada@example.com".into(), ..Default::default() };
        let request = v1::CreateContactRequest { contact: Some(contact), request_id: "r".into() };
        let refused = t.client.contacts().create_contact(request.clone()).await;
        check_error(refused, Code::AlreadyExists, ErrorReason::AlreadyExists);
        t.delete_contact(&ada).await;
        let made = t.client.contacts().create_contact(request).await.unwrap().into_inner();
        assert_ne!(made.id, ada.id);

        let bad = Tag { name: String::new(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(bad), request_id: "t".into() };
        check_invalid(t.client.tags().create_tag(request).await, &["tag.name"]);
        let good = Tag { name: "good".into(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(good), request_id: "t".into() };
        t.client.tags().create_tag(request).await.expect("the id is free");
    }

    /// An id is one of its workspace and method, and is free again after 24 hours.
    async fn a_request_id_has_a_scope_and_an_end(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let create = async |name: &str| {
            let tag = Tag { name: name.into(), ..Default::default() };
            t.client.tags().create_tag(v1::CreateTagRequest { tag: Some(tag), request_id: "r".into() }).await
        };
        let first = create("first").await.unwrap().into_inner();
        let request = v1::DeleteTagRequest { id: first.id, request_id: "r".into(), ..Default::default() };
        t.client.tags().delete_tag(request).await.expect("another method's id");
        clock.advance(Duration::from_hours(24) - Duration::from_secs(1));
        check_error(create("second").await, Code::AlreadyExists, ErrorReason::RequestIdReused);
        clock.advance(Duration::from_secs(1));
        create("second").await.expect("the id is free");
    }

    /// Whoever saw an older version of a resource doesn't change it, on any method.
    async fn a_stale_etag_is_refused_on_every_method_that_takes_one(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let contact = t.contact("ada@example.com").await;
        let field = Field { key: "score".into(), value_type: v1::field::ValueType::Integer.into(), ..Default::default() };
        let field = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
        let field = t.client.fields().create_field(field).await.unwrap().into_inner();
        let workspace = Workspace { name: "other".into(), ..Default::default() };
        let workspace = v1::CreateWorkspaceRequest { workspace: Some(workspace), ..Default::default() };
        let workspace = t.root.workspaces().create_workspace(workspace).await.unwrap().into_inner();
        let link = v1::SmartLink {
            name: "sale".into(),
            target_url: "https://example.com/".into(),
            ..Default::default()
        };
        let link = v1::CreateSmartLinkRequest { smart_link: Some(link), ..Default::default() };
        let link = t.client.smart_links().create_smart_link(link).await.unwrap().into_inner();
        let campaign = v1::Campaign { name: "welcome".into(), ..Default::default() };
        let campaign = v1::CreateCampaignRequest { campaign: Some(campaign), ..Default::default() };
        let campaign = t.client.campaigns().create_campaign(campaign).await.unwrap().into_inner();
        let api_key = v1::ApiKey { name: "k".into(), scopes: vec![1], ..Default::default() };
        let api_key = v1::CreateApiKeyRequest { workspace_id: workspace.id.clone(), api_key: Some(api_key) };
        let api_key = t.root.workspaces().create_api_key(api_key).await.unwrap().into_inner().api_key.unwrap();
        let (key, root, raw) = (t.key(), t.database().key("root.key"), t.raw().await);
        let mut found = Vec::new();
        for method in methods() {
            let service = method.parent_service();
            let (key, id) = match service.name() {
                "WorkspaceService" if method.name() == "UpdateApiKey" => (&root, &api_key.id),
                "WorkspaceService" => (&root, &workspace.id),
                "WebhookService" => (&key, &webhook.id),
                "ContactService" => (&key, &contact.id),
                "FieldService" => (&key, &field.id),
                "SmartLinkService" => (&key, &link.id),
                "CampaignService" => (&key, &campaign.id),
                _ => (&key, &tag.id),
            };
            for etag in ["v9999", "v0", "x", "é"] {
                let Some(request) = guarded(&method, id, etag) else { continue };
                let error = raw.invoke(Some(key), &method, &request).await.error();
                let expected = (Code::Aborted, ErrorReason::EtagMismatch);
                assert_eq!((error.code, error.reason), expected, "{}: {error:?}", path(&method));
                found.push(method.name().to_owned());
            }
        }
        found.dedup();
        let changes = methods().into_iter().map(|method| method.name().to_owned());
        let verbs = ["Update", "Delete", "Pause", "Resume", "Rotate", "Activate"];
        let takes_etag =
            |name: &String| name != "RotateApiKey" && verbs.iter().any(|verb| name.starts_with(verb));
        let expected: Vec<_> = changes.filter(takes_etag).collect();
        assert_eq!(found, expected);
        assert_eq!(t.current(&webhook).await, webhook);
    }

    async fn a_good_etag_is_taken_once(t: Taghook) {
        let tag = t.tag("customer").await;
        let rename = async |name: &str| {
            let tag = Tag { id: tag.id.clone(), name: name.into(), etag: tag.etag.clone(), ..Default::default() };
            let request = v1::UpdateTagRequest { tag: Some(tag), update_mask: mask(&["name"]), ..Default::default() };
            t.client.tags().update_tag(request).await
        };
        let renamed = rename("client").await.unwrap().into_inner();
        assert_ne!(renamed.etag, tag.etag);
        check_error(rename("buyer").await, Code::Aborted, ErrorReason::EtagMismatch);
        let request = v1::DeleteTagRequest { id: tag.id, etag: renamed.etag, ..Default::default() };
        t.client.tags().delete_tag(request).await.expect("the version that is");
    }

    async fn a_mask_names_what_is_changed(t: Taghook) {
        let tag = Tag { name: "customer".into(), description: "buys".into(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
        let id = t.client.tags().create_tag(request).await.unwrap().into_inner().id;
        let change = async |paths: Option<FieldMask>, name: &str, description: &str| {
            let tag = Tag { id: id.clone(), name: name.into(), description: description.into(), ..Default::default() };
            let request = v1::UpdateTagRequest { tag: Some(tag), update_mask: paths, ..Default::default() };
            t.client.tags().update_tag(request).await.map(|answer| {
                let tag = answer.into_inner();
                (tag.name, tag.description)
            })
        };
        let expect = |name: &str, description: &str| (name.to_owned(), description.to_owned());
        for none in [None, mask(&[])] {
            check_invalid(change(none, "client", "").await.map(tonic::Response::new), &["update_mask"]);
        }
        assert_eq!(change(mask(&["name"]), "client", "").await.unwrap(), expect("client", "buys"));
        assert_eq!(change(mask(&["description"]), "no", "pays").await.unwrap(), expect("client", "pays"));
        assert_eq!(change(mask(&["description"]), "no", "").await.unwrap(), expect("client", ""));
        assert_eq!(change(mask(&["name", "description"]), "a", "b").await.unwrap(), expect("a", "b"));
        assert_eq!(change(mask(&["*"]), "all", "").await.unwrap(), expect("all", ""));
        let refused = change(mask(&["name", "kind", "*"]), "no", "").await.map(tonic::Response::new);
        check_invalid(refused, &["update_mask.paths[1]", "update_mask.paths[2]"]);
        let refused = change(mask(&["*"]), "", "").await.map(tonic::Response::new);
        check_invalid(refused, &["tag.name"]);
    }

    async fn a_mask_reaches_into_the_values_of_a_contact(t: Taghook) {
        let ada = t.contact_with("ada@example.com", &[("first_name", "Ada"), ("city", "Bonn")]).await;
        let change = async |paths: &[&str], values: &[(&str, &str)]| {
            let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let contact = Contact { id: ada.id.clone(), values, ..Default::default() };
            let request =
                v1::UpdateContactRequest { contact: Some(contact), update_mask: mask(paths), ..Default::default() };
            t.client.contacts().update_contact(request).await
        };
        let values = async |paths: &[&str], values: &[(&str, &str)]| {
            let contact = change(paths, values).await.unwrap().into_inner();
            let values = contact.values.into_iter().map(|(key, value)| format!("{key}={value}"));
            let mut values: Vec<_> = values.collect();
            values.sort_unstable();
            values.join(" ")
        };
        assert_eq!(values(&["values.city"], &[("city", "Köln"), ("zip", "1")]).await, "city=Köln first_name=Ada");
        assert_eq!(values(&["values.zip"], &[("zip", "50667")]).await, "city=Köln first_name=Ada zip=50667");
        let replaced = values(&["values.zip", "values.company"], &[("company", "X")]).await;
        assert_eq!(replaced, "city=Köln company=X first_name=Ada");
        assert_eq!(values(&["values"], &[("zip", "1")]).await, "zip=1");
        assert_eq!(values(&["values.zip"], &[]).await, "");
        check_invalid(
            change(&["values.", "values.A", "values[zip]"], &[]).await,
            &["update_mask.paths[0]", "update_mask.paths[2]", "contact.values[\"A\"]"],
        );
        check_invalid(change(&["values.no_such"], &[]).await, &["contact.values[\"no_such\"]"]);
        check_invalid(change(&["email"], &[]).await, &["contact"]);
    }
}

/// Replaces a text.
trait ClearAnd {
    fn clear_and(&mut self, text: &str);
}

impl ClearAnd for String {
    fn clear_and(&mut self, text: &str) {
        self.clear();
        self.push_str(text);
    }
}
