//! What the tests stand on.
//!
//! - [`both!`] runs a test on SQLite and on PostgreSQL; [`Taghook`] is the server it talks to, in this
//!   process; [`Process`] is the built program, to be killed. Either is an [`Api`], which makes what tests begin with.
//! - [`Receiver`] is where webhooks go; its [`Answer`]s are a test's.
//! - [`Watch`] follows the outcomes; [`within`] puts an end to every wait. Nothing sleeps.
//! - [`Fence`] proves that something isn't sent; [`Health`] follows a server's health; [`dump`] is all that a database holds.
//! - [`check_error`] and [`check_invalid`] say what a refusal looks like; [`RawGrpc`] and [`exchange`] send what no client would.

mod acts;
mod api;
mod check;
mod dump;
mod fence;
mod health;
mod http;
pub(crate) mod lost_commit;
mod official;
mod outcomes;
pub(crate) mod postgres;
mod process;
mod rawgrpc;
mod receiver;
pub(crate) mod schema;
mod taghook;
mod timeline;

use std::future::Future;
use std::time::Duration;

pub(crate) use acts::{delays, mask, seconds, since_start_us};
pub(crate) use api::Api;
pub(crate) use check::{check_error, check_invalid};
pub(crate) use dump::dump;
pub(crate) use fence::Fence;
pub(crate) use health::Health;
pub(crate) use http::{HttpAnswer, exchange, http};
pub(crate) use official::OfficialLibrary;
pub(crate) use outcomes::Watch;
pub(crate) use process::Process;
pub(crate) use rawgrpc::{RawAnswer, RawGrpc, frame};
pub(crate) use receiver::{Answer, Gate, Received, Receiver, silent_port};
pub(crate) use taghook::{Database, Hand, Settings, Taghook};

/// How long anything may take that a test waits for: generous, since what it waits for is sure to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} hasn't come for {} s", PATIENCE.as_secs()),
    }
}

/// What a test of [`both!`] is given.
pub(crate) trait FromDatabase {
    /// Makes it on a database that nobody else uses.
    async fn on(database: Database) -> Self;
}

/// Makes two tests of one, `name::sqlite` and `name::postgres`. The parameter is a [`Taghook`], or a [`Database`] if the
/// test starts its servers itself.
macro_rules! both {
    ($($(#[$attribute:meta])* async fn $name:ident($($pattern:ident)+: $fixture:ty) $body:block)+) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports, reason = "a test may need nothing of its file")]
            use super::*;

            async fn body($($pattern)+: $fixture) $body

            #[tokio::test]
            async fn sqlite() {
                let database = $crate::support::Database::sqlite();
                body(<$fixture as $crate::support::FromDatabase>::on(database).await).await;
            }

            #[tokio::test]
            async fn postgres() {
                let database = $crate::support::Database::postgres().await;
                body(<$fixture as $crate::support::FromDatabase>::on(database).await).await;
            }
        }
    )+};
}

pub(crate) use both;
