//! Many rows as one parameter set, so that a batch of any size has one SQL text: UNNEST over arrays on PostgreSQL,
//! json_each over one JSON text on SQLite. A text for each batch size would overflow the statement cache.

use std::fmt::Write as _;

use sea_orm::sea_query::{ArrayType, Value};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement};
use uuid::Uuid;

/// Rows as columns. In the SQL they are a table named `r`.
pub(super) struct Bulk {
    backend: DbBackend,
    columns: Vec<(&'static str, Cells)>,
    extra: Vec<Value>,
}

/// The cells of a column. PostgreSQL's arrays can't be bound with NULLs, so that an absent value travels as one that
/// never occurs: the nil UUID, the smallest number, the empty text.
enum Cells {
    Uuid(Vec<Uuid>),
    OptionalUuid(Vec<Option<Uuid>>),
    Int(Vec<i64>),
    OptionalInt(Vec<Option<i64>>),
    Text(Vec<String>),
    OptionalText(Vec<Option<String>>),
    Bytes(Vec<Vec<u8>>),
}

impl Bulk {
    pub(super) fn new(db: &impl ConnectionTrait) -> Self {
        Self { backend: db.get_database_backend(), columns: Vec::new(), extra: Vec::new() }
    }

    pub(super) fn uuid(self, name: &'static str, cells: impl IntoIterator<Item = Uuid>) -> Self {
        self.column(name, Cells::Uuid(cells.into_iter().collect()))
    }

    pub(super) fn optional_uuid(self, name: &'static str, cells: impl IntoIterator<Item = Option<Uuid>>) -> Self {
        self.column(name, Cells::OptionalUuid(cells.into_iter().collect()))
    }

    pub(super) fn int(self, name: &'static str, cells: impl IntoIterator<Item = i64>) -> Self {
        self.column(name, Cells::Int(cells.into_iter().collect()))
    }

    pub(super) fn optional_int(self, name: &'static str, cells: impl IntoIterator<Item = Option<i64>>) -> Self {
        self.column(name, Cells::OptionalInt(cells.into_iter().collect()))
    }

    pub(super) fn text(self, name: &'static str, cells: impl IntoIterator<Item = String>) -> Self {
        self.column(name, Cells::Text(cells.into_iter().collect()))
    }

    /// An empty text counts as absent.
    pub(super) fn optional_text(self, name: &'static str, cells: impl IntoIterator<Item = Option<String>>) -> Self {
        self.column(name, Cells::OptionalText(cells.into_iter().collect()))
    }

    pub(super) fn bytes(self, name: &'static str, cells: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.column(name, Cells::Bytes(cells.into_iter().collect()))
    }

    fn column(mut self, name: &'static str, cells: Cells) -> Self {
        self.columns.push((name, cells));
        self
    }

    /// Adds a single value beside the rows, and returns its placeholder for the SQL.
    pub(super) fn param(&mut self, value: impl Into<Value>) -> String {
        self.extra.push(value.into());
        let rows = match self.backend {
            DbBackend::Sqlite => 1,
            _ => self.columns.len(),
        };
        format!("${}", rows + self.extra.len())
    }

    /// Runs a statement whose text says where the table of the rows goes.
    pub(super) async fn execute(
        self,
        db: &impl ConnectionTrait,
        sql: impl FnOnce(&str) -> String,
    ) -> Result<u64, DbErr> {
        Ok(db.execute_raw(self.statement(sql)).await?.rows_affected())
    }

    /// Runs a statement that returns rows.
    pub(super) async fn query(
        self,
        db: &impl ConnectionTrait,
        sql: impl FnOnce(&str) -> String,
    ) -> Result<Vec<QueryResult>, DbErr> {
        db.query_all_raw(self.statement(sql)).await
    }

    fn statement(self, sql: impl FnOnce(&str) -> String) -> Statement {
        let backend = self.backend;
        let (table, mut values) = match backend {
            DbBackend::Sqlite => self.json_table(),
            _ => self.array_table(),
        };
        let text = sql(&table);
        values.extend(self.extra);
        Statement::from_sql_and_values(backend, text, values)
    }

