use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Serves each connection, with its number, by `handler`.
async fn serve<F, Fut>(handler: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> Fut + Send + 'static,
    Fut: Future<Output = Option<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(handler(stream, number));
        }
    });
    address
}

/// Answers the first request with `bytes`, then closes.
async fn answering(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = Arc::new(bytes.into());
    serve(move |mut stream, _| {
        let bytes = bytes.clone();
        async move {
            read_request(&mut stream).await?;
            stream.write_all(&bytes).await.ok()
        }
    })
    .await
}

/// Reads one request, head and body, as it is on the wire. None: the connection ended before.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + std::str::from_utf8(&body).unwrap())
}

fn loopback_policy() -> EgressPolicy {
    EgressPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()], ..EgressPolicy::default() }
}

fn sender() -> Sender {
    Sender::new(loopback_policy(), &SenderSettings::default()).unwrap()
}

fn post(url: impl AsRef<str>) -> OutboundRequest {
    OutboundRequest {
        method: Method::POST,
        url: Url::parse(url.as_ref()).unwrap(),
        headers: vec![(HeaderName::from_static("webhook-id"), HeaderValue::from_static("dlv_1"))],
        body: Bytes::from_static(b"a=1"),
        deadline: PATIENCE,
    }
}

fn post_to(address: SocketAddr) -> OutboundRequest {
    post(format!("http://{address}/hook"))
}

fn within(deadline_ms: u64, request: OutboundRequest) -> OutboundRequest {
    OutboundRequest { deadline: Duration::from_millis(deadline_ms), ..request }
}

#[track_caller]
fn check_class(report: &SendReport, class: ErrorClass) -> &TransportError {
    let error = report.result.as_ref().unwrap_err();
    assert_eq!(error.class, class, "{error}");
    assert!(!error.detail.contains("127.0.0.1:") && !error.detail.contains("http:"), "{error}");
    error
}

#[track_caller]
fn check_ok(report: &SendReport, status: u16, body: &[u8]) {
    assert_eq!(report.result.as_ref().map(|head| head.status.as_u16()), Ok(status));
    assert_eq!((&report.body[..], report.body_truncated), (body, false));
}

/// Sends to a receiver that answers with these bytes and closes.
async fn answered_with(bytes: impl Into<Vec<u8>>) -> SendReport {
    sender().send(post_to(answering(bytes).await)).await
}

#[tokio::test]
async fn a_request_on_the_wire() {
    let (sent, mut received) = mpsc::unbounded_channel();
    let address = serve(move |mut stream, _| {
        let sent = sent.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                sent.send(request).ok()?;
                stream.write_all(OK).await.ok()?;
            }
            Some(())
        }
    })
    .await;
    let sender = sender();
    let mut request = post(format!("http://ada:l%40velace@{address}/a%20b?q=1#part"));
    request.headers.push((HeaderName::from_static("x-twice"), HeaderValue::from_static("1")));
    request.headers.push((HeaderName::from_static("x-twice"), HeaderValue::from_static("2")));
    check_ok(&sender.send(request).await, 200, b"ok");
    let expected = format!(
        "POST /a%20b?q=1 HTTP/1.1\r\nauthorization: Basic YWRhOmxAdmVsYWNl\r\nwebhook-id: dlv_1\r\nx-twice: 1\r\n\
         x-twice: 2\r\naccept: */*\r\nuser-agent: {USER_AGENT}\r\nhost: {address}\r\ncontent-length: 3\r\n\r\na=1"
    );
    let lines = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&received.recv().await.unwrap()), lines(&expected));
    let get = OutboundRequest { method: Method::GET, body: Bytes::new(), headers: Vec::new(), ..post_to(address) };
    check_ok(&sender.send(get).await, 200, b"ok");
    let request = received.recv().await.unwrap();
    assert!(request.starts_with("GET /hook HTTP/1.1\r\n") && !request.contains("content-length"), "{request}");
}

