//! Every error that a caller can see: one enum, one exhaustive table, and the only place that builds a `tonic::Status`.
//!
//! What is shown outside (message and details) and what is kept inside (the source chain) are apart: the chain is logged
//! once, here, when a status is made of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{DbErr, RuntimeErr, SqlErr};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt};

use crate::domain::time::Micros;
use crate::pb::ErrorReason;

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "taghook";
/// How long callers are asked to wait before they repeat a call that met an overload or an absent database.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The trailer that tells gRPC clients when to repeat a call (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// The most bytes of the violations in an error's details. gRPC core drops trailers of more than 8 KiB as they travel: the
/// details in base 64 (four bytes for three), the message percent-encoded, and about 500 bytes of other headers.
const MAX_VIOLATION_BYTES: usize = 4_000;
/// The most bytes of the message as it travels.
const MAX_MESSAGE_BYTES: usize = 1_200;
/// What the encoding of one violation adds to its texts, in bytes: tags and lengths.
const DETAIL_OVERHEAD: usize = 10;
/// The longest path of a field that is told: one into a map has the caller's key in it.
const MAX_PATH_BYTES: usize = 120;

/// The result of everything that can fail towards a caller.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that a caller sees. A clone is the same error for another caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request break their rules.
    #[error("the request has invalid fields")]
    Invalid(Violations),
    /// No key, or none that is good.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The key may not do this.
    #[error("the API key lacks the scope {scope}")]
    ScopeMissing {
        /// The scope that is needed.
        scope: &'static str,
    },
    /// There is no such resource in the caller's workspace.
    #[error("{}", not_found_text(resource, name))]
    NotFound {
        /// The kind of resource.
        resource: &'static str,
        /// Its id as the caller gave it; empty where it was named by something else, as an e-mail address.
        name: String,
    },
    /// A unique value is taken.
    #[error("a {resource} with this {field} exists")]
    AlreadyExists {
        /// The kind of resource.
        resource: &'static str,
        /// The unique field.
        field: &'static str,
        /// The id of the resource that has the value; empty when it isn't known.
        name: String,
    },
    /// A contact would take an identity that another contact has.
    #[error("contact {contact} can't take the {field} of contact {holder}; change or delete one of the two first")]
    ContactClash {
        /// The identity's field.
        field: &'static str,
        /// The id of the contact that the call is about.
        contact: String,
        /// The id of the contact that has the identity.
        holder: String,
    },
    /// The request id was used for something else.
    #[error("the request_id was used for another request within 24 hours; use a new one")]
    RequestIdReused,
    /// The same request was committed by another call meanwhile; running it again finds its answer.
    #[error("the same request is being answered; repeat it")]
    MetDouble,
    /// The resource isn't as the caller knows it.
    #[error("the {resource} changed since its etag was read; read it again")]
    EtagMismatch {
        /// The kind of resource.
        resource: &'static str,
    },
    /// Others need the resource.
    #[error("the {resource} is in use by {} others", users.len())]
    InUse {
        /// The kind of resource.
        resource: &'static str,
        /// Those who need it, each a typed id and a name.
        users: Vec<String>,
    },
    /// The resource's state forbids the call.
    #[error("the {resource} is {state}: {hint}")]
    WrongState {
        /// The kind of resource.
        resource: &'static str,
        /// Its state.
        state: &'static str,
        /// What could be done.
        hint: &'static str,
    },
    /// The webhook doesn't send now.
    #[error("the webhook is {state}; resume it first")]
    WebhookNotActive {
        /// Its state.
        state: &'static str,
    },
    /// Only the system assigns tags of this kind.
    #[error("tag {tag} is {kind}: only the system assigns and removes it")]
    TagNotAssignable {
        /// The tag's id.
        tag: String,
        /// Its kind.
        kind: &'static str,
    },
    /// The resource is built in, or the deployment needs it.
    #[error("{reason}")]
    NotDeletable {
        /// The kind of resource.
        resource: &'static str,
        /// Why, for people.
        reason: &'static str,
    },
    /// Not a cursor of this workspace and deployment.
    #[error("the cursor is malformed, or of another workspace or deployment")]
    CursorInvalid,
    /// What follows the cursor is gone.
    #[error("outcomes after the cursor are beyond retention")]
    CursorExpired {
        /// The oldest position that can be read.
        oldest_cursor: String,
    },
    /// The log ends before the cursor.
    #[error("the cursor is ahead of the log, as after a restored backup")]
    CursorAhead {
        /// The present end of the log.
        newest_cursor: String,
    },
    /// The watcher takes nothing.
    #[error("the watcher made no progress; reconnect with the cursor")]
    SlowConsumer {
        /// The position after the last message that was taken.
        cursor: String,
    },
    /// A bounded queue is full, or other transactions were in the way again and again.
    #[error("the server is overloaded; nothing was changed")]
    Overloaded,
    /// The workspace is full.
    #[error("the workspace has the most {resource}s that it may have, {limit}")]
    LimitReached {
        /// The kind of resource.
        resource: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// The webhook would have too many live secrets.
    #[error("the webhook would have more than {limit} live secrets; wait, or rotate with an overlap of 0")]
    TooManySecrets {
        /// How many there may be.
        limit: usize,
        /// When the first of them expires, if one does.
        next_expire_time: Option<Micros>,
    },
    /// The request has too many bytes.
    #[error("the request has more than {limit} bytes; split it")]
    RequestTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The server is stopping.
    #[error("the server is stopping")]
    ShuttingDown,
    /// The caller's deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The database can't be reached.
    #[error("the database can't be reached")]
    DatabaseUnavailable(#[source] DbErr),
    /// The connection broke at the commit: it may have been made, or not.
    #[error("the database didn't say whether it committed")]
    CommitUnknown(#[source] DbErr),
    /// The database refused something that it should have taken.
    #[error("internal error")]
    Database(#[source] DbErr),
    /// A defect, or damaged data.
    #[error("internal error")]
    Internal(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// The outside of an error: the row of the table.
struct Row {
    code: Code,
    reason: ErrorReason,
    /// Whether the same call may succeed a little later: the answer then carries a RetryInfo.
    retryable: bool,
}

impl Error {
    /// A resource that isn't there.
    pub fn not_found<I: crate::ids::TypedId>(id: I) -> Self {
        Self::NotFound { resource: I::RESOURCE, name: id.to_string() }
    }

    /// A single bad field.
    pub fn invalid(field: impl Into<String>, reason: &'static str, description: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, reason, description);
        Self::Invalid(violations)
    }

    /// A defect or damaged data, with what is known of it.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into().into())
    }

    /// Whether the same may succeed a little later, since it failed for what went on in the database meanwhile.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::DatabaseUnavailable(_) | Self::CommitUnknown(_) | Self::Overloaded | Self::MetDouble)
    }

    /// The exhaustive table of what callers get.
    fn row(&self) -> Row {
        let (code, reason, retryable) = match self {
            Self::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidFields, false),
            Self::Unauthenticated(_) => (Code::Unauthenticated, ErrorReason::Unauthenticated, false),
            Self::ScopeMissing { .. } => (Code::PermissionDenied, ErrorReason::ScopeMissing, false),
            Self::NotFound { .. } => (Code::NotFound, ErrorReason::NotFound, false),
            Self::AlreadyExists { .. } | Self::ContactClash { .. } => {
                (Code::AlreadyExists, ErrorReason::AlreadyExists, false)
            }
            Self::RequestIdReused => (Code::AlreadyExists, ErrorReason::RequestIdReused, false),
            Self::EtagMismatch { .. } => (Code::Aborted, ErrorReason::EtagMismatch, false),
            Self::InUse { .. } => (Code::FailedPrecondition, ErrorReason::InUse, false),
            Self::WrongState { .. } => (Code::FailedPrecondition, ErrorReason::WrongState, false),
            Self::WebhookNotActive { .. } => (Code::FailedPrecondition, ErrorReason::WebhookDisabled, false),
            Self::TagNotAssignable { .. } => (Code::FailedPrecondition, ErrorReason::TagNotAssignable, false),
            Self::NotDeletable { .. } => (Code::FailedPrecondition, ErrorReason::NotDeletable, false),
            Self::CursorInvalid => (Code::InvalidArgument, ErrorReason::CursorInvalid, false),
            Self::CursorExpired { .. } => (Code::OutOfRange, ErrorReason::CursorExpired, false),
            Self::CursorAhead { .. } => (Code::OutOfRange, ErrorReason::CursorAhead, false),
            Self::SlowConsumer { .. } => (Code::ResourceExhausted, ErrorReason::SlowConsumer, false),
            Self::MetDouble | Self::Overloaded => (Code::Unavailable, ErrorReason::Overloaded, true),
            Self::RequestTooLarge { .. } => (Code::ResourceExhausted, ErrorReason::RequestTooLarge, false),
            Self::LimitReached { .. } => (Code::ResourceExhausted, ErrorReason::LimitReached, false),
            Self::TooManySecrets { .. } => (Code::ResourceExhausted, ErrorReason::TooManySecrets, false),
            Self::ShuttingDown => (Code::Unavailable, ErrorReason::ShuttingDown, true),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded, false),
            Self::DatabaseUnavailable(_) | Self::CommitUnknown(_) => {
                (Code::Unavailable, ErrorReason::DatabaseUnavailable, true)
            }
            Self::Database(_) | Self::Internal(_) => (Code::Internal, ErrorReason::Internal, false),
        };
        Row { code, reason, retryable }
    }

    /// What a program may need beside the reason.
    fn metadata(&self) -> HashMap<String, String> {
        let pairs: Vec<(&str, String)> = match self {
            Self::ScopeMissing { scope } => vec![("scope", (*scope).into())],
            Self::NotFound { resource, .. }
            | Self::InUse { resource, .. }
            | Self::EtagMismatch { resource }
            | Self::NotDeletable { resource, .. } => vec![("resource", (*resource).into())],
            Self::AlreadyExists { resource, field, .. } => {
                vec![("resource", (*resource).into()), ("field", (*field).into())]
            }
            Self::ContactClash { field, contact, holder } => vec![
                ("resource", "contact".into()),
                ("field", (*field).into()),
                ("contact_id", contact.clone()),
                ("holder_contact_id", holder.clone()),
            ],
            Self::WrongState { resource, state, .. } => {
                vec![("resource", (*resource).into()), ("state", (*state).into())]
            }
            Self::WebhookNotActive { state } => vec![("state", (*state).into())],
            Self::TagNotAssignable { tag, kind } => vec![("tag_id", tag.clone()), ("kind", (*kind).into())],
            Self::CursorExpired { oldest_cursor } => vec![("oldest_cursor", oldest_cursor.clone())],
            Self::CursorAhead { newest_cursor } => vec![("newest_cursor", newest_cursor.clone())],
            Self::SlowConsumer { cursor } => vec![("cursor", cursor.clone())],
            Self::LimitReached { resource, limit } => {
                vec![("resource", (*resource).into()), ("limit", limit.to_string())]
            }
            Self::RequestTooLarge { limit } => vec![("limit", limit.to_string())],
            Self::TooManySecrets { limit, next_expire_time } => {
                let expiry = next_expire_time.map(|time| ("next_expire_time", time.to_string()));
                [("limit", limit.to_string())].into_iter().chain(expiry).collect()
            }
            Self::Invalid(_)
            | Self::Unauthenticated(_)
            | Self::RequestIdReused
            | Self::MetDouble
            | Self::CursorInvalid
            | Self::Overloaded
            | Self::ShuttingDown
            | Self::DeadlineExceeded
            | Self::DatabaseUnavailable(_)
            | Self::CommitUnknown(_)
            | Self::Database(_)
            | Self::Internal(_) => Vec::new(),
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The error as a `google.rpc.Status`, for answers that carry one for each item.
    pub fn into_item_status(self) -> tonic_types::pb::Status {
        let status = Status::from(self);
        tonic_types::pb::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: decode_details(status.details()),
        }
    }
}

fn not_found_text(resource: &str, name: &str) -> String {
    if name.is_empty() { format!("there is no such {resource}") } else { format!("there is no {resource} {name}") }
}

/// A status that the transport made of a call that it couldn't read (bytes that are no message, a message over `limit`
/// bytes, an unknown compression or method), with the details that all others have.
#[must_use]
pub fn explain_transport(status: &Status, limit: usize) -> Status {
    // tonic's codes for a message over the limit, as it came and as it is decompressed.
    if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) {
        return Error::RequestTooLarge { limit }.into();
    }
    let details = ErrorDetails::with_error_info(name_of(ErrorReason::MalformedRequest), ERROR_DOMAIN, HashMap::new());
    let message = if status.message().is_empty() { "there is no such method" } else { status.message() };
    // tonic calls bytes that aren't a message an internal error; they are the caller's.
    let code = if status.code() == Code::Internal { Code::InvalidArgument } else { status.code() };
    Status::with_error_details(code, message, details)
}

/// A reason as `google.rpc.ErrorInfo` has it.
fn name_of(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

fn decode_details(bytes: &[u8]) -> Vec<prost_types::Any> {
    <tonic_types::pb::Status as prost::Message>::decode(bytes).map(|status| status.details).unwrap_or_default()
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let Row { code, reason, retryable } = error.row();
        let mut metadata = error.metadata();
        log_inside(&error, &mut metadata);
        let mut details = ErrorDetails::with_error_info(name_of(reason), ERROR_DOMAIN, metadata);
        let mut trailers = MetadataMap::new();
        if retryable {
            details.set_retry_info(Some(RETRY_DELAY));
            trailers.insert(PUSHBACK, MetadataValue::from(u64::try_from(RETRY_DELAY.as_millis()).unwrap_or(u64::MAX)));
        }
        let message = match &error {
            Error::Invalid(violations) => {
                details.set_bad_request(violations.to_details());
                violations.summary()
            }
            Error::NotFound { resource, name } | Error::AlreadyExists { resource, name, .. } => {
                details.set_resource_info(*resource, name.as_str(), "", error.to_string());
                error.to_string()
            }
            Error::ContactClash { holder, .. } => {
                details.set_resource_info("contact", holder.as_str(), "", error.to_string());
                error.to_string()
            }
            Error::InUse { resource, users } => {
                details.set_precondition_failure(in_use_details(resource, users));
                error.to_string()
            }
            Error::LimitReached { .. } | Error::TooManySecrets { .. } => {
                let subject = if matches!(error, Error::LimitReached { .. }) { "workspace" } else { "webhook" };
                details.set_quota_failure(vec![QuotaViolation::new(subject, error.to_string())]);
                error.to_string()
            }
            other => other.to_string(),
        };
        Status::with_error_details_and_metadata(code, within(&message, MAX_MESSAGE_BYTES), details, trailers)
    }
}

/// The users of a resource, as far as they fit.
fn in_use_details(resource: &str, users: &[String]) -> Vec<PreconditionViolation> {
    let mut bytes = 0;
    let details = users.iter().map(|user| PreconditionViolation::new("IN_USE", user, format!("uses the {resource}")));
    details
        .take_while(|detail| {
            bytes += DETAIL_OVERHEAD + detail.r#type.len() + detail.subject.len() + detail.description.len();
            bytes <= MAX_VIOLATION_BYTES
        })
        .collect()
}

/// A text, cut so that it has at most `limit` bytes as it travels: percent-encoded, which makes three bytes of each that
/// isn't printable ASCII (gRPC over HTTP/2, `Status-Message`).
fn within(text: &str, limit: usize) -> String {
    let mut bytes = 0;
    let fits = |character: &char| {
        let is_plain = matches!(character, ' '..='~') && *character != '%';
        bytes += if is_plain { 1 } else { 3 * character.len_utf8() };
        bytes <= limit
    };
    text.chars().take_while(fits).collect()
}

/// Logs what callers aren't told. An absent database is reported by the health watch, once, and not by each call.
fn log_inside(error: &Error, metadata: &mut HashMap<String, String>) {
    let source: &dyn std::error::Error = match error {
        Error::Database(source) => source,
        Error::Internal(source) => source.as_ref(),
        Error::DatabaseUnavailable(source) | Error::CommitUnknown(source) => {
            tracing::debug!(error = chain(source), "the database can't be reached");
            return;
        }
        _ => return,
    };
    let incident =
        crate::ids::uuid_v7(crate::clock::Clock::system().now(), &crate::clock::Entropy::system()).to_string();
    tracing::error!(incident, error = chain(source), "internal error");
    metadata.insert("incident".into(), incident);
}

/// An error with all its sources, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let inner = source.to_string();
        if !text.ends_with(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        next = source.source();
    }
    text
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        if is_connection_problem(&error) { Self::DatabaseUnavailable(error) } else { Self::Database(error) }
    }
}

