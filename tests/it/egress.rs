//! The egress guard: where webhooks may not go.

use taghook::config::Config;
use taghook_client::v1::attempt::ErrorClass;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{CreateWebhookRequest, UpdateWebhookRequest, Webhook, WebhookEvent};

use crate::support::{Api, Database, Process, Receiver, Taghook, Watch, both, check_invalid, delays, silent_port};

/// Checks that no webhook can be written with this URL, neither a new one nor one that is there.
async fn check_unwritable(api: &Api, written: &Webhook, url: &str) {
    let draft = Webhook { id: String::new(), url: url.into(), ..written.clone() };
    let request = CreateWebhookRequest { webhook: Some(draft), ..Default::default() };
    let created = check_invalid(api.client.webhooks().create_webhook(request).await, &["webhook.url"]);
    let request = UpdateWebhookRequest {
        webhook: Some(Webhook { id: written.id.clone(), url: url.into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["url".into()] }),
        ..Default::default()
    };
    let updated = check_invalid(api.client.webhooks().update_webhook(request).await, &["webhook.url"]);
    for error in [created, updated] {
        assert_eq!(error.violations[0].reason, "EGRESS_DENIED", "{url}: {error:?}");
    }
}

both! {
    /// Every range that isn't public, and every spelling of an address in one.
    async fn addresses_that_arent_public_are_refused_when_written(database: Database) {
        let mut settings = database.settings();
        settings.config.egress.allow.clear();
        let t = Taghook::start(database, settings).await;
        let mut webhooks = t.client.webhooks();
        for host in [
            "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "127.0.0.1.",
            "１２７.0.0.1", "127。0。0。1", "%31%32%37.0.0.1", "localhost", "LOCALHOST", "localhost.", "a.localhost",
            "0.0.0.0", "0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "100.64.0.1",
            "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
            "240.0.0.1", "255.255.255.255", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::a00:1]", "[2002:7f00:1::]",
            "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]",
        ] {
            for url in [format!("http://{host}/"), format!("https://{host}:8443/x")] {
                let webhook = Webhook {
                    name: "test".into(),
                    url: url.clone(),
                    events: vec![WebhookEvent::default()],
                    ..Default::default()
                };
                let request = CreateWebhookRequest { webhook: Some(webhook), ..Default::default() };
                let error = check_invalid(webhooks.create_webhook(request).await, &["webhook.url"]);
                let reasons: Vec<_> = error.violations.iter().map(|violation| violation.reason.as_str()).collect();
                // Spelling that no URL has is refused as such.
                assert!(reasons == ["EGRESS_DENIED"] || reasons == ["URL"], "{url}: {error:?}");
                if host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:[]".contains(&byte)) {
                    assert_eq!(reasons, ["EGRESS_DENIED"], "{url}: {error:?}");
                }
            }
        }
    }

    /// What was allowed when the webhook was written is asked again at each attempt.
    async fn a_narrower_policy_holds_for_webhooks_that_are_there(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.url = webhook.url.replace("127.0.0.1", "localhost")).await;
        let contact = t.contact("ada@example.com").await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;
        watch.expect(Kind::Delivered).await;
        drop(watch);
        t.stop().await;

        let mut settings = database.settings();
        settings.config.egress.allow.clear();
        let t = Taghook::start(database, settings).await;
        let contact = t.contact("bob@example.com").await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;
        let failed = watch.expect(Kind::AttemptFailed).await;
        assert_eq!(failed.attempt.expect("the attempt").error_class(), ErrorClass::EgressDenied);
        assert_eq!((receiver.count(), receiver.connections()), (1, 1));
    }

    /// Each rule holds where a URL is written and again where it is called, before anybody is dialled.
    async fn the_operator_decides_on_ports_and_on_plain_http(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[3_600])).await;
        t.stop().await;

        let rules: [fn(&mut Config); 3] = [
            |config| config.egress.allow.clear(),
            |config| config.egress.require_https = true,
            |config| config.egress.ports = "443, 1-2".into(),
        ];
        let refused = [
            ["http://127.0.0.1/", "https://127.0.0.1/"],
            ["http://127.0.0.1/", "http://example.com:443/"],
            ["http://example.com/", "https://example.com:8443/"],
        ];
        for (number, (rule, urls)) in rules.into_iter().zip(refused).enumerate() {
            let mut settings = database.settings();
            rule(&mut settings.config);
            let t = Taghook::start(database.clone(), settings).await;
            for url in urls.into_iter().chain([receiver.url("/other").as_str()]) {
                check_unwritable(&t, &webhook, url).await;
            }
            let contact = t.contact(&format!("{number}@example.com")).await;
            let mut watch = Watch::now(&t.client).await;
            t.assign(&contact, &tag).await;
            let failed = watch.expect(Kind::AttemptFailed).await;
            let attempt = failed.attempt.expect("the attempt");
            assert_eq!((attempt.error_class(), attempt.status_code), (ErrorClass::EgressDenied, 0), "{attempt:?}");
            assert_eq!(t.delivery(&failed.delivery_id).await.state(), State::Waiting);
            // People who try the webhook out are told as well.
            let tested = t.test(&webhook, &contact).await;
            assert_eq!(tested.attempt.expect("the attempt").error_class(), ErrorClass::EgressDenied);
            drop(watch);
            t.stop().await;
        }
        assert_eq!((receiver.count(), receiver.connections()), (0, 0));
    }

    /// A proxy would dial in the guard's stead, and see what is sent.
    async fn proxies_of_the_environment_are_ignored(database: Database) {
        let (mut receiver, proxy) = (Receiver::start().await, Receiver::start().await);
        let url = proxy.url("");
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        let server = Process::serve_with(&database, &names.map(|name| (name, url.as_str()))).await;
        let contact = server.contact("ada@example.com").await;
        let tag = server.tag("customer").await;
        server.webhook(&receiver, &tag, |_| {}).await;
        server.assign(&contact, &tag).await;
        let received = receiver.recv().await;
        assert_eq!(received.target, "/hook");
        // A proxy would be asked to CONNECT to an https URL, and say something else than that nobody listens there.
        let silent = silent_port();
        let nowhere = format!("https://{}/", silent.local_addr().unwrap());
        let secure = server.webhook(&receiver, &tag, |webhook| webhook.url = nowhere).await;
        let tested = server.test(&secure, &contact).await;
        assert_eq!(tested.attempt.expect("the attempt").error_class(), ErrorClass::ConnectionRefused);
        assert_eq!(proxy.connections(), 0);
        let (status, _) = server.terminate().await;
        assert!(status.success(), "{status}");
    }
}
