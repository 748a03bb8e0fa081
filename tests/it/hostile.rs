//! Bad input: each is refused with a clear error that names the field, and leaves nothing behind.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Duration, FieldMask, ListValue, Struct, Timestamp, Value};
use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::webhook::Header;
use taghook_client::v1::webhook_event::Parameter;
use taghook_client::v1::webhook_event::parameter::Source;
use taghook_client::v1::{self, Contact, ErrorReason, Event, Field, Tag, Webhook, WebhookEvent};

use crate::support::{RawGrpc, Receiver, Taghook, both, dump, frame};

/// Sends what a test says.
struct Attacker {
    raw: RawGrpc,
    key: String,
}

impl Attacker {
    async fn new(t: &Taghook) -> Self {
        Self { raw: t.raw().await, key: t.key() }
    }

    /// Checks that a call is refused with this code and reason.
    async fn refused(
        &self,
        path: &str,
        body: impl Into<Bytes>,
        code: Code,
        reason: ErrorReason,
    ) -> taghook_client::Error {
        let authorization = format!("Bearer {}", self.key);
        let headers = [("authorization", authorization.as_str())];
        let error = self.raw.call(&format!("/taghook.v1.{path}"), &headers, body).await.error();
        assert_eq!((error.code, error.reason), (code, reason), "{path}: {error:?}");
        error
    }

    /// Checks that a call is refused for this field.
    async fn invalid(&self, path: &str, message: &impl Message, field: &str) {
        let body = frame(&message.encode_to_vec());
        let error = self.refused(path, body, Code::InvalidArgument, ErrorReason::InvalidFields).await;
        let is_named = error.violations.iter().any(|violation| violation.field == field);
        assert!(is_named, "{path}: expected {field}: {:?}", error.violations);
    }

    async fn invalid_contact(&self, change: impl FnOnce(&mut Contact), field: &str) {
        let mut contact = Contact { email: "eve@example.com".into(), ..Default::default() };
        change(&mut contact);
        let request = v1::CreateContactRequest { contact: Some(contact), ..Default::default() };
        self.invalid("ContactService/CreateContact", &request, field).await;
    }

    async fn invalid_tag(&self, change: impl FnOnce(&mut Tag), field: &str) {
        let mut tag = Tag { name: "bad".into(), ..Default::default() };
        change(&mut tag);
        let request = v1::CreateTagRequest { tag: Some(tag), ..Default::default() };
        self.invalid("TagService/CreateTag", &request, field).await;
    }

    async fn invalid_field(&self, change: impl FnOnce(&mut Field), field: &str) {
        let mut made = Field { key: "bad".into(), value_type: 1, ..Default::default() };
        change(&mut made);
        let request = v1::CreateFieldRequest { field: Some(made), ..Default::default() };
        self.invalid("FieldService/CreateField", &request, field).await;
    }

