//! The servers that share the database.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::drop_tables;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("servers")
                    // The incarnation: new at each start.
                    .col(uuid("id").primary_key())
                    .col(big_integer("started_us"))
                    // Leases of a server whose heartbeat is old are free.
                    .col(big_integer("heartbeat_us"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["servers"]).await
    }
}
