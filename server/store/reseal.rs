//! Sealing all that is sealed with another master key.

use uuid::Uuid;

use super::{Store, Tx, deployment, heartbeat, webhook};
use crate::error::Result;
use crate::secrets::Sealer;

/// The webhooks of one statement.
const STEP: usize = 500;

/// Seals everything with another master key, in one transaction: the database belongs to one key before it and to the other
/// one after it. Answers with the number of webhooks; `None`, and nothing is changed, if there are other servers, which
/// would go on with the former key. One that starts meanwhile waits, and is refused then.
///
/// # Errors
///
/// [`crate::error::Error::Internal`] if something can't be opened; the database's.
pub async fn reseal(store: &Store, to: &Sealer) -> Result<Option<usize>> {
    store
        .write("reseal", |tx: Tx| async move {
            tx.gate_exclusive().await?;
            if !heartbeat::is_alone(&tx).await? {
                return Ok(None);
            }
            deployment::reseal(&tx, to).await?;
            let (mut count, mut after) = (0, Uuid::nil());
            while let Some((step, last)) = webhook::reseal(&tx, to, after, STEP).await? {
                (count, after) = (count + step, last);
            }
            Ok(Some(count))
        })
        .await
}