    async fn invalid_event(&self, contact: &Contact, change: impl FnOnce(&mut Event), field: &str) {
        let mut event = Event { r#type: "form.subscribed".into(), ..Default::default() };
        change(&mut event);
        let request = v1::RecordEventRequest { contact: by_id(&contact.id), event: Some(event), ..Default::default() };
        self.invalid("EventService/RecordEvent", &request, field).await;
    }

    async fn invalid_webhook(&self, base: &Webhook, change: impl FnOnce(&mut Webhook), field: &str) {
        let mut webhook = base.clone();
        change(&mut webhook);
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        self.invalid("WebhookService/CreateWebhook", &request, field).await;
    }
}

async fn rows(t: &Taghook) -> usize {
    dump(t.database()).await.lines().count()
}

/// A webhook that would be good.
fn good(receiver: &Receiver, tag: &Tag) -> Webhook {
    Webhook {
        name: "good".into(),
        url: receiver.url("/hook"),
        activation_tag_ids: vec![tag.id.clone()],
        events: vec![WebhookEvent::default()],
        ..Default::default()
    }
}

fn header(name: &str, value: &str) -> Vec<Header> {
    vec![Header { name: name.into(), value: value.into(), sensitive: false }]
}

fn attributes(value: Value) -> Option<Struct> {
    Some(Struct { fields: BTreeMap::from([("a".to_owned(), value)]) })
}

/// A list in a list in a list, so deep.
fn nested(depth: usize) -> Value {
    (0..depth).fold(Value { kind: Some(Kind::NullValue(0)) }, |inner, _| Value {
        kind: Some(Kind::ListValue(ListValue { values: vec![inner] })),
    })
}

both! {
    async fn bytes_that_no_stub_would_send_are_refused(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let before = rows(&t).await;
        let malformed: [(&str, &[u8]); 6] = [
            ("a varint without end", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("a length beyond the end", b"\x0a\x7fa"),
            ("a string that isn't UTF-8", b"\x12\x02\xff\xfe"),
            ("a wire type that doesn't exist", b"\x0f"),
            ("another wire type than the field's", b"\x08\x01"),
            ("the field number 0", b"\x02\x00"),
        ];
        for (what, bytes) in malformed {
            let body = frame(bytes);
            let error =
                attacker.refused("TagService/CreateTag", body, Code::InvalidArgument, ErrorReason::MalformedRequest).await;
            assert!(!error.message.is_empty(), "{what}");
        }
        assert_eq!(rows(&t).await, before);
    }

    async fn broken_frames_are_refused(t: Taghook) {
        let raw = t.raw().await;
        let authorization = format!("Bearer {}", t.key());
        let tag = Tag { name: "good".into(), ..Default::default() };
        let good = frame(&v1::CreateTagRequest { tag: Some(tag), ..Default::default() }.encode_to_vec());
        let before = rows(&t).await;
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.to_vec();
            change(&mut bytes);
            bytes
        };
        let broken = [
            ("nothing", Vec::new()),
            ("half of the head", good[..3].to_vec()),
            ("no message", good[..5].to_vec()),
            ("half of the message", good[..good.len() - 2].to_vec()),
            ("a length of 4 GiB", with(&|bytes| bytes[1..5].fill(0xff))),
            ("a length of 5 MiB", with(&|bytes| bytes[2] = 0x50)),
            ("compressed, by nothing", with(&|bytes| bytes[0] = 1)),
            ("an unknown flag", with(&|bytes| bytes[0] = 2)),
            ("something after the message", with(&|bytes| bytes.push(0))),
        ];
        for (what, body) in broken {
            let headers = [("authorization", authorization.as_str())];
            let error = raw.call("/taghook.v1.TagService/CreateTag", &headers, body).await.error();
            assert_ne!(error.code, Code::Ok, "{what}: {error:?}");
            let is_large = what.starts_with("a length");
            let expected = if is_large { ErrorReason::RequestTooLarge } else { ErrorReason::MalformedRequest };
            assert_eq!(error.reason, expected, "{what}: {error:?}");
            assert!(!error.message.is_empty(), "{what}");
        }
        for path in [
            "/",
            "/x",
            "/taghook.v1.TagService/",
            "/taghook.v1.TagService/createtag",
            "/taghook.v1.TagService/CreateTag/",
            "/taghook.v2.TagService/CreateTag",
            "//taghook.v1.TagService/CreateTag",
        ] {
            let headers = [("authorization", authorization.as_str())];
            let error = raw.call(path, &headers, good.clone()).await.error();
            assert_eq!((error.code, error.reason), (Code::Unimplemented, ErrorReason::MalformedRequest), "{path}");
        }
        assert_eq!(rows(&t).await, before);
    }

    async fn text_with_control_characters_is_refused_wherever_it_goes(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let receiver = Receiver::start().await;
        let (tag, contact) = (t.tag("customer").await, t.contact("ada@example.com").await);
        let base = good(&receiver, &tag);
        let before = rows(&t).await;
        for bad in ["a\0b", "\u{1}", "a\u{7f}"] {
            attacker.invalid_contact(|it| it.email = format!("{bad}@example.com"), "contact.email").await;
            attacker.invalid_contact(|it| it.phone = format!("+1202555{bad}"), "contact.phone").await;
            attacker.invalid_field(|it| it.key = bad.into(), "field.key").await;
            attacker.invalid_event(&contact, |it| it.r#type = format!("form.{bad}"), "event.type").await;
            attacker.invalid_webhook(&base, |it| it.url = format!("https://example.com/{bad}"), "webhook.url").await;
            attacker.invalid_webhook(&base, |it| it.headers = header(bad, "x"), "webhook.headers[0].name").await;
            attacker.invalid_webhook(&base, |it| it.headers = header("x-a", bad), "webhook.headers[0].value").await;
        }
        attacker.invalid_tag(|it| it.name = "a\0b".into(), "tag.name").await;
        attacker.invalid_field(|it| it.display_name = "a\0b".into(), "field.display_name").await;
        attacker.invalid_webhook(&base, |it| it.name = "a\0b".into(), "webhook.name").await;
        assert_eq!(rows(&t).await, before);
    }

    async fn a_nul_is_refused_in_every_long_text(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let contact = t.contact("ada@example.com").await;
        let before = rows(&t).await;
        attacker.invalid_tag(|it| it.description = "a\0b".into(), "tag.description").await;
        attacker
            .invalid_contact(
                |it| drop(it.values.insert("first_name".into(), "a\0b".into())),
                "contact.values[\"first_name\"]",
            )
            .await;
        let value = Value { kind: Some(Kind::StringValue("a\0b".into())) };
        let request = v1::RecordEventRequest {
            contact: by_id(contact.id),
            event: Some(Event {
                r#type: "form.subscribed".into(),
                attributes: attributes(value),
                ..Default::default()
            }),
            ..Default::default()
        };
        let body = frame(&request.encode_to_vec());
        let error =
            attacker.refused("EventService/RecordEvent", body, Code::InvalidArgument, ErrorReason::InvalidFields).await;
        assert!(error.violations[0].field.starts_with("event.attributes"), "{error:?}");
        assert_eq!(rows(&t).await, before);
    }

    async fn emails_and_phones_that_are_none_are_refused(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let before = rows(&t).await;
        let long = format!("{}@example.com", "a".repeat(250));
        for email in [
            "a",
            "@example.com",
            "a@",
            "a@@example.com",
            "a b@example.com",
            "a@exa mple.com",
            "a@example..com",
            "a@-",
            &long,
        ] {
            attacker.invalid_contact(|it| it.email = email.into(), "contact.email").await;
        }
        for phone in ["1", "+", "abc", "+0000000000000000000000", "+1 202 555 x"] {
            attacker.invalid_contact(|it| it.phone = phone.into(), "contact.phone").await;
        }
        assert_eq!(rows(&t).await, before);
    }

    async fn hostile_urls_and_headers_are_refused(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let receiver = Receiver::start().await;
        let base = good(&receiver, &t.tag("customer").await);
        let before = rows(&t).await;
        let urls = [
            "example.com",
            "//example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://",
            "https://user:secret@example.com/",
            "http://169.254.169.254/latest",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fd00:ec2::254]/",
            "http://10.0.0.1/",
            "http://[64:ff9b::a00:1]/",
            "http://0/",
            "https://example.com:99999/",
            "https://exa\r\nmple.com/",
        ];
        for url in urls {
            attacker.invalid_webhook(&base, |it| it.url = url.into(), "webhook.url").await;
        }
        for name in [
            "host",
            "Content-Length",
            "transfer-encoding",
            "connection",
            "webhook-id",
            "webhook-signature",
            "x a",
            "x:a",
            "x\r\ny",
            "é",
        ] {
            attacker.invalid_webhook(&base, |it| it.headers = header(name, "x"), "webhook.headers[0].name").await;
        }
        for value in ["a\r\nx-evil: 1", "a\nb", "a\rb"] {
            attacker.invalid_webhook(&base, |it| it.headers = header("x-a", value), "webhook.headers[0].value").await;
        }
        assert_eq!(rows(&t).await, before);
    }

    async fn durations_times_and_enums_out_of_range_are_refused(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let receiver = Receiver::start().await;
        let (tag, contact) = (t.tag("customer").await, t.contact("ada@example.com").await);
        let base = good(&receiver, &tag);
        let before = rows(&t).await;
        for (seconds, nanos) in
            [(-1, 0), (0, -1), (2_592_001, 0), (i64::MAX, 0), (i64::MIN, i32::MIN), (1, 1_000_000_000)]
        {
            let bad = Some(Duration { seconds, nanos });
            attacker.invalid_webhook(&base, |it| it.cooldown = bad, "webhook.cooldown").await;
            attacker.invalid_webhook(&base, |it| it.timeout = bad, "webhook.timeout").await;
        }
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000), (253_402_300_800, 0)] {
            let bad = Some(Timestamp { seconds, nanos });
            attacker.invalid_event(&contact, |it| it.event_time = bad, "event.event_time").await;
        }
        for bad in [99, -1, i32::MAX, i32::MIN] {
            attacker.invalid_contact(|it| it.status = bad, "contact.status").await;
            attacker.invalid_tag(|it| it.kind = bad, "tag.kind").await;
            attacker.invalid_field(|it| it.value_type = bad, "field.value_type").await;
            attacker.invalid_webhook(&base, |it| it.cooldown_policy = bad, "webhook.cooldown_policy").await;
            attacker.invalid_webhook(&base, |it| it.events[0].method = bad, "webhook.events[0].method").await;
            attacker.invalid_webhook(&base, |it| it.events[0].encoding = bad, "webhook.events[0].encoding").await;
        }
        assert_eq!(rows(&t).await, before);
    }

    async fn ids_of_the_wrong_kind_are_refused(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let receiver = Receiver::start().await;
        let (tag, contact) = (t.tag("customer").await, t.contact("ada@example.com").await);
        let base = good(&receiver, &tag);
        let before = rows(&t).await;
        for id in [contact.id.as_str(), "tag_", "tag_\u{0}", "' OR 1=1 --", "../tag", "TAG_1", &tag.id.to_uppercase()] {
            let id = id.to_owned();
            let request = v1::GetTagRequest { id: id.clone() };
            attacker
                .refused(
                    "TagService/GetTag",
                    frame(&request.encode_to_vec()),
                    Code::InvalidArgument,
                    ErrorReason::InvalidFields,
                )
                .await;
            attacker
                .invalid_webhook(&base, |it| it.activation_tag_ids = vec![id.clone()], "webhook.activation_tag_ids[0]")
                .await;
            let request =
                v1::TagContactRequest { contact: by_id(&contact.id), tag_ids: vec![id], ..Default::default() };
            attacker.invalid("ContactService/TagContact", &request, "tag_ids[0]").await;
        }
        assert_eq!(rows(&t).await, before);
    }

    async fn bad_masks_tokens_and_cursors_are_refused(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let tag = t.tag("customer").await;
        let before = rows(&t).await;
        for path in ["id", "no_such", "name.x", "", "*.name", "create_time", "Name"] {
            let update_mask = Some(FieldMask { paths: vec!["name".into(), path.into()] });
            let request = v1::UpdateTagRequest { tag: Some(tag.clone()), update_mask, ..Default::default() };
            attacker.invalid("TagService/UpdateTag", &request, "update_mask.paths[1]").await;
        }
        for token in ["x", "e30", "AAAA", "é", "../..", &"A".repeat(513)] {
            let request = v1::ListTagsRequest { page_token: token.into(), ..Default::default() };
            attacker.invalid("TagService/ListTags", &request, "page_token").await;
        }
        for size in [-1, i32::MIN] {
            let request = v1::ListTagsRequest { page_size: size, ..Default::default() };
            attacker.invalid("TagService/ListTags", &request, "page_size").await;
        }
        for cursor in ["x", "AAAA", "é", "\0"] {
            let request = v1::StreamOutcomesRequest {
                position: Some(v1::stream_outcomes_request::Position::AfterCursor(cursor.into())),
                ..Default::default()
            };
            let body = frame(&request.encode_to_vec());
            attacker
                .refused("DeliveryService/StreamOutcomes", body, Code::InvalidArgument, ErrorReason::CursorInvalid)
                .await;
        }
        assert_eq!(rows(&t).await, before);
    }

    async fn too_many_and_too_deep_are_refused(t: Taghook) {
        let attacker = Attacker::new(&t).await;
        let receiver = Receiver::start().await;
        let (tag, contact) = (t.tag("customer").await, t.contact("ada@example.com").await);
        let base = good(&receiver, &tag);
        let before = rows(&t).await;
        attacker.invalid_webhook(&base, |it| it.events = vec![WebhookEvent::default(); 11], "webhook.events").await;
        attacker
            .invalid_webhook(&base, |it| it.activation_tag_ids = vec![tag.id.clone(); 21], "webhook.activation_tag_ids")
            .await;
        attacker
            .invalid_webhook(&base, |it| it.activation_tag_ids = vec![tag.id.clone(); 2], "webhook.activation_tag_ids")
            .await;
        attacker
            .invalid_webhook(&base, |it| it.headers = vec![header("x-a", "x").remove(0); 21], "webhook.headers")
            .await;
        attacker
            .invalid_webhook(&base, |it| it.headers = header("x-a", &"x".repeat(4_097)), "webhook.headers[0].value")
            .await;
        let parameter =
            Parameter { name: "a".into(), source: Some(Source::StaticValue("x".into())), ..Default::default() };
        attacker
            .invalid_webhook(
                &base,
                |it| it.events[0].parameters = vec![parameter.clone(); 101],
                "webhook.events[0].parameters",
            )
            .await;
        attacker
            .invalid_webhook(
                &base,
                |it| it.events[0].parameters = vec![Parameter { source: None, ..parameter }],
                "webhook.events[0].parameters[0].source",
            )
            .await;
        attacker
            .invalid_contact(
                |it| it.values = (0..501).map(|i| (format!("f{i}"), String::new())).collect(),
                "contact.values",
            )
            .await;
        let deep = v1::RecordEventRequest {
            contact: by_id(&contact.id),
            event: Some(Event {
                r#type: "form.subscribed".into(),
                attributes: attributes(nested(40)),
                ..Default::default()
            }),
            ..Default::default()
        };
        attacker.invalid("EventService/RecordEvent", &deep, "event.attributes").await;
        assert_eq!(rows(&t).await, before);
    }
}
