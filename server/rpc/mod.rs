//! The gRPC surface: which services there are, and what every call passes through before it reaches one.
//!
//! One file a service, one function an RPC: parse, transact, answer. The conversions of a noun stand under its service.

pub mod auth;
mod call;
mod convert;
mod delivery;
mod mask;
mod page;
mod repeat;
mod tag;

use crate::automation::Assigner;
use crate::outcomes::OutcomeLog;
use crate::store::Store;

/// What the services share. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// The database.
    pub store: Store,
    /// Assigns tags for concurrent callers.
    pub assigner: Assigner,
    /// The log that watchers follow.
    pub outcomes: OutcomeLog,
}
