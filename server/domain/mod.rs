//! The rules, without any outside: no database, no wire, no clock. Everything here is a function of its arguments.

pub mod breaker;
pub mod campaign;
pub(crate) mod coded;
pub mod condition;
pub mod contact;
pub mod delivery;
pub mod effect;
pub mod event;
pub mod example;
pub mod field;
pub mod header;
pub mod labels;
pub mod outcome;
pub mod rate;
pub mod replay;
pub mod request;
pub mod retry;
pub mod rule;
pub mod signature;
pub mod smart_link;
pub mod stats;
pub mod tag;
pub mod template;
pub mod time;
pub mod webhook;
pub mod workspace;
