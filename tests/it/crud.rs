//! Resources from their creation to their end, and the filters of their lists.

use std::time::Duration;

use prost_types::Timestamp;
use taghook_client::Code;
use taghook_client::contact::{by_email, by_id, by_phone};
use taghook_client::v1::api_key::Scope;
use taghook_client::v1::contact::Status;
use taghook_client::v1::delivery::{Source, State};
use taghook_client::v1::field::ValueType;
use taghook_client::v1::webhook_event::Parameter;
use taghook_client::v1::webhook_event::parameter::Source as ValueSource;
use taghook_client::v1::{
    self, ApiKey, Contact, DeliveryFilter, ErrorReason, Field, Tag, Webhook, WebhookEvent, Workspace,
};
use tonic_types::StatusExt;

use crate::support::{Database, Receiver, Taghook, Watch, both, check_error, delays, mask, seconds, since_start_us};

const SECOND: Duration = Duration::from_secs(1);

/// Seconds after the start of manual clocks, 2026-01-01T00:00:00Z.
fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_767_225_600 + seconds, nanos: 0 })
}

async fn field(t: &Taghook, key: &str, r#type: ValueType) -> Field {
    let field = Field { key: key.into(), value_type: r#type.into(), ..Default::default() };
    let request = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
    t.client.fields().create_field(request).await.expect("a field").into_inner()
}

both! {
    async fn a_contact_from_its_creation_to_its_end(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let mut contacts = t.client.contacts();
        let given = Contact {
            id: "con_00000000000000000000000000".into(),
            email: "Ada@Example.com".into(),
            phone: "+49 (30) 12-34/56".into(),
            values: [("first_name".into(), "Ada".into()), ("city".into(), String::new())].into(),
            create_time: at(-100),
            ..Default::default()
        };
        let request = v1::CreateContactRequest { contact: Some(given), ..Default::default() };
        let ada = contacts.create_contact(request).await.unwrap().into_inner();
        assert!(ada.id.starts_with("con_") && ada.id.len() == 30 && !ada.id.ends_with("000000"), "{}", ada.id);
        assert_eq!((ada.email.as_str(), ada.phone.as_str()), ("ada@example.com", "+4930123456"));
        assert_eq!(ada.status(), Status::Subscribed);
        assert_eq!(ada.values, [("first_name".to_owned(), "Ada".to_owned())].into());
        assert_eq!((ada.create_time, ada.update_time), (at(0), at(0)));

        let get = v1::GetContactRequest { id: ada.id.clone() };
        assert_eq!(contacts.get_contact(get.clone()).await.unwrap().into_inner(), ada);
        for contact in [by_email("ADA@example.com"), by_phone("+49 30 123456"), by_id(&ada.id)] {
            let request = v1::LookupContactRequest { contact };
            assert_eq!(contacts.lookup_contact(request).await.unwrap().into_inner(), ada);
        }
        for contact in [by_email("ad@example.com"), by_phone("+4930123457")] {
            let request = v1::LookupContactRequest { contact };
            check_error(contacts.lookup_contact(request).await, Code::NotFound, ErrorReason::NotFound);
        }

        clock.advance(SECOND);
        let changed = Contact { id: ada.id.clone(), status: Status::Bounced.into(), ..Default::default() };
        let request = v1::UpdateContactRequest {
            contact: Some(changed),
            update_mask: mask(&["status", "phone"]),
            ..Default::default()
        };
        let changed = contacts.update_contact(request.clone()).await.unwrap().into_inner();
        let expected = Contact {
            status: Status::Bounced.into(),
            phone: String::new(),
            update_time: at(1),
            etag: changed.etag.clone(),
            ..ada.clone()
        };
        assert_eq!(changed, expected);
        assert_ne!(changed.etag, ada.etag);
        clock.advance(SECOND);
        let same = contacts.update_contact(request).await.unwrap().into_inner();
        assert_eq!(same, changed, "no change");

        let upsert = async |contact: Contact| {
            let request = v1::UpsertContactRequest { contact: Some(contact), ..Default::default() };
            t.client.contacts().upsert_contact(request).await.unwrap().into_inner()
        };
        let given = Contact { email: "ada@EXAMPLE.com".into(), phone: "+4930999".into(), ..Default::default() };
        let upserted = upsert(given).await;
        assert!(!upserted.created);
        let found = upserted.contact.unwrap();
        assert_eq!(
            (found.id.as_str(), found.phone.as_str(), found.status()),
            (ada.id.as_str(), "+4930999", Status::Bounced)
        );
        let created = upsert(Contact { phone: "+4930888".into(), ..Default::default() }).await;
        assert!(created.created && created.contact.unwrap().email.is_empty());

        assert_eq!(t.delete_contact(&ada).await, []);
        check_error(contacts.get_contact(get).await, Code::NotFound, ErrorReason::NotFound);
        let request = v1::DeleteContactRequest { id: ada.id.clone(), ..Default::default() };
        check_error(contacts.delete_contact(request).await, Code::NotFound, ErrorReason::NotFound);
        t.contact("ada@example.com").await;
    }

    async fn contacts_are_filtered(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (red, blue) = (t.tag("red").await, t.tag("blue").await);
        let statuses = [Status::Pending, Status::Subscribed, Status::Unsubscribed, Status::Bounced];
        let emails = ["ann@example.com", "anna@example.com", "bob@example.com", "ann_x@example.com"];
        for (email, status) in emails.into_iter().zip(statuses) {
            let contact = Contact { email: email.into(), status: status.into(), ..Default::default() };
            let request = v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
            let contact = t.client.contacts().create_contact(request).await.unwrap().into_inner();
            if status != Status::Bounced {
                t.assign(&contact, &red).await;
            }
            if status == Status::Subscribed {
                t.assign(&contact, &blue).await;
            }
            clock.advance(SECOND);
        }
        let find = async |filter: v1::list_contacts_request::Filter| {
            let request = v1::ListContactsRequest { filter: Some(filter), ..Default::default() };
            let found = t.client.contacts().list_contacts(request).await.unwrap().into_inner().contacts;
            let found = found.iter().map(|found| emails.iter().position(|email| *email == found.email).unwrap());
            found.collect::<Vec<_>>()
        };
        type Filter = v1::list_contacts_request::Filter;
        assert_eq!(find(Filter::default()).await, [0, 1, 2, 3]);
        assert_eq!(find(Filter { tag_ids: vec![red.id.clone()], ..Default::default() }).await, [0, 1, 2]);
        assert_eq!(find(Filter { tag_ids: vec![red.id.clone(), blue.id.clone()], ..Default::default() }).await, [1]);
        let chosen = vec![Status::Pending.into(), Status::Bounced.into()];
        assert_eq!(find(Filter { statuses: chosen, ..Default::default() }).await, [0, 3]);
        assert_eq!(find(Filter { email_prefix: "ANN".into(), ..Default::default() }).await, [0, 1, 3]);
        assert_eq!(find(Filter { email_prefix: "ann_".into(), ..Default::default() }).await, [3]);
        assert_eq!(find(Filter { email_prefix: "%".into(), ..Default::default() }).await, [0_usize; 0]);
        assert_eq!(find(Filter { create_start_time: at(1), create_end_time: at(3), ..Default::default() }).await, [1, 2]);
        let filter =
            Filter { tag_ids: vec![red.id], email_prefix: "an".into(), create_start_time: at(1), ..Default::default() };
        assert_eq!(find(filter).await, [1]);
    }

    async fn the_tags_of_a_contact_come_in_the_order_of_their_assignment(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let contact = t.contact("ada@example.com").await;
        let tags = [t.tag("a").await, t.tag("b").await, t.tag("c").await];
        for index in [2, 0, 1] {
            clock.advance(SECOND);
            t.assign(&contact, &tags[index]).await;
        }
        clock.advance(SECOND);
        t.assign(&contact, &tags[2]).await;
        let list = async || {
            let request = v1::ListContactTagsRequest { contact: by_id(&contact.id), ..Default::default() };
            let list = t.client.contacts().list_contact_tags(request).await.unwrap().into_inner().contact_tags;
            list.into_iter().map(|tag| (tag.tag_name, since_start_us(tag.assign_time) / 1_000_000)).collect::<Vec<_>>()
        };
        assert_eq!(list().await, [("c".into(), 1), ("a".into(), 2), ("b".into(), 3)]);
        t.untag(&contact, &tags[0]).await;
        t.untag(&contact, &tags[2]).await;
        t.assign(&contact, &tags[2]).await;
        assert_eq!(list().await, [("b".into(), 3), ("c".into(), 4)]);
        let request = v1::UntagContactRequest {
            contact: by_id(&contact.id),
            tag_ids: vec![tags[0].id.clone()],
            ..Default::default()
        };
        let untagged = t.client.contacts().untag_contact(request).await.unwrap().into_inner();
        assert_eq!(untagged.removed_tag_ids, [""; 0], "it wasn't held");
    }

    async fn a_field_from_its_creation_to_its_end(t: Taghook) {
        let mut fields = t.client.fields();
        let score = field(&t, "score", ValueType::Integer).await;
        assert!(score.id.starts_with("fld_") && !score.standard);
        assert_eq!((score.display_name.as_str(), score.value_type()), ("score", ValueType::Integer));
        for id in [&score.id, "score"] {
            let request = v1::GetFieldRequest { id: id.into() };
            assert_eq!(fields.get_field(request).await.unwrap().into_inner(), score);
        }
        let named = Field { id: score.id.clone(), display_name: "Score".into(), ..Default::default() };
        let request = v1::UpdateFieldRequest { field: Some(named), update_mask: mask(&["display_name"]), ..Default::default() };
        let named = fields.update_field(request).await.unwrap().into_inner();
        assert_eq!((named.display_name.as_str(), named.key.as_str()), ("Score", "score"));
        assert_ne!(named.etag, score.etag);

        let contact = t.contact_with("ada@example.com", &[("score", "7"), ("city", "Bonn")]).await;
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let parameter = Parameter {
            name: "s".into(),
            source: Some(ValueSource::ContactField("score".into())),
            ..Default::default()
        };
        let webhook = t.webhook(&receiver, &tag, |it| it.events[0].parameters = vec![parameter]).await;
        let request = v1::DeleteFieldRequest { id: score.id, ..Default::default() };
        let error =
            check_error(fields.delete_field(request.clone()).await, Code::FailedPrecondition, ErrorReason::InUse);
        let users = error.status.get_details_precondition_failure().unwrap().violations;
        assert_eq!(users[0].subject, format!("{} (test)", webhook.id));
        t.delete_webhook(&webhook).await;
        fields.delete_field(request).await.unwrap();
        let get = v1::GetFieldRequest { id: "score".into() };
        check_error(fields.get_field(get).await, Code::NotFound, ErrorReason::NotFound);
        let get = v1::GetContactRequest { id: contact.id };
        let values = t.client.contacts().get_contact(get).await.unwrap().into_inner().values;
        assert_eq!(values, [("city".to_owned(), "Bonn".to_owned())].into());
    }

    async fn standard_fields_are_listed_first_and_stay_as_they_are(t: Taghook) {
        let mut fields = t.client.fields();
        field(&t, "a_first", ValueType::Url).await;
        let list = async |filter: v1::list_fields_request::Filter| {
            let request = v1::ListFieldsRequest { filter: Some(filter), ..Default::default() };
            let list = t.client.fields().list_fields(request).await.unwrap().into_inner().fields;
            list.into_iter().map(|field| field.key).collect::<Vec<_>>().join(" ")
        };
        type Filter = v1::list_fields_request::Filter;
        let standard = "first_name last_name company street1 street2 city state zip country phone private_phone \
                        mobile_phone fax website birthday lead_value";
        assert_eq!(list(Filter::default()).await, format!("{standard} a_first"));
        assert_eq!(list(Filter { standard: Some(true), ..Default::default() }).await, standard);
        assert_eq!(list(Filter { standard: Some(false), ..Default::default() }).await, "a_first");
        let types = vec![ValueType::Url.into(), ValueType::Date.into()];
        assert_eq!(list(Filter { value_types: types, ..Default::default() }).await, "website birthday a_first");
        let city = fields.get_field(v1::GetFieldRequest { id: "city".into() }).await.unwrap().into_inner();
        assert!(city.standard && city.create_time.is_none());
        let named = Field { id: city.id.clone(), display_name: "Stadt".into(), ..Default::default() };
        let request = v1::UpdateFieldRequest { field: Some(named), update_mask: mask(&["display_name"]), ..Default::default() };
        check_error(fields.update_field(request).await, Code::FailedPrecondition, ErrorReason::NotDeletable);
        for id in [city.id, "city".into()] {
            let request = v1::DeleteFieldRequest { id, ..Default::default() };
            check_error(fields.delete_field(request).await, Code::FailedPrecondition, ErrorReason::NotDeletable);
        }
    }

    async fn a_tag_from_its_creation_to_its_end(t: Taghook) {
        let mut tags = t.client.tags();
        let given = Tag { name: "Käufer 🦊".into(), description: "x".repeat(1_000), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(given.clone()), ..Default::default() };
        let tag = tags.create_tag(request).await.unwrap().into_inner();
        assert_eq!((&tag.name, &tag.description, tag.kind()), (&given.name, &given.description, v1::tag::Kind::Manual));
        let get = v1::GetTagRequest { id: tag.id.clone() };
        assert_eq!(tags.get_tag(get.clone()).await.unwrap().into_inner(), tag);

        let receiver = Receiver::start().await;
        let webhook = t.webhook(&receiver, &tag, |it| it.name = "shop".into()).await;
        let contact = t.contact("ada@example.com").await;
        t.assign(&contact, &tag).await;
        let request = v1::ListTagUsagesRequest { id: tag.id.clone(), ..Default::default() };
        let usages = tags.list_tag_usages(request).await.unwrap().into_inner().usages;
        let user = Some(v1::tag_usage::User::WebhookId(webhook.id.clone()));
        assert_eq!(usages, [v1::TagUsage { user, display_name: "shop".into() }]);

        let mut request = v1::DeleteTagRequest { id: tag.id.clone(), ..Default::default() };
        let error = check_error(tags.delete_tag(request.clone()).await, Code::FailedPrecondition, ErrorReason::InUse);
        let users = error.status.get_details_precondition_failure().unwrap().violations;
        assert_eq!(users[0].subject, format!("{} (shop)", webhook.id));
        request.force = true;
        tags.delete_tag(request).await.unwrap();
        check_error(tags.get_tag(get).await, Code::NotFound, ErrorReason::NotFound);
        assert_eq!(t.held_tags(&contact).await, [""; 0]);
        let webhook = t.current(&webhook).await;
        assert_eq!(webhook.activation_tag_ids, [""; 0]);
        let again = t.tag(&given.name).await;
        assert_ne!(again.id, tag.id);
    }

    async fn tags_are_filtered(t: Taghook) {
        for name in ["a", "ab", "Ab", "b", "a%"] {
            t.tag(name).await;
        }
        let find = async |name_prefix: &str, kinds: Vec<i32>| {
            let filter = v1::list_tags_request::Filter { name_prefix: name_prefix.into(), kinds, ..Default::default() };
            let request = v1::ListTagsRequest { filter: Some(filter), ..Default::default() };
            let tags = t.client.tags().list_tags(request).await.unwrap().into_inner().tags;
            tags.into_iter().map(|tag| tag.name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(find("", vec![]).await, "a ab Ab b a%");
        assert_eq!(find("a", vec![]).await, "a ab a%");
        assert_eq!(find("a%", vec![]).await, "a%");
        assert_eq!(find("A", vec![1]).await, "Ab");
    }

    async fn a_webhook_from_its_creation_to_its_end(t: Taghook) {
        let mut webhooks = t.client.webhooks();
        let given = Webhook {
            name: "shop".into(),
            url: "https://example.com/hook".into(),
            events: vec![WebhookEvent::default()],
            ..Default::default()
        };
        let request = v1::CreateWebhookRequest { webhook: Some(given), ..Default::default() };
        let webhook = webhooks.create_webhook(request).await.unwrap().into_inner();
        assert_eq!(webhook.state(), v1::webhook::State::Active);
        assert_eq!((webhook.cooldown, webhook.timeout), (seconds(6 * 3_600), seconds(15)));
        assert_eq!(webhook.cooldown_policy(), v1::webhook::CooldownPolicy::Suppress);
        let schedule = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
        assert_eq!(webhook.retry_policy, delays(&schedule));
        let [event] = &webhook.events[..] else { panic!("{webhook:#?}") };
        assert!(event.id.starts_with("whe_"));
        assert_eq!((event.email_parameter_name.as_str(), event.event_type.as_str()), ("email", "contact.tagged"));
        assert_eq!(t.current(&webhook).await, webhook);

        let changed = t.update(&webhook, &["name", "cooldown", "retry_policy"], |it| {
            it.name = "store".into();
            it.cooldown = seconds(0);
            it.retry_policy = delays(&[]);
            it.url = "https://example.com/not-named".into();
        });
        let changed = changed.await;
        let expected = Webhook {
            name: "store".into(),
            cooldown: seconds(0),
            retry_policy: delays(&[]),
            update_time: changed.update_time,
            etag: changed.etag.clone(),
            ..webhook.clone()
        };
        assert_eq!(changed, expected);
        let request = v1::GetWebhookSecretRequest { id: webhook.id.clone() };
        let secret = webhooks.get_webhook_secret(request).await.unwrap().into_inner();
        assert_eq!((&secret.webhook_id, secret.secrets.len()), (&webhook.id, 1));
        assert!(secret.secrets[0].value.starts_with("whsec_"));
        t.delete_webhook(&webhook).await;
        let request = v1::GetWebhookRequest { id: webhook.id };
        check_error(webhooks.get_webhook(request).await, Code::NotFound, ErrorReason::NotFound);
    }

    async fn webhooks_are_filtered(t: Taghook) {
        let receiver = Receiver::start().await;
        let (red, blue) = (t.tag("red").await, t.tag("blue").await);
        let mut made = Vec::new();
        for (name, tag) in [("shop", &red), ("Shop", &red), ("show", &blue)] {
            made.push(t.webhook(&receiver, tag, |it| it.name = name.into()).await);
        }
        t.pause(&made[1]).await;
        let find = async |filter: v1::list_webhooks_request::Filter| {
            let request = v1::ListWebhooksRequest { filter: Some(filter), ..Default::default() };
            let found = t.client.webhooks().list_webhooks(request).await.unwrap().into_inner().webhooks;
            let found = found.iter().map(|found| made.iter().position(|webhook| webhook.id == found.id).unwrap());
            found.collect::<Vec<_>>()
        };
        type Filter = v1::list_webhooks_request::Filter;
        assert_eq!(find(Filter::default()).await, [0, 1, 2]);
        assert_eq!(find(Filter { states: vec![v1::webhook::State::Paused.into()], ..Default::default() }).await, [1]);
        assert_eq!(find(Filter { activation_tag_id: red.id.clone(), ..Default::default() }).await, [0, 1]);
        assert_eq!(find(Filter { name_prefix: "sho".into(), ..Default::default() }).await, [0, 2]);
        let states = vec![v1::webhook::State::Active.into()];
        let filter = Filter { states, activation_tag_id: red.id, name_prefix: "s".into(), ..Default::default() };
        assert_eq!(find(filter).await, [0]);
    }

    async fn a_workspace_from_its_creation_to_its_end(t: Taghook) {
        let mut workspaces = t.root.workspaces();
        let workspace = Some(Workspace { name: "other".into(), ..Default::default() });
        let request = v1::CreateWorkspaceRequest { workspace, ..Default::default() };
        let other = workspaces.create_workspace(request).await.unwrap().into_inner();
        let get = v1::GetWorkspaceRequest { id: other.id.clone() };
        assert_eq!(workspaces.get_workspace(get.clone()).await.unwrap().into_inner(), other);
        let named = Workspace { id: other.id.clone(), name: "second".into(), ..Default::default() };
        let request = v1::UpdateWorkspaceRequest { workspace: Some(named), update_mask: mask(&["name"]), ..Default::default() };
        assert_eq!(workspaces.update_workspace(request).await.unwrap().into_inner().name, "second");
        let list = workspaces.list_workspaces(v1::ListWorkspacesRequest::default()).await.unwrap().into_inner();
        let names: Vec<_> = list.workspaces.iter().map(|workspace| workspace.name.as_str()).collect();
        assert_eq!(names, ["default", "second"]);

        let api_key = ApiKey { name: "k".into(), scopes: vec![Scope::Admin.into()], ..Default::default() };
        let request = v1::CreateApiKeyRequest { workspace_id: other.id.clone(), api_key: Some(api_key) };
        let secret = workspaces.create_api_key(request).await.unwrap().into_inner().secret;
        let client = t.client_with(Some(&secret));
        assert_eq!(client.tags().list_tags(v1::ListTagsRequest::default()).await.unwrap().into_inner().tags, []);
        let request = v1::DeleteWorkspaceRequest { id: other.id.clone(), ..Default::default() };
        workspaces.delete_workspace(request).await.unwrap();
        let refused = client.tags().list_tags(v1::ListTagsRequest::default()).await;
        check_error(refused, Code::Unauthenticated, ErrorReason::Unauthenticated);
        check_error(workspaces.get_workspace(get).await, Code::NotFound, ErrorReason::NotFound);
        let request = v1::ListApiKeysRequest { workspace_id: other.id, ..Default::default() };
        check_error(workspaces.list_api_keys(request).await, Code::NotFound, ErrorReason::NotFound);
        let request = v1::DeleteWorkspaceRequest { id: list.workspaces[0].id.clone(), ..Default::default() };
        check_error(workspaces.delete_workspace(request).await, Code::FailedPrecondition, ErrorReason::NotDeletable);
    }

    async fn the_secret_of_a_key_is_told_once(t: Taghook) {
        let mut workspaces = t.root.workspaces();
        let list = workspaces.list_workspaces(v1::ListWorkspacesRequest::default()).await.unwrap().into_inner();
        let workspace_id = list.workspaces[0].id.clone();
        let scopes = vec![Scope::Read.into(), Scope::Write.into()];
        let api_key = ApiKey { name: "crm".into(), scopes, ..Default::default() };
        let request = v1::CreateApiKeyRequest { workspace_id: workspace_id.clone(), api_key: Some(api_key) };
        let made = workspaces.create_api_key(request).await.unwrap().into_inner();
        let key = made.api_key.unwrap();
        assert_eq!(key.scopes().collect::<Vec<_>>(), [Scope::Read, Scope::Write]);
        assert!(made.secret.starts_with(&key.secret_prefix) && made.secret.len() > key.secret_prefix.len() + 30);
        let request = v1::ListApiKeysRequest { workspace_id, ..Default::default() };
        let keys = workspaces.list_api_keys(request).await.unwrap().into_inner().api_keys;
        assert_eq!(keys[1..], [key]);
        let told = crate::support::dump(t.database()).await;
        assert!(!told.contains(&made.secret.to_lowercase()), "the secret is stored");
    }

    async fn deliveries_are_filtered(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let (one, two) = (
            t.webhook(&receiver, &tag, |_| {}).await,
            t.webhook(&receiver, &tag, |it| it.activation_tag_ids.clear()).await,
        );
        let (ada, bob) = (t.contact("ada@example.com").await, t.contact("bob@example.com").await);
        let mut watch = Watch::now(&t.client).await;
        let mut made = Vec::new();
        for (contact, webhook) in [(&ada, None), (&ada, None), (&bob, Some(&two)), (&ada, Some(&one))] {
            let trigger = match webhook {
                None => t.decide(contact, &tag).await,
                Some(webhook) => t.trigger(webhook, contact).await,
            };
            watch.next().await;
            made.extend(trigger.delivery_ids);
            clock.advance(SECOND);
        }
        let find = async |filter: DeliveryFilter| {
            let found = t.deliveries(filter).await;
            assert!(found.iter().all(|delivery| delivery.parameters.is_empty()), "lists have no values");
            found.iter().map(|found| made.iter().position(|id| *id == found.id).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(find(DeliveryFilter::default()).await, [3, 2, 1, 0]);
        assert_eq!(find(DeliveryFilter { webhook_ids: vec![one.id.clone()], ..Default::default() }).await, [3, 1, 0]);
        assert_eq!(find(DeliveryFilter { contact_ids: vec![bob.id], ..Default::default() }).await, [2]);
        assert_eq!(find(DeliveryFilter { states: vec![State::Suppressed.into()], ..Default::default() }).await, [1]);
        assert_eq!(find(DeliveryFilter { sources: vec![Source::Api.into()], ..Default::default() }).await, [3, 2]);
        assert_eq!(
            find(DeliveryFilter { created_after: at(1), created_before: at(3), ..Default::default() }).await,
            [2, 1]
        );
        let filter = DeliveryFilter {
            webhook_ids: vec![one.id, two.id],
            contact_ids: vec![ada.id],
            states: vec![State::Delivered.into()],
            created_after: at(1),
            ..Default::default()
        };
        assert_eq!(find(filter).await, [3]);
    }
}
