//! Logs: structured, to standard error. Never a body, a secret or a contact's data.

use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{Log, LogFormat};

/// Starts logging, for the whole process. A second call changes nothing.
///
/// # Errors
///
/// The filter can't be read.
pub fn start(log: &Log) -> Result<(), ParseError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(&log.filter)?)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr);
    // It fails only if there is a subscriber already, as in tests that start several servers.
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Reads a filter, as `info,taghook::rpc=debug`.
///
/// # Errors
///
/// A directive is malformed.
pub fn parse_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

/// Logs where a panic happened, but not its message, which may quote a contact's data.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    let thread = std::thread::current();
    tracing::error!(location, thread = thread.name().unwrap_or_default(), %backtrace, "panic");
}
