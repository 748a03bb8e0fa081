//! The commands for people who try Taghook or write a receiver. They are callers like others: they use the client and
//! HTTP, and nothing of the server's inside.

mod body;
pub(crate) mod campaigns;
pub(crate) mod demo;
pub(crate) mod receive;
mod receiver;
mod show;
