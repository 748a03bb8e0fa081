//! Browsers: the translation of gRPC-Web, and which pages may call.
//!
//! Only a page sends an `origin`, so that other callers aren't troubled with the headers of CORS.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use http::header::ORIGIN;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use tonic::body::Body;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service};
use tower_http::cors::{AllowHeaders, AllowOrigin, Cors, CorsLayer};

/// How long browsers may keep what CORS told them.
const CORS_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The headers of answers that pages may read.
const EXPOSED_HEADERS: [&str; 4] = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"];

/// Lets browsers in.
#[derive(Clone)]
pub(super) struct WebLayer {
    cors: CorsLayer,
}

impl WebLayer {
    /// For pages of these origins, or of any if one is `*`. Calls carry no cookies, and every method needs a key that a
    /// foreign page doesn't have.
    pub(super) fn new(origins: &[HeaderValue]) -> Self {
        let any = origins.iter().any(|origin| origin == "*");
        let allowed = if any { AllowOrigin::any() } else { AllowOrigin::list(origins.iter().cloned()) };
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::POST])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED_HEADERS.map(HeaderName::from_static))
            .max_age(CORS_MAX_AGE);
        Self { cors }
    }
}

impl<S: Clone> Layer<S> for WebLayer {
    type Service = Web<S>;

    fn layer(&self, inner: S) -> Web<S> {
        let translated = GrpcWebLayer::new().layer(inner);
        Web { for_pages: self.cors.layer(translated.clone()), for_others: translated }
    }
}

/// What browsers and others call.
#[derive(Clone)]
pub(super) struct Web<S> {
    for_pages: Cors<GrpcWebService<S>>,
    for_others: GrpcWebService<S>,
}

impl<S> Service<Request<Body>> for Web<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <Cors<GrpcWebService<S>> as Service<Request<Body>>>::Future,
        <GrpcWebService<S> as Service<Request<Body>>>::Future,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match Service::<Request<Body>>::poll_ready(&mut self.for_pages, context) {
            Poll::Ready(Ok(())) => Service::<Request<Body>>::poll_ready(&mut self.for_others, context),
            other => other,
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.headers().contains_key(ORIGIN) {
            Either::Left(self.for_pages.call(request))
        } else {
            Either::Right(self.for_others.call(request))
        }
    }
}
