//! The chores of this repository: `cargo xtask --help` lists them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]
#![allow(clippy::disallowed_methods, reason = "it measures how long its steps take")]

mod check;
mod generate;
mod postgres;
mod run;
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
        /// Only install what the checks need: the tools (into target/tools) and PostgreSQL.
        #[arg(long)]
        install: bool,
    },
    /// Write the committed files that are generated from proto/.
    Gen {
        /// Write nothing; fail if a file isn't what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Write proto/baseline.binpb: what the API is from now on, against which breaking changes are found.
    Baseline,
}

fn main() -> ExitCode {
    let outcome = match Args::parse().chore {
        Chore::Test { install: true } => check::install(),
        Chore::Test { install: false } => check::run(),
        Chore::Gen { check } => generate::run(check),
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
