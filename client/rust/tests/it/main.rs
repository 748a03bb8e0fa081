//! The client against a server that does what a test says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic; clippy's allowance for tests doesn't reach the helpers of integration tests"
)]

mod calls;
mod fake;
mod outcomes;
