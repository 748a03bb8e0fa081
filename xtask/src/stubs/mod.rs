//! `cargo xtask stubs`: the stubs that users of other languages generate, made and compiled.
//!
//! `proto/buf.gen.yaml` says what is generated. `tests/stubs/<language>` holds what a language needs to compile it.

mod names;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::check::path_with;
use crate::run::{Show, command, find, step};
use crate::tools::{
    BUF, PROTOC, STUBS_GO, STUBS_GO_GRPC, STUBS_JAVA_GRPC, STUBS_PYTHON, STUBS_TYPESCRIPT, go, maven, node,
};
use crate::{Outcome, root};

/// Where the stubs are generated and compiled, a folder for each language.
const OUT: &str = "target/stubs";

/// Generates the stubs of all languages, reads them for clashes of names, and compiles those of Python, TypeScript, Go and
/// Java.
///
/// # Errors
/// If something can't be generated or compiled, if a name clashes, or if the validation rules reach the users.
pub(crate) fn run() -> Outcome {
    install()?;
    let out = root().join(OUT);
    step("stubs", || generate(&out))?;
    step("names of stubs", || names::check(&out))?;
    step("python", || compile_python(&out.join("python")))?;
    step("typescript", || compile_typescript(&out.join("typescript")))?;
    step("go", || compile_go(&out.join("go")))?;
    step("java", || compile_java(&out.join("java")))
}

/// Installs the generators and the compilers.
///
/// # Errors
/// If one can't be installed: what to do.
pub(crate) fn install() -> Outcome {
    step("generators", || {
        for tool in [BUF, STUBS_PYTHON, STUBS_TYPESCRIPT, STUBS_GO, STUBS_GO_GRPC, PROTOC, STUBS_JAVA_GRPC] {
            tool.installed()?;
        }
        node()?;
        go().map(|_| ())
    })
}

/// Generates the stubs of all languages into a folder, which is emptied before.
///
/// # Errors
/// If a generator is missing or fails.
fn generate(out: &Path) -> Outcome {
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    let mut generate = Command::new(BUF.installed()?);
    generate
        .args(["generate", "--template", "proto/buf.gen.yaml", "--output"])
        .arg(out)
        .current_dir(root())
        .env("PATH", plugins()?)
        .env("PYTHONPATH", python_packages()?);
    command(&mut generate, Show::OnFailure)
}

/// PATH with the plugins that `proto/buf.gen.yaml` names.
fn plugins() -> Result<OsString, Box<dyn Error>> {
    let tools = [STUBS_TYPESCRIPT, STUBS_GO, STUBS_GO_GRPC, PROTOC, STUBS_JAVA_GRPC];
    let mut programs = tools.into_iter().map(crate::tools::Tool::installed).collect::<Result<Vec<_>, _>>()?;
    programs.push(root().join("xtask/plugins/protoc-gen-grpc-python"));
    programs.push(node()?);
    path_with(&programs.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

/// The folder of the Python packages that generate the stubs and run them.
fn python_packages() -> Result<PathBuf, Box<dyn Error>> {
    let package = STUBS_PYTHON.installed()?;
    Ok(package.ancestors().nth(2).ok_or("grpcio-tools has no folder")?.to_path_buf())
}

/// Imports the stubs, and lets gRPC take the service config.
fn compile_python(stubs: &Path) -> Outcome {
    let path = std::env::join_paths([stubs, &python_packages()?])?;
    for (script, argument) in [("check.py", stubs), ("service_config.py", &root().join("client/service_config.json"))] {
        let mut python = Command::new(find("python3").ok_or("python3 is needed to run the stubs")?);
        python.arg(root().join("tests/stubs/python").join(script)).arg(argument).env("PYTHONPATH", &path);
        command(&mut python, Show::OnFailure)?;
    }
    Ok(())
}

fn compile_typescript(stubs: &Path) -> Outcome {
    copy_project("typescript", stubs)?;
    let generator = STUBS_TYPESCRIPT.installed()?;
    let modules = generator.ancestors().nth(2).ok_or("the packages of npm have no folder")?;
    symlink(modules, stubs.join("node_modules"))?;
    let mut compiler = Command::new(node()?);
    compiler.arg(modules.join("typescript/bin/tsc")).args(["--project", "."]).current_dir(stubs);
    command(&mut compiler, Show::OnFailure)
}

fn compile_go(stubs: &Path) -> Outcome {
    copy_project("go", stubs)?;
    for chore in ["build", "vet"] {
        command(Command::new(go()?).args([chore, "./..."]).current_dir(stubs), Show::OnFailure)?;
    }
    Ok(())
}

fn compile_java(stubs: &Path) -> Outcome {
    copy_project("java", stubs)?;
    command(maven()?.arg("compile").current_dir(stubs), Show::OnFailure)
}

/// Copies what compiles the stubs of a language to them.
fn copy_project(language: &str, stubs: &Path) -> Outcome {
    for file in fs::read_dir(root().join("tests/stubs").join(language))? {
        let file = file?;
        fs::copy(file.path(), stubs.join(file.file_name()))?;
    }
    Ok(())
}
