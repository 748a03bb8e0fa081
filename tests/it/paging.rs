//! Lists in pages, what is taken, and all that is wrong at once.

use prost_reflect::{DynamicMessage, FieldDescriptor, MethodDescriptor, Value};
use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::campaign_node::Action;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{self, ApiKey, Contact, ErrorReason, Event, Field, Tag, Webhook, WebhookEvent, Workspace};
use tonic_types::StatusExt;

use crate::support::schema::{methods, path};
use crate::support::{
    Answer, RawGrpc, Receiver, Taghook, Watch, both, check_error, check_invalid, delays, mask, within,
};

/// How many items each list has at first.
const ITEMS: usize = 5;

/// What the lists are of.
struct World {
    t: Taghook,
    raw: RawGrpc,
    receiver: Receiver,
    watch: Watch,
    workspace: String,
    contact: Contact,
    tag: Tag,
    /// Sends when it is triggered, and is always answered 500.
    webhook: Webhook,
    delivery: String,
    /// Holds everybody at a wait.
    campaign: String,
    made: usize,
}

impl World {
    async fn new(t: Taghook) -> Self {
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::status(500));
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |it| it.retry_policy = delays(&[3_600])).await;
        let contact = t.contact("ada@example.com").await;
        let mut watch = Watch::now(&t.client).await;
        let delivery = t.trigger(&webhook, &contact).await.delivery_ids.remove(0);
        receiver.recv().await;
        watch.expect(Kind::AttemptFailed).await;
        let workspaces = t.root.workspaces().list_workspaces(v1::ListWorkspacesRequest::default()).await.unwrap();
        let workspace = workspaces.into_inner().workspaces.remove(0).id;
        let campaign = waiting_room(&t).await;
        let raw = t.raw().await;
        Self { campaign, t, raw, receiver, watch, workspace, contact, tag, webhook, delivery, made: 0 }
    }

    /// Adds an item to a list.
    async fn add(&mut self, method: &MethodDescriptor) {
        self.made += 1;
        let name = format!("item{}", self.made);
        let (t, client) = (&self.t, &self.t.client);
        match method.name() {
            "ListContacts" => drop(t.contact(&format!("{name}@example.com")).await),
            "ListContactTags" => {
                let tag = t.tag(&name).await;
                t.assign(&self.contact, &tag).await;
            }
            "ListFields" => {
                let field = Field { key: name, value_type: v1::field::ValueType::Text.into(), ..Default::default() };
                client
                    .fields()
                    .create_field(v1::CreateFieldRequest { field: Some(field), ..Default::default() })
                    .await
                    .unwrap();
            }
            "ListTags" => drop(t.tag(&name).await),
            "ListTagUsages" | "ListWebhooks" => drop(t.webhook(&self.receiver, &self.tag, |it| it.name = name).await),
            "ListTimelineEntries" => {
                let event = Event { r#type: format!("test.{name}"), ..Default::default() };
                let request = v1::RecordEventRequest {
                    contact: by_id(&self.contact.id),
                    event: Some(event),
                    ..Default::default()
                };
                client.events().record_event(request).await.unwrap();
            }
            "ListDeliveries" => {
                t.trigger(&self.webhook, &self.contact).await;
                self.receiver.recv().await;
                self.watch.expect(Kind::AttemptFailed).await;
            }
            "ListAttempts" => {
                let request = v1::RetryDeliveryRequest { id: self.delivery.clone(), ..Default::default() };
                client.deliveries().retry_delivery(request).await.unwrap();
                self.receiver.recv().await;
                self.watch.expect(Kind::AttemptFailed).await;
            }
            "ListReplays" => {
                // Of nothing, so that it is completed, and changes no more.
                let created_before = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
                let filter = v1::ReplayFilter { created_before, ..Default::default() };
                let replay = t.replay(0, filter).await.unwrap().into_inner();
                t.replay_until(&replay.id, |replay| replay.state() == v1::replay::State::Completed).await;
            }
            "ListSmartLinks" | "ListCampaigns" | "ListEnrollments" => self.add_what_acts(method, name).await,
            "ListWorkspaces" => {
                let workspace = Some(Workspace { name, ..Default::default() });
                let request = v1::CreateWorkspaceRequest { workspace, ..Default::default() };
                t.root.workspaces().create_workspace(request).await.unwrap();
            }
            "ListApiKeys" => {
                let api_key = Some(ApiKey { name, scopes: vec![1], ..Default::default() });
                let request = v1::CreateApiKeyRequest { workspace_id: self.workspace.clone(), api_key };
                t.root.workspaces().create_api_key(request).await.unwrap();
            }
            other => panic!("how does something come into {other}? Say so here"),
        }
    }

    /// Adds a link, a campaign, or a contact to one.
    async fn add_what_acts(&self, method: &MethodDescriptor, name: String) {
        let (t, client) = (&self.t, &self.t.client);
        match method.name() {
            "ListSmartLinks" => {
                let target_url = "https://example.com/".into();
                let smart_link = Some(v1::SmartLink { name, target_url, ..Default::default() });
                let request = v1::CreateSmartLinkRequest { smart_link, ..Default::default() };
                client.smart_links().create_smart_link(request).await.unwrap();
            }
            "ListCampaigns" => {
                let campaign = Some(v1::Campaign { name, ..Default::default() });
                let request = v1::CreateCampaignRequest { campaign, ..Default::default() };
                client.campaigns().create_campaign(request).await.unwrap();
            }
            _ => {
                let contact_id = t.contact(&format!("{name}@example.com")).await.id;
                let id = self.campaign.clone();
                let request =
                    v1::EnrollContactRequest { campaign_id: id, contact: by_id(contact_id), ..Default::default() };
                let enrollment = client.campaigns().enroll_contact(request).await.unwrap().into_inner().enrollment;
                // Until its wait has begun, after which it changes no more.
                let (id, contact_id) = enrollment.map(|it| (it.campaign_id, it.contact_id)).unwrap();
                let filter = Some(v1::list_enrollments_request::Filter { contact_id, ..Default::default() });
                let request = v1::ListEnrollmentsRequest { campaign_id: id, filter, ..Default::default() };
                within("the wait", async {
                    loop {
                        let list = client.campaigns().list_enrollments(request.clone()).await.unwrap().into_inner();
                        if list.enrollments.iter().all(|it| it.due_time != it.create_time) {
                            break;
                        }
                    }
                })
                .await;
            }
        }
    }

    /// A page, and the token of the next one.
    async fn page(&self, method: &MethodDescriptor, size: i32, token: &str) -> (Vec<Value>, String) {
        let mut request = DynamicMessage::new(method.input());
        request.set_field_by_name("page_size", Value::I32(size));
        request.set_field_by_name("page_token", Value::String(token.to_owned()));
        let parents = [
            ("contact_id", &self.contact.id),
            ("id", &self.tag.id),
            ("delivery_id", &self.delivery),
            ("workspace_id", &self.workspace),
            ("campaign_id", &self.campaign),
        ];
        for (field, id) in parents {
            if method.input().get_field_by_name(field).is_some() {
                request.set_field_by_name(field, Value::String(id.clone()));
            }
        }
        let is_root = method.parent_service().name() == "WorkspaceService";
        let key = self.t.database().key(if is_root { "root.key" } else { "default.key" });
        let answer = self.raw.invoke(Some(&key), method, &request).await;
        assert_eq!(answer.status().code(), Code::Ok, "{}: {:?}", path(method), answer.status());
        let answer = DynamicMessage::decode(method.output(), &answer.data[5..]).expect("an answer");
        let list = method.output().fields().find(FieldDescriptor::is_list).expect("a list");
        let items = answer.get_field(&list).as_list().expect("a list").to_vec();
        let next = answer.get_field_by_name("next_page_token").expect("the next page");
        (items, next.as_str().expect("a text").to_owned())
    }
}

