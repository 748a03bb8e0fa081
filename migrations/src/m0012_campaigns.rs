//! Campaigns, and the ways of contacts through them.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, boolean, small_integer, text, text_null, uuid, uuid_null,
};

use crate::schema::{compare_bytes, drop_tables, execute, on_postgres};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 2] = ["campaigns", "enrollments"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(campaigns()).await?;
        manager.create_table(enrollments()).await?;
        compare_bytes(manager, "campaigns", "name").await?;
        execute(
            manager,
            &[
                "CREATE UNIQUE INDEX campaigns_name ON campaigns (workspace_id, name)",
                "CREATE INDEX campaigns_workspace ON campaigns (workspace_id, id)",
                // A contact is in a campaign once; 1 is RUNNING.
                "CREATE UNIQUE INDEX enrollments_running ON enrollments (campaign_id, contact_id) WHERE state = 1",
                // The queue of the engine.
                "CREATE INDEX enrollments_due ON enrollments (due_us) WHERE state = 1 AND parked = FALSE",
                // What is held of a campaign that doesn't run.
                "CREATE INDEX enrollments_parked ON enrollments (campaign_id, due_us) WHERE state = 1 AND parked = TRUE",
                // How many wait at each node.
                "CREATE INDEX enrollments_node ON enrollments (campaign_id, node) WHERE state = 1",
                "CREATE INDEX enrollments_campaign ON enrollments (campaign_id, id)",
                "CREATE INDEX enrollments_contact ON enrollments (contact_id, campaign_id)",
                "CREATE INDEX enrollments_ended ON enrollments (ended_us) WHERE ended_us IS NOT NULL",
            ],
        )
        .await?;
        on_postgres(manager, &["ALTER TABLE enrollments SET (fillfactor = 70)"]).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &TABLES).await
    }
}

fn campaigns() -> TableCreateStatement {
    Table::create()
        .table("campaigns")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(text("name"))
        .col(text("description"))
        .col(small_integer("state"))
        // 1: contacts enter once. Beside the definition, since retention asks it.
        .col(small_integer("reentry"))
        // Start, nodes and what they do, as JSON.
        .col(text("definition"))
        // Up to when what was held has been spread over time.
        .col(big_integer("spread_us"))
        .col(big_integer("version"))
        .col(big_integer("created_us"))
        .col(big_integer("updated_us"))
        .to_owned()
}

fn enrollments() -> TableCreateStatement {
    Table::create()
        .table("enrollments")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(uuid("campaign_id"))
        .col(uuid("contact_id"))
        .col(small_integer("state"))
        // The key of the node that is next.
        .col(text("node"))
        // When it is due; NULL when the way has ended.
        .col(big_integer_null("due_us"))
        // Out of the queue while its campaign is paused.
        .col(boolean("parked").default(false))
        // Whether its node is a wait that has begun.
        .col(boolean("waiting").default(false))
        .col(big_integer("steps").default(0))
        // How often in a row the present step failed, and why.
        .col(small_integer("failures").default(0))
        .col(text("error").default(""))
        .col(small_integer("causation_depth"))
        .col(uuid_null("cause_id"))
        .col(text_null("traceparent"))
        .col(big_integer("created_us"))
        .col(big_integer_null("ended_us"))
        .to_owned()
}
