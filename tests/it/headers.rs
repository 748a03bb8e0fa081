//! The headers of a webhook: what may be set, and what is never told again.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::preview_webhook_request::Target;
use taghook_client::v1::webhook::Header;
use taghook_client::v1::{
    CreateWebhookRequest, GetWebhookRequest, ListWebhooksRequest, PreviewWebhookRequest, RotateWebhookSecretRequest,
    SignatureScheme, UpdateWebhookRequest, Webhook, WebhookEvent,
};

use crate::support::{Answer, Database, Process, Receiver, Taghook, Watch, both, check_invalid, dump};

fn header(name: &str, value: &str, sensitive: bool) -> Header {
    Header { name: name.into(), value: value.into(), sensitive }
}

/// Whether any file of a folder has these bytes, those of its keys left out.
fn files_have(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("the data folder").any(|entry| {
        let path = entry.expect("a file").path();
        path.extension().is_none_or(|extension| extension != "key")
            && read_if_there(&path).windows(bytes.len()).any(|window| window == bytes)
    })
}

/// A file's bytes; none if it went after the folder was listed, as the database's own temporary files do.
fn read_if_there(path: &Path) -> Vec<u8> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        bytes => bytes.expect("its bytes"),
    }
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
        let preview = PreviewWebhookRequest { target: Some(Target::Id(created.id.clone())), ..Default::default() };
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
        let former = server.secret(&webhook).await;
        let secret = "whsec_aHVzaC1zZWNyZXQtaHVzaC1zZWNyZXQtaHVzaC1zZWM=".to_owned();
        let request =
            RotateWebhookSecretRequest { id: webhook.id.clone(), secret: secret.clone(), ..Default::default() };
        server.client.webhooks().rotate_webhook_secret(request).await.unwrap();
        server.assign(&contact, &tag).await;
        receiver.recv().await;
        let key = database.key("default.key");
        let (status, log) = server.terminate().await;
        assert!(status.success(), "{status}");
        let log = log.join("\n");
        for hidden in ["hush", "aHVza", secret.as_str(), former.as_str(), key.as_str()] {
            assert!(!log.contains(hidden), "{hidden} is in the log:\n{log}");
        }
    }

    /// Rows and files hold none of them: neither what a caller gave nor what the server made, as text or as bytes.
    async fn a_database_holds_no_secret_that_can_be_read(database: Database) {
        let t = Taghook::start(database.clone(), database.settings()).await;
        let mut receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let draft = Webhook {
            name: "test".into(),
            url: receiver.url("/hook"),
            activation_tag_ids: vec![tag.id.clone()],
            events: vec![WebhookEvent::default()],
            signature_schemes: vec![SignatureScheme::V1.into(), SignatureScheme::V1a.into()],
            headers: vec![
                header("x-open", "open-value", false),
                header("x-token", "hush-token", true),
                header("cookie", "hush-cookie", false),
            ],
            ..Default::default()
        };
        let request = CreateWebhookRequest { webhook: Some(draft), request_id: "a-webhook".into() };
        let webhook = t.client.webhooks().create_webhook(request).await.unwrap().into_inner();
        let webhook = t
            .update(&webhook, &["headers"], |webhook| webhook.headers[1].value = "hush-newer".into())
            .await;
        let contact = t.contact("ada@example.com").await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;
        let received = receiver.recv().await;
        assert_eq!((received.header("x-token"), received.header("cookie")), ("hush-newer", "hush-cookie"));
        watch.expect(Kind::Delivered).await;

        let given = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=".to_owned();
        let request = RotateWebhookSecretRequest {
            id: webhook.id.clone(),
            secret: given,
            request_id: "a-rotation".into(),
            ..Default::default()
        };
        let rotated = t.client.webhooks().rotate_webhook_secret(request).await.unwrap().into_inner();
        assert_eq!(rotated.secrets.len(), 3);
        let encoded = |value: &str| value.split_once('_').expect("a secret of Standard Webhooks").1.to_owned();
        let encoded: Vec<_> = rotated.secrets.iter().map(|secret| encoded(&secret.value)).collect();
        let hidden: Vec<Vec<u8>> = ["hush-token", "hush-cookie", "hush-newer", &t.key()]
            .into_iter()
            .chain(encoded.iter().map(String::as_str))
            .map(|text| text.as_bytes().to_vec())
            .chain(encoded.iter().map(|text| STANDARD.decode(text).expect("base64")))
            .collect();
        drop(watch);
        t.stop().await;

        // The files come first: whoever reads the rows makes and removes some.
        for bytes in &hidden {
            let text = String::from_utf8_lossy(bytes);
            assert!(!files_have(database.folder(), bytes), "{text} is in a file");
        }
        assert!(database.is_postgres() || files_have(database.folder(), b"open-value"), "the files are the database's");
        let rows = dump(&database).await;
        assert!(rows.contains("open-value"), "what isn't secret is there to be found");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for bytes in &hidden {
            let text = String::from_utf8_lossy(bytes).to_lowercase();
            assert!(!rows.contains(&text) && !rows.contains(&hex(bytes)), "{text} is in a row");
        }
    }
}
