//! The data of triggers, where it must outlive the transaction: in deferred deliveries and in enrollments.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::text_null;

use crate::schema::execute;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // JSON; NULL for none, which is so of all rows but a few.
        for table in ["deliveries", "enrollments"] {
            manager.alter_table(Table::alter().table(table).add_column(text_null("trigger_data")).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let statements =
            ["ALTER TABLE deliveries DROP COLUMN trigger_data", "ALTER TABLE enrollments DROP COLUMN trigger_data"];
        execute(manager, &statements).await
    }
}
