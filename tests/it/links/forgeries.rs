//! Links that nobody has given out, or that have ended: they tag nobody, lead nowhere, and tell nothing.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taghook::domain::time::Micros;
use taghook_client::v1::api_key::Scope;
use taghook_client::v1::timeline_entry::Kind;
use taghook_client::v1::{self, ApiKey, Workspace};

use super::{check_leads, check_refused, click, forged};
use crate::support::{Api, Database, Taghook, both, exchange, http, mask};

/// Another workspace, and its id.
async fn elsewhere(t: &Taghook) -> (Api, String) {
    let workspace = Some(Workspace { name: "elsewhere".into(), ..Default::default() });
    let request = v1::CreateWorkspaceRequest { workspace, ..Default::default() };
    let workspace_id = t.root.workspaces().create_workspace(request).await.unwrap().into_inner().id;
    let api_key = ApiKey { name: "test".into(), scopes: vec![Scope::Admin.into()], ..Default::default() };
    let request = v1::CreateApiKeyRequest { workspace_id: workspace_id.clone(), api_key: Some(api_key) };
    let made = t.root.workspaces().create_api_key(request).await.unwrap().into_inner();
    (Api { client: t.client_with(Some(&made.secret)) }, workspace_id)
}

both! {
    async fn a_changed_token_leads_nowhere(database: Database) {
        let mut settings = database.settings();
        settings.config.links.burst = 10_000;
        let t = Taghook::start(database, settings).await;
        let (link, contact) = (t.link("sale", "https://shop.example/").await, t.contact("ada@example.com").await);
        let url = t.tracked(&link, &contact).await;
        let (base, token) = url.rsplit_once('/').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = URL_SAFE_NO_PAD.encode(changed);
            check_refused(&click(&format!("{base}/{changed}")).await, 404, &[&changed, "shop.example"]);
        }
        for length in 1..token.len() {
            check_refused(&click(&format!("{base}/{}", token.get(..length).unwrap())).await, 404, &["shop.example"]);
        }
        for wrong in [format!("{token}A"), format!("{token}="), token.to_uppercase(), format!("{token}/x"), format!("x/{token}")] {
            check_refused(&click(&format!("{base}/{wrong}")).await, 404, &["shop.example"]);
        }
        assert_eq!((t.held_tags(&contact).await.len(), t.clicks(&link).await), (0, [0, 0, 0]));
        check_leads(&click(&format!("{url}?utm_source=mail&next=https://evil.example/")).await, "https://shop.example/");
        assert_eq!(t.held_tags(&contact).await.len(), 1);
    }

    /// What the deployment itself has signed is still looked up: a contact is one of the link's workspace.
    async fn a_token_over_the_border_of_workspaces_leads_nowhere(t: Taghook) {
        let (there, _) = elsewhere(&t).await;
        let (ours, theirs) = (t.contact("ada@example.com").await, there.contact("ada@example.com").await);
        let link = t.link("sale", "https://shop.example/").await;
        check_leads(&click(&forged(&t, &link, &ours, None)).await, "https://shop.example/");
        check_refused(&click(&forged(&t, &link, &theirs, None)).await, 410, &["shop.example"]);
        assert_eq!((there.held_tags(&theirs).await.len(), t.clicks(&link).await), (0, [1, 0, 0]));
        assert_eq!(there.told(&theirs, Kind::LinkClicked).await, []);
    }

    async fn another_deployments_token_leads_nowhere(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let elsewhere = Database::sqlite();
        let other = Taghook::start(elsewhere.clone(), elsewhere.settings()).await;
        let (link, contact) = (t.link("sale", "https://shop.example/").await, t.contact("ada@example.com").await);
        let foreign = forged(&other, &link, &contact, None).replace(&other.links_base(), &t.links_base());
        check_refused(&click(&foreign).await, 404, &["shop.example"]);
        assert_eq!(t.held_tags(&contact).await, [""; 0]);
    }

    async fn an_expired_url_leads_nowhere(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let (link, contact) = (t.link("sale", "https://shop.example/").await, t.contact("ada@example.com").await);
        let url = forged(&t, &link, &contact, Some(Micros(1_767_225_601_000_000)));
        check_leads(&click(&url).await, "https://shop.example/");
        clock.advance(Duration::from_secs(1));
        check_refused(&click(&url).await, 410, &["shop.example"]);
        assert_eq!(t.clicks(&link).await, [1, 0, 0]);
    }

    async fn urls_end_with_their_link_and_with_their_contact(t: Taghook) {
        let (first, second) = (t.link("sale", "https://shop.example/").await, t.link("other", "https://shop.example/").await);
        let (ada, eve) = (t.contact("ada@example.com").await, t.contact("eve@example.com").await);
        let urls = [t.tracked(&first, &ada).await, t.tracked(&second, &ada).await, t.tracked(&second, &eve).await];
        for url in &urls {
            check_leads(&click(url).await, "https://shop.example/");
        }
        t.delete_link(&first, false).await.unwrap();
        t.delete_contact(&eve).await;
        check_refused(&click(&urls[0]).await, 410, &["shop.example"]);
        check_leads(&click(&urls[1]).await, "https://shop.example/");
        check_refused(&click(&urls[2]).await, 410, &["shop.example"]);
        assert_eq!(t.clicks(&second).await, [3, 0, 0], "counts stay");
        // One of the same name is another one.
        let again = t.link("sale", "https://shop.example/").await;
        assert_eq!(t.clicks(&again).await, [0, 0, 0]);
        check_refused(&click(&urls[0]).await, 410, &["shop.example"]);
    }

    async fn the_links_of_a_deleted_workspace_lead_nowhere(t: Taghook) {
        let (there, id) = elsewhere(&t).await;
        let link = there.link("sale", "https://shop.example/").await;
        let url = there.tracked(&link, &there.contact("ada@example.com").await).await;
        check_leads(&click(&url).await, "https://shop.example/");
        let request = v1::DeleteWorkspaceRequest { id, ..Default::default() };
        t.root.workspaces().delete_workspace(request).await.unwrap();
        check_refused(&click(&url).await, 410, &["shop.example"]);
        let short = click(&link.short_url).await;
        // Its rows are removed meanwhile.
        check_refused(&short, if short.status == 404 { 404 } else { 410 }, &["shop.example"]);
    }

    /// Whatever a contact's values are, scheme, host and port of the target stay, and no header is split.
    async fn values_never_lead_elsewhere(t: Taghook) {
        let link = t.link("sale", "http://shop.example:8080/a/__website__/b__city__?x=__first_name__").await;
        let hostile = [
            ("//evil.example/", "@evil.example/", "javascript:alert(1)"),
            ("https://evil.example/", ":80@evil.example", "a\r\nset-cookie: x=1"),
            ("http://evil.example/\\", "\\\\evil.example", "\u{0}\u{2028}\n\nbody"),
            ("http://evil.example/../..", "/../../..//evil.example", "&x=2#__email__"),
        ];
        for (index, (website, city, first_name)) in hostile.into_iter().enumerate() {
            let values: Vec<_> = [("website", website), ("city", city), ("first_name", first_name)].into();
            let contact = t.contact(&format!("c{index}@example.com")).await;
            for value in values {
                let values = [(value.0.to_owned(), value.1.to_owned())].into();
                let contact = v1::Contact { id: contact.id.clone(), values, ..Default::default() };
                // Some are no values at all.
                let update_mask = mask(&[&format!("values.{}", value.0)]);
                let request = v1::UpdateContactRequest { contact: Some(contact), update_mask, ..Default::default() };
                let _ = t.client.contacts().update_contact(request).await;
            }
            let answer = click(&t.tracked(&link, &contact).await).await;
            let location = answer.header("location");
            assert!(answer.headers.get("set-cookie").is_none(), "{answer:?}");
            if answer.status == 302 {
                let url = url::Url::parse(location).unwrap();
                assert_eq!((url.scheme(), url.host_str(), url.port()), ("http", Some("shop.example"), Some(8080)), "{location}");
                assert!(url.path().starts_with("/a/") && url.fragment().is_none(), "{location}");
                assert_eq!(url.query_pairs().count(), 1, "{location}");
                assert_eq!(url.as_str(), location, "a browser has nothing left to change");
            } else {
                check_refused(&answer, 404, &["evil"]);
                assert_eq!(t.held_tags(&contact).await, [""; 0]);
            }
        }
        let dots = t.link("dots", "https://shop.example/a/__city__/b").await;
        for (index, city) in ["..", ".", "%2e%2e", "x/../y"].into_iter().enumerate() {
            let contact = t.contact_with(&format!("d{index}@example.com"), &[("city", city)]).await;
            check_refused(&click(&t.tracked(&dots, &contact).await).await, 404, &["shop.example"]);
            assert_eq!(t.held_tags(&contact).await, [""; 0], "nobody was led anywhere");
        }
        assert_eq!(t.clicks(&dots).await, [0, 0, 0]);
        let at = t.link("at", "https://shop.example/__email__@evil.example/").await;
        let contact = t.contact("ada@example.com").await;
        check_leads(&click(&t.tracked(&at, &contact).await).await, "https://shop.example/ada%40example.com@evil.example/");
        let huge = t.contact_with("huge@example.com", &[("first_name", &"ä".repeat(2_000))]).await;
        check_refused(&click(&t.tracked(&link, &huge).await).await, 404, &["shop.example"]);
    }

    async fn nothing_else_is_served(t: Taghook) {
        let base = t.links_base();
        let address = base.strip_prefix("http://").unwrap();
        for path in [
            "/", "/l", "/l/", "/l//", "/L/0000000000", "/l/%00", "/l/%ff", "/l/%2e%2e", "/l/../x", "/l/<script>", "//evil.example/",
            "/l//evil.example", "/l/https://evil.example/", "/favicon.ico", "/taghook.v1.TagService/GetTag", "/l/\u{e9}",
            "/l/?next=https://evil.example/",
        ] {
            let answer = http("GET", &format!("{base}{path}"), &[]).await;
            // hyper itself refuses what is no path.
            if answer.status == 400 {
                assert_eq!((answer.header("location"), answer.body.as_str()), ("", ""), "{path}");
            } else {
                check_refused(&answer, 404, &["evil", "script"]);
            }
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
            let answer = http(method, &format!("{base}/l/0000000000"), &[]).await;
            check_refused(&answer, 405, &[method]);
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
        check_refused(&click(&format!("{base}/l/{}", "A".repeat(600))).await, 414, &["AAAA"]);
        let bytes = format!("GET /l/x HTTP/1.1\r\nhost: {address}\r\nx: {}\r\n\r\n", "A".repeat(40_000));
        assert_eq!(exchange(address, bytes.as_bytes()).await.status, 431);
        let bytes = format!("GET http://evil.example/l/0000000000 HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        check_refused(&exchange(address, bytes.as_bytes()).await, 404, &["evil"]);
    }
}
