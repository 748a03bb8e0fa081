//! Taghook: watches contacts and their tags, calls webhooks, and streams what became of each call.

pub mod pb;

pub mod config;
pub mod first_start;
mod key_file;
pub mod lifecycle;
pub mod rotation;
pub mod server;
pub mod telemetry;

pub mod automation;
pub mod clock;
mod connections;
pub mod dispatch;
pub mod domain;
pub mod error;
pub mod ids;
pub mod links;
pub mod outcomes;
pub mod rpc;
pub mod secrets;
pub mod store;

pub use server::{Environment, Server};
