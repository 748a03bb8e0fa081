//! What was measured, as a table and as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::Failure;

/// One row of the table: medians over the rounds. What wasn't measured is absent.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    /// On which database, or "limit".
    pub(crate) database: String,
    /// What was done.
    pub(crate) what: String,
    /// Calls, or contacts of batches, answered a second, from the first call to the last answer.
    pub(crate) accepted_per_s: Option<f64>,
    /// Webhooks received a second, from the first call to the last arrival.
    pub(crate) delivered_per_s: Option<f64>,
    /// From the call to the arrival of the webhook, in milliseconds.
    pub(crate) p50_ms: Option<f64>,
    /// From the call to the arrival of the webhook, in milliseconds.
    pub(crate) p99_ms: Option<f64>,
    /// [`Self::p50_ms`] over that of the window before, which was undisturbed.
    pub(crate) p50_ratio: Option<f64>,
    /// [`Self::p99_ms`] over that of the window before, which was undisturbed.
    pub(crate) p99_ratio: Option<f64>,
    /// From the call to its answer, in milliseconds.
    pub(crate) answer_p50_ms: Option<f64>,
    /// From the call to its answer, in milliseconds.
    pub(crate) answer_p99_ms: Option<f64>,
    /// Processor seconds of the server for 1,000 deliveries.
    pub(crate) server_cpu_s: Option<f64>,
    /// Processor seconds of the database's own processes for 1,000 deliveries.
    pub(crate) database_cpu_s: Option<f64>,
    /// Processor seconds of the generator and the sink for 1,000 deliveries.
    pub(crate) load_cpu_s: Option<f64>,
    /// SQL statements for each delivery.
    pub(crate) statements: Option<f64>,
    /// Resident memory of the server in MiB when this ended.
    pub(crate) rss_mib: Option<f64>,
    /// The most resident memory of the server in MiB so far.
    pub(crate) peak_rss_mib: Option<f64>,
}

impl Row {
    /// The same, with its latencies over those of a row that was measured before.
    pub(crate) fn over(self, before: &Self) -> Self {
        let ratio = |now: Option<f64>, before: Option<f64>| now.zip(before).map(|(now, before)| now / before);
        let (p50_ratio, p99_ratio) = (ratio(self.p50_ms, before.p50_ms), ratio(self.p99_ms, before.p99_ms));
        Self { p50_ratio, p99_ratio, ..self }
    }
}

/// A column's name, its value in a row, and its decimals.
type Column = (&'static str, fn(&Row) -> Option<f64>, usize);

const COLUMNS: [Column; 14] = [
    ("accepted/s", |row| row.accepted_per_s, 0),
    ("delivered/s", |row| row.delivered_per_s, 0),
    ("p50 ms", |row| row.p50_ms, 2),
    ("p99 ms", |row| row.p99_ms, 2),
    ("p50 ratio", |row| row.p50_ratio, 2),
    ("p99 ratio", |row| row.p99_ratio, 2),
    ("answer p50", |row| row.answer_p50_ms, 2),
    ("answer p99", |row| row.answer_p99_ms, 2),
    ("server CPU s/1000", |row| row.server_cpu_s, 3),
    ("database CPU s/1000", |row| row.database_cpu_s, 3),
    ("load CPU s/1000", |row| row.load_cpu_s, 3),
    ("SQL/delivery", |row| row.statements, 2),
    ("RSS MiB", |row| row.rss_mib, 0),
    ("peak MiB", |row| row.peak_rss_mib, 0),
];

/// The table, in Markdown; columns that no row has are left out.
pub(crate) fn table(rows: &[Row]) -> String {
    let columns: Vec<_> = COLUMNS.iter().filter(|(_, get, _)| rows.iter().any(|row| get(row).is_some())).collect();
    let mut text = String::from("| database | what |");
    // Writing to a String can't fail.
    for (name, ..) in &columns {
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---:|".repeat(columns.len()));
    for row in rows {
        let _ = write!(text, "\n| {} | {} |", row.database, row.what);
        for (_, get, decimals) in &columns {
            let cell = get(row).map(|number| format!("{number:.decimals$}")).unwrap_or_default();
            let _ = write!(text, " {cell} |");
        }
    }
    text
}

/// Shows a row as it comes.
pub(crate) fn shown(row: Row) -> Row {
    eprintln!("{}", table(std::slice::from_ref(&row)).lines().last().unwrap_or_default());
    row
}

/// Prints the table, and writes the JSON if it has a file.
pub(crate) fn print(rows: &[Row], json: Option<&Path>) -> Result<(), Failure> {
    println!("{}", table(rows));
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_string_pretty(rows)?)?;
    }
    Ok(())
}

/// The medians of the same row in several rounds.
pub(crate) fn medians(rounds: &[Row]) -> Row {
    let Some(first) = rounds.first() else { return Row::default() };
    let median = |get: fn(&Row) -> Option<f64>| {
        let mut values: Vec<f64> = rounds.iter().filter_map(get).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Row {
        database: first.database.clone(),
        what: first.what.clone(),
        accepted_per_s: median(|row| row.accepted_per_s),
        delivered_per_s: median(|row| row.delivered_per_s),
        p50_ms: median(|row| row.p50_ms),
        p99_ms: median(|row| row.p99_ms),
        p50_ratio: median(|row| row.p50_ratio),
        p99_ratio: median(|row| row.p99_ratio),
        answer_p50_ms: median(|row| row.answer_p50_ms),
        answer_p99_ms: median(|row| row.answer_p99_ms),
        server_cpu_s: median(|row| row.server_cpu_s),
        database_cpu_s: median(|row| row.database_cpu_s),
        load_cpu_s: median(|row| row.load_cpu_s),
        statements: median(|row| row.statements),
        rss_mib: median(|row| row.rss_mib),
        peak_rss_mib: median(|row| row.peak_rss_mib),
    }
}

/// A percentile of times in nanoseconds, as milliseconds.
pub(crate) fn percentile_ms(times_ns: &mut [u64], percent: usize) -> Option<f64> {
    times_ns.sort_unstable();
    let index = (times_ns.len() * percent / 100).min(times_ns.len().checked_sub(1)?);
    times_ns.get(index).map(|time| *time as f64 / 1e6)
}
