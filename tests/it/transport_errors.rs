//! What becomes of requests that get no answer, and of answers that put off the next one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use taghook_client::v1::attempt::ErrorClass;
use taghook_client::v1::delivery::State;
use taghook_client::v1::outcome::Kind;
use taghook_client::v1::webhook_event::Method;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::support::{Answer, Database, Receiver, Taghook, Watch, both, delays, seconds, silent_port, within};

/// The deadline of webhooks that say nothing of it, in seconds.
const DEADLINE_S: i64 = 15;

/// Sends to a URL that can't be called; the attempt has this class, and so has the retry.
async fn check_retried(database: Database, url: &str, expected: ErrorClass) -> Taghook {
    check_retried_within(database, DEADLINE_S, url, expected).await
}

/// The same, with this deadline.
async fn check_retried_within(database: Database, deadline_s: i64, url: &str, expected: ErrorClass) -> Taghook {
    let (settings, clock) = database.settings().with_manual_clock();
    let t = Taghook::start(database, settings).await;
    let receiver = Receiver::start().await;
    let contact = t.contact("ada@example.com").await;
    let tag = t.tag("customer").await;
    t.webhook(&receiver, &tag, |webhook| {
        webhook.url = url.into();
        webhook.timeout = seconds(deadline_s);
        webhook.retry_policy = delays(&[60]);
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

/// Answers one request on each connection by TLS. Its address, its certificate in PEM, and what it decrypts.
async fn serve_tls() -> (SocketAddr, String, mpsc::UnboundedReceiver<Vec<u8>>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("its key");
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions of TLS").with_no_client_auth();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("a server's settings")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let (sender, decrypted) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = Vec::new();
            while !bytes.windows(4).any(|window| window == b"\r\n\r\n") && stream.read_buf(&mut bytes).await.is_ok() {}
            let _ = sender.send(bytes);
            let _ = stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    (address, made.cert.pem(), decrypted)
}

both! {
    async fn a_port_where_nobody_listens_is_refused(database: Database) {
        let silent = silent_port();
        let url = format!("http://{}/", silent.local_addr().unwrap());
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

    /// The deadline covers the handshake: here the first bytes of TLS are taken and nothing comes back.
    async fn a_handshake_that_is_not_answered_ends_at_the_deadline(database: Database) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        check_retried_within(database, 1, &url, ErrorClass::Timeout).await;
    }

    /// It covers the connect: a listener whose queue is full answers nobody.
    async fn a_connection_that_is_not_made_ends_at_the_deadline(database: Database) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
            assert!(queued.len() < 100, "the queue has no end");
        }
        check_retried_within(database, 1, &format!("http://{address}/"), ErrorClass::Timeout).await;
    }

    /// Whatever breaks is told apart and tried again once, when it is due.
    async fn an_answer_that_breaks_is_retried(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let half_a_body = Answer::close_after("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        let large_head = Answer::close_after(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1024 * 1024)));
        let mut watch = Watch::now(&t.client).await;
        for (number, (answer, class)) in [
            (Answer::reset(), ErrorClass::ConnectionReset),
            (Answer::close(), ErrorClass::ConnectionClosed),
            (half_a_body, ErrorClass::ConnectionClosed),
            (large_head, ErrorClass::HeadersTooLarge),
            (Answer::close_after("220 mail.example.com ESMTP\r\n"), ErrorClass::Protocol),
        ]
        .into_iter()
        .enumerate()
        {
            let receiver = Receiver::start().await;
            receiver.answer_next([answer]);
            let (contact, tag) = (t.contact(&format!("{number}@example.com")).await, t.tag(&number.to_string()).await);
            t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[60])).await;
            t.assign(&contact, &tag).await;
            let failed = watch.expect(Kind::AttemptFailed).await;
            assert_eq!(failed.attempt.expect("the attempt").error_class(), class);
            assert_eq!(receiver.count(), 1);
            clock.advance_to(failed.next_attempt_time.expect("a retry"));
            watch.expect(Kind::Delivered).await;
            assert_eq!(receiver.count(), 2);
        }
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

    /// Nothing of the request is told to whoever can't show who it is.
    async fn a_certificate_is_checked_before_anything_is_sent(database: Database) {
        let (address, pem, mut decrypted) = serve_tls().await;
        let url = format!("https://{address}/hook");
        let t = check_retried(database.clone(), &url, ErrorClass::Tls).await;
        t.stop().await;
        assert!(decrypted.try_recv().is_err());

        // The operator vouches for it.
        let mut settings = database.settings();
        settings.config.egress.extra_ca_file = database.folder().join("ca.pem");
        std::fs::write(&settings.config.egress.extra_ca_file, pem).expect("a file");
        let t = Taghook::start(database, settings).await;
        let receiver = Receiver::start().await;
        let contact = t.contact("bob@example.com").await;
        let tag = t.tag("other").await;
        t.webhook(&receiver, &tag, |webhook| webhook.url = url).await;
        let mut watch = Watch::now(&t.client).await;
        t.assign(&contact, &tag).await;
        let delivered = watch.expect(Kind::Delivered).await;
        assert_eq!(delivered.attempt.expect("the attempt").status_code, 204);
        let request = within("the request", decrypted.recv()).await.expect("a request");
        assert!(request.starts_with(b"POST /hook HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&request));
    }

    /// Neither silence nor a drip outlasts the deadline, wherever in the answer it is; each counts as sent.
    async fn an_answer_that_does_not_end_in_time_is_retried(database: Database) {
        let (settings, clock) = database.settings().with_manual_clock();
        let t = Taghook::start(database, settings).await;
        let silence = Answer::raw("");
        let half_a_head = Answer::raw("HTTP/1.1 200 OK\r\nx: ");
        let half_a_body = Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(100));
        let slow_head = Answer::drip_raw(head, Duration::from_millis(50));
        let mut watch = Watch::now(&t.client).await;
        for (number, (answer, status, body)) in
            [(silence, 0, ""), (half_a_head, 0, ""), (half_a_body, 200, "half"), (slow_head, 0, "")].into_iter().enumerate()
        {
            let receiver = Receiver::start().await;
            receiver.answer_next([answer]);
            let contact = t.contact(&format!("{number}@example.com")).await;
            let tag = t.tag(&number.to_string()).await;
            t.webhook(&receiver, &tag, |webhook| {
                webhook.timeout = seconds(1);
                webhook.retry_policy = delays(&[60]);
            })
            .await;
            t.assign(&contact, &tag).await;
            let failed = watch.expect(Kind::AttemptFailed).await;
            let [attempt] = &t.attempts(&failed.delivery_id).await[..] else { panic!("one attempt") };
            assert_eq!((attempt.error_class(), attempt.status_code), (ErrorClass::Timeout, status), "{attempt:?}");
            assert_eq!(attempt.response_body, body);
            let duration = attempt.duration.expect("a duration");
            assert!((1..=3).contains(&duration.seconds), "{duration:?}");
            // The connection that is still busy isn't used for the next attempt.
            clock.advance_to(failed.next_attempt_time.expect("a retry"));
            watch.expect(Kind::Delivered).await;
            assert_eq!((receiver.count(), receiver.connections()), (2, 2));
        }
    }

    /// The receiver closes each connection once it has answered, and doesn't say so beforehand. Whether or not a request
    /// meets such a connection, it isn't sent twice, and what came is what is logged.
    async fn a_connection_that_the_receiver_has_closed_costs_no_second_request(t: Taghook) {
        let mut receiver = Receiver::start().await;
        receiver.answer(Answer::close_after("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        let tag = t.tag("customer").await;
        t.webhook(&receiver, &tag, |webhook| webhook.retry_policy = delays(&[])).await;
        let mut watch = Watch::now(&t.client).await;
        let mut sent = Vec::new();
        for number in 0..20 {
            let contact = t.contact(&format!("{number}@example.com")).await;
            t.assign(&contact, &tag).await;
            let outcome = watch.next().await;
            let attempt = outcome.attempt.clone().expect("the attempt");
            assert_eq!((attempt.number, t.attempts(&outcome.delivery_id).await.len()), (1, 1));
            if outcome.kind() == Kind::Delivered {
                sent.push(outcome.delivery_id);
            } else {
                let classes = [ErrorClass::ConnectionClosed, ErrorClass::ConnectionReset];
                assert!(classes.contains(&attempt.error_class()), "{outcome:?}");
            }
        }
        // A failed one may or may not have arrived; the delivered ones have, once each.
        let mut arrived: Vec<_> = std::iter::from_fn(|| receiver.try_recv()).collect();
        arrived.retain(|received| sent.iter().any(|id| id == received.webhook_id()));
        let arrived: Vec<_> = arrived.iter().map(|received| received.webhook_id().to_owned()).collect();
        assert_eq!(arrived, sent);
        assert!(!sent.is_empty() && receiver.count() <= 20, "{} of 20", receiver.count());
    }

    /// An idempotent method or a reused connection is no reason to send again on one's own account.
    async fn a_request_that_is_lost_on_a_kept_connection_is_one_attempt(t: Taghook) {
        let receiver = Receiver::start().await;
        let tag = t.tag("customer").await;
        let webhook = t
            .webhook(&receiver, &tag, |webhook| {
                webhook.retry_policy = delays(&[]);
                webhook.events[0].method = Method::Get.into();
            })
            .await;
        let contact = t.contact("ada@example.com").await;
        let mut watch = Watch::now(&t.client).await;
        for (lost, class) in
            [(Answer::close(), ErrorClass::ConnectionClosed), (Answer::reset(), ErrorClass::ConnectionReset)]
        {
            receiver.answer_next([Answer::ok(), lost]);
            let before = receiver.count();
            t.trigger(&webhook, &contact).await;
            watch.expect(Kind::Delivered).await;
            t.trigger(&webhook, &contact).await;
            let exhausted = watch.expect(Kind::Exhausted).await;
            assert_eq!(exhausted.attempt.expect("the attempt").error_class(), class);
            assert_eq!((receiver.count(), t.attempts(&exhausted.delivery_id).await.len()), (before + 2, 1));
        }
    }
}
