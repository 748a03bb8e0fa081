//! What is owed, what was tried, and the log that watchers read.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::{drop_tables, execute, on_postgres};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 3] = ["deliveries", "extra_attempts", "outcomes"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(deliveries()).await?;
        manager.create_table(extra_attempts()).await?;
        manager.create_table(outcomes()).await?;
        execute(
            manager,
            &[
                // The dispatcher's queue. Leasing a row touches no index; 1 is DEFERRED, 2 is WAITING.
                "CREATE INDEX deliveries_due ON deliveries (due_us) WHERE state IN (1, 2) AND parked = FALSE",
                // At most one deferred trigger for each webhook event and contact.
                "CREATE UNIQUE INDEX deliveries_deferred ON deliveries (webhook_event_id, contact_id) WHERE state = 1",
                "CREATE INDEX deliveries_workspace ON deliveries (workspace_id, id)",
                "CREATE INDEX deliveries_webhook ON deliveries (webhook_id, id)",
                // What waits of a webhook, for its resume and its end. Small: finished rows aren't in it.
                "CREATE INDEX deliveries_live ON deliveries (webhook_id, parked) WHERE state IN (1, 2)",
                "CREATE INDEX deliveries_contact ON deliveries (contact_id, id)",
                "CREATE INDEX extra_attempts_due ON extra_attempts (due_us) WHERE parked = FALSE",
                "CREATE INDEX extra_attempts_delivery ON extra_attempts (delivery_id)",
                "CREATE INDEX extra_attempts_webhook ON extra_attempts (webhook_id, parked)",
                "CREATE INDEX outcomes_workspace ON outcomes (workspace_id, seq)",
                "CREATE INDEX outcomes_delivery ON outcomes (delivery_id, seq)",
            ],
        )
        .await?;
        // Room on each page for the lease and the finish of its rows.
        on_postgres(manager, &["ALTER TABLE deliveries SET (fillfactor = 60)"]).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &TABLES).await
    }
}

fn deliveries() -> TableCreateStatement {
    Table::create()
        .table("deliveries")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(uuid("webhook_id"))
        .col(uuid("webhook_event_id"))
        .col(uuid("contact_id"))
        .col(small_integer("source"))
        .col(small_integer("state"))
        .col(small_integer("reason"))
        // The activating tags, as a JSON list of ids.
        .col(text("tag_ids"))
        .col(big_integer("trigger_us"))
        // When the next attempt is due, or the deferral ends; NULL when final.
        .col(big_integer_null("due_us"))
        // Out of the queue while its webhook is paused or disabled.
        .col(boolean("parked").default(false))
        // The values to send, as JSON; NULL when there are none, or when erased.
        .col(text_null("snapshot"))
        .col(boolean("erased").default(false))
        // Attempts of the schedule; manual and replayed ones count in `attempt_count` alone.
        .col(integer("scheduled_count").default(0))
        .col(integer("attempt_count").default(0))
        .col(integer("coalesced_count").default(0))
        .col(small_integer("causation_depth"))
        .col(uuid_null("cause_id"))
        .col(text_null("traceparent"))
        // The server that is sending it, and a number that each lease raises: a stale holder's result doesn't match.
        .col(uuid_null("lease_owner"))
        .col(big_integer("lease_token").default(0))
        .col(big_integer("created_us"))
        .col(big_integer_null("finished_us"))
        .to_owned()
}

/// Attempts beside the schedule: RetryDelivery and replays.
fn extra_attempts() -> TableCreateStatement {
    Table::create()
        .table("extra_attempts")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(uuid("delivery_id"))
        .col(uuid("webhook_id"))
        .col(small_integer("cause"))
        .col(big_integer("due_us"))
        .col(boolean("parked").default(false))
        .col(uuid_null("lease_owner"))
        .col(big_integer("lease_token").default(0))
        .to_owned()
}

/// The log: one row is an attempt and its outcome, or an outcome without an attempt.
fn outcomes() -> TableCreateStatement {
    Table::create()
        .table("outcomes")
        // The position. Given out under a lock until commit, so that readers see no gap that is filled later.
        .col(big_integer("seq").primary_key().auto_increment())
        .col(uuid("workspace_id"))
        .col(small_integer("kind"))
        .col(small_integer("reason"))
        .col(big_integer("recorded_us"))
        .col(uuid("webhook_id"))
        .col(uuid_null("webhook_event_id"))
        .col(uuid_null("delivery_id"))
        .col(uuid_null("contact_id"))
        .col(text("tag_ids"))
        .col(small_integer("source"))
        .col(big_integer_null("next_attempt_us"))
        // NULL when there was no attempt; the columns below belong to it.
        .col(integer_null("attempt_number"))
        .col(small_integer("cause"))
        .col(big_integer("started_us"))
        .col(big_integer("duration_us"))
        .col(text("url"))
        .col(integer("status_code"))
        .col(binary("response_body"))
        .col(boolean("response_truncated"))
        .col(text("response_location"))
        .col(big_integer_null("retry_after_us"))
        .col(small_integer("error_class"))
        .col(text("error_detail"))
        .col(boolean("lease_lost"))
        .to_owned()
}
