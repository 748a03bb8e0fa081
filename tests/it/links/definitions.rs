//! Links as they are defined, and their tags.

use std::time::Duration;

use prost_types::Timestamp;
use taghook_client::Code;
use taghook_client::contact::{by_email, by_id};
use taghook_client::v1::field::ValueType;
use taghook_client::v1::{self, ErrorReason, SmartLink, Tag};
use tonic_types::StatusExt;

use super::{check_leads, check_refused, click, refused, refused_for};
use crate::support::{Database, Receiver, Taghook, both, dump, mask};

async fn update(t: &Taghook, link: SmartLink, paths: &[&str]) -> Result<SmartLink, tonic::Status> {
    let request = v1::UpdateSmartLinkRequest { smart_link: Some(link), update_mask: mask(paths), ..Default::default() };
    t.client.smart_links().update_smart_link(request).await.map(tonic::Response::into_inner)
}

async fn create_score(t: &Taghook) -> v1::Field {
    let field = v1::Field { key: "score".into(), value_type: ValueType::Integer.into(), ..Default::default() };
    let request = v1::CreateFieldRequest { field: Some(field), ..Default::default() };
    t.client.fields().create_field(request).await.expect("a field").into_inner()
}

both! {
    async fn a_link_from_its_creation_to_its_end(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database.clone(), settings).await;
        let given = SmartLink {
            id: "lnk_00000000000000000000000000".into(),
            name: "spring sale".into(),
            target_url: "https://shop.example/sale/__first_name__?c=__contact_id__".into(),
            description: "in the newsletter".into(),
            tag_id: "tag_00000000000000000000000000".into(),
            short_url: "https://evil.example/".into(),
            ..Default::default()
        };
        let request = v1::CreateSmartLinkRequest { smart_link: Some(given), request_id: "1".into() };
        let link = t.client.smart_links().create_smart_link(request.clone()).await.unwrap().into_inner();
        assert!(link.id.starts_with("lnk_") && link.id.len() == 30 && !link.id.ends_with("000000"), "{link:?}");
        assert!(link.short_url.starts_with(&format!("{}/l/", t.links_base())), "{link:?}");
        assert_eq!(link.short_url.rsplit_once('/').unwrap().1.len(), 10);
        assert_eq!(t.client.smart_links().create_smart_link(request).await.unwrap().into_inner(), link, "again");
        assert_eq!(t.link_now(&link).await.unwrap(), link);

        let tag = t.tag_of(&link).await;
        assert_eq!((tag.name.as_str(), tag.kind()), ("spring sale", v1::tag::Kind::SmartLink));
        assert_eq!((&tag.create_time, &tag.etag), (&link.create_time, &link.etag));

        clock.advance(Duration::from_secs(1));
        let given = SmartLink { id: link.id.clone(), name: "summer".into(), etag: link.etag.clone(), ..Default::default() };
        let changed = update(&t, given.clone(), &["name"]).await.unwrap();
        let expected = SmartLink {
            name: "summer".into(),
            etag: changed.etag.clone(),
            update_time: changed.update_time,
            ..link.clone()
        };
        assert_eq!(changed, expected);
        assert_ne!((&changed.etag, &changed.update_time), (&link.etag, &link.update_time));
        assert_eq!(t.tag_of(&link).await.name, "summer");
        refused(update(&t, given, &["name"]).await, Code::Aborted, ErrorReason::EtagMismatch);
        let given = SmartLink { id: link.id.clone(), target_url: "https://other.example/".into(), ..Default::default() };
        let changed = update(&t, given, &["target_url"]).await.unwrap();
        assert_eq!((changed.name.as_str(), changed.target_url.as_str()), ("summer", "https://other.example/"));
        assert_eq!(changed.short_url, link.short_url);
        check_leads(&click(&link.short_url).await, "https://other.example/");

        let stale = v1::DeleteSmartLinkRequest { id: link.id.clone(), etag: link.etag.clone(), ..Default::default() };
        let result = t.client.smart_links().delete_smart_link(stale).await;
        refused(result, Code::Aborted, ErrorReason::EtagMismatch);
        let kept = async || {
            let rows = dump(&database).await;
            ["smart_links: ", "smart_link_clicks: "].map(|table| rows.lines().any(|row| row.starts_with(table)))
        };
        assert_eq!(kept().await, [true, true]);
        t.delete_link(&link, false).await.unwrap();
        assert_eq!(kept().await, [false, false]);
        refused(t.link_now(&link).await, Code::NotFound, ErrorReason::NotFound);
        refused(t.delete_link(&link, false).await, Code::NotFound, ErrorReason::NotFound);
        let request = v1::GetTagRequest { id: link.tag_id.clone() };
        refused(t.client.tags().get_tag(request).await, Code::NotFound, ErrorReason::NotFound);
        check_refused(&click(&link.short_url).await, 404, &[]);
    }

    async fn links_are_listed_in_pages(t: Taghook) {
        let mut ids = Vec::new();
        for name in ["a1", "b", "a2", "a3"] {
            t.tag(&format!("{name} as a tag")).await;
            ids.push(t.link(name, "https://shop.example/").await.id);
        }
        let list = async |name_prefix: &str, page_size: i32, page_token: String| {
            let filter = v1::list_smart_links_request::Filter { name_prefix: name_prefix.into(), ..Default::default() };
            let request = v1::ListSmartLinksRequest { page_size, page_token, filter: Some(filter) };
            let list = t.client.smart_links().list_smart_links(request).await.unwrap().into_inner();
            (list.smart_links.into_iter().map(|link| link.id).collect::<Vec<_>>(), list.next_page_token)
        };
        assert_eq!(list("", 0, String::new()).await, (ids.clone(), String::new()));
        let (first, token) = list("a", 2, String::new()).await;
        assert_eq!(first, [ids[0].clone(), ids[2].clone()]);
        assert_eq!(list("a", 2, token).await, (vec![ids[3].clone()], String::new()));
    }

    async fn a_link_and_its_tag_share_their_names_with_all_tags(t: Taghook) {
        let tag = t.tag("taken").await;
        let error = refused(t.try_link("taken", "https://shop.example/").await, Code::AlreadyExists, ErrorReason::AlreadyExists);
        assert_eq!(error.metadata["resource"], "tag");
        let link = t.link("sale", "https://shop.example/").await;
        let given = SmartLink { id: link.id.clone(), name: "taken".into(), ..Default::default() };
        refused(update(&t, given, &["name"]).await, Code::AlreadyExists, ErrorReason::AlreadyExists);
        let request = v1::CreateTagRequest { tag: Some(Tag { name: "sale".into(), ..Default::default() }), ..Default::default() };
        refused(t.client.tags().create_tag(request).await, Code::AlreadyExists, ErrorReason::AlreadyExists);
        assert_eq!(t.link_now(&link).await.unwrap(), link, "a refused change changes nothing");
        assert_ne!(link.tag_id, tag.id);
    }

    /// The tag goes with its link: nobody else makes, changes, deletes, assigns or removes it.
    async fn a_links_tag_is_its_own(t: Taghook) {
        let link = t.link("sale", "https://shop.example/").await;
        let tag = Tag { name: "x".into(), kind: v1::tag::Kind::SmartLink.into(), ..Default::default() };
        let result = t.client.tags().create_tag(v1::CreateTagRequest { tag: Some(tag), ..Default::default() }).await;
        refused_for(result, "tag.kind");
        let renamed = Tag { id: link.tag_id.clone(), name: "x".into(), ..Default::default() };
        let request = v1::UpdateTagRequest { tag: Some(renamed), update_mask: mask(&["name"]), ..Default::default() };
        let error = refused(t.client.tags().update_tag(request).await, Code::FailedPrecondition, ErrorReason::WrongState);
        assert!(error.message.contains("SmartLinkService"), "{error:?}");
        let request = v1::DeleteTagRequest { id: link.tag_id.clone(), force: true, ..Default::default() };
        refused(t.client.tags().delete_tag(request).await, Code::FailedPrecondition, ErrorReason::WrongState);
        let contact = t.contact("ada@example.com").await;
        let tag_ids = vec![link.tag_id.clone()];
        let request = v1::TagContactRequest { contact: by_id(&contact.id), tag_ids: tag_ids.clone(), ..Default::default() };
        let result = t.client.contacts().tag_contact(request).await;
        refused(result, Code::FailedPrecondition, ErrorReason::TagNotAssignable);
        click(&t.tracked(&link, &contact).await).await;
        let request = v1::UntagContactRequest { contact: by_id(&contact.id), tag_ids, ..Default::default() };
        let result = t.client.contacts().untag_contact(request).await;
        refused(result, Code::FailedPrecondition, ErrorReason::TagNotAssignable);
        assert_eq!(t.held_tags(&contact).await, [link.tag_id.as_str()]);
    }

    async fn a_link_that_a_webhook_needs_is_deleted_by_force_alone(t: Taghook) {
        let receiver = Receiver::start().await;
        let link = t.link("sale", "https://shop.example/").await;
        let webhook = t.webhook(&receiver, &t.tag_of(&link).await, |_| {}).await;
        let result = t.delete_link(&link, false).await.unwrap_err();
        let users = result.get_details_precondition_failure().expect("the users");
        assert!(users.violations[0].subject.starts_with(&webhook.id), "{users:?}");
        refused(Err::<(), _>(result), Code::FailedPrecondition, ErrorReason::InUse);
        assert_eq!(t.link_now(&link).await.unwrap(), link);
        t.delete_link(&link, true).await.unwrap();
        assert_eq!(t.current(&webhook).await.activation_tag_ids, [""; 0]);
    }

    async fn a_field_that_a_link_needs_is_not_deleted(t: Taghook) {
        let field = create_score(&t).await;
        let link = t.link("sale", "https://shop.example/__score__").await;
        let delete = async || {
            let request = v1::DeleteFieldRequest { id: field.id.clone(), ..Default::default() };
            t.client.fields().delete_field(request).await
        };
        let result = delete().await.unwrap_err();
        let users = result.get_details_precondition_failure().expect("the users");
        assert!(users.violations[0].subject.starts_with(&link.id), "{users:?}");
        t.delete_link(&link, false).await.unwrap();
        delete().await.unwrap();
    }

    async fn targets_that_are_none_are_refused(t: Taghook) {
        create_score(&t).await;
        for good in ["http://shop.example", "https://shop.example:8443/a__email__b?x=__phone__&y=__score__&z=__contact_id__"] {
            t.link(good, good).await;
        }
        let link = t.link("changed", "https://shop.example/").await;
        for bad in [
            "javascript:alert(1)",
            "javascript://shop.example/%0aalert(1)",
            "data:text/html,x",
            "//evil.example/",
            "/landing",
            "shop.example",
            "https://",
            "https:///landing",
            "https://__first_name__/",
            "https://__first_name__.shop.example/",
            "https://shop.example:__score__/",
            "https://shop.example__first_name__/",
            "__website__",
            "https://user@shop.example/",
            "https://__email__@shop.example/",
            "https://shop.example/#__email__",
            "https://shop.example/__no_such__",
            "https://shop.example/__id__",
            "https://shop.example/__first_name",
            "https://shop.example/../__first_name__",
            "https://shop.example/a\r\nset-cookie: x=1",
            "https://shop.example/a b",
            "https://shop.example\\@evil.example/",
            "https://shop.example:0/",
        ] {
            refused_for(t.try_link("bad", bad).await, "smart_link.target_url");
            let given = SmartLink { id: link.id.clone(), target_url: bad.into(), ..Default::default() };
            refused_for(update(&t, given, &["target_url"]).await, "smart_link.target_url");
        }
        assert_eq!(t.link_now(&link).await.unwrap(), link);
    }

    async fn an_expiry_is_in_the_future(database: Database) {
        let (settings, _clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (link, contact) = (t.link("sale", "https://shop.example/").await, t.contact("ada@example.com").await);
        let make = async |seconds: i64, nanos: i32| {
            let request = v1::CreateTrackedUrlRequest {
                smart_link_id: link.id.clone(),
                contact: by_email("ADA@example.com"),
                expire_time: Some(Timestamp { seconds, nanos }),
            };
            t.client.smart_links().create_tracked_url(request).await.map(tonic::Response::into_inner)
        };
        // 2026-01-01T00:00:00Z is now.
        let made = make(1_767_225_601, 999_999_999).await.unwrap();
        assert_eq!(made.expire_time, Some(Timestamp { seconds: 1_767_225_601, nanos: 0 }));
        let token = made.url.strip_prefix(&format!("{}/l/", t.links_base())).unwrap();
        assert_eq!(token.len(), 71, "{token}");
        assert_eq!(make(1_767_225_601, 0).await.unwrap(), made, "the same again");
        assert_ne!(t.tracked(&link, &contact).await, made.url, "one without an end");
        make(4_133_980_799, 0).await.unwrap();
        for seconds in [1_767_225_600, 0, -1, 4_133_980_800, 253_402_300_799, i64::MAX] {
            refused_for(make(seconds, 0).await, "expire_time");
        }
    }

    async fn without_an_address_there_are_no_urls(database: Database) {
        let mut settings = database.settings();
        settings.config.links.listen = "off".into();
        let t = Taghook::start(database.clone(), settings).await;
        assert_eq!(t.links_addr(), None);
        let (link, contact) = (t.link("sale", "https://shop.example/").await, t.contact("ada@example.com").await);
        assert_eq!(link.short_url, "");
        let request = v1::CreateTrackedUrlRequest { smart_link_id: link.id.clone(), contact: by_id(&contact.id), ..Default::default() };
        let result = t.client.smart_links().create_tracked_url(request).await;
        refused(result, Code::FailedPrecondition, ErrorReason::WrongState);
        t.stop().await;

        let mut settings = database.settings();
        settings.config.links.listen = "off".into();
        settings.config.links.base_url = "https://go.example.com/x/".into();
        let t = Taghook::start(database, settings).await;
        let url = t.tracked(&link, &contact).await;
        assert!(url.starts_with("https://go.example.com/x/l/") && url.len() == 27 + 71, "{url}");
    }

    async fn a_workspace_has_a_limit_of_links(t: Taghook) {
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..1_000 {
            let link = SmartLink { name: format!("link {number}"), target_url: "https://shop.example/".into(), ..Default::default() };
            let request = v1::CreateSmartLinkRequest { smart_link: Some(link), ..Default::default() };
            let client = t.client.clone();
            calls.spawn(async move { client.smart_links().create_smart_link(request).await.expect("a link") });
            if calls.len() >= 16 {
                calls.join_next().await;
            }
        }
        calls.join_all().await;
        let result = t.try_link("one more", "https://shop.example/").await;
        let error = refused(result, Code::ResourceExhausted, ErrorReason::LimitReached);
        assert_eq!(error.metadata["limit"], "1000");
        let request = v1::ListTagsRequest { filter: Some(v1::list_tags_request::Filter { name_prefix: "one".into(), ..Default::default() }), ..Default::default() };
        assert_eq!(t.client.tags().list_tags(request).await.unwrap().into_inner().tags, []);
    }
}
