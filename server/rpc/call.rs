//! Opening a call: who calls, and the request's fields, checked against the rules of the proto and parsed into the
//! domain's types. All bad fields are gathered and told at once.

use http::HeaderMap;
use prost::{Message, Name};
use prost_protovalidate::ValidationError;
use sha2::{Digest, Sha256};
use tonic::Request;

use super::auth::Caller;
use super::repeat::Repeatable;
use crate::automation::Origin;
use crate::error::{Error, Result, Violation, Violations};
use crate::ids::{TypedId, WorkspaceId};
use crate::pb;
use crate::store::request::RequestKey;

/// The bytes of a request id.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// A call that is being parsed.
pub(super) struct Call<M> {
    /// Who calls.
    pub(super) caller: Caller,
    /// The request.
    pub(super) message: M,
    /// What is wrong with it so far.
    pub(super) violations: Violations,
    /// The trace that the call belongs to, as W3C `traceparent`.
    pub(super) traceparent: Option<String>,
    /// What a repeat of the call is known by; `None` without a request id, and for reads.
    pub(super) key: Option<RequestKey>,
}

impl<M: Message + Name> Call<M> {
    /// Opens a call that changes nothing, or takes no request id: checks the rules of the proto.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`] without a caller.
    pub(super) fn open(request: Request<M>) -> Result<Self> {
        let caller = request
            .extensions()
            .get::<Caller>()
            .copied()
            .ok_or(Error::Unauthenticated("no API key came with the call"))?;
        let traceparent = traceparent_of(request.metadata().as_ref()).map(ToOwned::to_owned);
        let message = request.into_inner();
        let mut violations = Violations::default();
        violations.check_rules("", &message)?;
        Ok(Self { caller, message, violations, traceparent, key: None })
    }
}

impl<M> Call<M> {
    /// The caller's workspace.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] for the root key, which opens no workspace and no method of one.
    pub(super) fn workspace(&self) -> Result<WorkspaceId> {
        self.caller.workspace.ok_or_else(|| Error::internal("a method of a workspace was opened without one"))
    }

    /// The call, as the origin of what it triggers.
    pub(super) fn origin(&self) -> Origin {
        Origin { traceparent: self.traceparent.clone(), ..Origin::default() }
    }

    /// Parses an id that must be there.
    pub(super) fn id<I: TypedId>(&mut self, field: &str, text: &str) -> Option<I> {
        self.violations.id(field, text)
    }

    /// Parses the one id that the request names, its field `id`, and ends the parsing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if any field is bad.
    pub(super) fn only_id<I: TypedId>(&mut self, id: impl Fn(&M) -> &str) -> Result<I> {
        let id = self.violations.id("id", id(&self.message));
        self.finish_with(id)
    }

    /// Ends the parsing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if any field is bad.
    pub(super) fn finish(&mut self) -> Result<()> {
        std::mem::take(&mut self.violations).finish()
    }

    /// Ends the parsing with what it made; it is there if no field is bad.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if any field is bad.
    pub(super) fn finish_with<T>(&mut self, parsed: Option<T>) -> Result<T> {
        self.finish()?;
        parsed.ok_or_else(|| Error::internal("a field was refused without a word"))
    }
}

impl<M: Repeatable + Message + Name> Call<M> {
    /// Opens a call that may be repeated: as [`Call::open`], and takes the request id out of the message.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`] without a caller.
    pub(super) fn open_write(request: Request<M>) -> Result<Self> {
        let mut call = Self::open(request)?;
        call.key = request_key(&call.caller, &mut call.message, "request_id", &mut call.violations);
        Ok(call)
    }
}