#[tokio::test]
async fn response_heads_and_bodies() {
    let report = answered_with(
        "HTTP/1.1 302 Found\r\nlocation: /ne\u{e9}xt\r\nretry-after: 120\r\ncontent-type: text/plain\r\n\
         content-length: 0\r\n\r\n",
    )
    .await;
    let expected = ResponseHead {
        status: StatusCode::FOUND,
        retry_after: Some(Bytes::from_static(b"120")),
        location: Some("/neéxt".to_owned()),
        content_type: Some("text/plain".to_owned()),
    };
    assert_eq!(report.result, Ok(expected));
    let report =
        answered_with(b"HTTP/1.0 500 x\r\nretry-after: \xff\r\ncontent-encoding: gzip\r\n\r\n\xff\x00\xfe").await;
    check_ok(&report, 500, &[0xff, 0x00, 0xfe]);
    assert_eq!(report.result.unwrap().retry_after, Some(Bytes::from_static(b"\xff")));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    check_ok(&answered_with(chunked).await, 200, b"abcde");
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    check_ok(&answered_with(early).await, 204, b"");
}

/// Exactly the cap isn't truncated; one byte more is.
#[tokio::test]
async fn bodies_about_the_cap() {
    for (length, truncated) in [(BODY_KEPT_BYTES - 1, false), (BODY_KEPT_BYTES, false), (BODY_KEPT_BYTES + 1, true)] {
        let body = "x".repeat(length);
        for head in
            [format!("content-length: {length}\r\n\r\n"), format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n")]
        {
            let tail = if head.starts_with("transfer") { "\r\n0\r\n\r\n" } else { "" };
            let report = answered_with(format!("HTTP/1.1 200 OK\r\n{head}{body}{tail}")).await;
            assert!(report.result.is_ok(), "{:?}", report.result);
            assert_eq!((report.body.len(), report.body_truncated), (length.min(BODY_KEPT_BYTES), truncated));
        }
    }
}

/// The receiver's writes fail once the sender has what it keeps.
#[tokio::test]
async fn an_endless_body_costs_its_start() {
    for head in ["\r\n", "content-length: 1000000000\r\n\r\n"] {
        let (told, mut written) = mpsc::unbounded_channel();
        let address = serve(move |mut stream, _| {
            let told = told.clone();
            async move {
                read_request(&mut stream).await?;
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await.ok()?;
                let mut total = 0_usize;
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                    total += 4096;
                }
                told.send(total).ok()
            }
        })
        .await;
        let report = sender().send(post_to(address)).await;
        assert_eq!(report.result.map(|head| head.status), Ok(StatusCode::OK));
        assert_eq!((report.body.len(), report.body_truncated), (BODY_KEPT_BYTES, true));
        let written = written.recv().await.unwrap();
        assert!(written < 64 << 20, "the connection took {written} bytes");
    }
}

#[tokio::test]
async fn a_body_that_stalls_at_the_cap_counts_as_ended() {
    let address = serve(|mut stream, _| async move {
        read_request(&mut stream).await?;
        let start = [b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n".as_slice(), &[b'x'; BODY_KEPT_BYTES]].concat();
        stream.write_all(&start).await.ok()?;
        read_request(&mut stream).await.map(drop)
    })
    .await;
    let report = sender().send(within(1_000, post_to(address))).await;
    assert_eq!(report.result.map(|head| head.status), Ok(StatusCode::OK));
    assert_eq!((report.body.len(), report.body_truncated), (BODY_KEPT_BYTES, true));
}

#[tokio::test]
async fn a_drip_ends_at_the_deadline() {
    let address = serve(|mut stream, _| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while stream.write_all(b"x").await.is_ok() {
            pace.tick().await;
        }
        Some(())
    })
    .await;
    let report = sender().send(within(1_000, post_to(address))).await;
    let error = check_class(&report, ErrorClass::Timeout);
    assert_eq!(error.status, Some(StatusCode::OK));
    assert!(!report.body.is_empty() && !report.body_truncated);
    assert!((Duration::from_secs(1)..PATIENCE).contains(&report.duration), "{:?}", report.duration);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let address = serve(|mut stream, _| async move {
        while read_request(&mut stream).await.is_some() {}
        Some(())
    })
    .await;
    for scheme in ["http", "https"] {
        let report = sender().send(within(200, post(format!("{scheme}://{address}/")))).await;
        assert_eq!(check_class(&report, ErrorClass::Timeout).status, None);
    }
}

