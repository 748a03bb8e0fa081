//! The gRPC surface: which services there are, and what every call passes through before it reaches one.
//!
//! One file a service, one function an RPC: parse, transact, answer. The conversions of a noun stand under its service.
//! A call comes in at [`connections`], passes CORS and the translation of gRPC-Web, then [`edge`] (span, bounds,
//! deadline, panics, key), then reaches its service.

pub mod auth;
mod call;
mod call_body;
mod connections;
mod contact;
mod convert;
mod delivery;
mod edge;
mod event;
mod field;
mod health;
mod mask;
mod page;
mod repeat;
mod tag;
mod trigger;
mod webhook;
mod workspace;

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_reflection::server::Builder as Reflection;
use tonic_web::GrpcWebLayer;
use tower::ServiceBuilder;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

pub use health::Health;

use crate::automation::Assigner;
use crate::dispatch::egress::Egress;
use crate::lifecycle::Stop;
use crate::outcomes::OutcomeLog;
use crate::pb;
use crate::store::Store;
use edge::{Edge, EdgeLayer};

/// The largest message that is read, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// How long browsers may keep what CORS told them.
const CORS_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The headers of answers that pages may read.
const EXPOSED_HEADERS: [&str; 4] = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"];

/// What the services share. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// The database.
    pub store: Store,
    /// Assigns tags for concurrent callers.
    pub assigner: Assigner,
    /// The log that watchers follow.
    pub outcomes: OutcomeLog,
    /// What the operator lets webhooks reach.
    pub egress: Arc<Egress>,
    /// The API keys.
    pub keys: auth::Keys,
}

/// How the gRPC port is served; the fields are described in the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `auth.public_reflection`.
    pub public_reflection: bool,
    /// `web.allowed_origins`.
    pub allowed_origins: Vec<HeaderValue>,
    /// `limits.connections`.
    pub connections: usize,
    /// `limits.concurrent_calls`.
    pub concurrent_calls: usize,
    /// `limits.streams`.
    pub streams: usize,
    /// `limits.call_timeout_seconds`.
    pub call_timeout: Duration,
}

/// Why the port can't be served.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the API can't be reflected")]
pub struct ServeError(#[from] tonic_reflection::server::Error);

/// Prepares the server of the API on a listener. The future serves until `stop`: after the soft one it waits for the calls
/// in progress, the hard one ends them.
///
/// # Errors
///
/// See [`ServeError`].
pub fn serve(
    services: Services,
    health: &Health,
    settings: &Settings,
    listener: TcpListener,
    stop: Stop,
) -> Result<impl Future<Output = ()> + Send + use<>, ServeError> {
    let edge = Edge {
        keys: services.keys.clone(),
        public_reflection: settings.public_reflection,
        calls: Arc::new(Semaphore::new(settings.concurrent_calls)),
        streams: Arc::new(Semaphore::new(settings.streams)),
        call_timeout: settings.call_timeout,
        stop: stop.soft.clone(),
    };
    let service = ServiceBuilder::new()
        .layer(cors(&settings.allowed_origins))
        .layer(GrpcWebLayer::new())
        .layer(EdgeLayer(Arc::new(edge)))
        .service(routes(services, health)?);
    Ok(connections::serve(listener, service, settings.connections, stop))
}

/// Sets what all services have in common: the bound on messages, and the compressions that are read. Answers aren't
/// compressed: most are small, and many clients would get it without having asked for it.
macro_rules! tuned {
    ($server:expr) => {
        $server
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
    };
}

/// Every service of the port, one line each.
fn routes(services: Services, health: &Health) -> Result<Routes, ServeError> {
    let api = Routes::default()
        .add_service(tuned!(pb::workspace_service_server::WorkspaceServiceServer::new(services.clone())))
        .add_service(tuned!(pb::contact_service_server::ContactServiceServer::new(services.clone())))
        .add_service(tuned!(pb::field_service_server::FieldServiceServer::new(services.clone())))
        .add_service(tuned!(pb::tag_service_server::TagServiceServer::new(services.clone())))
        .add_service(tuned!(pb::webhook_service_server::WebhookServiceServer::new(services.clone())))
        .add_service(tuned!(pb::event_service_server::EventServiceServer::new(services.clone())))
        .add_service(tuned!(pb::delivery_service_server::DeliveryServiceServer::new(services)));
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let standard = api
        .add_service(health.service())
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(standard.prepare())
}

/// Which pages may call: pages carry no cookies here, and every method needs a key that a foreign page doesn't have.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let any = origins.iter().any(|origin| origin == "*");
    let allowed = if any {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().cloned())
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([http::Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED_HEADERS.map(HeaderName::from_static))
        .max_age(CORS_MAX_AGE)
}
