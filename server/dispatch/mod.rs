//! Sending.

pub mod egress;
pub mod request;
pub mod send;
