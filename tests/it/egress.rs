//! The egress guard: where webhooks may not go.

use taghook_client::v1::attempt::ErrorClass;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{CreateWebhookRequest, Webhook, WebhookEvent};

use crate::support::{Database, Receiver, Taghook, Watch, both, check_invalid};

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
}
