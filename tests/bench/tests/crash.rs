//! Short crash tests of the server that was built beside these tests; `cargo xtask crash-test` makes long ones, of the
//! release build.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by a panic; clippy's allowance for tests doesn't reach the helpers of integration tests"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What was done to one database, and what came of it.
#[derive(Debug)]
struct Row {
    database: String,
    harms: String,
    calls: u64,
    arrived: u64,
    lost: u64,
    stuck: u64,
    duplicates: u64,
    allowed: u64,
}

impl Row {
    /// How often a harm was done.
    fn count(&self, harm: &str) -> u32 {
        let harms = self.harms.split(", ").filter_map(|counted| counted.split_once(' '));
        harms.filter(|(_, name)| *name == harm).map(|(count, _)| count.parse::<u32>().expect("a number")).sum()
    }

    /// Checks that each of these harms was done, and that all came of it that should have.
    #[track_caller]
    fn check(&self, harms: &[(&str, u32)]) {
        for (harm, least) in harms {
            assert!(self.count(harm) >= *least, "less than {least} {harm}: {self:?}");
        }
        assert!(self.calls > 0, "{self:?}");
        assert_eq!((self.arrived, self.lost, self.stuck), (self.calls, 0, 0), "{self:?}");
        assert!(self.duplicates <= self.allowed, "{self:?}");
    }
}

/// The server in the folder of this test's own build.
fn server() -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_taghook-bench"));
    let server = bench.with_file_name("taghook");
    assert!(server.is_file(), "{} is missing: run the tests of the whole workspace", server.display());
    server
}

/// Runs the crash test; answers with its rows, and the rest of what it printed. `can` says whether this machine can do
/// what is to be done: only if it can't may that be skipped, and then there is no row.
#[track_caller]
fn crash(arguments: &[&str], databases: &[&str], can: bool) -> (Vec<Row>, String) {
    let mut crash = Command::new(env!("CARGO_BIN_EXE_taghook-bench"));
    crash.arg("crash").args(arguments).arg("--server").arg(server());
    let output = crash.output().expect("the program");
    let said = String::from_utf8(output.stdout).expect("text");
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    let lines = said.lines().filter(|line| line.starts_with("| ")).skip(1);
    let (skipped, rows): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains("SKIPPED"));
    if !can && !skipped.is_empty() {
        return (Vec::new(), said);
    }
    let rows: Vec<Row> = rows.into_iter().map(parse).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.database.as_str()).collect();
    assert_eq!(names, databases, "skipped: {skipped:?}");
    (rows, said)
}

fn parse(row: &str) -> Row {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [database, harms, numbers @ ..] = &cells[..] else { panic!("{row}") };
    let numbers: Vec<u64> = numbers.iter().map(|cell| cell.parse().expect(row)).collect();
    let [calls, arrived, lost, stuck, duplicates, allowed] = numbers[..] else { panic!("{row}") };
    let (database, harms) = ((*database).to_owned(), (*harms).to_owned());
    Row { database, harms, calls, arrived, lost, stuck, duplicates, allowed }
}

const BOTH: [&str; 2] = ["SQLite", "PostgreSQL"];

#[test]
fn nothing_is_lost_or_stuck_when_everything_is_killed() {
    let (rows, _) = crash(&["--seconds", "8", "--every-ms", "700"], &BOTH, true);
    let [sqlite, postgres] = &rows[..] else { panic!("{rows:?}") };
    sqlite.check(&[("SIGKILL", 3)]);
    postgres.check(&[
        ("SIGKILL", 4),
        ("times all connections killed", 1),
        ("restarts of the database", 1),
        ("crashes of the database", 1),
    ]);
}

#[test]
fn nothing_is_lost_or_stuck_when_a_clock_steps_by_an_hour() {
    // Where Debian's package manager notes that it has installed the library.
    let notes = fs::read_dir("/var/lib/dpkg/info").into_iter().flatten().flatten();
    let is_installed = notes.map(|note| note.file_name()).any(|name| name.to_string_lossy().starts_with("libfaketime"));
    let arguments = ["--harms", "clock", "--step-s", "3600", "--seconds", "4", "--every-ms", "1000"];
    let (rows, _) = crash(&arguments, &BOTH, is_installed);
    for row in &rows {
        // Ahead, back, behind, and back.
        row.check(&[("steps of a clock", 4)]);
    }
}

#[test]
fn nothing_is_lost_or_stuck_when_the_disk_is_full() {
    let (rows, _) = crash(&["--harms", "disk", "--seconds", "4", "--every-ms", "2000"], &BOTH, may_mount());
    for row in &rows {
        row.check(&[("times the disk full", 1)]);
    }
}

/// Whether this process may mount a file: as root, unless in a container that takes this away.
fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("what this process may do");
    u64::from_str_radix(effective.trim(), 16).expect("bits") & CAP_SYS_ADMIN != 0
}

/// Callers are told when to come back; the servers are idle and silent meanwhile, and go on by themselves.
#[test]
fn an_absent_database_costs_nothing_but_time() {
    let arguments = ["--harms", "away", "--away-s", "5", "--seconds", "3", "--every-ms", "2000"];
    let (rows, said) = crash(&[&arguments[..], &["--database", "postgres"]].concat(), &["PostgreSQL"], true);
    rows[0].check(&[("times the database away", 1)]);
    assert!(said.contains("\nAway for 5 s: "), "{said}");
}
