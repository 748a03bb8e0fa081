//! The caller's own names for things: external ids of contacts, keys and labels of other resources.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{text, text_null};

use crate::schema::{compare_bytes, execute};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// Unique in the workspace where there is one. Compared by their bytes.
const KEYS: [(&str, &str); 4] =
    [("contacts", "external_id"), ("webhooks", "key"), ("smart_links", "key"), ("campaigns", "key")];

/// A JSON object of texts, with its keys in their order and without white space.
const LABELLED: [&str; 3] = ["webhooks", "tags", "campaigns"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in KEYS {
            manager.alter_table(Table::alter().table(table).add_column(text_null(column)).to_owned()).await?;
            compare_bytes(manager, table, column).await?;
            // Rows without a key cost the index nothing.
            let index = format!(
                "CREATE UNIQUE INDEX {table}_{column} ON {table} (workspace_id, {column}) WHERE {column} IS NOT NULL"
            );
            execute(manager, &[&index]).await?;
        }
        for table in LABELLED {
            let labels = text("labels").default("{}").to_owned();
            manager.alter_table(Table::alter().table(table).add_column(labels).to_owned()).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in LABELLED {
            execute(manager, &[&format!("ALTER TABLE {table} DROP COLUMN labels")]).await?;
        }
        for (table, column) in KEYS {
            execute(
                manager,
                &[&format!("DROP INDEX {table}_{column}"), &format!("ALTER TABLE {table} DROP COLUMN {column}")],
            )
            .await?;
        }
        Ok(())
    }
}
