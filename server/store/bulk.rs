//! Many rows as one parameter set, so that batches of all sizes share a few SQL texts: UNNEST over arrays on PostgreSQL,
//! VALUES of some fixed sizes on SQLite. A text for each batch size would overflow the statement cache.

use std::fmt::Write as _;

use sea_orm::sea_query::{ArrayType, Value};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement};
use uuid::Uuid;

/// The most rows of one statement on SQLite; more are several statements. Its limit is 32,766 parameters.
const MAX_ROWS: usize = 128;

/// Rows as columns. In the SQL they are a table named `r`.
///
/// On SQLite a large batch is several statements, each of which sees its own part alone: the SQL must mean the same for
/// the parts as for the whole.
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
    /// No rows yet. The first column that is added must be of a kind that is never absent.
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

    /// Adds a single value beside the rows, and returns what stands for it in the SQL.
    pub(super) fn param(&mut self, value: impl Into<Value>) -> String {
        self.extra.push(value.into());
        marker(self.extra.len())
    }

    /// Runs a statement whose text says where the table of the rows goes.
    pub(super) async fn execute(self, db: &impl ConnectionTrait, sql: impl Fn(&str) -> String) -> Result<u64, DbErr> {
        let mut affected = 0;
        for statement in self.statements(sql) {
            affected += db.execute_raw(statement).await?.rows_affected();
        }
        Ok(affected)
    }

    /// Runs a statement that returns rows.
    pub(super) async fn query(
        self,
        db: &impl ConnectionTrait,
        sql: impl Fn(&str) -> String,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let mut rows = Vec::new();
        for statement in self.statements(sql) {
            rows.append(&mut db.query_all_raw(statement).await?);
        }
        Ok(rows)
    }

    fn statements(self, sql: impl Fn(&str) -> String) -> Vec<Statement> {
        match self.backend {
            DbBackend::Sqlite => self.value_statements(sql),
            _ => vec![self.array_statement(sql)],
        }
    }

    /// Each part of up to [`MAX_ROWS`] is filled up with rows of NULLs to a power of two, so that there are few texts.
    fn value_statements(mut self, sql: impl Fn(&str) -> String) -> Vec<Statement> {
        let (rows, width) = (self.len(), self.columns.len());
        let parts = rows.div_ceil(MAX_ROWS).max(1);
        let part = |part: usize| part * MAX_ROWS..rows.min((part + 1) * MAX_ROWS);
        (0..parts)
            .map(|number| {
                let part = part(number);
                let size = part.len().next_power_of_two();
                let mut values = Vec::with_capacity(size * width + self.extra.len());
                for row in part.clone() {
                    values.extend(self.columns.iter_mut().map(|(_, cells)| cells.take(row)));
                }
                for _ in part.len()..size {
                    values.extend(self.columns.iter().map(|(_, cells)| cells.null()));
                }
                let text = with_params(sql(&self.value_table(size)), values.len(), self.extra.len());
                values.extend(self.extra.iter().cloned());
                Statement::from_sql_and_values(self.backend, text, values)
            })
            .collect()
    }

    /// The parameters have no numbers: SQLite would look each of them up in a list.
    fn value_table(&self, size: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns.len()].join(", "));
        let mut list = String::new();
        for (index, (name, _)) in self.columns.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            // Writing to a String can't fail.
            let _ = write!(list, "{comma}column{} AS {name}", index + 1);
        }
        format!("(SELECT {list} FROM (VALUES {}) WHERE column1 IS NOT NULL) AS r", vec![row; size].join(", "))
    }

    fn array_statement(self, sql: impl Fn(&str) -> String) -> Statement {
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
        let table = format!("(SELECT {list} FROM UNNEST({arrays}) AS u({names})) AS r");
        let text = with_params(sql(&table), self.columns.len(), self.extra.len());
        let mut values: Vec<Value> = self.columns.into_iter().map(|(_, cells)| cells.into_array()).collect();
        values.extend(self.extra);
        Statement::from_sql_and_values(self.backend, text, values)
    }

    fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, cells)| cells.len())
    }
}

/// Stands for the single value `number` until the parameters before it are counted. No SQL has an `@`.
fn marker(number: usize) -> String {
    format!("@{number}@")
}

/// The SQL with the numbers of the single values, which come after `before` others.
fn with_params(sql: String, before: usize, count: usize) -> String {
    (1..=count).fold(sql, |sql, number| sql.replace(&marker(number), &format!("${}", before + number)))
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

    /// Takes a cell out.
    fn take(&mut self, row: usize) -> Value {
        match self {
            Self::Uuid(cells) => cells.get(row).copied().into(),
            Self::OptionalUuid(cells) => cells.get(row).copied().flatten().into(),
            Self::Int(cells) => cells.get(row).copied().into(),
            Self::OptionalInt(cells) => cells.get(row).copied().flatten().into(),
            Self::Text(cells) => cells.get_mut(row).map(std::mem::take).into(),
            Self::OptionalText(cells) => {
                cells.get_mut(row).and_then(Option::take).filter(|text| !text.is_empty()).into()
            }
            Self::Bytes(cells) => cells.get_mut(row).map(std::mem::take).into(),
        }
    }

    fn null(&self) -> Value {
        match self {
            Self::Uuid(_) | Self::OptionalUuid(_) => None::<Uuid>.into(),
            Self::Int(_) | Self::OptionalInt(_) => None::<i64>.into(),
            Self::Text(_) | Self::OptionalText(_) => None::<String>.into(),
            Self::Bytes(_) => None::<Vec<u8>>.into(),
        }
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

    fn into_array(self) -> Value {
        match self {
            Self::Uuid(cells) => Value::from(cells),
            Self::OptionalUuid(cells) => {
                Value::from(cells.into_iter().map(|cell| cell.unwrap_or(Uuid::nil())).collect::<Vec<_>>())
            }
            Self::Int(cells) => Value::from(cells),
            Self::OptionalInt(cells) => {
                Value::from(cells.into_iter().map(|cell| cell.unwrap_or(i64::MIN)).collect::<Vec<_>>())
            }
            Self::Text(cells) => Value::from(cells),
            Self::OptionalText(cells) => {
                Value::from(cells.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>())
            }
            Self::Bytes(cells) => {
                let elements = cells.into_iter().map(|bytes| Value::Bytes(Some(bytes))).collect();
                Value::Array(ArrayType::Bytes, Some(Box::new(elements)))
            }
        }
    }
}
