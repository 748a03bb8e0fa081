//! What tags do: effects of manual tags, rules of smart ones.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::text_null;

use crate::schema::execute;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Both as JSON; NULL for none.
        for column in ["effects", "rule"] {
            manager.alter_table(Table::alter().table("tags").add_column(text_null(column)).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(manager, &["ALTER TABLE tags DROP COLUMN effects", "ALTER TABLE tags DROP COLUMN rule"]).await
    }
}
