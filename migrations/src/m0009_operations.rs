//! What operating deliveries needs: replays, and counts of what happened.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::{drop_tables, execute, on_postgres};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 2] = ["replays", "delivery_stats"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(replays()).await?;
        manager.create_table(delivery_stats()).await?;
        let replay = Table::alter().table("extra_attempts").add_column(uuid_null("replay_id")).to_owned();
        manager.alter_table(replay).await?;
        execute(
            manager,
            &[
                "CREATE INDEX replays_workspace ON replays (workspace_id, id)",
                // Small: finished ones aren't in it.
                "CREATE INDEX replays_next ON replays (next_us) WHERE next_us IS NOT NULL",
                // What a replay still owes, and what of it is held.
                "CREATE INDEX extra_attempts_replay ON extra_attempts (replay_id, parked, webhook_id) \
                 WHERE replay_id IS NOT NULL",
                "CREATE INDEX delivery_stats_bucket ON delivery_stats (bucket_us)",
            ],
        )
        .await?;
        // Room for counts that are raised, on the page where they stand.
        on_postgres(
            manager,
            &["ALTER TABLE delivery_stats SET (fillfactor = 70)", "ALTER TABLE replays SET (fillfactor = 50)"],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        execute(manager, &["DROP INDEX extra_attempts_replay", "ALTER TABLE extra_attempts DROP COLUMN replay_id"])
            .await?;
        drop_tables(manager, &TABLES).await
    }
}

fn replays() -> TableCreateStatement {
    Table::create()
        .table("replays")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(small_integer("state"))
        // What it selects, as JSON.
        .col(text("filter"))
        // Attempts per second.
        .col(integer("rate"))
        // The last delivery that was looked at, and whether it was the last of all.
        .col(uuid("cursor_id"))
        .col(boolean("is_walked").default(false))
        // Up to when the rate has been used.
        .col(big_integer("paid_us"))
        // When there is something to do for it; NULL while there isn't.
        .col(big_integer_null("next_us"))
        .col(big_integer("matched_count").default(0))
        .col(big_integer("skipped_count").default(0))
        // Attempts that were created, and how they ended.
        .col(big_integer("attempt_count").default(0))
        .col(big_integer("delivered_count").default(0))
        .col(big_integer("failed_count").default(0))
        .col(big_integer("cancelled_count").default(0))
        .col(big_integer("created_us"))
        .col(big_integer_null("finished_us"))
        .to_owned()
}

/// Counts, raised with the commit of what they count.
fn delivery_stats() -> TableCreateStatement {
    Table::create()
        .table("delivery_stats")
        .col(uuid("workspace_id"))
        // The nil UUID for the whole workspace.
        .col(uuid("webhook_id"))
        // Where the quarter of an hour begins.
        .col(big_integer("bucket_us"))
        // What is counted: a kind of outcome, or a class of durations.
        .col(small_integer("metric"))
        .col(big_integer("count"))
        .primary_key(Index::create().col("workspace_id").col("webhook_id").col("bucket_us").col("metric"))
        .to_owned()
}