/// Whether the database wasn't there, rather than refusing a statement.
fn is_connection_problem(error: &DbErr) -> bool {
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(inner)) | DbErr::Query(RuntimeErr::SqlxError(inner)) => {
            match inner.as_ref() {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => true,
                sqlx::Error::Database(database) => database.code().is_some_and(|code| is_absence(&code)),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether a code says that the database can't work now. PostgreSQL, whose codes have five characters: classes 08
/// (connection), 53 (resources) and 57 (shutdown, crash, statement_timeout), and 25P03
/// (idle_in_transaction_session_timeout). SQLite: IOERR and its kinds, and FULL.
fn is_absence(code: &str) -> bool {
    const SQLITE_IOERR: i32 = 10;
    const SQLITE_FULL: i32 = 13;
    match code.parse::<i32>() {
        Ok(sqlite) if code.len() < 5 => matches!(sqlite & 0xff, SQLITE_IOERR | SQLITE_FULL),
        _ => code.starts_with("08") || code.starts_with("53") || code.starts_with("57") || code == "25P03",
    }
}

/// Gives a database error its meaning where the intent is known.
pub trait OnUnique<T> {
    /// Replaces the violation of a unique index.
    ///
    /// # Errors
    ///
    /// The given error for a unique violation, else the database's.
    fn on_unique(self, error: impl FnOnce() -> Error) -> Result<T>;
}

impl<T> OnUnique<T> for Result<T, DbErr> {
    fn on_unique(self, error: impl FnOnce() -> Error) -> Result<T> {
        self.map_err(|inner| match inner.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => error(),
            _ => inner.into(),
        })
    }
}

/// The bad fields of a request, gathered so that all are told at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

/// One bad field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path from the request, as `webhook.events[0].parameters[2].name`.
    pub field: String,
    /// A name for programs, as `TOO_LONG`.
    pub reason: String,
    /// What is wrong and what is allowed. Never the value.
    pub description: String,
}

