//! `cargo xtask bench`: what a built server can do, and what it costs.

use crate::check::cargo_command;
use crate::run::{Show, command, step};
use crate::{Outcome, postgres, root};

/// Where results go, beside the build.
const FOLDER: &str = "target/bench";
/// The profile that programs are measured in, if nothing else is said; it is also what the one that measures expects.
const RELEASE: &str = "release";

/// Builds the server by a profile and the program that measures it, and runs that.
///
/// # Errors
/// If either can't be built, or the measuring fails.
pub(crate) fn run(profile: &str, arguments: &[String]) -> Outcome {
    std::fs::create_dir_all(root().join(FOLDER))?;
    let all = ["speed".to_owned(), "--json".to_owned(), format!("{FOLDER}/speed.json")];
    measure(profile, if arguments.is_empty() { &all } else { arguments })
}

/// Builds the release server and harms it under load, for a while.
///
/// # Errors
/// If it can't be built, or if anything was lost.
pub(crate) fn crash_test(seconds: u64, harms: &str) -> Outcome {
    measure(RELEASE, &["crash", "--seconds", &seconds.to_string(), "--harms", harms].map(str::to_owned))
}

fn measure(profile: &str, arguments: &[String]) -> Outcome {
    step("postgresql", postgres::install)?;
    let mut build = cargo_command();
    build.args(["build", "--locked", "--package", "taghook", "--profile", profile]);
    step("build of the server", || command(&mut build, Show::Always))?;
    let mut bench = cargo_command();
    bench.args(["run", "--locked", "--package", "taghook-bench", "--profile", RELEASE, "--"]).args(arguments);
    if profile != RELEASE {
        bench.args(["--server", &format!("target/{profile}/taghook")]);
    }
    command(&mut bench, Show::Always)
}
