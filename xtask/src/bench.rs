//! `cargo xtask bench`: what the release server can do, and what it costs.

use crate::check::cargo_command;
use crate::run::{Show, command, step};
use crate::{Outcome, postgres, root};

/// Where results go, beside the build.
const FOLDER: &str = "target/bench";

/// Builds the release server and the program that measures it, and runs that.
///
/// # Errors
/// If either can't be built, or the measuring fails.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    std::fs::create_dir_all(root().join(FOLDER))?;
    let all = ["speed".to_owned(), "--json".to_owned(), format!("{FOLDER}/speed.json")];
    measure(if arguments.is_empty() { &all } else { arguments })
}

/// Builds the release server and harms it under load, for a while.
///
/// # Errors
/// If it can't be built, or if anything was lost.
pub(crate) fn crash_test(seconds: u64, harms: &str) -> Outcome {
    measure(&["crash", "--seconds", &seconds.to_string(), "--harms", harms].map(str::to_owned))
}

fn measure(arguments: &[String]) -> Outcome {
    step("postgresql", postgres::install)?;
    let mut build = cargo_command();
    build.args(["build", "--locked", "--release", "--package", "taghook", "--package", "taghook-bench"]);
    step("release build", || command(&mut build, Show::Always))?;
    let mut bench = cargo_command();
    bench.args(["run", "--locked", "--release", "--package", "taghook-bench", "--"]).args(arguments);
    command(&mut bench, Show::Always)
}
