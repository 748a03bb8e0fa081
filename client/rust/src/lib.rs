//! Client of the Taghook gRPC service.

#[allow(
    missing_docs,
    rustdoc::all,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
#[path = "gen/taghook.v1.rs"]
#[rustfmt::skip]
pub mod v1;
