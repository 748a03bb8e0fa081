//! The headers of a webhook: what may be set, and what is never told again.

use taghook_client::v1::webhook::Header;
use taghook_client::v1::{
    CreateWebhookRequest, GetWebhookRequest, ListWebhooksRequest, PreviewWebhookRequest, UpdateWebhookRequest, Webhook,
    WebhookEvent,
};

use crate::support::{Answer, Database, Process, Receiver, Taghook, both, check_invalid};

fn header(name: &str, value: &str, sensitive: bool) -> Header {
    Header { name: name.into(), value: value.into(), sensitive }
}

both! {
    async fn headers_that_arent_the_webhooks_to_set_are_refused(t: Taghook) {
        let receiver = Receiver::start().await;
        let reserved = [
            "Host", "connection", "Keep-Alive", "te", "trailer", "Transfer-Encoding", "upgrade", "http2-settings",
            "expect", "Content-Length", "content-type", "content-encoding", "User-Agent", "traceparent", "tracestate",
            "webhook-id", "Webhook-Signature", "webhook-anything", "proxy-authorization", "Proxy-Connection",
        ];
        let draft = |headers: Vec<Header>| CreateWebhookRequest {
            webhook: Some(Webhook {
                name: "test".into(),
                url: receiver.url("/hook"),
                events: vec![WebhookEvent::default()],
                headers,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut webhooks = t.client.webhooks();
        let headers = reserved.iter().map(|name| header(name, "x", false)).collect();
        let fields: Vec<_> = (0..reserved.len()).map(|index| format!("webhook.headers[{index}].name")).collect();
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        check_invalid(webhooks.create_webhook(draft(headers)).await, &fields);

        for name in ["x y", "x:", "x\r\ny", "é", "x\0"] {
            let refused = webhooks.create_webhook(draft(vec![header(name, "x", false)])).await;
            check_invalid(refused, &["webhook.headers[0].name"]);
        }
        for value in ["a\r\nx-injected: 1", "a\nb", "a\0", "é", " a", "a\t"] {
            let refused = webhooks.create_webhook(draft(vec![header("x", value, true)])).await;
            let error = check_invalid(refused, &["webhook.headers[0].value"]);
            assert!(!format!("{error:?}").contains("injected"), "{error:?}");
        }
        let twice = webhooks.create_webhook(draft(vec![header("X-A", "1", false), header("x-a", "2", false)])).await;
        check_invalid(twice, &["webhook.headers[1].name"]);
    }

    /// An update that leaves a sensitive value empty keeps it; no answer tells it.
    async fn sensitive_values_are_sent_and_never_told(t: Taghook) {
        let mut receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let created = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.headers = vec![
                    header("X-Open", "told", false),
                    header("X-Token", "hush-1", true),
                    header("Authorization", "hush-2", false),
                    header("cookie", "hush-3", false),
                ];
            })
            .await;
        let told = [
            header("x-open", "told", false),
            header("x-token", "", true),
            header("authorization", "", true),
            header("cookie", "", true),
        ];
        assert_eq!(created.headers, told);
        let mut webhooks = t.client.webhooks();
        let got = webhooks.get_webhook(GetWebhookRequest { id: created.id.clone() }).await.unwrap().into_inner();
        assert_eq!(got.headers, told);
        let listed = webhooks.list_webhooks(ListWebhooksRequest::default()).await.unwrap().into_inner();
        assert_eq!(listed.webhooks[0].headers, told);
        let preview = PreviewWebhookRequest { id: created.id.clone(), ..Default::default() };
        let preview = webhooks.preview_webhook(preview).await.unwrap().into_inner();
        assert!(!format!("{preview:?}").contains("hush"), "{preview:?}");

        let update = UpdateWebhookRequest {
            webhook: Some(Webhook { id: created.id, headers: told[..3].to_vec(), ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["headers".into()] }),
            ..Default::default()
        };
        let updated = webhooks.update_webhook(update).await.unwrap().into_inner();
        assert_eq!(updated.headers, told[..3]);
        let contact = t.contact("ada@example.com").await;
        t.assign(&contact, &tag).await;
        let received = receiver.recv().await;
        assert_eq!(
            ["x-open", "x-token", "authorization"].map(|name| received.header(name)),
            ["told", "hush-1", "hush-2"]
        );
        assert!(!received.headers.contains_key("cookie"));
    }

    /// Neither values of contacts nor credentials are in the log, though requests fail.
    async fn the_log_of_the_program_keeps_secrets(database: Database) {
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::new(500, &[], "hush-answer"));
        let server = Process::serve(&database).await;
        let contact = server.contact_with("hush-mail@example.com", &[("first_name", "hush-name")]).await;
        let tag = server.tag("customer").await;
        let webhook = server
            .webhook(&receiver, &tag, |webhook| {
                webhook.headers = vec![header("authorization", "hush-token", true)];
                webhook.url = receiver.url("/hush-path");
            })
            .await;
        let secret = server.secret(&webhook).await;
        server.assign(&contact, &tag).await;
        receiver.recv().await;
        let key = database.key("default.key");
        let (status, log) = server.terminate().await;
        assert!(status.success(), "{status}");
        let log = log.join("\n");
        for hidden in ["hush", secret.as_str(), key.as_str()] {
            assert!(!log.contains(hidden), "{hidden} is in the log:\n{log}");
        }
    }
}
