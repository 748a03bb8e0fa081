//! The stream of outcomes, as tests read it.

use taghook_client::v1::outcome::Kind;
use taghook_client::v1::{Outcome, OutcomeFilter};
use taghook_client::{Client, Entry, Outcomes, Start};

use super::within;

/// A watcher whose start is fixed.
#[derive(Debug)]
pub(crate) struct Watch(Outcomes);

impl Watch {
    /// Follows what happens from here on.
    pub(crate) async fn now(client: &Client) -> Self {
        Self::with(client, OutcomeFilter::default(), Start::Now).await
    }

    /// Follows from the beginning.
    pub(crate) async fn beginning(client: &Client) -> Self {
        Self::with(client, OutcomeFilter::default(), Start::Beginning).await
    }

    /// Follows what the filter selects.
    pub(crate) async fn with(client: &Client, filter: OutcomeFilter, start: Start) -> Self {
        let mut outcomes = client.outcomes(filter, start);
        within("the start of the stream", outcomes.ready()).await.expect("a stream of outcomes");
        Self(outcomes)
    }

    /// The next outcome with its cursor.
    pub(crate) async fn entry(&mut self) -> Entry {
        within("an outcome", self.0.next()).await.expect("the stream goes on").expect("an outcome")
    }

    /// The next outcome.
    pub(crate) async fn next(&mut self) -> Outcome {
        self.entry().await.outcome
    }

    /// The next outcome, which must be of this kind.
    pub(crate) async fn expect(&mut self, kind: Kind) -> Outcome {
        let outcome = self.next().await;
        assert_eq!(outcome.kind(), kind, "{outcome:#?}");
        outcome
    }

    /// Passes over outcomes until one of this kind comes.
    pub(crate) async fn until(&mut self, kind: Kind) -> Outcome {
        loop {
            let outcome = self.next().await;
            if outcome.kind() == kind {
                return outcome;
            }
        }
    }

    /// The position after all that was read.
    pub(crate) fn cursor(&self) -> &str {
        self.0.cursor().expect("the start is fixed")
    }
}
