//! The gRPC surface: which services there are, and what every call passes through before it reaches one.
//!
//! One file a service, one function an RPC: parse, transact, answer. The conversions of a noun stand under its service.

pub mod auth;
mod call;
mod contact;
mod convert;
mod delivery;
mod event;
mod field;
mod mask;
mod page;
mod repeat;
mod tag;
mod trigger;
mod webhook;

use std::sync::Arc;

use crate::automation::Assigner;
use crate::dispatch::egress::Egress;
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
    /// What the operator lets webhooks reach.
    pub egress: Arc<Egress>,
}
