//! Programs that come from Debian's package manager.

use std::error::Error;
use std::fs;
use std::process::Command;

use crate::Outcome;
use crate::run::{Show, command, find};

/// Installs Chromium, which follows links in a test, if it isn't there.
///
/// # Errors
/// If it isn't there and can't be installed: what to do.
pub(crate) fn install_browser() -> Outcome {
    if find("chromium").is_some() {
        return Ok(());
    }
    install("chromium", "Chromium is needed for the tests; install it so that `chromium` is on PATH")?;
    find("chromium").map(|_| ()).ok_or_else(|| "chromium was installed but isn't on PATH".into())
}

/// Installs Maven and a Java compiler, which compile the Java stubs, if they aren't there.
///
/// # Errors
/// If they aren't there and can't be installed: what to do.
pub(crate) fn install_java() -> Outcome {
    for (program, package) in [("javac", "default-jdk-headless"), ("mvn", "maven")] {
        if find(program).is_none() {
            let advice = format!("`{program}` is needed for the Java stubs; install it so that it is on PATH");
            install(package, &advice)?;
        }
    }
    Ok(())
}

/// Installs libfaketime, which steps the clock of a server in a test, if it isn't there.
///
/// # Errors
/// If it isn't there and can't be installed: what to do.
pub(crate) fn install_clock() -> Outcome {
    let mut folders = fs::read_dir("/usr/lib")?.flatten();
    if folders.any(|folder| folder.path().join("faketime/libfaketimeMT.so.1").is_file()) {
        return Ok(());
    }
    install("libfaketime", "libfaketime is needed for the tests; install it where Debian has it")
}

/// Installs a package.
///
/// # Errors
/// If it can't be installed: the advice.
pub(crate) fn install(package: &str, advice: &str) -> Outcome {
    apt_get(&["update"], advice)?;
    apt_get(&["install", "--yes", "--no-install-recommends", package], advice)
}

fn apt_get(arguments: &[&str], advice: &str) -> Outcome {
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
