//! Keys: no entry without one, and only as far as it opens.

use std::time::Duration;

use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, ReflectMessage, Value};
use taghook_client::contact::by_id;
use taghook_client::v1::api_key::Scope;
use taghook_client::v1::{self, ApiKey, ErrorReason, GetTagRequest, ListWorkspacesRequest, Tag, Workspace};
use taghook_client::{Code, Error};

use crate::campaigns::{campaign, enroll, exit, node, stands_at, wait};
use crate::support::schema::{everything, methods, path};
use crate::support::{Database, Receiver, Taghook, both, check_error, frame};

/// What another workspace has.
struct Theirs {
    contact: String,
    tag: String,
    webhook: String,
    webhook_event: String,
    delivery: String,
    field: String,
    event: String,
    replay: String,
    campaign: String,
    enrollment: String,
    smart_link: String,
}

impl Theirs {
    fn all(&self) -> [&str; 11] {
        [
            &self.contact,
            &self.tag,
            &self.webhook,
            &self.webhook_event,
            &self.delivery,
            &self.field,
            &self.event,
            &self.replay,
            &self.smart_link,
            &self.campaign,
            &self.enrollment,
        ]
    }

    /// The id that a field of this name, in a message of this name, stands for.
    fn id(&self, message: &str, field: &str) -> Option<&str> {
        let kind = match field {
            "id" => message,
            "request_id" => return None,
            _ => field.strip_suffix("_ids").or_else(|| field.strip_suffix("_id"))?,
        };
        Some(match kind {
            "contact" | "Contact" => &self.contact,
            "tag" | "activation_tag" | "start_tag" | "assign_tag" | "remove_tag" | "Tag" => &self.tag,
            "webhook" | "Webhook" => &self.webhook,
            "webhook_event" | "WebhookEvent" => &self.webhook_event,
            "delivery" | "Delivery" => &self.delivery,
            "Field" => &self.field,
            "Event" => &self.event,
            "Replay" => &self.replay,
            "smart_link" | "SmartLink" => &self.smart_link,
            "campaign" | "Campaign" => &self.campaign,
            "Enrollment" => &self.enrollment,
            other => panic!("whose id is {other} ({field} of {message})? Say so here"),
        })
    }

    /// Puts the ids everywhere, and something good into what else is needed.
    fn fill(&self, message: &mut DynamicMessage, noun: &str) {
        let descriptor = message.descriptor();
        // Of a oneof the first member.
        let is_first = |field: &FieldDescriptor| {
            let oneof = field.containing_oneof();
            oneof.is_none_or(|oneof| oneof.fields().next().is_some_and(|first| first == *field))
        };
        for field in descriptor.fields().filter(is_first) {
            let value = match field.kind() {
                Kind::String => {
                    let known = match field.name() {
                        // Links and tags have their names together.
                        "name" if noun == "SmartLink" => Some("a link's name"),
                        "name" => Some("a name"),
                        "key" => Some("a_key"),
                        "type" => Some("form.subscribed"),
                        "url" | "target_url" => Some("https://example.com/"),
                        "email" => Some("ada@example.com"),
                        "external_id" | "external_ids" => Some("crm-7"),
                        name => self.id(noun, name),
                    };
                    known.map(|text| Value::String(text.to_owned()))
                }
                Kind::Enum(_) if field.name() == "start_at" => Some(Value::EnumNumber(2)),
                Kind::Enum(_) if !field.is_list() => Some(Value::EnumNumber(1)),
                Kind::Message(inner) if inner.full_name().starts_with("taghook.") && !field.is_map() => {
                    let is_wanted = !matches!(field.name(), "parameters" | "headers" | "retry_policy" | "rule");
                    is_wanted.then(|| {
                        let noun = if inner.name() == "Filter" || inner.name().ends_with("Request") {
                            noun
                        } else {
                            inner.name()
                        };
                        let mut made = DynamicMessage::new(inner.clone());
                        self.fill(&mut made, noun);
                        Value::Message(made)
                    })
                }
                Kind::Message(mask) if field.name() == "update_mask" => Some(Value::Message(everything(mask))),
                _ => None,
            };
            if let Some(value) = value.filter(|_| !field.is_map()) {
                message.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
            }
        }
    }
}

