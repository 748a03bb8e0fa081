//! Signing secrets that end.

use sea_orm_migration::prelude::*;

use crate::schema::execute;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(
            manager,
            &[
                // When the first of the secrets in `sealed` expires; NULL if none does.
                "ALTER TABLE webhooks ADD COLUMN secret_expires_us BIGINT",
                "CREATE INDEX webhooks_secret_expires ON webhooks (secret_expires_us) WHERE secret_expires_us IS NOT NULL",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(manager, &["DROP INDEX webhooks_secret_expires", "ALTER TABLE webhooks DROP COLUMN secret_expires_us"])
            .await
    }
}
