//! API keys that are changed, rotated and watched.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::schema::execute;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let bytes = match manager.get_database_backend() {
            DbBackend::Postgres => "BYTEA",
            _ => "BLOB",
        };
        execute(
            manager,
            &[
                "ALTER TABLE api_keys ADD COLUMN version BIGINT NOT NULL DEFAULT 1",
                "ALTER TABLE api_keys ADD COLUMN updated_us BIGINT",
                // The secret before the last rotation, and until when it opens the workspace.
                &format!("ALTER TABLE api_keys ADD COLUMN former_hash {bytes}"),
                "ALTER TABLE api_keys ADD COLUMN former_expires_us BIGINT",
                // To the minute.
                "ALTER TABLE api_keys ADD COLUMN last_used_us BIGINT",
                "CREATE UNIQUE INDEX api_keys_former ON api_keys (former_hash) WHERE former_hash IS NOT NULL",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(
            manager,
            &[
                "DROP INDEX api_keys_former",
                "ALTER TABLE api_keys DROP COLUMN last_used_us",
                "ALTER TABLE api_keys DROP COLUMN former_expires_us",
                "ALTER TABLE api_keys DROP COLUMN former_hash",
                "ALTER TABLE api_keys DROP COLUMN updated_us",
                "ALTER TABLE api_keys DROP COLUMN version",
            ],
        )
        .await
    }
}
