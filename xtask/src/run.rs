//! Running commands, one line a step.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Outcome;

/// Where a step's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Shown only if the step fails.
    OnFailure,
    /// Shown as it comes.
    Always,
}

/// Runs one step: its name, then how long it took. A failure carries the command and its output.
///
/// # Errors
/// Whatever the step ends with.
pub(crate) fn step(name: &str, run: impl FnOnce() -> Outcome) -> Outcome {
    print!("{name:<16}");
    io::stdout().flush()?;
    let start = Instant::now();
    let outcome = run();
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!(" {verdict} in {:.1} s", start.elapsed().as_secs_f64());
    outcome
}

/// Runs a command to its end.
///
/// # Errors
/// If it can't be started or ends with a failure: the command and, unless it was shown, its output.
pub(crate) fn command(command: &mut Command, show: Show) -> Outcome {
    command.stdin(Stdio::null());
    if show == Show::Always {
        println!();
        let status = command.status().map_err(|error| cannot_start(command, &error))?;
        return if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", line(command)).into()) };
    }
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let shown = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(format!("{} ended with {}\n{}", line(command), output.status, String::from_utf8_lossy(&shown)).into())
}

/// The first program of that name on PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn cannot_start(command: &Command, error: &io::Error) -> Box<dyn Error> {
    format!("{} can't be started: {error}", line(command)).into()
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    words.join(" ")
}
