//! Workspaces, their API keys, remembered requests, and facts about the deployment.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::{drop_tables, execute};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 4] = ["deployment", "workspaces", "api_keys", "requests"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Facts about the deployment: the outcome log's epoch, the id of the master key, the default workspace.
        manager
            .create_table(
                Table::create().table("deployment").col(text("key").primary_key()).col(text("value")).to_owned(),
            )
            .await?;
        manager.create_table(workspaces()).await?;
        manager.create_table(api_keys()).await?;
        manager.create_table(requests()).await?;
        execute(
            manager,
            &[
                "CREATE UNIQUE INDEX workspaces_name ON workspaces (name) WHERE deleted_us IS NULL",
                "CREATE INDEX api_keys_workspace ON api_keys (workspace_id, id)",
                "CREATE INDEX requests_created ON requests (created_us)",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &TABLES).await
    }
}

fn workspaces() -> TableCreateStatement {
    Table::create()
        .table("workspaces")
        .col(uuid("id").primary_key())
        .col(text("name"))
        // Raised by every change that planning must see; caches compare it.
        .col(big_integer("config_version"))
        .col(big_integer("version"))
        .col(big_integer("created_us"))
        .col(big_integer("updated_us"))
        .col(big_integer_null("deleted_us"))
        .to_owned()
}

fn api_keys() -> TableCreateStatement {
    Table::create()
        .table("api_keys")
        .col(uuid("id").primary_key())
        // NULL: the root key.
        .col(uuid_null("workspace_id"))
        .col(text("name"))
        // Bit mask: 1 read, 2 write, 4 admin.
        .col(small_integer("scopes"))
        // SHA-256 of the secret, which has 256 random bits: a slow hash would add nothing.
        .col(binary("secret_hash").unique_key())
        .col(text("secret_prefix"))
        .col(big_integer("created_us"))
        .col(big_integer_null("expires_us"))
        .col(big_integer_null("revoked_us"))
        .to_owned()
}

fn requests() -> TableCreateStatement {
    Table::create()
        .table("requests")
        // The nil UUID for calls with the root key.
        .col(uuid("workspace_id"))
        .col(text("method"))
        .col(text("request_id"))
        .col(binary("body_hash"))
        // The ids from which the answer is made again, as JSON; no personal data.
        .col(text("answer"))
        .col(big_integer("created_us"))
        .primary_key(Index::create().col("workspace_id").col("method").col("request_id"))
        .to_owned()
}
