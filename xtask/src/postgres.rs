//! PostgreSQL for the integration tests, which start one of their own: only its programs must be there.

use std::fs;
use std::path::PathBuf;

use crate::run::find;
use crate::{Outcome, debian};

/// Installs PostgreSQL with Debian's package manager if its programs aren't there.
///
/// # Errors
/// If they aren't there and can't be installed: what to do.
pub(crate) fn install() -> Outcome {
    if programs().is_some() {
        return Ok(());
    }
    debian::install("postgresql", "PostgreSQL is needed for the tests; install it so that initdb is on PATH")?;
    programs().map(|_| ()).ok_or_else(|| "postgresql was installed but has no initdb".into())
}

/// `initdb`, where Debian has it or on PATH.
fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    debian.map(|version| version.path().join("bin/initdb")).find(|file| file.is_file()).or_else(|| find("initdb"))
}