/// Makes a workspace's key.
async fn key(
    t: &Taghook,
    workspace: &str,
    scopes: &[Scope],
    expires: Option<prost_types::Timestamp>,
) -> (ApiKey, String) {
    let api_key = ApiKey {
        name: "test".into(),
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
        expire_time: expires,
        ..Default::default()
    };
    let request = v1::CreateApiKeyRequest { workspace_id: workspace.into(), api_key: Some(api_key) };
    let made = t.root.workspaces().create_api_key(request).await.expect("a key").into_inner();
    (made.api_key.expect("the key"), made.secret)
}

async fn default_workspace(t: &Taghook) -> String {
    let list = t.root.workspaces().list_workspaces(ListWorkspacesRequest::default()).await.expect("workspaces");
    list.into_inner().workspaces.remove(0).id
}

async fn workspace(t: &Taghook, name: &str) -> String {
    let workspace = Some(Workspace { name: name.into(), ..Default::default() });
    let request = v1::CreateWorkspaceRequest { workspace, ..Default::default() };
    t.root.workspaces().create_workspace(request).await.expect("a workspace").into_inner().id
}

async fn theirs(t: &Taghook) -> Theirs {
    let receiver = Receiver::start().await;
    let contact = t.contact("ada@example.com").await;
    let tag = t.tag("customer").await;
    let webhook = t.webhook(&receiver, &tag, |_| {}).await;
    let tagged = t.assign(&contact, &tag).await;
    let field =
        v1::Field { key: "score".into(), value_type: v1::field::ValueType::Integer.into(), ..Default::default() };
    let field = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
    let event = v1::Event { r#type: "form.subscribed".into(), ..Default::default() };
    let event = v1::RecordEventRequest { contact: by_id(&contact.id), event: Some(event), ..Default::default() };
    let replay = v1::Replay { filter: Some(v1::ReplayFilter::default()), ..Default::default() };
    let replay = v1::CreateReplayRequest { replay: Some(replay), ..Default::default() };
    let link = v1::SmartLink { name: "sale".into(), target_url: "https://example.com/".into(), ..Default::default() };
    let link = v1::CreateSmartLinkRequest { smart_link: Some(link), ..Default::default() };
    let campaign = campaign(t, "welcome", None, vec![node("hold", "exit", wait(86_400)), exit()]).await;
    enroll(t, &campaign, &contact).await;
    Theirs {
        enrollment: stands_at(t, &campaign, "hold").await.id,
        campaign: campaign.id,
        smart_link: t.client.smart_links().create_smart_link(link).await.expect("a link").into_inner().id,
        replay: t.client.deliveries().create_replay(replay).await.expect("a replay").into_inner().id,
        contact: contact.id,
        tag: tag.id,
        webhook_event: webhook.events[0].id.clone(),
        webhook: webhook.id,
        delivery: tagged.triggers[0].delivery_ids[0].clone(),
        field: t.client.fields().create_field(field).await.expect("a field").into_inner().id,
        event: t.client.events().record_event(event).await.expect("an event").into_inner().event.expect("it").id,
    }
}

/// What a method answers that is given the ids of another workspace.
fn expected(method: &MethodDescriptor) -> Code {
    match method.name() {
        // They name nothing that exists, but for the tags of a webhook or of a tag's effects, which are fields of it.
        "CreateWebhook" | "CreateTag" => Code::InvalidArgument,
        "CreateContact" | "CreateField" | "CreateSmartLink"
        // What it names is looked for when it is activated.
        | "CreateCampaign"
        // Each item has an answer of its own.
        | "BatchTagContacts" | "BatchRecordEvents"
        // The same for all, or of the caller.
        | "ListEventTypes" | "WhoAmI" | "GetServerInfo"
        // Filters that nothing of the workspace fits.
        | "ListContacts" | "ListTags" | "ListFields" | "ListWebhooks" | "ListDeliveries"
        | "ListReplays" | "ListSmartLinks" | "ListCampaigns" => Code::Ok,
        "StreamOutcomes" => Code::DeadlineExceeded,
        _ => Code::NotFound,
    }
}

fn is_root(method: &MethodDescriptor) -> bool {
    method.parent_service().name() == "WorkspaceService"
}

/// Every key opens it.
fn is_open(method: &MethodDescriptor) -> bool {
    method.parent_service().name() == "InfoService"
}

fn is_read(method: &MethodDescriptor) -> bool {
    let name = method.name();
    name != "GetWebhookSecret"
        && ["Get", "List", "Lookup", "Preview", "Stream"].iter().any(|verb| name.starts_with(verb))
}

both! {
    async fn without_a_good_key_there_is_no_entry(t: Taghook) {
        for key in [None, Some("thk_x"), Some("")] {
            let result = t.client_with(key).tags().get_tag(GetTagRequest { id: "tag_1".into() }).await;
            check_error(result, Code::Unauthenticated, ErrorReason::Unauthenticated);
        }
    }

    async fn the_root_key_opens_workspaces_alone(t: Taghook) {
        let list = ListWorkspacesRequest::default();
        let workspaces = t.root.workspaces().list_workspaces(list.clone()).await.unwrap().into_inner().workspaces;
        assert_eq!(workspaces.len(), 1);
        check_error(
            t.root.tags().get_tag(GetTagRequest { id: "tag_1".into() }).await,
            Code::PermissionDenied,
            ErrorReason::ScopeMissing,
        );
        let refused = t.client.workspaces().list_workspaces(list).await;
        let error: Error = check_error(refused, Code::PermissionDenied, ErrorReason::ScopeMissing);
        assert_eq!(error.metadata["scope"], "ROOT");
    }

    async fn names_without_a_place_in_the_database_are_refused(t: Taghook) {
        let workspace = Some(Workspace { name: "a\0b".into(), ..Default::default() });
        let request = v1::CreateWorkspaceRequest { workspace, ..Default::default() };
        let refused = t.root.workspaces().create_workspace(request).await;
        let error = check_error(refused, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(error.violations[0].field, "workspace.name");
        let api_key = ApiKey { name: "a\0b".into(), scopes: vec![Scope::Read.into()], ..Default::default() };
        let workspace_id = default_workspace(&t).await;
        let request = v1::CreateApiKeyRequest { workspace_id, api_key: Some(api_key) };
        let refused = t.root.workspaces().create_api_key(request).await;
        let error = check_error(refused, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(error.violations[0].field, "api_key.name");
    }

    async fn bytes_that_are_no_message_are_refused(t: Taghook) {
        let tag = t.tag("customer").await;
        let raw = t.raw().await;
        let authorization = format!("Bearer {}", t.key());
        let headers = [("authorization", authorization.as_str())];
        let get = frame(&GetTagRequest { id: tag.id.clone() }.encode_to_vec());
        let answer = raw.call("/taghook.v1.TagService/GetTag", &headers, get).await;
        assert_eq!(answer.message::<Tag>(), tag);
        let answer = raw.call("/taghook.v1.TagService/GetTag", &headers, frame(b"\xff\xff\xff")).await;
        assert_eq!(answer.http_status, 200);
        assert_eq!(answer.error().reason, ErrorReason::MalformedRequest, "{answer:?}");
        let answer = raw.call("/taghook.v1.TagService/NoSuchMethod", &headers, frame(b"")).await;
        assert_eq!(answer.status().code(), Code::Unimplemented, "{answer:?}");
    }

    /// Whatever method there is: no key of one workspace reaches what another one has.
    async fn other_workspaces_are_out_of_sight_on_every_method(t: Taghook) {
        let theirs = theirs(&t).await;
        let ours = workspace(&t, "ours").await;
        let (_, secret) = key(&t, &ours, &[Scope::Admin], None).await;
        let raw = t.raw().await;
        let mut methods: Vec<_> = methods().into_iter().filter(|method| !is_root(method)).collect();
        // What would be created has the e-mail of theirs, which others look for.
        methods.sort_by_key(|method| method.name().starts_with("Create"));
        for method in methods {
            let mut request = DynamicMessage::new(method.input());
            let service = method.parent_service();
            let other = ["Replay", "Enrollment"].into_iter().find(|noun| method.name().ends_with(noun));
            theirs.fill(&mut request, other.unwrap_or(service.name().trim_end_matches("Service")));
            let answer = raw.invoke(Some(&secret), &method, &request).await;
            let error = answer.status();
            assert_eq!(error.code(), expected(&method), "{}: {error:?}\n{request:?}", path(&method));
            let data = String::from_utf8_lossy(&answer.data);
            if method.name().starts_with("Batch") {
                assert!(data.contains("NOT_FOUND"), "{data}");
            } else if method.name() != "CreateCampaign" {
                // That one shows what it was given, and what isn't there can't be activated.
                assert!(theirs.all().iter().all(|id| !data.contains(id)), "{}: {data}", path(&method));
            }
        }
        let request = v1::GetDeliveryRequest { id: theirs.delivery.clone() };
        t.client.deliveries().get_delivery(request).await.expect("what was theirs is still there");
        let request = v1::GetContactRequest { id: theirs.contact.clone() };
        t.client.contacts().get_contact(request).await.expect("what was theirs is still there");
    }

    async fn every_method_needs_a_key(t: Taghook) {
        let raw = t.raw().await;
        for method in methods() {
            for key in [None, Some("thk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")] {
                let answer = raw.invoke(key, &method, &DynamicMessage::new(method.input())).await;
                let error = answer.error();
                let expected = (Code::Unauthenticated, ErrorReason::Unauthenticated);
                assert_eq!((error.code, error.reason), expected, "{}", path(&method));
            }
        }
    }

    async fn a_key_goes_as_far_as_its_scopes_on_every_method(t: Taghook) {
        let (_, reader) = key(&t, &default_workspace(&t).await, &[Scope::Read], None).await;
        let root = t.database().key("root.key");
        let raw = t.raw().await;
        for method in methods() {
            let request = DynamicMessage::new(method.input());
            let by_reader = is_open(&method) || (is_read(&method) && !is_root(&method));
            for (key, is_allowed) in [(&reader, by_reader), (&root, is_open(&method) || is_root(&method))] {
                let error = raw.invoke(Some(key), &method, &request).await.status();
                let is_refused = error.code() == Code::PermissionDenied;
                assert_eq!(is_refused, !is_allowed, "{}: {error:?}", path(&method));
                if is_refused {
                    assert_eq!(Error::from(error).reason, ErrorReason::ScopeMissing, "{}", path(&method));
                }
            }
        }
    }

    async fn a_revoked_key_opens_nothing(t: Taghook) {
        let (api_key, secret) = key(&t, &default_workspace(&t).await, &[Scope::Read], None).await;
        let client = t.client_with(Some(&secret));
        client.tags().list_tags(v1::ListTagsRequest::default()).await.expect("a key that works");
        for _ in 0..2 {
            let request = v1::RevokeApiKeyRequest { id: api_key.id.clone(), ..Default::default() };
            let revoked = t.root.workspaces().revoke_api_key(request).await.expect("a revocation").into_inner();
            assert!(revoked.revoke_time.is_some());
        }
        let refused = client.tags().list_tags(v1::ListTagsRequest::default()).await;
        check_error(refused, Code::Unauthenticated, ErrorReason::Unauthenticated);
    }

    async fn an_expired_key_opens_nothing(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        // 2026-01-01T00:01:00Z, a minute after the clock's start.
        let expires = prost_types::Timestamp { seconds: 1_767_225_660, nanos: 0 };
        let (_, secret) = key(&t, &default_workspace(&t).await, &[Scope::Read], Some(expires)).await;
        let client = t.client_with(Some(&secret));
        clock.advance(Duration::from_secs(60) - Duration::from_micros(1));
        client.tags().list_tags(v1::ListTagsRequest::default()).await.expect("a key that works");
        clock.advance(Duration::from_micros(1));
        let refused = client.tags().list_tags(v1::ListTagsRequest::default()).await;
        check_error(refused, Code::Unauthenticated, ErrorReason::Unauthenticated);
    }
}
