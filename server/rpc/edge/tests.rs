use http_body_util::BodyExt;
use tonic::Code;
use tonic_types::StatusExt;
use tower::ServiceExt;

use super::*;
use crate::clock::{Clock, Entropy};
use crate::domain::workspace::{ApiKey, Scope};
use crate::ids::{ApiKeyId, TypedId};
use crate::secrets::Sealer;
use crate::store::Store;
use crate::store::api_key::{self, Secret};
use crate::store::open::OpenOptions;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const LIST_TAGS: &str = "/taghook.v1.TagService/ListTags";
const NOWHERE: &str = "/nowhere.v1.Nothing/DoNothing";

/// An edge on a database of its own.
async fn edge(calls: usize) -> (Edge, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenOptions {
        url: format!("sqlite:{}", folder.path().join("taghook.db").display()),
        connections: 2,
        migrate: true,
        senders: 1,
        clock: Clock::system(),
        entropy: Entropy::system(),
    };
    let (store, _) = Store::open(&options, Sealer::from_key_bytes(&[7; 32])).await.unwrap();
    let edge = Edge {
        keys: Keys::new(store),
        public_reflection: true,
        calls: Arc::new(Semaphore::new(calls)),
        streams: Arc::new(Semaphore::new(1)),
        call_timeout: Duration::from_secs(3_600),
        stop: CancellationToken::new(),
    };
    (edge, folder)
}

fn request(path: &str, headers: &[(&'static str, &'static str)]) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    request
}

/// The status of an answer, in its headers or its trailers.
async fn status_of(response: Response<Body>) -> Status {
    let (parts, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return status;
    }
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    Status::from_header_map(&trailers).unwrap_or_else(|| Status::from_header_map(&parts.headers).unwrap())
}

/// What a service answers without a word: a body that goes on for ever.
fn endless() -> Response<Body> {
    let frames = futures_util::stream::pending::<Result<hyper::body::Frame<bytes::Bytes>, Status>>();
    Response::new(Body::new(http_body_util::StreamBody::new(frames)))
}

#[track_caller]
fn check_status(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "taghook"));
}

#[tokio::test]
async fn a_panic_is_an_internal_error_of_its_call_alone() {
    let (edge, _folder) = edge(1).await;
    let guarded = EdgeLayer(Arc::new(edge));
    for _ in 0..2 {
        let broken = tower::service_fn(|_: Request<Body>| async { panic!("on purpose") });
        let response = guarded.layer(broken).oneshot(request(NOWHERE, &[])).await.unwrap();
        let status = status_of(response).await;
        check_status(&status, Code::Internal, "INTERNAL");
        assert!(!status.message().contains("on purpose"), "{status:?}");
    }
}

