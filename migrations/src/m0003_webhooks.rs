//! Webhooks, the tags that activate them, and the cooldown of each contact.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::{compare_bytes, create_as_index, drop_tables, execute, on_postgres};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 3] = ["webhooks", "webhook_tags", "cooldowns"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(webhooks()).await?;
        manager.create_table(webhook_tags()).await?;
        create_as_index(manager, cooldowns()).await?;
        compare_bytes(manager, "webhooks", "name").await?;
        execute(
            manager,
            &[
                "CREATE INDEX webhooks_workspace ON webhooks (workspace_id, id)",
                "CREATE INDEX webhook_tags_tag ON webhook_tags (tag_id)",
            ],
        )
        .await?;
        on_postgres(manager, &["ALTER TABLE cooldowns SET (fillfactor = 80)"]).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &TABLES).await
    }
}

fn webhooks() -> TableCreateStatement {
    Table::create()
        .table("webhooks")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(text("name"))
        .col(small_integer("state"))
        .col(small_integer("state_reason"))
        .col(big_integer("state_us"))
        // Everything that planning and sending need, as JSON; sensitive header values are in `sealed`.
        .col(text("definition"))
        // Signing secrets and sensitive header values, encrypted.
        .col(binary("sealed"))
        // Since when every attempt has failed; NULL after a success.
        .col(big_integer_null("failing_since_us"))
        .col(big_integer("version"))
        .col(big_integer("created_us"))
        .col(big_integer("updated_us"))
        .to_owned()
}

fn webhook_tags() -> TableCreateStatement {
    Table::create()
        .table("webhook_tags")
        .col(uuid("webhook_id"))
        .col(uuid("tag_id"))
        .col(uuid("workspace_id"))
        .primary_key(Index::create().col("webhook_id").col("tag_id"))
        .to_owned()
}

fn cooldowns() -> TableCreateStatement {
    Table::create()
        .table("cooldowns")
        .col(uuid("webhook_id"))
        .col(uuid("contact_id"))
        .col(uuid("workspace_id"))
        // The last accepted tag trigger. In no index, so that claiming it moves no index entry.
        .col(big_integer("last_us"))
        // The setting when it was claimed; written so that one statement can claim for many webhooks.
        .col(big_integer("cooldown_us"))
        .primary_key(Index::create().col("webhook_id").col("contact_id"))
        .to_owned()
}
