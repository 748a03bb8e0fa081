//! What the port answers: redirects, and small pages that say nothing of the request.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, RETRY_AFTER,
};
use http::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};

/// Why a link isn't followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Nothing is known of it, or it can't lead its contact anywhere.
    Unknown,
    /// It was good once.
    Gone,
    /// Not now. The page asks again by itself.
    Unavailable,
    /// The client is too fast.
    TooMany,
    /// The path is too long to be a link's.
    TooLong,
    /// Neither GET nor HEAD.
    WrongMethod,
}

/// What all answers have: nobody keeps them, and the target isn't told whose link it was.
const ALWAYS: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];

impl Page {
    const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::Unknown => (StatusCode::NOT_FOUND, "This link leads nowhere."),
            Self::Gone => (StatusCode::GONE, "This link is no longer valid."),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "One moment, please: this page tries again by itself.")
            }
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "Too many requests. Please try again in a moment."),
            Self::TooLong => (StatusCode::URI_TOO_LONG, "This link leads nowhere."),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "Links are followed by GET."),
        }
    }

    pub(super) fn response(self) -> Response {
        let (status, text) = self.parts();
        let again = if self == Self::Unavailable { r#"<meta http-equiv="refresh" content="2">"# } else { "" };
        let html = format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">{again}<title>{text}</title><p>{text}</p></html>\n"
        );
        let mut response = answer(status, Body::from(html));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
        match self {
            Self::Unavailable | Self::TooMany => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
            }
            Self::WrongMethod => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::Unknown | Self::Gone | Self::TooLong => {}
        }
        response
    }
}

/// Leads to a URL; `None` if it can't stand in a header, which no rendered one fails to.
pub(super) fn redirect(location: &str) -> Option<Response> {
    let location = HeaderValue::from_str(location).ok()?;
    let mut response = answer(StatusCode::FOUND, Body::empty());
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

fn answer(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in ALWAYS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