#[tokio::test]
async fn the_callers_deadline_ends_the_work() {
    let (edge, _folder) = edge(1).await;
    let slow = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let guarded = EdgeLayer(Arc::new(edge));
    // Twice, since the place of the first must be free again.
    for _ in 0..2 {
        let response = guarded.layer(slow).oneshot(request(NOWHERE, &[("grpc-timeout", "1m")])).await.unwrap();
        check_status(&status_of(response).await, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    let response = guarded.layer(slow).oneshot(request(NOWHERE, &[("grpc-timeout", "soon")])).await.unwrap();
    check_status(&status_of(response).await, Code::InvalidArgument, "INVALID_FIELDS");
}

#[tokio::test]
async fn a_full_server_refuses_calls_but_not_the_health_check() {
    let (edge, _folder) = edge(0).await;
    let guarded = EdgeLayer(Arc::new(edge));
    let well = tower::service_fn(|_: Request<Body>| async { Ok(Response::new(Body::empty())) });
    let response = guarded.layer(well).oneshot(request(NOWHERE, &[])).await.unwrap();
    check_status(&status_of(response).await, Code::Unavailable, "OVERLOADED");
    let response = guarded.layer(well).oneshot(request(HEALTH, &[])).await.unwrap();
    assert!(!response.headers().contains_key(Status::GRPC_STATUS));
}

#[tokio::test]
async fn a_stream_holds_its_place_until_it_ends_and_ends_with_the_server() {
    let (edge, _folder) = edge(1).await;
    let stop = edge.stop.clone();
    let guarded = EdgeLayer(Arc::new(edge));
    let streaming = tower::service_fn(|_: Request<Body>| async { Ok(endless()) });
    let watched = guarded.layer(streaming).oneshot(request(WATCH, &[])).await.unwrap();
    let refused = guarded.layer(streaming).oneshot(request(WATCH, &[])).await.unwrap();
    check_status(&status_of(refused).await, Code::Unavailable, "OVERLOADED");

    stop.cancel();
    check_status(&status_of(watched).await, Code::Unavailable, "SHUTTING_DOWN");
    let late = guarded.layer(streaming).oneshot(request(WATCH, &[("grpc-timeout", "0n")])).await.unwrap();
    check_status(&status_of(late).await, Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test]
async fn a_method_of_the_api_needs_a_key() {
    let (edge, _folder) = edge(1).await;
    let guarded = EdgeLayer(Arc::new(edge));
    let unreachable = tower::service_fn(|_: Request<Body>| async { panic!("reached without a key") });
    for headers in [&[][..], &[("authorization", "Bearer thk_unknown")], &[("authorization", "Basic eDp5")]] {
        let response = guarded.layer(unreachable).oneshot(request(LIST_TAGS, headers)).await.unwrap();
        check_status(&status_of(response).await, Code::Unauthenticated, "UNAUTHENTICATED");
    }
}

#[tokio::test]
async fn a_status_of_the_transport_is_explained() {
    let (edge, _folder) = edge(1).await;
    let guarded = EdgeLayer(Arc::new(edge));
    let routes = tonic::service::Routes::default();
    let response = guarded.layer(routes).oneshot(request(NOWHERE, &[])).await.unwrap();
    check_status(&status_of(response).await, Code::Unimplemented, "MALFORMED_REQUEST");
}

#[tokio::test]
async fn a_callers_request_id_comes_back_if_it_is_one() {
    let (edge, _folder) = edge(1).await;
    let guarded = EdgeLayer(Arc::new(edge));
    let well = tower::service_fn(|_: Request<Body>| async { Ok(Response::new(Body::empty())) });
    for (given, is_kept) in [("mine-1", true), ("", false), ("with space", false)] {
        let response = guarded.layer(well).oneshot(request(HEALTH, &[("x-request-id", given)])).await.unwrap();
        let id = response.headers().get(REQUEST_ID).unwrap();
        assert_eq!(id == given, is_kept, "{given:?}: {id:?}");
        assert!(!id.is_empty());
    }
}

#[track_caller]
fn check_timeout(text: &str, expected: Option<Duration>) {
    assert_eq!(parse_timeout(text), expected, "{text:?}");
}

#[test]
fn reads_the_timeout_of_a_call() {
    check_timeout("1H", Some(Duration::from_secs(3_600)));
    check_timeout("2M", Some(Duration::from_secs(120)));
    check_timeout("3S", Some(Duration::from_secs(3)));
    check_timeout("250m", Some(Duration::from_millis(250)));
    check_timeout("82u", Some(Duration::from_micros(82)));
    check_timeout("0n", Some(Duration::ZERO));
    check_timeout("99999999H", Some(Duration::from_secs(359_999_996_400)));
    for bad in ["", "S", "1", "100000000S", "1s", "-1S", "+1S", "1.5S", " 1S", "1Sé", "é"] {
        check_timeout(bad, None);
    }
}

/// A key that was revoked on another server: this one hears of it when it looks.
#[tokio::test]
async fn an_open_stream_ends_with_its_key() {
    let (edge, _folder) = edge(1).await;
    let keys = edge.keys.clone();
    let store = keys.store().clone();
    let secret = Secret::generate(store.entropy());
    let key = ApiKey {
        id: ApiKeyId::generate(store.clock().now(), store.entropy()),
        workspace_id: Some(store.facts().default_workspace),
        name: "watcher".to_owned(),
        scopes: [Scope::Read].into_iter().collect(),
        secret_prefix: String::new(),
        created: store.clock().now(),
        expires: None,
        revoked: None,
        former_expires: None,
        last_used: None,
        version: 1,
        updated: None,
    };
    let (new, proof) = (&key, &secret);
    store.write("insert", |tx| async move { api_key::insert(&tx, new, proof).await }).await.unwrap();

    let streaming = tower::service_fn(|_: Request<Body>| async { Ok(endless()) });
    let mut watch = request("/taghook.v1.DeliveryService/StreamOutcomes", &[]);
    let bearer = HeaderValue::from_str(&format!("Bearer {}", secret.expose())).unwrap();
    watch.headers_mut().insert("authorization", bearer);
    let watched = EdgeLayer(Arc::new(edge)).layer(streaming).oneshot(watch).await.unwrap();
    let stop = CancellationToken::new();
    let following = tokio::spawn(keys.follow(stop.clone()));
    store.write("revoke", |tx| async move { api_key::revoke(&tx, new.id).await }).await.unwrap();
    check_status(&status_of(watched).await, Code::Unauthenticated, "UNAUTHENTICATED");
    stop.cancel();
    following.await.unwrap();
}
