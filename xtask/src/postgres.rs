//! PostgreSQL for the integration tests, which start one of their own: only its programs must be there.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::Outcome;
use crate::run::{Show, command, find};

/// Installs PostgreSQL with Debian's package manager if its programs aren't there.
///
/// # Errors
/// If they aren't there and can't be installed: what to do.
pub(crate) fn install() -> Outcome {
    if programs().is_some() {
        return Ok(());
    }
    apt_get(&["update"])?;
    apt_get(&["install", "--yes", "--no-install-recommends", "postgresql"])?;
    programs().map(|_| ()).ok_or_else(|| "postgresql was installed but has no initdb".into())
}

/// `initdb`, where Debian has it or on PATH.
fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    debian.map(|version| version.path().join("bin/initdb")).find(|file| file.is_file()).or_else(|| find("initdb"))
}

fn apt_get(arguments: &[&str]) -> Outcome {
    let advice = "PostgreSQL is needed for the tests; install it so that initdb is on PATH";
    let apt_get = find("apt-get").ok_or(advice)?;
    // `sudo -n` asks no question; as root there may be no sudo at all.
    let mut run = match find("sudo") {
        Some(sudo) => {
            let mut run = Command::new(sudo);
            run.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive"]).arg(apt_get);
            run
        }
        None => Command::new(apt_get),
    };
    run.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
    command(&mut run, Show::OnFailure).map_err(|error| -> Box<dyn Error> { format!("{advice}\n{error}").into() })
}
