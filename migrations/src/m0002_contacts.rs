//! Contacts, their fields, tags and events.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::*;

use crate::schema::{compare_bytes, create_as_index, drop_tables, execute};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 5] = ["contacts", "fields", "tags", "contact_tags", "events"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(contacts()).await?;
        manager.create_table(fields()).await?;
        manager.create_table(tags()).await?;
        create_as_index(manager, contact_tags()).await?;
        manager.create_table(events()).await?;
        compare_bytes(manager, "contacts", "email").await?;
        compare_bytes(manager, "tags", "name").await?;
        execute(
            manager,
            &[
                "CREATE UNIQUE INDEX contacts_email ON contacts (workspace_id, email)",
                "CREATE UNIQUE INDEX contacts_phone ON contacts (workspace_id, phone)",
                "CREATE INDEX contacts_workspace ON contacts (workspace_id, id)",
                "CREATE UNIQUE INDEX fields_key ON fields (workspace_id, key)",
                "CREATE UNIQUE INDEX tags_name ON tags (workspace_id, name)",
                "CREATE INDEX tags_workspace ON tags (workspace_id, id)",
                "CREATE INDEX contact_tags_tag ON contact_tags (tag_id, contact_id)",
                "CREATE INDEX events_contact ON events (contact_id, event_us, id)",
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &TABLES).await
    }
}

fn contacts() -> TableCreateStatement {
    Table::create()
        .table("contacts")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(text_null("email"))
        .col(text_null("phone"))
        .col(small_integer("status"))
        // All field values in one JSON object: a trigger reads them together.
        .col(text("field_values"))
        .col(big_integer("version"))
        .col(big_integer("created_us"))
        .col(big_integer("updated_us"))
        .to_owned()
}

fn fields() -> TableCreateStatement {
    Table::create()
        .table("fields")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(text("key"))
        .col(text("display_name"))
        .col(small_integer("type"))
        .col(big_integer("version"))
        .col(big_integer("created_us"))
        .col(big_integer("updated_us"))
        .to_owned()
}

fn tags() -> TableCreateStatement {
    Table::create()
        .table("tags")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(text("name"))
        .col(small_integer("kind"))
        .col(text("description"))
        .col(big_integer("version"))
        .col(big_integer("created_us"))
        .col(big_integer("updated_us"))
        .to_owned()
}

fn contact_tags() -> TableCreateStatement {
    Table::create()
        .table("contact_tags")
        .col(uuid("contact_id"))
        .col(uuid("tag_id"))
        .col(uuid("workspace_id"))
        .col(big_integer("assigned_us"))
        .primary_key(Index::create().col("contact_id").col("tag_id"))
        .to_owned()
}

fn events() -> TableCreateStatement {
    Table::create()
        .table("events")
        .col(uuid("id").primary_key())
        .col(uuid("workspace_id"))
        .col(uuid("contact_id"))
        .col(text("type"))
        .col(text_null("attributes"))
        .col(uuid_null("tag_id"))
        .col(big_integer("event_us"))
        .col(big_integer("recorded_us"))
        // How many causes inside the system lie before it, and the last of them.
        .col(small_integer("causation_depth"))
        .col(uuid_null("cause_id"))
        .to_owned()
}
