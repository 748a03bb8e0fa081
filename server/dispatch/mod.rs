//! Sending.

pub mod egress;
pub mod send;
