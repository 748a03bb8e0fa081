//! Taghook: watches contacts and their tags, calls webhooks, and streams what became of each call.

pub mod pb;

pub mod server;

pub mod config;
pub mod first_start;
pub mod lifecycle;
pub mod telemetry;

pub mod rpc;

pub mod automation;
pub mod dispatch;
pub mod outcomes;

pub mod store;

pub mod domain;

pub mod clock;
pub mod error;
pub mod ids;
pub mod secrets;

pub use server::{Environment, Server};
