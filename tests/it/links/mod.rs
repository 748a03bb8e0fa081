//! SmartLinks: from their definition to a click, and what a click sets off.

mod browser;
mod clicks;
mod definitions;
mod forgeries;
mod port;

use taghook::domain::time::Micros;
use taghook::links::{Claim, Expiry};
use taghook_client::contact::by_id;
use taghook_client::v1::{self, Contact, ErrorReason, SmartLink, SmartLinkStats, Tag};

use taghook_client::{Code, Error};
use tonic::{Response, Status};

use crate::support::{Api, HttpAnswer, Taghook, check_error, http};

impl Api {
    /// A link.
    async fn link(&self, name: &str, target_url: &str) -> SmartLink {
        self.try_link(name, target_url).await.expect("a link")
    }

    async fn try_link(&self, name: &str, target_url: &str) -> Result<SmartLink, Status> {
        let link = SmartLink { name: name.into(), target_url: target_url.into(), ..Default::default() };
        let request = v1::CreateSmartLinkRequest { smart_link: Some(link), ..Default::default() };
        self.client.smart_links().create_smart_link(request).await.map(Response::into_inner)
    }

    /// A link as it is now.
    async fn link_now(&self, link: &SmartLink) -> Result<SmartLink, Status> {
        let request = v1::GetSmartLinkRequest { id: link.id.clone() };
        self.client.smart_links().get_smart_link(request).await.map(Response::into_inner)
    }

    async fn delete_link(&self, link: &SmartLink, force: bool) -> Result<v1::DeleteSmartLinkResponse, Status> {
        let request = v1::DeleteSmartLinkRequest { id: link.id.clone(), force, ..Default::default() };
        self.client.smart_links().delete_smart_link(request).await.map(Response::into_inner)
    }

    /// A contact's own URL.
    async fn tracked(&self, link: &SmartLink, contact: &Contact) -> String {
        let request = v1::CreateTrackedUrlRequest {
            smart_link_id: link.id.clone(),
            contact: by_id(&contact.id),
            ..Default::default()
        };
        self.client.smart_links().create_tracked_url(request).await.expect("a URL").into_inner().url
    }

    /// The clicks of a link so far: those of contacts, on the short URL, and of machines.
    async fn clicks(&self, link: &SmartLink) -> [i64; 3] {
        counts(self.link_stats(link).await.total)
    }

    async fn link_stats(&self, link: &SmartLink) -> SmartLinkStats {
        let request = v1::GetSmartLinkStatsRequest { id: link.id.clone(), ..Default::default() };
        self.client.smart_links().get_smart_link_stats(request).await.expect("statistics").into_inner()
    }

    /// The tag of a link, for webhooks.
    async fn tag_of(&self, link: &SmartLink) -> Tag {
        let request = v1::GetTagRequest { id: link.tag_id.clone() };
        self.client.tags().get_tag(request).await.expect("its tag").into_inner()
    }
}

fn counts(clicks: Option<v1::smart_link_stats::Clicks>) -> [i64; 3] {
    let clicks = clicks.expect("counts");
    [clicks.click_count, clicks.anonymous_click_count, clicks.machine_click_count]
}

/// Follows a link as a person does.
async fn click(url: &str) -> HttpAnswer {
    http("GET", url, &[]).await
}

/// Checks that a link leads to a URL.
#[track_caller]
fn check_leads(answer: &HttpAnswer, location: &str) {
    assert_eq!((answer.status, answer.header("location")), (302, location), "{answer:?}");
    assert_eq!((answer.header("cache-control"), answer.header("referrer-policy")), ("no-store", "no-referrer"));
}

/// Checks that a link leads nowhere, in a page that says nothing of the request.
#[track_caller]
fn check_refused(answer: &HttpAnswer, status: u16, echoes: &[&str]) {
    assert_eq!((answer.status, answer.header("location")), (status, ""), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.body.contains("<p>") && answer.body.len() < 500, "{}", answer.body);
    for echo in echoes {
        assert!(!format!("{answer:?}").contains(echo), "{echo} in {answer:?}");
    }
}

/// A URL with a token that no call would make.
fn forged(t: &Taghook, link: &SmartLink, contact: &Contact, expires: Option<Micros>) -> String {
    let claim = Claim {
        link_id: link.id.parse().expect("an id"),
        contact_id: contact.id.parse().expect("an id"),
        expiry: expires.map_or(Expiry::NEVER, |time| Expiry::at(time).expect("an expiry")),
    };
    format!("{}/l/{}", t.links_base(), t.link_urls().token(claim))
}

/// Checks that a call is refused.
#[track_caller]
fn refused<T>(result: Result<T, Status>, code: Code, reason: ErrorReason) -> Error {
    check_error(result.map(Response::new), code, reason)
}

/// Checks that a call is refused for one field alone.
#[track_caller]
fn refused_for<T>(result: Result<T, Status>, field: &str) {
    let error = refused(result, Code::InvalidArgument, ErrorReason::InvalidFields);
    let is_alone = error.violations.iter().all(|violation| violation.field == field);
    assert!(is_alone && !error.violations.is_empty(), "expected {field}: {:#?}", error.violations);
}