/// A full queue of a listener answers no further connection.
#[tokio::test]
async fn a_connection_that_is_never_made_ends_at_the_deadline() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout_at(Instant::now() + Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 100, "the queue has no end");
    }
    for scheme in ["http", "https"] {
        let report = sender().send(within(300, post(format!("{scheme}://{address}/")))).await;
        assert_eq!(check_class(&report, ErrorClass::Timeout).status, None);
        assert!((Duration::from_millis(300)..PATIENCE).contains(&report.duration), "{:?}", report.duration);
    }
}

#[tokio::test]
async fn broken_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = listener.local_addr().unwrap();
    drop(listener);
    check_class(&sender().send(post_to(refused)).await, ErrorClass::ConnectionRefused);

    let reset = serve(|mut stream, _| async move {
        read_request(&mut stream).await?;
        stream.set_zero_linger().ok()
    })
    .await;
    check_class(&sender().send(post_to(reset)).await, ErrorClass::ConnectionReset);

    check_class(&answered_with("").await, ErrorClass::ConnectionClosed);
    check_class(&answered_with("HTTP/1.1 200").await, ErrorClass::ConnectionClosed);
    for rest in ["content-length: 9\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n9\r\nabc"] {
        let report = answered_with(format!("HTTP/1.1 200 OK\r\n{rest}")).await;
        assert_eq!(check_class(&report, ErrorClass::ConnectionClosed).status, Some(StatusCode::OK));
        assert_eq!(&report.body[..], b"abc");
    }
}

#[tokio::test]
async fn what_is_not_http() {
    let fields = "x: y\r\n".repeat(101);
    let heads = [format!("x: {}", "y".repeat(2_000_000)), fields];
    for head in heads {
        let report = answered_with(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n")).await;
        check_class(&report, ErrorClass::HeadersTooLarge);
    }
    for bytes in [
        "SSH-2.0-OpenSSH_9.9\r\n",
        "<html></html>\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        check_class(&answered_with(bytes).await, ErrorClass::Protocol);
    }
}

#[tokio::test]
async fn forbidden_targets_are_never_dialled() {
    let (told, mut dialled) = mpsc::unbounded_channel();
    let address = serve(move |_, _| std::future::ready(told.send(()).ok())).await;
    let closed = Sender::new(EgressPolicy::default(), &SenderSettings::default()).unwrap();
    let port = address.port();
    for host in ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost", "a.LOCALHOST."] {
        let report = closed.send(post(format!("http://{host}:{port}/"))).await;
        let error = check_class(&report, ErrorClass::EgressDenied);
        assert!(error.detail.ends_with("allow it with --allow-egress 127.0.0.0/8"), "{error}");
    }
    // Past the check of the URL, the resolver holds as well.
    let half_open = Sender { egress: Egress::new(loopback_policy()), ..closed };
    let report = half_open.send(post(format!("http://localhost:{port}/"))).await;
    check_class(&report, ErrorClass::EgressDenied);
    assert!(dialled.try_recv().is_err());
}

/// Nobody dials for a request on a kept connection; it is decided about all the same.
#[tokio::test]
async fn a_kept_connection_is_guarded() {
    let (told, mut requests) = mpsc::unbounded_channel();
    let address = serve(move |mut stream, number| {
        let told = told.clone();
        async move {
            loop {
                read_request(&mut stream).await?;
                told.send(number).ok()?;
                stream.write_all(OK).await.ok()?;
            }
        }
    })
    .await;
    let https_only = EgressPolicy { require_https: true, ..loopback_policy() };
    let other_ports = EgressPolicy { ports: "1-9".parse().unwrap(), ..loopback_policy() };
    for (number, host) in ["127.0.0.1", "localhost"].into_iter().enumerate() {
        let request = post(format!("http://{host}:{}/", address.port()));
        let open = sender();
        check_ok(&open.send(request.clone()).await, 200, b"ok");
        for policy in [EgressPolicy::default(), https_only.clone(), other_ports.clone()] {
            let closed = Sender { egress: Egress::new(policy), ..open.clone() };
            check_class(&closed.send(request.clone()).await, ErrorClass::EgressDenied);
        }
        assert_eq!((requests.recv().await, requests.try_recv().ok()), (Some(number), None));
        // It was there to be used.
        check_ok(&open.send(request).await, 200, b"ok");
        assert_eq!(requests.recv().await, Some(number));
    }
}

