//! The chores of this repository: `cargo xtask --help` lists them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]
#![allow(clippy::disallowed_methods, reason = "it measures how long its steps take")]

mod bench;
mod check;
mod debian;
mod generate;
mod postgres;
mod run;
mod stubs;
mod tools;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a chore ends with.
type Outcome = Result<(), Box<dyn Error>>;

/// The chores of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Check everything: format, lints, docs, licences, protos, generated files and tests. Installs what it needs.
    Test {
        /// Only install what the checks need: the tools (into target/tools), PostgreSQL, Chromium and libfaketime.
        #[arg(long)]
        install: bool,
        /// Check only format, generated files, clippy, unit tests and the integration tests on SQLite. Installs nothing.
        #[arg(long, conflicts_with = "install")]
        quick: bool,
    },
    /// Build the server and measure it: speed, cost, memory, on SQLite and PostgreSQL. What follows `--` goes to the
    /// program that measures: `cargo xtask bench -- speed --help`.
    Bench {
        /// How the server is built: `release`, or `dist` as it is shipped, which takes many minutes more.
        #[arg(long, default_value = "release")]
        profile: String,
        /// What to measure, and how. Default: `speed`, with the JSON in target/bench/speed.json.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Build the release server and put load on it while it and its database are killed: nothing may be lost or stuck. A
    /// short run of each kind, of the debug build, is part of `cargo xtask test`.
    CrashTest {
        /// How long there is load, on each database; longer if it takes longer to do each harm once.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// What is done to them: `kills`; `disk`, a full disk, which must be mounted as root; `away`, no database for a
        /// minute, on PostgreSQL; `clock`, steps of the wall clock by libfaketime. What can't be done here is skipped, and
        /// said.
        #[arg(long, default_value = "kills")]
        harms: String,
    },
    /// Write the committed files that are generated from proto/.
    Gen {
        /// Write nothing; fail if a file isn't what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Generate the stubs of other languages into target/stubs, look for names that clash, and compile those of Python,
    /// TypeScript, Go and Java. Installs the generators. `cargo xtask test` does it too.
    Stubs,
    /// Write proto/baseline.binpb: what the API is from now on, against which breaking changes are found.
    Baseline,
}

fn main() -> ExitCode {
    let outcome = match Args::parse().chore {
        Chore::Test { install: true, .. } => check::install(),
        Chore::Test { quick: true, .. } => check::run_quick(),
        Chore::Test { .. } => check::run(),
        Chore::Bench { profile, arguments } => bench::run(&profile, &arguments),
        Chore::CrashTest { seconds, harms } => bench::crash_test(seconds, &harms),
        Chore::Gen { check } => generate::run(check),
        Chore::Stubs => stubs::run(),
        Chore::Baseline => check::write_baseline(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's folder.
fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