    fn json_table(&self) -> (String, Vec<Value>) {
        let mut list = String::new();
        for (index, (name, cells)) in self.columns.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let cell = if cells.is_binary() { format!("unhex(value->>{index})") } else { format!("value->>{index}") };
            // Writing to a String can't fail.
            let _ = write!(list, "{comma}{cell} AS {name}");
        }
        let rows: Vec<Vec<serde_json::Value>> =
            (0..self.len()).map(|row| self.columns.iter().map(|(_, cells)| cells.json(row)).collect()).collect();
        let json =
            serde_json::Value::from(rows.into_iter().map(serde_json::Value::from).collect::<Vec<_>>()).to_string();
        (format!("(SELECT {list} FROM json_each($1)) AS r"), vec![json.into()])
    }

    fn array_table(&self) -> (String, Vec<Value>) {
        let (mut list, mut arrays, mut names) = (String::new(), String::new(), String::new());
        for (index, (name, cells)) in self.columns.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let (array_type, absent) = cells.postgres();
            let _ = match absent {
                Some(absent) => write!(list, "{comma}NULLIF({name}, {absent}) AS {name}"),
                None => write!(list, "{comma}{name}"),
            };
            let _ = write!(arrays, "{comma}${}::{array_type}[]", index + 1);
            let _ = write!(names, "{comma}{name}");
        }
        let values = self.columns.iter().map(|(_, cells)| cells.array()).collect();
        (format!("(SELECT {list} FROM UNNEST({arrays}) AS u({names})) AS r"), values)
    }

    fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, cells)| cells.len())
    }
}

impl Cells {
    fn len(&self) -> usize {
        match self {
            Self::Uuid(cells) => cells.len(),
            Self::OptionalUuid(cells) => cells.len(),
            Self::Int(cells) => cells.len(),
            Self::OptionalInt(cells) => cells.len(),
            Self::Text(cells) => cells.len(),
            Self::OptionalText(cells) => cells.len(),
            Self::Bytes(cells) => cells.len(),
        }
    }

    const fn is_binary(&self) -> bool {
        matches!(self, Self::Uuid(_) | Self::OptionalUuid(_) | Self::Bytes(_))
    }

    /// A cell as JSON; bytes are written in hexadecimal.
    fn json(&self, row: usize) -> serde_json::Value {
        let hex = |uuid: &Uuid| uuid.simple().to_string();
        let json = match self {
            Self::Uuid(cells) => cells.get(row).map(|uuid| hex(uuid).into()),
            Self::OptionalUuid(cells) => cells.get(row).and_then(Option::as_ref).map(|uuid| hex(uuid).into()),
            Self::Int(cells) => cells.get(row).map(|int| (*int).into()),
            Self::OptionalInt(cells) => cells.get(row).copied().flatten().map(Into::into),
            Self::Text(cells) => cells.get(row).map(|text| text.as_str().into()),
            Self::OptionalText(cells) => {
                cells.get(row).and_then(Option::as_deref).filter(|text| !text.is_empty()).map(Into::into)
            }
            Self::Bytes(cells) => cells.get(row).map(|bytes| data_encoding::HEXLOWER.encode(bytes).into()),
        };
        json.unwrap_or(serde_json::Value::Null)
    }

    /// The element type, and the value that stands for an absent one.
    const fn postgres(&self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Uuid(_) => ("uuid", None),
            Self::OptionalUuid(_) => ("uuid", Some("'00000000-0000-0000-0000-000000000000'")),
            Self::Int(_) => ("bigint", None),
            Self::OptionalInt(_) => ("bigint", Some("-9223372036854775808")),
            Self::Text(_) => ("text", None),
            Self::OptionalText(_) => ("text", Some("''")),
            Self::Bytes(_) => ("bytea", None),
        }
    }

    fn array(&self) -> Value {
        match self {
            Self::Uuid(cells) => Value::from(cells.clone()),
            Self::OptionalUuid(cells) => {
                Value::from(cells.iter().map(|cell| cell.unwrap_or(Uuid::nil())).collect::<Vec<_>>())
            }
            Self::Int(cells) => Value::from(cells.clone()),
            Self::OptionalInt(cells) => {
                Value::from(cells.iter().map(|cell| cell.unwrap_or(i64::MIN)).collect::<Vec<_>>())
            }
            Self::Text(cells) => Value::from(cells.clone()),
            Self::OptionalText(cells) => {
                Value::from(cells.iter().map(|cell| cell.clone().unwrap_or_default()).collect::<Vec<_>>())
            }
            Self::Bytes(cells) => {
                let elements = cells.iter().map(|bytes| Value::Bytes(Some(bytes.clone()))).collect();
                Value::Array(ArrayType::Bytes, Some(Box::new(elements)))
            }
        }
    }
}
