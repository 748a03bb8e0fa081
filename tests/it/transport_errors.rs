//! What becomes of requests that get no answer, and of answers that put off the next one.

use std::time::Duration;

use taghook_client::v1::RetryPolicy;
use taghook_client::v1::attempt::ErrorClass;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;

use crate::support::{Answer, Database, Receiver, Taghook, Watch, both};

/// Sends to a URL that can't be called; the attempt has this class, and so has the retry.
async fn check_retried(database: Database, url: &str, expected: ErrorClass) -> Taghook {
    let (settings, clock) = database.settings().with_manual_clock();
    let t = Taghook::start(database, settings).await;
    let receiver = Receiver::start().await;
    let contact = t.contact("ada@example.com").await;
    let tag = t.tag("customer").await;
    t.webhook(&receiver, &tag, |webhook| {
        webhook.url = url.into();
        let delays = vec![prost_types::Duration { seconds: 60, nanos: 0 }];
        webhook.retry_policy = Some(RetryPolicy { delays });
    })
    .await;
    let mut watch = Watch::now(&t.client).await;
    t.assign(&contact, &tag).await;
    let failed = watch.expect(Kind::AttemptFailed).await;
    let attempt = failed.attempt.expect("the attempt");
    assert_eq!((attempt.error_class(), attempt.status_code), (expected, 0), "{attempt:?}");
    assert!(!attempt.error_detail.is_empty(), "{attempt:?}");
    clock.advance_to(failed.next_attempt_time.expect("a retry"));
    let exhausted = watch.expect(Kind::Exhausted).await;
    let attempt = exhausted.attempt.expect("the attempt");
    assert_eq!((attempt.number, attempt.error_class()), (2, expected), "{attempt:?}");
    assert_eq!(t.delivery(&exhausted.delivery_id).await.state(), State::Exhausted);
    assert_eq!(t.attempts(&exhausted.delivery_id).await.len(), 2);
    t
}

both! {
    async fn a_port_where_nobody_listens_is_refused(database: Database) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        check_retried(database, &url, ErrorClass::ConnectionRefused).await;
    }

    /// RFC 6761, 6.4: `.invalid` never resolves.
    async fn a_name_that_isnt_there_is_a_dns_failure(database: Database) {
        check_retried(database, "http://no-such-host.invalid/", ErrorClass::Dns).await;
    }

    /// The first bytes of TLS make no request; what comes back is no handshake.
    async fn tls_to_a_plain_port_fails(database: Database) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        check_retried(database, &url, ErrorClass::Tls).await;
    }

    /// Never before the schedule, never after 24 hours; whatever can't be read says nothing.
    async fn retry_after_is_read_in_each_of_its_forms(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |_| {}).await;
        let mut watch = Watch::now(&t.client).await;
        // The clock stands at 2026-01-01T00:00:00Z, a Thursday. The schedule says 5 s.
        for (number, (header, asked_s, least_ms, most_ms)) in [
            ("120", Some(120), 120_000, 132_000),
            ("0", Some(0), 4_500, 5_500),
            ("1", Some(1), 4_500, 5_500),
            ("Thu, 01 Jan 2026 01:00:00 GMT", Some(3_600), 3_600_000, 3_960_000),
            ("Thursday, 01-Jan-26 01:00:00 GMT", Some(3_600), 3_600_000, 3_960_000),
            ("Thu Jan  1 01:00:00 2026", Some(3_600), 3_600_000, 3_960_000),
            ("Wed, 31 Dec 2025 23:00:00 GMT", Some(0), 4_500, 5_500),
            ("soon", None, 4_500, 5_500),
            ("-60", None, 4_500, 5_500),
            ("60.5", None, 4_500, 5_500),
            ("99999999", Some(86_400), 86_400_000, 86_400_000),
            ("99999999999999999999999", Some(86_400), 86_400_000, 86_400_000),
            ("Fri, 01 Jan 2100 00:00:00 GMT", Some(86_400), 86_400_000, 86_400_000),
        ]
        .into_iter()
        .enumerate()
        {
            receiver.answer(Answer::new(500, &[("retry-after", header)], ""));
            let contact = t.contact(&format!("{number}@example.com")).await;
            t.assign(&contact, &tag).await;
            let failed = watch.expect(Kind::AttemptFailed).await;
            let attempt = failed.attempt.expect("the attempt");
            let asked = attempt.retry_after.map(|asked| asked.seconds);
            assert_eq!(asked, asked_s, "{header}");
            let wait = clock.until(failed.next_attempt_time.expect("a retry"));
            let (least, most) = (Duration::from_millis(least_ms), Duration::from_millis(most_ms));
            assert!((least..=most).contains(&wait), "{header}: {wait:?}");
            assert_eq!(receiver.count(), number + 1);
        }
    }
}
