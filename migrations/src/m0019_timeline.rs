//! Enrollments by contact and by state, how many contacts passed each node, and the retention of contact changes.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, small_integer, text, uuid};

use crate::schema::{create_as_index, drop_tables, execute, on_postgres};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_as_index(manager, campaign_nodes()).await?;
        execute(
            manager,
            &[
                // A contact's enrollments over all campaigns, and its timeline.
                "CREATE INDEX enrollments_person ON enrollments (workspace_id, contact_id, id)",
                // A campaign's enrollments, of all states or of one.
                "DROP INDEX enrollments_campaign",
                "CREATE INDEX enrollments_state ON enrollments (campaign_id, state, id)",
                // The contacts at a node: to count them, and to find those whose wait ends late.
                "DROP INDEX enrollments_node",
                "CREATE INDEX enrollments_node ON enrollments (campaign_id, node, due_us) WHERE state = 1",
                // The only events that retention removes.
                "CREATE INDEX events_updates ON events (recorded_us) WHERE type = 'contact.updated'",
            ],
        )
        .await?;
        on_postgres(manager, &["ALTER TABLE campaign_nodes SET (fillfactor = 50)"]).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(
            manager,
            &[
                "DROP INDEX events_updates",
                "DROP INDEX enrollments_node",
                "CREATE INDEX enrollments_node ON enrollments (campaign_id, node) WHERE state = 1",
                "DROP INDEX enrollments_state",
                "CREATE INDEX enrollments_campaign ON enrollments (campaign_id, id)",
                "DROP INDEX enrollments_person",
            ],
        )
        .await?;
        drop_tables(manager, &["campaign_nodes"]).await
    }
}

/// Counters of a node, in several rows so that servers seldom wait for each other.
fn campaign_nodes() -> TableCreateStatement {
    Table::create()
        .table("campaign_nodes")
        .col(uuid("campaign_id"))
        .col(text("node"))
        .col(small_integer("shard"))
        .col(uuid("workspace_id"))
        // How often a contact went on from the node.
        .col(big_integer("passed"))
        .primary_key(Index::create().col("campaign_id").col("node").col("shard"))
        .to_owned()
}
