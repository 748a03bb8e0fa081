//! The gRPC surface: which services there are, and what every call passes through before it reaches one.
//!
//! One file a service, one function an RPC: parse, transact, answer. The conversions of a noun stand under its service.
//! A call comes in at [`connections`], passes `web` (CORS, gRPC-Web) and `edge` (span, bounds, deadline, panics, key), then
//! reaches its service.

pub mod auth;
mod batch;
mod call;
mod call_body;
mod campaign;
mod contact;
mod contact_name;
mod convert;
mod delivery;
mod delivery_stats;
mod edge;
mod event;
mod field;
mod health;
mod info;
mod keys;
mod mask;
mod page;
mod repeat;
mod replay;
mod smart_link;
mod tag;
mod timeline;
mod trigger;
mod values;
mod web;
mod webhook;
mod workspace;
mod write;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_reflection::server::Builder as Reflection;
use tower::{ServiceBuilder, ServiceExt};

pub use health::Health;
pub use keys::Keys;

use crate::automation::{Assignment, GroupCommit, Recording};
use crate::connections::{self, Limits};
use crate::dispatch::egress::Egress;
use crate::lifecycle::Stop;
use crate::links::Urls;
use crate::outcomes::OutcomeLog;
use crate::pb;
use crate::store::Store;
use edge::{Edge, EdgeLayer};
use web::WebLayer;

/// The most calls in progress on one connection, watchers among them.
const STREAMS_PER_CONNECTION: u32 = 2_000;
/// The longest header block, in bytes.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// The largest message that is read, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// What the services share. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// The database.
    pub store: Store,
    /// The API keys.
    pub keys: Keys,
    /// Assigns tags for concurrent callers.
    pub assigner: GroupCommit<Assignment>,
    /// Records events for concurrent callers.
    pub recorder: GroupCommit<Recording>,
    /// The log that watchers follow.
    pub outcomes: OutcomeLog,
    /// The addresses of links.
    pub links: Urls,
    /// What the operator lets webhooks reach.
    pub egress: Arc<Egress>,
    /// How the port is set up.
    pub setup: Setup,
}

/// What callers may know of how the gRPC port is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// `limits.call_timeout_seconds`.
    pub call_timeout: Duration,
    /// Whether pages of any origin may call.
    pub serves_pages: bool,
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

impl Settings {
    /// What callers may know of it.
    #[must_use]
    pub fn setup(&self) -> Setup {
        Setup { call_timeout: self.call_timeout, serves_pages: !self.allowed_origins.is_empty() }
    }
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
    services: &Services,
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
        .layer(WebLayer::new(&settings.allowed_origins))
        .layer(EdgeLayer(Arc::new(edge)))
        .service(routes(services, health)?);
    let service = service.map_request(|request: http::Request<Incoming>| request.map(Body::new));
    let limits = Limits {
        connections: settings.connections,
        streams: STREAMS_PER_CONNECTION,
        header_bytes: MAX_HEADER_BYTES,
        buffer_bytes: None,
    };
    Ok(connections::serve(listener, move |_| service.clone(), limits, stop))
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
fn routes(services: &Services, health: &Health) -> Result<Routes, ServeError> {
    let services = || services.clone();
    let api = Routes::default()
        .add_service(tuned!(pb::workspace_service_server::WorkspaceServiceServer::new(services())))
        .add_service(tuned!(pb::info_service_server::InfoServiceServer::new(services())))
        .add_service(tuned!(pb::contact_service_server::ContactServiceServer::new(services())))
        .add_service(tuned!(pb::field_service_server::FieldServiceServer::new(services())))
        .add_service(tuned!(pb::tag_service_server::TagServiceServer::new(services())))
        .add_service(tuned!(pb::smart_link_service_server::SmartLinkServiceServer::new(services())))
        .add_service(tuned!(pb::webhook_service_server::WebhookServiceServer::new(services())))
        .add_service(tuned!(pb::event_service_server::EventServiceServer::new(services())))
        .add_service(tuned!(pb::campaign_service_server::CampaignServiceServer::new(services())))
        .add_service(tuned!(pb::delivery_service_server::DeliveryServiceServer::new(services())));
    // Each version of reflection lists the other too. The details of errors are there so that tools can show them.
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false)
    };
    let standard = api
        .add_service(health.service())
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(standard.prepare())
}
