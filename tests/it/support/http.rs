//! A client of HTTP/1.1 that sends what a test says, follows nothing, and has a connection for each request.

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl HttpAnswer {
    /// A header's value; empty if it isn't there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("visible ASCII"))
    }
}

/// Sends a request without a body. `url` is `http://<address><target>`, byte for byte.
pub(crate) async fn http(method: &str, url: &str, headers: &[(&str, &str)]) -> HttpAnswer {
    let rest = url.strip_prefix("http://").expect("an http URL");
    let (address, target) = rest.split_at(rest.find('/').expect("a path"));
    let mut request = format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    within("an answer", exchange(address, request.as_bytes())).await
}

/// Sends bytes, and reads until the end of the connection.
pub(crate) async fn exchange(address: &str, bytes: &[u8]) -> HttpAnswer {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    parse(&String::from_utf8(answer).expect("an answer in UTF-8"))
}

fn parse(text: &str) -> HttpAnswer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?))
    };
    HttpAnswer { status, headers: lines.filter_map(pair).collect(), body: body.to_owned() }
}
