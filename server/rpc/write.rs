//! Writing calls: a transaction, made once for a request id.

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::Call;
use super::repeat::Repeatable;
use crate::error::{Error, Result};
use crate::ids::WorkspaceId;
use crate::store::{Store, Tx};

/// What a write returns. A repeat of the request returns it again, from what was remembered of it.
pub(super) trait Answer: Sized + Send {
    /// What is remembered of it: ids, never the contact's data.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] if it can't be written down.
    fn remembered(&self) -> Result<String>;

    /// Makes it again. `workspace` is the caller's, `None` for the root key.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it was deleted since; the database's.
    fn reload(tx: &Tx, workspace: Option<WorkspaceId>, remembered: &str) -> impl Future<Output = Result<Self>> + Send;
}

/// Nothing is returned, as by a deletion.
impl Answer for () {
    fn remembered(&self) -> Result<String> {
        Ok(String::new())
    }

    async fn reload(_: &Tx, _: Option<WorkspaceId>, _: &str) -> Result<Self> {
        Ok(())
    }
}

/// A decision that is remembered whole, since it can't be made again from ids.
pub(super) struct Decided<T>(pub(super) T);

impl<T: Serialize + DeserializeOwned + Send + Sync> Answer for Decided<T> {
    fn remembered(&self) -> Result<String> {
        serde_json::to_string(&self.0).map_err(Error::internal)
    }

    async fn reload(_: &Tx, _: Option<WorkspaceId>, remembered: &str) -> Result<Self> {
        serde_json::from_str(remembered).map(Self).map_err(Error::internal)
    }
}

/// Implements [`Answer`] for a resource of a workspace, which is remembered by its id and read again as it is now.
macro_rules! answer_by_id {
    ($resource:ty, |$tx:ident, $workspace:ident, $id:ident| $get:expr) => {
        impl crate::rpc::write::Answer for $resource {
            fn remembered(&self) -> crate::error::Result<String> {
                Ok(self.id.to_string())
            }

            async fn reload(
                $tx: &crate::store::Tx,
                workspace: Option<crate::ids::WorkspaceId>,
                remembered: &str,
            ) -> crate::error::Result<Self> {
                let $workspace =
                    workspace.ok_or_else(|| crate::error::Error::internal("a resource without a workspace"))?;
                let $id = remembered.parse().map_err(crate::error::Error::internal)?;
                $get.await
            }
        }
    };
}

pub(super) use answer_by_id;

impl<M: Repeatable + Message> Call<M> {
    /// Runs `make` in a transaction; for a request id once.
    ///
    /// # Errors
    ///
    /// Those of `make`; [`Error::RequestIdReused`]; the database's.
    pub(super) async fn write<T, F, Fut>(&self, store: &Store, make: F) -> Result<T>
    where
        T: Answer,
        F: Fn(Tx) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let make = |tx: Tx| {
            let made = make(tx);
            async move {
                let answer = made.await?;
                let remembered = answer.remembered()?;
                Ok((answer, remembered))
            }
        };
        let workspace = self.caller.workspace;
        let again = |tx: Tx, remembered: String| async move { T::reload(&tx, workspace, &remembered).await };
        store.write_once(M::METHOD, self.key.as_ref(), make, again).await
    }
}
