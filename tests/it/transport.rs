//! gRPC itself: deadlines, sizes, compression, browsers, reflection, health.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use taghook::store::Tx;
use taghook_client::Code;
use taghook_client::contact::by_id;
use taghook_client::v1::tag_service_client::TagServiceClient;
use taghook_client::v1::{self, ErrorReason, Tag, WebhookEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::schema::methods;
use crate::support::{Answer, Database, Gate, RawAnswer, RawGrpc, Receiver, Taghook, Watch, both, frame, within};

const CREATE_TAG: &str = "/taghook.v1.TagService/CreateTag";
/// The largest message that is read.
const LIMIT: usize = 4 * 1024 * 1024;

/// Calls with the key of the default workspace.
async fn call(t: &Taghook, raw: &RawGrpc, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> RawAnswer {
    let authorization = format!("Bearer {}", t.key());
    let headers: Vec<_> = headers.iter().copied().chain([("authorization", authorization.as_str())]).collect();
    raw.call(path, &headers, body).await
}

fn create_tag(name: &str) -> v1::CreateTagRequest {
    v1::CreateTagRequest { tag: Some(Tag { name: name.into(), ..Default::default() }), ..Default::default() }
}

/// A request with a field that nobody knows, so that it has this many bytes.
fn padded(request: &impl Message, bytes: usize) -> Vec<u8> {
    let mut encoded = request.encode_to_vec();
    // The field 1000, of bytes: two of them for its number and type, four for a length of 2 MiB or more.
    let padding = bytes - encoded.len() - 6;
    assert!(padding >= 1 << 21, "the length takes four bytes");
    encoded.extend([0xc2, 0x3e]);
    prost::encoding::encode_varint(padding as u64, &mut encoded);
    encoded.resize(bytes, 0);
    encoded
}

async fn channel(t: &Taghook) -> tonic::transport::Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", t.authority())).expect("an address");
    endpoint.connect().await.expect("a connection")
}

/// What came back by HTTP/1.1.
struct WebAnswer {
    head: String,
    body: Vec<u8>,
}

impl WebAnswer {
    /// The frames of gRPC-Web: the flag of each and what is in it.
    fn frames(&self) -> Vec<(u8, &[u8])> {
        let (mut frames, mut rest) = (Vec::new(), &self.body[..]);
        while let [flag, a, b, c, d, tail @ ..] = rest {
            let (data, next) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            frames.push((*flag, data));
            rest = next;
        }
        frames
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A request of HTTP/1.1, as a browser makes it.
async fn browse(t: &Taghook, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> WebAnswer {
    let mut stream = TcpStream::connect(t.authority()).await.expect("a connection");
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    stream.write_all(body).await.expect("a body");
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer)).await.expect("an answer");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("the end of the head");
    let head = String::from_utf8(answer[..end].to_vec()).expect("a head");
    let rest = answer[end + 4..].to_vec();
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    WebAnswer { head, body: if is_chunked { unchunked(&rest) } else { rest } }
}

/// RFC 9112, section 7.1.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).expect("a size"), 16).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..][..size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

both! {
    async fn a_deadline_is_kept_and_the_work_stops(t: Taghook) {
        let (held, release) = (Gate::closed(), Gate::closed());
        // Nobody else can change a webhook, nor, on SQLite, anything.
        let hold = t.store().write("hold", |tx: Tx| {
            let (held, release) = (held.clone(), release.clone());
            async move {
                tx.gate_exclusive().await?;
                held.open();
                release.passed().await;
                Ok(())
            }
        });
        let webhook = v1::Webhook {
            name: "late".into(),
            url: "https://example.com/".into(),
            events: vec![WebhookEvent::default()],
            ..Default::default()
        };
        let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
        let late = async {
            held.passed().await;
            let raw = t.raw().await;
            let body = frame(&request.encode_to_vec());
            let answer =
                call(&t, &raw, "/taghook.v1.WebhookService/CreateWebhook", &[("grpc-timeout", "100m")], body).await;
            release.open();
            answer.error()
        };
        let (hold, error) = tokio::join!(hold, late);
        hold.unwrap();
        assert_eq!((error.code, error.reason), (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded));
        // What waits in line comes after what waited before it.
        t.webhook(&Receiver::start().await, &t.tag("customer").await, |it| it.name = "next".into()).await;
        let webhooks = t.client.webhooks().list_webhooks(v1::ListWebhooksRequest::default()).await.unwrap();
        let names: Vec<_> = webhooks.into_inner().webhooks.into_iter().map(|webhook| webhook.name).collect();
        assert_eq!(names, ["next"]);
    }

    /// The answer to a test can be given up; the test goes on.
    async fn a_test_is_recorded_though_its_caller_has_gone(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let gate = Gate::closed();
        receiver.answer(Answer::ok().behind(&gate));
        let (tag, contact) = (t.tag("customer").await, t.contact("ada@example.com").await);
        let webhook = t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        let request = v1::TestWebhookRequest { id: webhook.id, contact: by_id(contact.id), ..Default::default() };
        let body = frame(&request.encode_to_vec());
        let raw = t.raw().await;
        let answer = call(&t, &raw, "/taghook.v1.WebhookService/TestWebhook", &[("grpc-timeout", "300m")], body).await;
        assert_eq!(answer.error().reason, ErrorReason::DeadlineExceeded);
        gate.open();
        let received = receiver.recv().await;
        let outcome = watch.expect(v1::outcome::Kind::Delivered).await;
        assert_eq!(outcome.delivery_id, received.webhook_id());
    }

    async fn a_timeout_that_cannot_be_read_is_refused(t: Taghook) {
        let raw = t.raw().await;
        let body = frame(&create_tag("customer").encode_to_vec());
        for timeout in ["", "5", "S", "123456789S", "-1S", "1.5S", "5s", "5 S"] {
            let error = call(&t, &raw, CREATE_TAG, &[("grpc-timeout", timeout)], body.clone()).await.error();
            assert_eq!((error.code, error.reason), (Code::InvalidArgument, ErrorReason::InvalidFields), "{timeout:?}");
            assert_eq!(error.violations[0].field, "grpc-timeout");
        }
        let answer = call(&t, &raw, CREATE_TAG, &[("grpc-timeout", "99999999H")], body).await;
        assert_eq!(answer.message::<Tag>().name, "customer");
    }

    async fn a_message_may_have_4_mib_and_fields_that_nobody_knows(t: Taghook) {
        let raw = t.raw().await;
        let answer = call(&t, &raw, CREATE_TAG, &[], frame(&padded(&create_tag("large"), LIMIT))).await;
        assert_eq!(answer.message::<Tag>().name, "large");
        let answer = call(&t, &raw, CREATE_TAG, &[], frame(&padded(&create_tag("larger"), LIMIT + 1))).await;
        let error = answer.error();
        assert_eq!((error.code, error.reason), (Code::ResourceExhausted, ErrorReason::RequestTooLarge), "{error:?}");
        let tags = t.client.tags().list_tags(v1::ListTagsRequest::default()).await.unwrap().into_inner().tags;
        assert_eq!(tags.len(), 1);
    }

    /// gRPC core drops what is over 8 KiB as it travels, and reports RESOURCE_EXHAUSTED in its place.
    async fn an_error_with_many_violations_reaches_every_client(t: Taghook) {
        let raw = t.raw().await;
        for name in ["", "ü", "%"] {
            let parameter = v1::webhook_event::Parameter { name: name.repeat(200), ..Default::default() };
            let event = v1::WebhookEvent { parameters: vec![parameter; 100], ..Default::default() };
            let webhook = v1::Webhook { name: "x".into(), url: "ftp://x".into(), events: vec![event], ..Default::default() };
            let request = v1::CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
            let answer = call(&t, &raw, "/taghook.v1.WebhookService/CreateWebhook", &[], frame(&request.encode_to_vec())).await;
            let size = |headers: &HeaderMap| -> usize {
                headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
            };
            let bytes = size(&answer.headers) + size(&answer.trailers);
            assert!(bytes < 8_192, "{bytes} bytes");
            let error = answer.error();
            assert_eq!((error.code, error.reason), (Code::InvalidArgument, ErrorReason::InvalidFields));
            assert!(error.violations.len() > 10, "{} violations", error.violations.len());
        }
    }

    async fn compressed_requests_are_read_within_the_limit(t: Taghook) {
        for (name, encoding) in [("gzip", CompressionEncoding::Gzip), ("zstd", CompressionEncoding::Zstd)] {
            let mut tags = t.client.tags().send_compressed(encoding).accept_compressed(encoding);
            let tag = tags.create_tag(create_tag(name)).await.expect(name).into_inner();
            assert_eq!(tag.name, name);
            // A few kilobytes that become 5 MiB.
            let mut bomb = create_tag("bomb");
            bomb.request_id = "x".repeat(5 * 1024 * 1024);
            let error: taghook_client::Error = tags.create_tag(bomb).await.expect_err(name).into();
            assert_eq!((error.code, error.reason), (Code::ResourceExhausted, ErrorReason::RequestTooLarge), "{name}");
        }
        let raw = t.raw().await;
        let mut body = frame(&create_tag("snappy").encode_to_vec()).to_vec();
        body[0] = 1;
        let error = call(&t, &raw, CREATE_TAG, &[("grpc-encoding", "snappy")], body.clone()).await.error();
        assert_eq!((error.code, error.reason), (Code::Unimplemented, ErrorReason::MalformedRequest));
        for encoding in ["gzip", "zstd"] {
            let error = call(&t, &raw, CREATE_TAG, &[("grpc-encoding", encoding)], body.clone()).await.error();
            assert_eq!(error.reason, ErrorReason::MalformedRequest, "{encoding} that is none: {error:?}");
        }
    }

    async fn a_call_can_be_named_and_is_named_in_its_answer(t: Taghook) {
        let raw = t.raw().await;
        let body = frame(&create_tag("customer").encode_to_vec());
        let answer = call(&t, &raw, CREATE_TAG, &[("x-request-id", "mine-1")], body.clone()).await;
        assert_eq!(answer.headers["x-request-id"], "mine-1");
        for bad in ["", "a b", &"x".repeat(65)] {
            let answer = call(&t, &raw, CREATE_TAG, &[("x-request-id", bad)], body.clone()).await;
            assert_eq!(answer.headers["x-request-id"].len(), 32, "{bad:?}");
        }
    }

    async fn a_browser_calls_by_grpc_web(t: Taghook) {
        let authorization = format!("Bearer {}", t.key());
        let headers = |content_type| {
            [
                ("authorization", authorization.as_str()),
                ("content-type", content_type),
                ("x-grpc-web", "1"),
                ("origin", "https://app.example"),
            ]
        };
        let body = frame(&create_tag("customer").encode_to_vec());
        let answer = browse(&t, "POST", CREATE_TAG, &headers("application/grpc-web+proto"), &body).await;
        assert!(answer.head.starts_with("HTTP/1.1 200 "), "{}", answer.head);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let exposed = answer.header("access-control-expose-headers").expect("what pages may read");
        assert!(exposed.contains("grpc-status-details-bin"), "{exposed}");
        let [(0, message), (0x80, trailers)] = answer.frames()[..] else { panic!("{:?}", answer.frames()) };
        assert_eq!(Tag::decode(message).unwrap().name, "customer");
        let trailers = String::from_utf8_lossy(trailers).replace(' ', "");
        assert!(trailers.contains("grpc-status:0\r\n"), "{trailers:?}");

        // In text mode, which older pages use, each piece is encoded by itself.
        let text = "application/grpc-web-text+proto";
        let headers: Vec<_> = headers(text).into_iter().chain([("accept", text)]).collect();
        let answer = browse(&t, "POST", CREATE_TAG, &headers, STANDARD.encode(&body).as_bytes()).await;
        assert_eq!(answer.header("grpc-status"), Some("6"), "the name is taken: {}", answer.head);
        let list = STANDARD.encode(frame(&[]));
        let mut answer = browse(&t, "POST", "/taghook.v1.TagService/ListTags", &headers, list.as_bytes()).await;
        assert_eq!(answer.header("content-type"), Some(text));
        answer.body = answer.body.chunks(4).flat_map(|four| STANDARD.decode(four).expect("base 64")).collect();
        let list = v1::ListTagsResponse::decode(answer.frames()[0].1).unwrap();
        assert_eq!(list.tags.len(), 1);
    }

    async fn pages_of_other_origins_are_kept_out(database: Database) {
        let mut settings = database.settings();
        settings.config.web.allowed_origins = vec!["https://app.example".into()];
        let t = Taghook::start(database, settings).await;
        for (origin, allowed) in [("https://app.example", Some("https://app.example")), ("https://evil.example", None)]
        {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization,content-type,x-grpc-web"),
            ];
            let answer = browse(&t, "OPTIONS", CREATE_TAG, &headers, b"").await;
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{}", answer.head);
            if allowed.is_some() {
                assert_eq!(
                    answer.header("access-control-allow-headers"),
                    Some("authorization,content-type,x-grpc-web")
                );
            }
        }
    }

    async fn health_answers_for_each_service_without_a_key(t: Taghook) {
        let mut health = HealthClient::new(channel(&t).await);
        let mut names: Vec<_> = methods().iter().map(|method| method.parent_service().full_name().to_owned()).collect();
        names.dedup();
        names.push(String::new());
        assert_eq!(names.len(), 11);
        for service in names {
            let mut watch = health.watch(HealthCheckRequest { service: service.clone() }).await.unwrap().into_inner();
            while within("the health", watch.message()).await.unwrap().unwrap().status() != ServingStatus::Serving {}
            let answer = health.check(HealthCheckRequest { service: service.clone() }).await.expect(&service);
            assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
        }
        let error = health.check(HealthCheckRequest { service: "taghook.v1.NoSuchService".into() }).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }

    async fn reflection_can_be_closed(database: Database) {
        let mut settings = database.settings();
        settings.config.auth.public_reflection = false;
        let t = Taghook::start(database, settings).await;
        let raw = t.raw().await;
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            let error = raw.call(&path, &[], frame(&[])).await.error();
            assert_eq!((error.code, error.reason), (Code::Unauthenticated, ErrorReason::Unauthenticated), "{version}");
            // `list_services: "*"`.
            let answer = call(&t, &raw, &path, &[], frame(&[0x3a, 1, b'*'])).await;
            assert_eq!(answer.status().code(), Code::Ok, "{version}");
        }
        let mut tags = TagServiceClient::new(channel(&t).await);
        assert_eq!(tags.create_tag(create_tag("x")).await.unwrap_err().code(), Code::Unauthenticated);
    }
}

