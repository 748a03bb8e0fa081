//! What refusals must look like.

use taghook_client::v1::ErrorReason;
use taghook_client::{Code, Error};
use tonic::{Response, Status};

/// Checks that a call was refused so; returns the error for more.
#[track_caller]
pub(crate) fn check_error<T>(result: Result<Response<T>, Status>, code: Code, reason: ErrorReason) -> Error {
    let Err(status) = result else { panic!("it wasn't refused; expected {code:?}, {reason:?}") };
    let error = Error::from(status);
    assert_eq!((error.code, error.reason), (code, reason), "{error:?}");
    error
}

/// Checks that a call was refused for these fields, in any order, and no others; returns the error for more.
#[track_caller]
pub(crate) fn check_invalid<T>(result: Result<Response<T>, Status>, fields: &[&str]) -> Error {
    let error = check_error(result, Code::InvalidArgument, ErrorReason::InvalidFields);
    let mut found: Vec<_> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
    let mut expected = fields.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{:#?}", error.violations);
    for violation in &error.violations {
        assert!(!violation.description.is_empty() && !violation.reason.is_empty(), "{violation:?} says too little");
    }
    error
}