#[tokio::test]
async fn names_are_resolved_by_the_guard() {
    let address = answering(OK).await;
    check_ok(&sender().send(post(format!("http://LocalHost.:{}/", address.port()))).await, 200, b"ok");
    // A label over 63 bytes is refused by the resolver's library, before any query.
    let report = sender().send(post(format!("http://{}.invalid/", "a".repeat(64)))).await;
    let error = check_class(&report, ErrorClass::Dns);
    assert!(error.detail.starts_with("the host's name does not resolve: "), "{error}");
}

/// Every third request finds its kept-alive connection closing: right after the answer to the one before, or with
/// the request read and not answered, or with a reset.
#[tokio::test]
async fn a_request_is_never_sent_twice() {
    let counts = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let counted = counts.clone();
    let address = serve(move |mut stream, number| {
        let counted = counted.clone();
        async move {
            for nth in 0.. {
                let request = read_request(&mut stream).await?;
                let id = request.lines().find_map(|line| line.strip_prefix("webhook-id: ")).unwrap();
                *counted.lock().unwrap().entry(id.to_owned()).or_default() += 1;
                if nth == 1 && number % 3 == 1 {
                    break;
                }
                if nth == 1 && number % 3 == 2 {
                    return stream.set_zero_linger().ok();
                }
                stream.write_all(OK).await.ok()?;
                if number % 3 == 0 {
                    break;
                }
            }
            Some(())
        }
    })
    .await;
    let sender = sender();
    let mut answered = 0;
    for number in 0..300_u32 {
        let mut request = post_to(address);
        request.headers = vec![(HeaderName::from_static("webhook-id"), HeaderValue::from(number))];
        let report = sender.send(request).await;
        let times = counts.lock().unwrap().get(&number.to_string()).copied().unwrap_or_default();
        match &report.result {
            Ok(_) => assert_eq!(times, 1),
            Err(error) => {
                use ErrorClass::{ConnectionClosed, ConnectionReset};
                assert!(matches!(error.class, ConnectionClosed | ConnectionReset), "{error}");
                assert!(times <= 1, "request {number} came {times} times");
            }
        }
        answered += u32::from(report.result.is_ok());
    }
    assert!((150..300).contains(&answered), "{answered} answers");
}

/// The environment is the process's, so the test runs itself again with one that names a proxy.
#[tokio::test]
async fn environment_proxies_are_ignored() {
    const TARGET: &str = "TAGHOOK_TEST_PROXY_TARGET";
    if let Ok(target) = std::env::var(TARGET) {
        return check_ok(&sender().send(post(target)).await, 200, b"ok");
    }
    let proxy = answering("HTTP/1.1 502 Proxy\r\ncontent-length: 0\r\n\r\n").await;
    let target = answering(OK).await;
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("{module}::environment_proxies_are_ignored")]);
    child.env(TARGET, format!("http://{target}/")).env_remove("NO_PROXY").env_remove("no_proxy");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, format!("http://{proxy}"));
    }
    let output = child.stdin(Stdio::null()).output().await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
}

/// A certificate for `localhost` and 127.0.0.1, in PEM, and an acceptor that shows it and offers `alpn`.
fn tls(alpn: &[&str]) -> (Vec<u8>, TlsAcceptor) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    (made.cert.pem().into_bytes(), TlsAcceptor::from(Arc::new(config)))
}

fn trusting(extra_ca_pem: Vec<u8>) -> Sender {
    Sender::new(loopback_policy(), &SenderSettings { extra_ca_pem, ..SenderSettings::default() }).unwrap()
}

#[tokio::test]
async fn tls_is_verified() {
    let (pem, acceptor) = tls(&[]);
    let address = serve(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.ok()?;
            read_request(&mut stream).await?;
            stream.write_all(OK).await.ok()?;
            stream.shutdown().await.ok()
        }
    })
    .await;
    let port = address.port();
    let trusting = trusting(pem);
    check_ok(&trusting.send(post(format!("https://localhost:{port}/"))).await, 200, b"ok");
    check_ok(&trusting.send(post(format!("https://127.0.0.1:{port}/"))).await, 200, b"ok");
    let untrusted = sender().send(post(format!("https://localhost:{port}/"))).await;
    check_class(&untrusted, ErrorClass::Tls);
    let misnamed = trusting.send(post(format!("https://other.localhost:{port}/"))).await;
    check_class(&misnamed, ErrorClass::Tls);
}

