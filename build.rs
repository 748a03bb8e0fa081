//! Compiles `proto/` into server stubs and a descriptor set, both in `OUT_DIR`.
//!
//! protox compiles the files, so that no protoc is needed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const PROTO_ROOT: &str = "proto";
const INCLUDES: [&str; 2] = [PROTO_ROOT, "proto/third_party"];
const API_PACKAGE_DIR: &str = "proto/taghook/v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    // The folder stands for files that are added or removed.
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    for file in proto_files(Path::new(PROTO_ROOT))? {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(INCLUDES)?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(proto_files(Path::new(API_PACKAGE_DIR))?)?;

    // Encoded by protox: a round trip through prost-types would drop the extension options, and with them the rules.
    let descriptor_set = compiler.encode_file_descriptor_set();
    fs::write(out_dir.join("descriptor_set.binpb"), &descriptor_set)?;

    let mut config = prost_build::Config::new();
    config
        .bytes(["."])
        // Ordered maps, so that equal messages have equal encodings.
        .btree_map(["."])
        // The name finds a message's validation rules.
        .enable_type_names()
        .extern_path(".google.rpc", "::tonic_types::pb");
    tonic_prost_build::configure()
        .build_client(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

/// All proto files under `dir`, sorted, so that the output doesn't depend on the file system's order.
fn proto_files(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