impl Violations {
    /// Adds a bad field.
    pub fn add(&mut self, field: impl Into<String>, reason: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), reason: reason.into(), description: description.into() });
    }

    /// Adds a bad field unless there is already one with its path: the rules of the proto come first.
    pub fn add_if_new(&mut self, field: impl Into<String>, reason: impl Into<String>, description: impl Into<String>) {
        let field = field.into();
        if !self.names(&field) {
            self.add(field, reason, description);
        }
    }

    /// Whether the field at this path is bad.
    #[must_use]
    pub fn names(&self, field: &str) -> bool {
        self.0.iter().any(|violation| violation.field == field)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Unwraps a result; its error becomes a bad field.
    pub fn take<T, E: std::fmt::Display>(
        &mut self,
        field: &str,
        reason: &'static str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add_if_new(field, reason, error.to_string());
                None
            }
        }
    }

    /// Ends the gathering.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is any.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self)) }
    }

    /// The violations, as many as fit.
    fn to_details(&self) -> Vec<FieldViolation> {
        let details = self.0.iter().map(|violation| FieldViolation {
            field: shortened(&violation.field),
            description: violation.description.clone(),
            reason: violation.reason.clone(),
            localized_message: None,
        });
        let mut bytes = 0;
        details
            .take_while(|detail| {
                bytes += DETAIL_OVERHEAD + detail.field.len() + detail.description.len() + detail.reason.len();
                bytes <= MAX_VIOLATION_BYTES
            })
            .collect()
    }

    /// One line for people who see the message alone.
    fn summary(&self) -> String {
        let line = |violation: &Violation| match violation.field.as_str() {
            "" => violation.description.clone(),
            field => format!("{}: {}", shortened(field), violation.description),
        };
        let shown: Vec<String> = self.0.iter().take(5).map(line).collect();
        let more = self.0.len().saturating_sub(shown.len());
        let tail = if more == 0 { String::new() } else { format!("; and {more} more") };
        format!("invalid request: {}{tail}", shown.join("; "))
    }
}