#[tokio::test]
async fn what_is_not_tls() {
    let plain =
        serve(|mut stream, _| async move { stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok() }).await;
    let closing = serve(|mut stream, _| async move { stream.read_u8().await.ok().map(drop) }).await;
    check_class(&sender().send(post(format!("https://{plain}/"))).await, ErrorClass::Tls);
    let report = sender().send(post(format!("https://{closing}/"))).await;
    let class = report.result.unwrap_err().class;
    assert!(matches!(class, ErrorClass::Tls | ErrorClass::ConnectionReset), "{class:?}");
}

#[test]
fn extra_authorities_must_be_certificates() {
    for pem in ["no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let settings = SenderSettings { extra_ca_pem: pem.into(), ..SenderSettings::default() };
        assert!(Sender::new(EgressPolicy::default(), &settings).is_err(), "{pem}");
    }
}

/// Serves HTTP/2 on a TLS connection; each request's path chooses the answer.
async fn serve_http2(acceptor: TlsAcceptor, stream: TcpStream, requests: mpsc::UnboundedSender<String>) -> Option<()> {
    let stream = acceptor.accept(stream).await.ok()?;
    let mut connection = h2::server::handshake(stream).await.ok()?;
    let mut open_bodies = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let path = request.uri().path().to_owned();
        requests.send(path.clone()).ok()?;
        let mut response = http::Response::new(());
        match path.as_str() {
            "/refused" => respond.send_reset(h2::Reason::REFUSED_STREAM),
            "/cancelled" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            "/away" => connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
            "/headers" => {
                response.headers_mut().insert("x-large", HeaderValue::from_str(&"y".repeat(80_000)).unwrap());
                respond.send_response(response, true).ok()?;
            }
            "/endless" => {
                let mut body = respond.send_response(response, false).ok()?;
                body.send_data(Bytes::from(vec![b'x'; 8 << 20]), false).ok()?;
                open_bodies.push(body);
            }
            _ => respond.send_response(response, true).map(drop).ok()?,
        }
    }
    Some(())
}

#[tokio::test]
async fn http2_by_alpn() {
    let (pem, acceptor) = tls(&["h2", "http/1.1"]);
    let (sent, mut requests) = mpsc::unbounded_channel();
    let address = serve(move |stream, _| serve_http2(acceptor.clone(), stream, sent.clone())).await;
    let trusting = trusting(pem);
    let ask = async |path: &str| trusting.send(post(format!("https://localhost:{}{path}", address.port()))).await;
    check_ok(&ask("/").await, 200, b"");
    check_class(&ask("/refused").await, ErrorClass::ConnectionReset);
    check_class(&ask("/cancelled").await, ErrorClass::ConnectionReset);
    check_class(&ask("/headers").await, ErrorClass::Protocol);
    let endless = ask("/endless").await;
    assert_eq!(
        (endless.result.as_ref().map(drop), endless.body.len(), endless.body_truncated),
        (Ok(()), BODY_KEPT_BYTES, true)
    );
    check_ok(&ask("/").await, 200, b"");
    check_class(&ask("/away").await, ErrorClass::ConnectionClosed);
    check_ok(&ask("/").await, 200, b"");
    requests.close();
    let mut seen = Vec::new();
    while let Some(path) = requests.recv().await {
        seen.push(path);
    }
    assert_eq!(seen, ["/", "/refused", "/cancelled", "/headers", "/endless", "/", "/away", "/"]);
}

/// Loopback has no unreachable network, so these are made by hand.
#[test]
fn classes_of_system_errors() {
    use ErrorClass as Class;
    let cases = [
        (io::ErrorKind::HostUnreachable, Some(Class::Unreachable)),
        (io::ErrorKind::NetworkUnreachable, Some(Class::Unreachable)),
        (io::ErrorKind::PermissionDenied, Some(Class::Unreachable)),
        (io::ErrorKind::ConnectionAborted, Some(Class::ConnectionReset)),
        (io::ErrorKind::TimedOut, Some(Class::Timeout)),
        (io::ErrorKind::OutOfMemory, None),
    ];
    for (kind, expected) in cases {
        assert_eq!(class_of(&io::Error::from(kind), true), expected, "{kind:?}");
    }
    let wrapped = io::Error::other(ResolveError::NoAddress);
    assert_eq!(class_of(&wrapped, true), Some(Class::Dns));
}
