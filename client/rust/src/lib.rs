//! Client of the Taghook gRPC service.
//!
//! ```no_run
//! use taghook_client::contact::by_email;
//! use taghook_client::{Client, Options, Start, v1};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let key = std::fs::read_to_string("taghook-data/default.key")?;
//! let client = Client::connect(Options::new("http://127.0.0.1:50051").api_key(key.trim()))?;
//!
//! // What happens from here on; `ready` returns once the place in the log is fixed.
//! let mut outcomes = client.outcomes(v1::OutcomeFilter::default(), Start::Now);
//! outcomes.ready().await?;
//!
//! let tagged = client
//!     .contacts()
//!     .tag_contact(v1::TagContactRequest {
//!         contact: by_email("ada@example.com"),
//!         tag_ids: vec!["tag_01jd7z1v5rf5xv0m2yq8t3w9ka".into()],
//!         ..Default::default()
//!     })
//!     .await?
//!     .into_inner();
//! println!("{} webhooks were triggered", tagged.triggers.len());
//!
//! while let Some(entry) = outcomes.next().await {
//!     let entry = entry?;
//!     println!("{:?} {}", entry.outcome.kind(), entry.outcome.delivery_id);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`] has an accessor for each service; the API key, a deadline and careful retries come with every call.
//! - [`Error`] tells errors apart by the service's reason; a `tonic::Status` converts into it with `?`.
//! - [`Outcomes`] is the stream of outcomes; it resumes by itself where it was.
//! - [`webhook::verify`] is for the other end: it tells whether a request that arrived is Taghook's.
//! - [`v1`] has the messages and stubs, generated from the proto files.

mod channel;
mod client;
pub mod contact;
mod error;
mod method;
mod outcomes;
pub mod webhook;

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
mod generated;

/// The messages and stubs of package `taghook.v1`.
pub mod v1 {
    pub use crate::generated::stream_outcomes_request::Filter as OutcomeFilter;
    pub use crate::generated::*;
}

pub use channel::Channel;
pub use client::{Client, Options, OptionsError};
pub use error::{Error, Violation};
pub use outcomes::{Entry, Outcomes, Start};
pub use tonic::Code;
