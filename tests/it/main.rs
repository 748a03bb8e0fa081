//! The integration tests: through the wire, on SQLite and on PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic; clippy's allowance for tests doesn't reach the helpers of integration tests"
)]

mod access;
mod api;
mod api_keys;
mod batches;
mod campaign_files;
mod campaigns;
mod cli;
mod contacts;
mod cooldown;
mod crud;
mod deletion;
mod dispatch;
mod effects;
mod egress;
mod fairness;
mod headers;
mod hostile;
mod identity;
mod keys;
mod links;
mod manual;
mod outcomes;
mod paging;
mod pausing;
mod readme;
mod replays;
mod retention;
mod rules;
mod schedule;
mod servers;
mod signing;
mod smart_tags;
mod stats;
mod store;
mod support;
mod tidy;
mod timeline;
mod traces;
mod transport;
mod transport_errors;
mod trigger_data;
mod triggers;
mod values;
