//! The committed files that are generated from `proto/`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Outcome, root};

const HEADER: &str = "// Generated from proto/ by `cargo xtask gen`. Do not edit.\n";

/// A generated file: where it is committed, under the repository's folder, and what it must hold.
#[derive(Debug)]
struct Generated {
    path: &'static str,
    content: String,
}

/// Writes the generated files, or only compares them with what is there.
///
/// # Errors
/// If a proto file is wrong, or if `check` finds a difference.
pub(crate) fn run(check: bool) -> Outcome {
    let mut stale = Vec::new();
    for file in [rust_client()?] {
        let path = root().join(file.path);
        if fs::read_to_string(&path).is_ok_and(|present| present == file.content) {
            continue;
        }
        if check {
            stale.push(file.path);
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, file.content)?;
        println!("wrote {}", file.path);
    }
    if stale.is_empty() {
        Ok(())
    } else {
        Err(format!("not what proto/ says: {}; run `cargo xtask gen`", stale.join(", ")).into())
    }
}

/// The stubs of the Rust client.
fn rust_client() -> Result<Generated, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([root().join("proto"), root().join("proto/third_party")])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(proto_files(&root().join("proto/taghook/v1"))?)?;

    // Written aside, since the generator also writes the packages that ours imports.
    let aside = root().join("target/xtask/gen");
    fs::create_dir_all(&aside)?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]).enable_type_names().extern_path(".google.rpc", "::tonic_types::pb");
    tonic_prost_build::configure()
        .build_server(false)
        .out_dir(&aside)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    let stubs = fs::read_to_string(aside.join("taghook.v1.rs"))?;
    Ok(Generated { path: "client/rust/src/gen/taghook.v1.rs", content: format!("{HEADER}{stubs}") })
}

/// The proto files in a folder, sorted, so that the output doesn't depend on the file system's order.
fn proto_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
