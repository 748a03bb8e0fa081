//! Taghook: watches contacts and their tags, calls webhooks, and streams what became of each call.

pub mod pb;

pub mod server;

pub mod clock;
pub mod config;
pub mod dispatch;
pub mod domain;
pub mod error;
pub mod first_start;
pub mod ids;
pub mod lifecycle;
pub mod rpc;
pub mod secrets;
pub mod store;
pub mod telemetry;

pub use server::{Environment, Server};