/// What both versions of reflection list.
const SERVICES: [&str; 13] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "taghook.v1.CampaignService",
    "taghook.v1.ContactService",
    "taghook.v1.DeliveryService",
    "taghook.v1.EventService",
    "taghook.v1.FieldService",
    "taghook.v1.InfoService",
    "taghook.v1.SmartLinkService",
    "taghook.v1.TagService",
    "taghook.v1.WebhookService",
    "taghook.v1.WorkspaceService",
];

/// Asks one version of reflection for its services, and for the file of one.
macro_rules! check_reflection {
    ($t:ident, $version:ident) => {{
        use reflection::server_reflection_request::MessageRequest;
        use reflection::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as reflection;
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel(&$t).await);
        let request =
            |message| reflection::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let requests = [
            request(MessageRequest::ListServices(String::new())),
            request(MessageRequest::FileContainingSymbol("taghook.v1.ContactService".into())),
            request(MessageRequest::FileContainingSymbol("taghook.v1.ErrorReason".into())),
        ];
        let answers =
            client.server_reflection_info(tokio_stream::iter(requests)).await.expect("reflection").into_inner();
        let answers: Vec<_> = within("the answers", answers.collect::<Vec<_>>()).await;
        let mut answers = answers.into_iter().map(|answer| answer.expect("an answer").message_response);
        let Some(Some(MessageResponse::ListServicesResponse(list))) = answers.next() else { panic!("no list") };
        let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        names.sort_unstable();
        assert_eq!(names, SERVICES);
        for answer in answers {
            let Some(MessageResponse::FileDescriptorResponse(files)) = answer else { panic!("{answer:?}") };
            assert!(!files.file_descriptor_proto.is_empty());
        }
    }};
}

both! {
    async fn reflection_lists_everything_in_both_versions(t: Taghook) {
        check_reflection!(t, v1);
        check_reflection!(t, v1alpha);
    }
}
