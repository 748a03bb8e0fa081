//! Errors of calls, as the service's details tell them.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::v1::ErrorReason;

/// The `domain` of the service's `google.rpc.ErrorInfo`.
const ERROR_DOMAIN: &str = "taghook";

/// Why a call failed. `tonic::Status`, which the stubs return, converts into it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Error {
    /// The status code.
    pub code: Code,
    /// The service's reason. `Unspecified` if it is one that this version doesn't know, or if the error isn't the
    /// service's: it couldn't be reached, or something in between answered. Then the code counts.
    pub reason: ErrorReason,
    /// What is wrong, for people. It may change.
    pub message: String,
    /// The bad fields of the request, all at once; empty unless the reason is `InvalidFields`.
    pub violations: Vec<Violation>,
    /// What comes with the reason; `v1::ErrorReason` says which keys there are.
    pub metadata: BTreeMap<String, String>,
    /// How long to wait before the call is repeated; set if that may help.
    pub retry_after: Option<Duration>,
    /// The status that this was read from.
    #[source]
    pub status: Status,
}

/// One bad field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The path from the request, as `webhook.events[0].parameters[2].name`.
    pub field: String,
    /// A name for programs, as `TOO_LONG`.
    pub reason: String,
    /// What is wrong and what is allowed.
    pub description: String,
}

impl Error {
    /// Whether the same call would fail again until something else is changed: the request, the key, a resource.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self.code {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated => true,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable => false,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let mut error = Self {
            code: status.code(),
            reason: ErrorReason::Unspecified,
            message: status.message().to_owned(),
            violations: Vec::new(),
            metadata: BTreeMap::new(),
            retry_after: None,
            status,
        };
        let details = error.status.get_error_details();
        if let Some(info) = details.error_info().filter(|info| info.domain == ERROR_DOMAIN) {
            error.reason = ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason))
                .unwrap_or(ErrorReason::Unspecified);
            error.metadata = info.metadata.clone().into_iter().collect();
        }
        if let Some(bad_request) = details.bad_request() {
            error.violations = bad_request
                .field_violations
                .iter()
                .map(|violation| Violation {
                    field: violation.field.clone(),
                    reason: violation.reason.clone(),
                    description: violation.description.clone(),
                })
                .collect();
        }
        error.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        error
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn details_are_read() {
        let mut details = ErrorDetails::with_error_info(
            "CURSOR_EXPIRED",
            "taghook",
            HashMap::from([("oldest_cursor".into(), "abc".into())]),
        );
        details.set_retry_info(Some(Duration::from_millis(1_500)));
        let mut violation = FieldViolation::new("contact.email", "is no e-mail address");
        violation.reason = "EMAIL".into();
        details.set_bad_request(vec![violation]);
        let error = Error::from(Status::with_error_details(Code::OutOfRange, "too old", details));
        assert_eq!((error.code, error.reason), (Code::OutOfRange, ErrorReason::CursorExpired));
        assert_eq!(error.metadata, BTreeMap::from([("oldest_cursor".into(), "abc".into())]));
        assert_eq!(error.retry_after, Some(Duration::from_millis(1_500)));
        assert_eq!(error.violations.len(), 1);
        assert_eq!(error.violations[0].field, "contact.email");
        assert_eq!(error.violations[0].reason, "EMAIL");
        assert_eq!(error.to_string(), "too old");
        assert!(error.is_final());
    }

    #[track_caller]
    fn check_reason(reason: &str, domain: &str) {
        let details = ErrorDetails::with_error_info(reason, domain, HashMap::new());
        let error = Error::from(Status::with_error_details(Code::Unavailable, "", details));
        assert_eq!(error.reason, ErrorReason::Unspecified);
        assert!(!error.is_final());
    }

    #[test]
    fn what_is_not_known_is_unspecified() {
        check_reason("SOMETHING_NEW", "taghook");
        check_reason("NOT_FOUND", "mesh.example.com");
        assert_eq!(Error::from(Status::unavailable("")).reason, ErrorReason::Unspecified);
    }
}
