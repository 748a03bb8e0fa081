//! The committed files that are generated from `proto/`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use prost_reflect::{DescriptorPool, MethodDescriptor};
use prost_types::MethodOptions;
use prost_types::method_options::IdempotencyLevel;
use serde_json::json;

use crate::{Outcome, root};

const API_PACKAGE: &str = "taghook.v1";
/// The deadline of a call that has none of its own.
const CALL_TIMEOUT: &str = "10s";
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
    for file in generated()? {
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

/// Everything that is generated from the protos.
fn generated() -> Result<Vec<Generated>, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([root().join("proto"), root().join("proto/third_party")])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(proto_files(&root().join("proto/taghook/v1"))?)?;
    let methods = methods(&compiler.descriptor_pool());
    Ok(vec![
        Generated { path: "client/rust/src/gen/taghook.v1.rs", content: rust_stubs(&compiler)? },
        Generated { path: "client/rust/src/gen/methods.rs", content: rust_methods(&methods)? },
        Generated { path: "client/service_config.json", content: service_config(&methods) },
    ])
}

/// The stubs of the Rust client.
fn rust_stubs(compiler: &protox::Compiler) -> Result<String, Box<dyn Error>> {
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
    Ok(format!("{HEADER}{stubs}"))
}

/// All methods of the API, in the order of the files.
fn methods(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    let services = pool.services().filter(|service| service.package_name() == API_PACKAGE);
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// When a client may send a request of a method twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// Always: the method changes nothing.
    Always,
    /// If the request has a `request_id`.
    WithRequestId,
    /// Never.
    Never,
    /// The method is a stream.
    Stream,
}

fn repeat(method: &MethodDescriptor) -> Repeat {
    if method.is_server_streaming() || method.is_client_streaming() {
        return Repeat::Stream;
    }
    let options = method.method_descriptor_proto().options.as_ref();
    match options.map(MethodOptions::idempotency_level) {
        Some(IdempotencyLevel::NoSideEffects) => Repeat::Always,
        Some(IdempotencyLevel::Idempotent) => Repeat::WithRequestId,
        Some(IdempotencyLevel::IdempotencyUnknown) | None => Repeat::Never,
    }
}

/// What the Rust client knows of the methods.
fn rust_methods(methods: &[MethodDescriptor]) -> Result<String, Box<dyn Error>> {
    let mut code = format!(
        "{HEADER}use super::Method;\nuse crate::v1;\nuse prost::Message;\n\n/// The method at a path.\n\
         pub(super) fn at(path: &str) -> Method {{\n    match path {{\n"
    );
    for method in methods {
        let input = method.input().name().to_owned();
        let known = match repeat(method) {
            Repeat::Always => "Method::Read".to_owned(),
            Repeat::WithRequestId => format!("repeatable!({input})"),
            Repeat::Never => "Method::Write(|_| false)".to_owned(),
            Repeat::Stream => continue,
        };
        let service = method.parent_service().full_name().to_owned();
        writeln!(code, "        \"/{service}/{}\" => {known},", method.name())?;
    }
    code.push_str("        _ => Method::Other,\n    }\n}\n");
    Ok(code)
}

/// The gRPC service config: clients repeat what was UNAVAILABLE where that is safe. A client that sends no request ids
/// must leave the methods that take one out.
fn service_config(methods: &[MethodDescriptor]) -> String {
    let names = |is_wanted: fn(Repeat) -> bool| {
        let wanted = methods.iter().filter(|method| is_wanted(repeat(method)));
        wanted
            .map(|method| json!({ "service": method.parent_service().full_name(), "method": method.name() }))
            .collect::<Vec<_>>()
    };
    let repeated = names(|repeat| matches!(repeat, Repeat::Always | Repeat::WithRequestId));
    let others = names(|repeat| repeat == Repeat::Never);
    let config = json!({
        "methodConfig": [
            {
                "name": repeated,
                "timeout": CALL_TIMEOUT,
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "10s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
            { "name": others, "timeout": CALL_TIMEOUT },
        ],
    });
    format!("{config:#}\n")
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