/// What a repetition of a request is known by; `None` without a request id.
pub(super) fn request_key<M: Repeatable + Message>(
    caller: &Caller,
    message: &mut M,
    field: &str,
    violations: &mut Violations,
) -> Option<RequestKey> {
    let request_id = message.take_request_id();
    if request_id.is_empty() {
        return None;
    }
    let is_good =
        request_id.len() <= MAX_REQUEST_ID_BYTES && request_id.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if !is_good {
        violations.add_if_new(field, "REQUEST_ID", "must be up to 64 visible ASCII characters, as a UUID");
        return None;
    }
    Some(RequestKey {
        workspace: RequestKey::scope(caller.workspace),
        method: M::METHOD,
        request_id,
        body_hash: Sha256::digest(message.encode_to_vec()).into(),
    })
}

impl Violations {
    /// Adds what a message breaks of the proto's rules; `at` is the message's own path, empty for the request.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if a rule of the proto can't be applied.
    pub(super) fn check_rules(&mut self, at: &str, message: &impl Name) -> Result<()> {
        match pb::validate(message) {
            Ok(()) => Ok(()),
            Err(prost_protovalidate::Error::Validation(error)) => {
                self.extend(rule_violations(at, &error));
                Ok(())
            }
            Err(other) => Err(Error::internal(other)),
        }
    }

    /// Parses an id that must be there.
    pub(super) fn id<I: TypedId>(&mut self, field: &str, text: &str) -> Option<I> {
        self.take(field, "ID", text.parse::<I>())
    }

    /// Parses ids, each of which must be good.
    pub(super) fn ids<I: TypedId>(&mut self, field: &str, texts: &[String]) -> Vec<I> {
        texts.iter().enumerate().filter_map(|(index, text)| self.id(&format!("{field}[{index}]"), text)).collect()
    }

    /// Parses an id that may be empty.
    pub(super) fn optional_id<I: TypedId>(&mut self, field: &str, text: &str) -> Option<I> {
        if text.is_empty() { None } else { self.id(field, text) }
    }
}

fn rule_violations(at: &str, error: &ValidationError) -> Vec<Violation> {
    let join = |path: String| match (at, path.as_str()) {
        ("", _) => path,
        (_, "") => at.to_owned(),
        _ => format!("{at}.{path}"),
    };
    let violations = error.violations().iter();
    violations
        .map(|violation| {
            let path = violation.field_path();
            let told = match violation.message() {
                "" => violation.rule_id(),
                // What the library says of a oneof of which no member is set.
                "required" => "one of its fields must be set",
                told => told,
            };
            Violation {
                field: join(path),
                reason: violation.rule_id().to_uppercase().replace('.', "_"),
                description: told.to_owned(),
            }
        })
        .collect()
}

/// The trace that a call belongs to: a trace context of version 00 as it is; anything else is no trace (W3C Trace
/// Context, section 3.2).
pub(super) fn traceparent_of(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return None };
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let is_good = *version == "00"
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && !is_zero(trace)
        && !is_zero(span);
    is_good.then_some(text)
}

/// Refuses a change that was made for another version of the resource; an empty etag isn't checked.
pub(super) fn check_etag(resource: &'static str, etag: &str, version: i64) -> Result<()> {
    if etag.is_empty() || etag == etag_of(version) { Ok(()) } else { Err(Error::EtagMismatch { resource }) }
}

/// The etag of a version.
pub(super) fn etag_of(version: i64) -> String {
    format!("v{version}")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_oneof_of_which_one_must_be_set_is_named() {
        let mut violations = Violations::default();
        let request = pb::TagContactRequest { tag_ids: vec!["tag_x".to_owned()], ..Default::default() };
        violations.check_rules("", &request).unwrap();
        violations.check_rules("items[3]", &request).unwrap();
        assert!(violations.names("contact"), "{violations:?}");
        assert!(violations.names("items[3].contact"), "{violations:?}");
    }

    #[track_caller]
    fn check_trace(text: &'static str, is_trace: bool) {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(text));
        assert_eq!(traceparent_of(&headers), is_trace.then_some(text));
    }

    #[test]
    fn reads_a_trace_context() {
        check_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
        check_trace("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check_trace("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false);
        check_trace("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", false);
        check_trace("", false);
    }
}
