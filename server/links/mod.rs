//! The public HTTP port for SmartLinks: `GET /l/<token>` tags the contact and leads on.
//!
//! Who is who:
//! - [`Urls`]: makes and reads what stands in links: tokens that only this deployment can make, and codes.
//! - [`Click`]: tag, event and count in one transaction, which concurrent clicks share, before the redirect is answered.
//! - [`Limiter`]: how fast one client may follow.
//! - [`machine`]: which requests are no person's.
//!
//! Nothing that a request says becomes part of an answer but by way of the link that it names: scheme, host and port of
//! the target are the link's own, and a page echoes nothing. Neither tokens nor contacts are logged.
//!
//! The target is in the database, and so is what a click sets off. While it is away a person gets a page that asks again
//! by itself, so that neither the person nor the click is lost.

mod clicks;
mod client;
mod limit;
mod machine;
mod page;
mod token;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::any;
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tower::ServiceExt;

pub use clicks::Click;
pub use token::{Claim, Expiry, Urls};

use crate::automation::GroupCommit;
use crate::connections::{self, Limits};
use crate::domain::contact::Contact;
use crate::domain::smart_link::{Code, SmartLink};
use crate::error::{Error, chain};
use crate::ids::WorkspaceId;
use crate::lifecycle::Stop;
use crate::store::contact::ContactRef;
use crate::store::smart_link::SmartLinkRef;
use crate::store::{self, Store};
use clicks::Visitor;
use limit::Limiter;
use page::Page;

/// How long a request may take: a person waits.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest path with its query; a token has 71 characters.
const MAX_TARGET_BYTES: usize = 512;
/// The longest header block.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// The most requests in progress on one connection.
const STREAMS_PER_CONNECTION: u32 = 100;

/// How the port is served; the fields are described in the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `links.requests_per_second`.
    pub requests_per_second: u32,
    /// `links.burst`.
    pub burst: u32,
    /// `links.trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// `links.connections`.
    pub connections: usize,
}

/// What the port needs. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    /// The database.
    pub store: Store,
    /// What stands in links.
    pub urls: Urls,
    /// Commits clicks.
    pub clicker: GroupCommit<Click>,
}

/// Who connects.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

/// Serves the port on a listener until `stop`: after the soft one it waits for the requests in progress, the hard one
/// ends them.
pub async fn serve(links: Links, settings: Settings, listener: TcpListener, stop: Stop) {
    let limits = Limits {
        connections: settings.connections,
        streams: STREAMS_PER_CONNECTION,
        header_bytes: MAX_HEADER_BYTES,
        buffer_bytes: usize::try_from(MAX_HEADER_BYTES).ok(),
    };
    let limiter = Limiter::new(&settings, links.store.clock().clone());
    let router = Router::new()
        .route("/l/{token}", any(follow))
        .fallback(async || Page::Unknown.response())
        .with_state(links)
        .layer(middleware::from_fn_with_state(limiter, admit));
    let service_for = move |peer: SocketAddr| {
        router.clone().map_request(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            request
        })
    };
    connections::serve(listener, service_for, limits, stop).await;
}

/// What every request passes.
async fn admit(State(limiter): State<Limiter>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    if peer.is_none_or(|peer| !limiter.admits(peer, request.headers())) {
        return Page::TooMany.response();
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET_BYTES {
        return Page::TooLong.response();
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Page::WrongMethod.response();
    }
    next.run(request).await
}

/// Follows a link.
async fn follow(State(links): State<Links>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let followed = tokio::time::timeout(TIMEOUT, links.follow(&parts)).await;
    match followed {
        Ok(Ok(response)) => response,
        Ok(Err(page)) => page.response(),
        Err(_) => Page::Unavailable.response(),
    }
}

/// A link that is followed, and by whom, if that is known.
struct Visit {
    workspace_id: WorkspaceId,
    link: SmartLink,
    contact: Option<Contact>,
}

impl Links {
    async fn follow(&self, request: &Parts) -> Result<Response, Page> {
        let text = request.uri.path().strip_prefix("/l/").unwrap_or_default();
        let visit = self.visit(text).await?;
        let location = self.lead(&visit).await?;
        let id = visit.link.id;
        let visitor = match visit.contact {
            _ if request.method == Method::HEAD || machine::is_machine(&request.headers) => Visitor::Machine,
            Some(contact) => Visitor::Contact(contact.id),
            None => Visitor::Anonymous,
        };
        let Visit { workspace_id, link, .. } = visit;
        self.clicker.commit(Click { workspace_id, link, visitor }, None).await.map_err(page_of)?;
        tracing::debug!(smart_link_id = %id, visitor = visitor.as_str(), status = StatusCode::FOUND.as_u16(), "followed");
        page::redirect(&location).ok_or(Page::Unknown)
    }

    /// Finds what a path names, without a word on who is there and who isn't to whom the deployment gave no token.
    async fn visit(&self, text: &str) -> Result<Visit, Page> {
        let db = self.store.read();
        if let Some(code) = Code::parse(text) {
            let found = store::smart_link::find(db, &SmartLinkRef::Code(code)).await.map_err(page_of)?;
            let (workspace_id, link) = found.ok_or(Page::Unknown)?;
            return Ok(Visit { workspace_id, link, contact: None });
        }
        let claim = self.urls.read(text).ok_or(Page::Unknown)?;
        if claim.expiry.has_come(self.store.clock().now()) {
            return Err(Page::Gone);
        }
        let found = store::smart_link::find(db, &SmartLinkRef::Id(claim.link_id)).await.map_err(page_of)?;
        let (workspace_id, link) = found.ok_or(Page::Gone)?;
        let which = ContactRef::Id(claim.contact_id);
        let contact = store::contact::find(db, workspace_id, &which).await.map_err(page_of)?.ok_or(Page::Gone)?;
        Ok(Visit { workspace_id, link, contact: Some(contact) })
    }

    async fn lead(&self, visit: &Visit) -> Result<String, Page> {
        // A workspace that was deleted has none.
        let config = self.store.config(visit.workspace_id).await.map_err(page_of)?;
        let led = visit.link.lead(visit.contact.as_ref(), &|key| config.field_type(key));
        led.map(crate::domain::template::RenderedUrl::into_string).map_err(|error| {
            tracing::debug!(smart_link_id = %visit.link.id, error = %error, "a link leads nowhere with these values");
            Page::Unknown
        })
    }
}

/// What a person is told of an error.
fn page_of(error: Error) -> Page {
    match error {
        Error::NotFound { .. } => Page::Gone,
        error if error.is_passing() || matches!(error, Error::ShuttingDown) => {
            tracing::debug!(error = chain(&error), "a click can't be recorded now");
            Page::Unavailable
        }
        error => {
            tracing::error!(error = chain(&error), "a link can't be followed");
            Page::Unavailable
        }
    }
}
