//! What the migrations share.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend};

/// Runs statements that both databases understand as they are.
pub(crate) async fn execute(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    for statement in statements {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}

/// Runs statements on PostgreSQL alone: storage settings that SQLite has no word for.
pub(crate) async fn on_postgres(manager: &SchemaManager<'_>, statements: &[&str]) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::Postgres {
        execute(manager, statements).await?;
    }
    Ok(())
}

/// Creates a table whose rows are its primary key's index. PostgreSQL has no such tables.
pub(crate) async fn create_as_index(manager: &SchemaManager<'_>, mut table: TableCreateStatement) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::Sqlite {
        table.extra("WITHOUT ROWID");
    }
    manager.create_table(table).await
}

/// Compares a text column by its bytes, as SQLite does, whatever the locale of the PostgreSQL database.
pub(crate) async fn compare_bytes(manager: &SchemaManager<'_>, table: &str, column: &str) -> Result<(), DbErr> {
    on_postgres(manager, &[&format!(r#"ALTER TABLE {table} ALTER COLUMN {column} TYPE TEXT COLLATE "C""#)]).await
}

/// Drops tables that a migration created, the last one first.
pub(crate) async fn drop_tables(manager: &SchemaManager<'_>, tables: &[&'static str]) -> Result<(), DbErr> {
    for table in tables.iter().rev() {
        manager.drop_table(Table::drop().table(*table).to_owned()).await?;
    }
    Ok(())
}
