//! `cargo xtask test`: everything that a change must pass.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::run::{Show, command, step};
use crate::tools::{BUF, CARGO_DENY, GRPCURL, STANDARD_WEBHOOKS, STANDARD_WEBHOOKS_GO, STANDARD_WEBHOOKS_JS, node};
use crate::{Outcome, debian, generate, postgres, root, stubs};

const BASELINE: &str = "proto/baseline.binpb";

/// The integration tests on SQLite that start programs which only [`install`] brings.
const NEED_TOOLS: [&str; 2] = ["links::browser::", "signing::libraries_of_several_languages"];

/// Runs all checks, the quick ones first, and stops at the first that fails.
///
/// # Errors
/// The failed command and its output.
pub(crate) fn run() -> Outcome {
    install()?;
    format_and_generated_files()?;
    step("buf lint", || buf(&["lint", "proto"]))?;
    step("buf breaking", breaking_changes)?;
    step("deny", deny)?;
    step("clippy", clippy)?;
    step("docs", docs)?;
    stubs::run()?;
    step("tests", tests)
}

/// Checks a change during daily work: format, generated files, clippy, unit tests, and the integration tests on SQLite. Needs
/// the Rust toolchain alone.
///
/// # Errors
/// The failed command and its output.
pub(crate) fn run_quick() -> Outcome {
    format_and_generated_files()?;
    step("clippy", clippy)?;
    step("unit tests", || cargo(&["test", "--locked", "--workspace", "--lib", "--bins"], Show::OnFailure))?;
    step("tests on SQLite", || {
        let mut arguments =
            vec!["test", "--locked", "--package", "taghook", "--test", "it", "--", "::sqlite", "tidy::"];
        arguments.extend(NEED_TOOLS.iter().flat_map(|test| ["--skip", test]));
        cargo(&arguments, Show::Always)
    })
}

fn format_and_generated_files() -> Outcome {
    step("format", || cargo(&["fmt", "--all", "--check"], Show::OnFailure))?;
    step("generated files", || generate::run(true))
}

fn clippy() -> Outcome {
    let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    cargo(&arguments, Show::OnFailure)
}

/// Installs what the checks need.
///
/// # Errors
/// If something can't be installed: what to do.
pub(crate) fn install() -> Outcome {
    step("tools", || {
        for tool in [BUF, CARGO_DENY, GRPCURL, STANDARD_WEBHOOKS, STANDARD_WEBHOOKS_JS, STANDARD_WEBHOOKS_GO] {
            tool.installed()?;
        }
        node().map(|_| ())
    })?;
    step("postgresql", postgres::install)?;
    step("chromium", debian::install_browser)?;
    step("libfaketime", debian::install_clock)
}

/// Makes the API as it is now what later changes are compared with.
///
/// # Errors
/// If the protos can't be built.
pub(crate) fn write_baseline() -> Outcome {
    build_image(BASELINE)?;
    println!("wrote {BASELINE}");
    Ok(())
}

fn breaking_changes() -> Outcome {
    if !root().join(BASELINE).is_file() {
        return Err(format!("{BASELINE} is missing; `cargo xtask baseline` writes it").into());
    }
    // An image is compared with an image: the folder would be two, one for each module of buf.yaml.
    let image = "target/xtask/api.binpb";
    build_image(image)?;
    buf(&["breaking", image, "--against", BASELINE, "--exclude-imports", "--config", "proto/buf.yaml"])
}

fn build_image(file: &str) -> Outcome {
    if let Some(folder) = root().join(file).parent() {
        std::fs::create_dir_all(folder)?;
    }
    buf(&["build", "proto", "--path", "proto/taghook", "--exclude-source-info", "--output", file])
}

fn deny() -> Outcome {
    let mut deny = Command::new(CARGO_DENY.installed()?);
    deny.current_dir(root()).args(["--locked", "check", "bans", "licenses", "sources"]);
    command(&mut deny, Show::OnFailure)
}

fn docs() -> Outcome {
    let mut doc = cargo_command();
    // For those who work on it: with the private items, which the overviews link to.
    doc.args(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    command(&mut doc, Show::OnFailure)
}

/// All tests, among them the integration tests, which start their PostgreSQL themselves.
fn tests() -> Outcome {
    let mut test = cargo_command();
    test.args(["test", "--locked", "--workspace"]).env("PATH", path_with(&[&GRPCURL.installed()?, &node()?])?);
    command(&mut test, Show::Always)
}

fn buf(arguments: &[&str]) -> Outcome {
    let mut buf = Command::new(BUF.installed()?);
    command(buf.current_dir(root()).args(arguments), Show::OnFailure)
}

fn cargo(arguments: &[&str], show: Show) -> Outcome {
    command(cargo_command().args(arguments), show)
}

/// Cargo, in the repository's folder and without what `cargo run` says of this program.
pub(crate) fn cargo_command() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    for (name, _) in env::vars_os() {
        let about_this_program = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| about_this_program.iter().any(|start| name.starts_with(start))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// PATH with the folders of programs in front.
pub(crate) fn path_with(programs: &[&Path]) -> Result<OsString, Box<dyn Error>> {
    let mut folders: Vec<_> = programs.iter().filter_map(|program| program.parent()).map(Path::to_path_buf).collect();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    Ok(env::join_paths(folders)?)
}
