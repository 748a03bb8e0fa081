//! What changes of many rows have left to be done in steps.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::drop_tables;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("leftovers")
                    // In the order of the changes.
                    .col(uuid("id").primary_key())
                    .col(uuid("workspace_id"))
                    // 1: a tag that was deleted, 2: a webhook that was deleted, 3: a webhook that was resumed,
                    // 4: a campaign that is active again, 5: a campaign that was deleted.
                    .col(small_integer("kind"))
                    .col(uuid("subject_id"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["leftovers"]).await
    }
}
