//! `taghook receive`: a webhook receiver that shows what comes and whether it is signed.

use std::io::{self, Write};
use std::net::SocketAddr;

use anstream::AutoStream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Map, Value, json};
use taghook::clock::Clock;
use taghook::lifecycle::Signals;
use taghook_client::webhook;

use super::receiver::{Received, Receiver};
use super::show::{self, BAD, BOLD, DIM, GOOD, Headers, Verdict};

/// The flags of `taghook receive`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "HOST:PORT")]
    listen: SocketAddr,

    /// A webhook's secret (`GetWebhookSecret`), or its public key (whpk_..) if it signs by v1a, to check signatures with.
    /// May be given several times.
    #[arg(long = "secret", value_name = "whsec_..", value_parser = secret)]
    secrets: Vec<String>,

    /// The status to answer with: 200 to 599.
    #[arg(long, default_value = "200", value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,

    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Receives until it is interrupted.
///
/// # Errors
///
/// The address can't be listened on, or the output can't be written.
pub(crate) async fn run(args: &Args, clock: Clock) -> io::Result<()> {
    let mut signals = Signals::take()?;
    let status = StatusCode::from_u16(args.status).map_err(io::Error::other)?;
    let mut receiver = Receiver::start(args.listen, status, clock)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{} can't be listened on: {error}", args.listen)))?;
    greet(args, receiver.address())?;
    let printed = loop {
        let received = tokio::select! {
            received = receiver.next() => received?,
            () = signals.next() => break Ok(()),
        };
        let verdict = Verdict::of(&received, &args.secrets);
        let printed = if args.json { print_json(&received, verdict) } else { print(&received, verdict) };
        if printed.is_err() {
            break printed;
        }
    };
    match printed {
        // Whoever read the output, as `head` does, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Says where to send to: on standard error, so that the output is requests alone.
fn greet(args: &Args, address: SocketAddr) -> io::Result<()> {
    let mut out = anstream::stderr();
    writeln!(out, "Receiving at {BOLD}http://{address}/{BOLD:#}, answering {}. Ctrl-C ends.", args.status)?;
    if args.secrets.is_empty() {
        writeln!(out, "{DIM}Give a webhook's secret with --secret whsec_.. to check signatures.{DIM:#}")?;
    }
    Ok(())
}

fn print(received: &Received, verdict: Verdict) -> io::Result<()> {
    let mut out = AutoStream::auto(io::stdout().lock());
    let Received { time, peer, status, .. } = received;
    let style = if status.is_success() { GOOD } else { BAD };
    writeln!(out, "\n{DIM}{time} from {peer}, answered{DIM:#} {style}{}{style:#}", status.as_u16())?;
    show::request(&mut out, received, Headers::All, verdict)?;
    out.flush()
}

fn print_json(received: &Received, verdict: Verdict) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &as_json(received, verdict))?;
    writeln!(out)?;
    out.flush()
}

/// A request as one object: `body` if it is text, else `body_base64`, else `body_error`.
fn as_json(received: &Received, verdict: Verdict) -> Value {
    let mut headers = Map::new();
    for name in received.headers.keys() {
        let values: Vec<_> =
            received.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        // Repeated headers mean the same as one with their values in a list (RFC 9110, 5.3).
        headers.insert(name.to_string(), values.join(", ").into());
    }
    let (body_key, body) = match &received.body {
        Ok(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => ("body", text.to_owned()),
            Err(_) => ("body_base64", STANDARD.encode(bytes)),
        },
        Err(error) => ("body_error", error.to_string()),
    };
    let (signature, signature_error) = match verdict {
        Verdict::Valid => ("valid", None),
        Verdict::Invalid(error) => ("invalid", Some(error.to_string())),
        Verdict::Unchecked(_) => ("unchecked", None),
    };
    json!({
        "time": received.time.to_string(),
        "peer": received.peer.to_string(),
        "method": received.method.as_str(),
        "url": received.uri.to_string(),
        "headers": headers,
        body_key: body,
        "signature": signature,
        "signature_error": signature_error,
        "status": received.status.as_u16(),
    })
}

/// Reads a secret, to refuse at once what could never verify.
fn secret(text: &str) -> Result<String, String> {
    webhook::check_secret(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
