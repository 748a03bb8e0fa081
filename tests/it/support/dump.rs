//! All that a database holds.

use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::Database;

/// Every row of every table as text in lower case, bytes in hexadecimal, one row a line with its table's name.
pub(crate) async fn dump(database: &Database) -> String {
    let lines = if database.is_postgres() { postgres(database.url()).await } else { sqlite(database).await };
    assert!(lines.len() > 10, "the database isn't empty: {lines:?}");
    lines.join("\n").to_lowercase()
}

async fn postgres(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'")
            .fetch_all(&mut connection)
            .await
            .expect("the tables");
    let mut lines = Vec::new();
    for table in tables {
        let sql = format!("SELECT '{table}: ' || row_to_json(t)::text FROM \"{table}\" t");
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("its rows");
        lines.extend(rows);
    }
    lines
}

async fn sqlite(database: &Database) -> Vec<String> {
    let path = database.folder().join("taghook.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.expect("a connection");
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table'")
        .fetch_all(&mut connection)
        .await
        .expect("the tables");
    let mut lines = Vec::new();
    for table in tables {
        let columns: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')")))
                .fetch_all(&mut connection)
                .await
                .expect("its columns");
        let columns: Vec<String> = columns.iter().map(|column| format!("quote(\"{column}\")")).collect();
        let sql = format!("SELECT '{table}: ' || {} FROM \"{table}\"", columns.join(" || ',' || "));
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("its rows");
        lines.extend(rows);
    }
    lines
}