fn shortened(path: &str) -> String {
    match path.len() {
        0..=MAX_PATH_BYTES => path.to_owned(),
        _ => format!("{}..", path.get(..path.floor_char_boundary(MAX_PATH_BYTES)).unwrap_or_default()),
    }
}

impl Extend<Violation> for Violations {
    fn extend<I: IntoIterator<Item = Violation>>(&mut self, violations: I) {
        self.0.extend(violations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a status as its trailers travel, and 500 for other headers.
    fn trailer_bytes(status: &Status) -> usize {
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        500 + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>()
    }

    #[test]
    fn violations_fit_into_the_trailers_of_every_client() {
        for (path, least) in [("ü".repeat(100), 15), ("x".to_owned(), 40)] {
            let mut violations = Violations::default();
            for index in 0..400 {
                let path = format!("contact.values[\"{path}{index}\"]");
                violations.add(path, "STRING_MAX_BYTES", "must be at most 63 bytes");
            }
            let status = Status::from(Error::Invalid(violations));
            assert!(trailer_bytes(&status) <= 8_192, "{} bytes", trailer_bytes(&status));
            let told = status.get_details_bad_request().map_or(0, |details| details.field_violations.len());
            assert!(told > least, "{told}");
        }
        let users = (0..20).map(|index| format!("wh_{index} ({})", "ü".repeat(100))).collect();
        let status = Status::from(Error::InUse { resource: "tag", users });
        assert!(trailer_bytes(&status) <= 8_192, "{} bytes", trailer_bytes(&status));
    }

    #[test]
    fn a_violation_of_the_whole_request_has_no_path() {
        let error = Error::invalid("", "MESSAGE_ONEOF", "one of email, phone must be set");
        assert_eq!(Status::from(error).message(), "invalid request: one of email, phone must be set");
    }
}
