//! Links that tag who clicks them.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::{drop_tables, execute, on_postgres};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 2] = ["smart_links", "smart_link_clicks"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(smart_links()).await?;
        manager.create_table(smart_link_clicks()).await?;
        execute(
            manager,
            &[
                "CREATE INDEX smart_links_workspace ON smart_links (workspace_id, id)",
                "CREATE UNIQUE INDEX smart_links_tag ON smart_links (tag_id)",
                "CREATE UNIQUE INDEX smart_links_code ON smart_links (code)",
                "CREATE INDEX smart_link_clicks_workspace ON smart_link_clicks (workspace_id)",
            ],
        )
        .await?;
        // Room for counts that are raised, on the page where they stand.
        on_postgres(manager, &["ALTER TABLE smart_link_clicks SET (fillfactor = 70)"]).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &TABLES).await
    }
}

/// What a link has beside its tag. Name, description, version and times are the tag's.
fn smart_links() -> TableCreateStatement {
    Table::create()
        .table("smart_links")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(uuid("tag_id"))
        // What stands in the short URL.
        .col(text("code"))
        .col(text("target_url"))
        .to_owned()
}

/// Counts, raised with the commit of what they count.
fn smart_link_clicks() -> TableCreateStatement {
    Table::create()
        .table("smart_link_clicks")
        .col(uuid("smart_link_id"))
        // Days since the Unix epoch, in UTC.
        .col(big_integer("day"))
        .col(uuid("workspace_id"))
        .col(big_integer("clicks"))
        .col(big_integer("anonymous_clicks"))
        .col(big_integer("machine_clicks"))
        .primary_key(Index::create().col("smart_link_id").col("day"))
        .to_owned()
}
