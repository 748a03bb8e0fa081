//! What a built server can do, and what it costs. `cargo xtask bench` builds the release server and runs this.
//!
//! Who is who:
//! - [`server`]: the built program as its own process, on a new [`database`].
//! - [`load`]: the generator, through the Rust client. [`sink`]: where the webhooks go; it answers at once.
//! - [`speed`]: the runs of the table. [`growth`]: the same beside much that waits, is stored, or watches. [`limits`]: what generator, sink, gRPC and database can do without the server.
//! - [`fairness`]: one endpoint that keeps up, beside others that don't.
//! - [`crash`]: load by patient [`callers`] while everything is killed, and the count of what came; a full [`disk`], the
//!   [`absence`] of the database, a [`fake_clock`].
//! - [`meter`]: processor time and memory of processes. [`report`]: the table and the JSON.
//!
//! Generator and sink are one process beside the server's, all of them on the same machine. Nothing here fails for being
//! slow.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]
#![allow(
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "a tool of the developers"
)]

mod absence;
mod callers;
mod crash;
mod database;
mod disk;
mod fairness;
mod fake_clock;
mod growth;
mod limits;
mod load;
mod meter;
mod noop;
#[expect(dead_code, reason = "the tests' own; they need more of it")]
#[path = "../../it/support/postgres.rs"]
mod postgres;
mod report;
mod server;
mod sink;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use database::Kind;

/// Why a run has no result.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures a built server.
#[derive(Debug, Parser)]
#[command(name = "taghook-bench")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Throughput, latency, cost, memory; and beside them the limits of the machine
    Speed(Options),
    /// How the cost grows with what is stored, and with who watches
    Growth(growth::Options),
    /// An endpoint that keeps up, alone and beside others that don't
    Fairness(fairness::Options),
    /// Load while servers and database are killed: nothing may be lost or stuck
    Crash(crash::Options),
    /// A gRPC service that does nothing, for the limits
    #[command(hide = true)]
    Noop,
}

/// What to measure, and how.
#[derive(Clone, Debug, clap::Args)]
struct Options {
    /// The built server
    #[arg(long, default_value = "target/release/taghook")]
    server: PathBuf,
    /// On which database
    #[arg(long, value_enum, default_value = "both")]
    database: Databases,
    /// How many contacts are tagged in each run at full speed
    #[arg(long, default_value_t = 50_000)]
    calls: usize,
    /// How many callers there are, each with one call at a time
    #[arg(long, default_value_t = 64)]
    callers: usize,
    /// How many connections they share
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// How often everything is measured; the table has the medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only runs whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// Where the JSON goes
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Databases {
    Sqlite,
    Postgres,
    Both,
}

impl Databases {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Sqlite => &[Kind::Sqlite],
            Self::Postgres => &[Kind::Postgres],
            Self::Both => &[Kind::Sqlite, Kind::Postgres],
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Args::parse().command {
        Command::Speed(options) => speed::run(&options).await,
        Command::Growth(options) => growth::run(&options).await,
        Command::Fairness(options) => fairness::run(&options).await,
        Command::Crash(options) => crash::run(&options).await,
        Command::Noop => noop::serve().await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("taghook-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
