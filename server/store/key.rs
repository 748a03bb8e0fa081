//! Keys: the caller's own names of resources, unique in the workspace for each noun.

use sea_orm::{ConnectionTrait, Statement};

use super::Tx;
use crate::error::{Error, Result};
use crate::ids::{TypedId, WorkspaceId};

/// Refuses a key that another row of the table has. A failed statement ends a PostgreSQL transaction, so that uniqueness is
/// asked before it is enforced. The caller holds the lock on the workspace's row ([`Tx::config_changed`]), so that no other
/// transaction takes the key meanwhile.
///
/// # Errors
///
/// [`Error::AlreadyExists`] that names the other resource; the database's.
pub(super) async fn refuse_taken<I: TypedId>(
    tx: &Tx,
    table: &'static str,
    workspace: WorkspaceId,
    key: Option<&str>,
    id: I,
) -> Result<()> {
    let Some(key) = key else { return Ok(()) };
    let sql = format!("SELECT id FROM {table} WHERE workspace_id = $1 AND key = $2 AND id <> $3");
    let values = [workspace.0.into(), key.into(), id.uuid().into()];
    let statement = Statement::from_sql_and_values(tx.db().get_database_backend(), sql, values);
    match tx.db().query_one_raw(statement).await? {
        None => Ok(()),
        Some(other) => {
            let name = I::from_uuid(other.try_get("", "id")?).to_string();
            Err(Error::AlreadyExists { resource: I::RESOURCE, field: "key", name })
        }
    }
}
