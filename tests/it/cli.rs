//! The commands for people.

use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{Database, FromDatabase, Process, Receiver, Taghook, mask, within};

async fn output(arguments: &[&str]) -> Output {
    within("the end of the program", Process::command(arguments).output()).await.expect("the program")
}

/// Posts a body; the answer's first line.
async fn post(address: &str, target: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {target} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // The answer may come before the body has been taken.
    let _ = stream.write_all(body).await;
    let mut line = String::new();
    within("an answer", BufReader::new(stream).read_line(&mut line)).await.unwrap();
    line.trim_end().to_owned()
}

#[tokio::test]
async fn the_demo_shows_the_main_job() {
    let output = output(&["demo"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let outcomes: Vec<_> =
        text.lines().filter_map(|line| line.trim().strip_prefix("outcome")?.trim().split(',').next()).collect();
    assert_eq!(outcomes, ["DELIVERED", "SUPPRESSED", "DELIVERED", "DELIVERED"], "{text}");
    for line in [
        "│ POST /crm/contacts",
        "│ email = ada@example.com",
        "│ name  = Ada",
        "│ ✓ signature valid",
        "│ POST /crm/coupons",
    ] {
        assert!(text.lines().any(|shown| shown.trim() == line), "no line {line:?} in:\n{text}");
    }
    assert!(
        text.contains("302") && text.contains("/shop/Ada") && text.contains("has finished after 4 steps"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");
}

#[tokio::test]
async fn the_receiver_shows_requests_and_ends_well() {
    let secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let mut receive = Process::command(&["receive", "--listen", "127.0.0.1:0", "--json", "--status", "503"])
        .args(["--secret", secret])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(receive.stderr.take().unwrap());
    let mut greeting = String::new();
    within("the greeting", stderr.read_line(&mut greeting)).await.unwrap();
    let address = greeting.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();

    assert_eq!(post(&address, "/a?b=c", b"x\x1b").await, "HTTP/1.1 503 Service Unavailable");
    let too_large = vec![b'x'; 5 * 1024 * 1024 + 1];
    assert_eq!(post(&address, "/large", &too_large).await, "HTTP/1.1 413 Payload Too Large");

    let id = receive.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let status = within("the end of the receiver", receive.wait()).await.unwrap();
    assert!(status.success(), "{status}");
    let mut text = String::new();
    receive.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["url"], "/a?b=c");
    assert_eq!(lines[0]["body"], "x\u{1b}");
    assert_eq!(lines[0]["signature"], "invalid");
    assert_eq!(lines[0]["signature_error"], "the header webhook-id is missing or malformed");
    assert_eq!(lines[0]["status"], 503);
    assert_eq!(lines[1]["body_error"], "the body is over 5 MiB");
    assert_eq!(lines[1]["status"], 413);
}

/// A public key is as good as a secret.
#[tokio::test]
async fn the_receiver_verifies_both_schemes() {
    use taghook_client::v1::{SignatureScheme, UpdateWebhookRequest, Webhook};
    let t = Taghook::on(Database::sqlite()).await;
    let contact = t.contact("ada@example.com").await;
    let tag = t.tag("customer").await;
    let webhook =
        t.webhook(&Receiver::start().await, &tag, |it| it.signature_schemes = vec![SignatureScheme::V1a.into()]).await;
    for (secret, expected) in
        [(webhook.public_keys[0].as_str(), "valid"), ("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "invalid")]
    {
        let mut receive = Process::command(&["receive", "--listen", "127.0.0.1:0", "--json", "--secret", secret])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(receive.stderr.take().unwrap());
        let mut greeting = String::new();
        within("the greeting", stderr.read_line(&mut greeting)).await.unwrap();
        let address = greeting.split("http://").nth(1).unwrap().split('/').next().unwrap();
        let moved = Webhook { id: webhook.id.clone(), url: format!("http://{address}/"), ..Default::default() };
        let moved = UpdateWebhookRequest { webhook: Some(moved), update_mask: mask(&["url"]), ..Default::default() };
        t.client.webhooks().update_webhook(moved).await.unwrap();
        t.test(&webhook, &contact).await;
        let mut line = String::new();
        let mut stdout = BufReader::new(receive.stdout.take().unwrap());
        within("the request", stdout.read_line(&mut line)).await.unwrap();
        let shown: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(shown["signature"], expected, "{shown}");
    }
}

#[tokio::test]
async fn the_receiver_refuses_a_secret_that_is_none() {
    let output = output(&["receive", "--secret", "secret"]).await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("the secret must be `whsec_` and base64, or the public key `whpk_`"), "{text}");
}