/// An active campaign in which everybody waits for a day.
async fn waiting_room(t: &Taghook) -> String {
    let until = Some(v1::wait_action::Until::Duration(prost_types::Duration { seconds: 86_400, nanos: 0 }));
    let node = |key: &str, next: &str, action| v1::CampaignNode {
        key: key.into(),
        next_key: next.into(),
        action: Some(action),
    };
    let nodes = vec![
        node("wait", "exit", Action::Wait(v1::WaitAction { until })),
        node("exit", "", Action::Exit(v1::ExitAction {})),
    ];
    let campaign = Some(v1::Campaign { name: "waiting room".into(), nodes, ..Default::default() });
    let request = v1::CreateCampaignRequest { campaign, ..Default::default() };
    let id = t.client.campaigns().create_campaign(request).await.unwrap().into_inner().id;
    let request = v1::ActivateCampaignRequest { id: id.clone(), ..Default::default() };
    t.client.campaigns().activate_campaign(request).await.unwrap();
    id
}

both! {
    /// Whatever comes between two pages, what was there before is on exactly one of them, in the same order.
    async fn pages_hold_still_while_items_are_added_on_every_list(t: Taghook) {
        let mut world = World::new(t).await;
        let is_paged = |method: &&MethodDescriptor| {
            // The types of events are one short list.
            method.name().starts_with("List") && method.name() != "ListEventTypes"
        };
        for method in methods().iter().filter(is_paged) {
            while world.page(method, 1_000, "").await.0.len() < ITEMS {
                world.add(method).await;
            }
            let (before, end) = world.page(method, 1_000, "").await;
            assert_eq!(end, "", "{}: there is but one page", path(method));
            let (mut seen, mut token) = (Vec::new(), String::new());
            for pages in 0.. {
                let (items, next) = world.page(method, 2, &token).await;
                assert!((1..=2).contains(&items.len()), "{}: {items:?}", path(method));
                seen.extend(items);
                token = next;
                if token.is_empty() {
                    break;
                }
                if pages < 2 {
                    world.add(method).await;
                }
            }
            seen.retain(|item| before.contains(item));
            assert_eq!(seen, before, "{}", path(method));
        }
    }

    async fn a_page_goes_on_after_an_item_that_is_gone(t: Taghook) {
        let mut all = Vec::new();
        for index in 0..4 {
            all.push(t.contact(&format!("c{index}@example.com")).await);
        }
        let list = async |page_size: i32, page_token: String| {
            let request = v1::ListContactsRequest { page_size, page_token, ..Default::default() };
            t.client.contacts().list_contacts(request).await.unwrap().into_inner()
        };
        let first = list(2, String::new()).await;
        assert_eq!(first.contacts, all[..2]);
        t.delete_contact(&all[1]).await;
        t.delete_contact(&all[2]).await;
        let second = list(2, first.next_page_token).await;
        assert_eq!(second.contacts, all[3..]);
        assert_eq!(second.next_page_token, "");
    }

    async fn a_token_is_good_for_its_list_alone(t: Taghook) {
        for name in ["a", "b", "c"] {
            let tag = t.tag(name).await;
            let contact = t.contact(&format!("{name}@example.com")).await;
            t.assign(&contact, &tag).await;
        }
        let request = v1::ListTagsRequest { page_size: 1, ..Default::default() };
        let token = t.client.tags().list_tags(request).await.unwrap().into_inner().next_page_token;
        let request = v1::ListContactsRequest { page_token: token.clone(), ..Default::default() };
        check_invalid(t.client.contacts().list_contacts(request).await, &["page_token"]);
        let filter = v1::list_tags_request::Filter { name_prefix: "b".into(), ..Default::default() };
        let request = v1::ListTagsRequest { page_token: token.clone(), filter: Some(filter), ..Default::default() };
        check_invalid(t.client.tags().list_tags(request).await, &["page_token"]);
        let request = v1::ListTagsRequest { page_token: format!("{token}x"), page_size: -1, ..Default::default() };
        check_invalid(t.client.tags().list_tags(request).await, &["page_token", "page_size"]);
    }

    async fn what_is_taken_is_named(t: Taghook) {
        #[track_caller]
        fn check<T>(result: Result<tonic::Response<T>, tonic::Status>, kind: &str, field: &str, id: &str) {
            let error = check_error(result, Code::AlreadyExists, ErrorReason::AlreadyExists);
            assert_eq!(error.metadata["field"], field);
            let info = error.status.get_details_resource_info().expect("the resource");
            assert_eq!((info.resource_type.as_str(), info.resource_name.as_str()), (kind, id));
        }
        let (mut contacts, mut tags, mut fields) = (t.client.contacts(), t.client.tags(), t.client.fields());
        let mut workspaces = t.root.workspaces();

        let ada = Contact { email: "Ada@Example.com".into(), phone: "+4930123456".into(), ..Default::default() };
        let create = |contact: Contact| v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
        let ada = contacts.create_contact(create(ada)).await.unwrap().into_inner();
        let same = Contact { email: "ADA@example.COM".into(), ..Default::default() };
        check(contacts.create_contact(create(same)).await, "contact", "email", &ada.id);
        let same = Contact { email: "b@example.com".into(), phone: "+49 (30) 12-34.56".into(), ..Default::default() };
        check(contacts.create_contact(create(same)).await, "contact", "phone", &ada.id);
        let bob = t.contact("bob@example.com").await;
        let same = Contact { id: bob.id.clone(), email: "ada@example.com".into(), ..Default::default() };
        let request = v1::UpdateContactRequest { contact: Some(same), update_mask: mask(&["email"]), ..Default::default() };
        check(contacts.update_contact(request).await, "contact", "email", &ada.id);
        let same = Contact { email: "bob@example.com".into(), phone: "+4930123456".into(), ..Default::default() };
        let request = v1::UpsertContactRequest { contact: Some(same), ..Default::default() };
        check(contacts.upsert_contact(request).await, "contact", "phone", &ada.id);

        let (tag, other) = (t.tag("customer").await, t.tag("Customer").await);
        let same = |id: &str| Tag { id: id.into(), name: "customer".into(), ..Default::default() };
        let request = v1::CreateTagRequest { tag: Some(same("")), ..Default::default() };
        check(tags.create_tag(request).await, "tag", "name", &tag.id);
        let request = v1::UpdateTagRequest { tag: Some(same(&other.id)), update_mask: mask(&["name"]), ..Default::default() };
        check(tags.update_tag(request).await, "tag", "name", &tag.id);

        let field = Field { key: "score".into(), value_type: v1::field::ValueType::Text.into(), ..Default::default() };
        let request = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
        let field = fields.create_field(request.clone()).await.unwrap().into_inner();
        check(fields.create_field(request).await, "field", "key", &field.id);

        let workspace = Workspace { name: "other".into(), ..Default::default() };
        let request = v1::CreateWorkspaceRequest { workspace: Some(workspace), ..Default::default() };
        let workspace = workspaces.create_workspace(request.clone()).await.unwrap().into_inner();
        check(workspaces.create_workspace(request).await, "workspace", "name", &workspace.id);
    }

    async fn everything_that_is_wrong_is_told_at_once(t: Taghook) {
        let parameter =
            |name: &str, source| v1::webhook_event::Parameter { name: name.into(), source, ..Default::default() };
        use v1::webhook_event::parameter::Source;
        let event = WebhookEvent {
            method: 9,
            parameters: vec![
                parameter("a", Some(Source::ContactField("no_such".into()))),
                parameter("a", Some(Source::StaticValue("x\0".into()))),
                parameter("b", None),
            ],
            ..Default::default()
        };
        let webhook = Webhook {
            name: String::new(),
            url: "ftp://example.com/__missing__".into(),
            activation_tag_ids: vec!["tag_1".into(), "tag_00000000000000000000000000".into()],
            cooldown: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            timeout: Some(prost_types::Duration { seconds: 31, nanos: 0 }),
            retry_policy: delays(&[5, 0]),
            headers: vec![v1::webhook::Header { name: "Host".into(), value: "a\r\nb: c".into(), sensitive: false }],
            events: vec![event],
            ..Default::default()
        };
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), request_id: "not printable: é".into() };
        let refused = t.client.webhooks().create_webhook(request).await;
        let error = check_error(refused, Code::InvalidArgument, ErrorReason::InvalidFields);
        let mut fields: Vec<_> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
        fields.sort_unstable();
        fields.dedup();
        assert_eq!(
            fields,
            [
                "request_id",
                "webhook.activation_tag_ids[0]",
                "webhook.activation_tag_ids[1]",
                "webhook.cooldown",
                "webhook.events[0].method",
                "webhook.events[0].parameters[0].contact_field",
                "webhook.events[0].parameters[1].name",
                "webhook.events[0].parameters[1].static_value",
                "webhook.events[0].parameters[2].source",
                "webhook.headers[0].name",
                "webhook.headers[0].value",
                "webhook.name",
                "webhook.retry_policy.delays[1]",
                "webhook.timeout",
                "webhook.url",
            ]
        );
        for violation in &error.violations {
            assert!(!violation.reason.is_empty() && !violation.description.is_empty(), "{violation:?}");
            assert!(violation.reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{violation:?}");
        }
    }
}
