//! Compiles `proto/` into server stubs, a descriptor set and a table of the methods, all in `OUT_DIR`.
//!
//! protox compiles the files, so that no protoc is needed.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_reflect::{DescriptorPool, MethodDescriptor};

const PROTO_ROOT: &str = "proto";
const INCLUDES: [&str; 2] = [PROTO_ROOT, "proto/third_party"];
const API_PACKAGE: &str = "taghook.v1";
const API_PACKAGE_DIR: &str = "proto/taghook/v1";
const ACCESS_OPTION: &str = "taghook.v1.access";

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
    fs::write(out_dir.join("methods.rs"), methods(&compiler.descriptor_pool())?)?;

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

/// The methods of the API as Rust code: an entry of the table `METHODS` for each, and an implementation of `Repeatable`
/// for each request with a `request_id`.
fn methods(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let services = pool.services().filter(|service| service.package_name() == API_PACKAGE);
    let methods: Vec<MethodDescriptor> = services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    let mut code = String::from("pub(super) const METHODS: &[Method] = &[\n");
    for method in &methods {
        let (service, name) = (method.parent_service().full_name().to_owned(), method.name());
        let access = access(pool, method)?;
        let is_stream = method.is_server_streaming() || method.is_client_streaming();
        writeln!(code, "Method {{ path: \"/{service}/{name}\", access: Access::{access}, is_stream: {is_stream} }},")?;
    }
    code.push_str("];\n");
    for method in methods.iter().filter(|method| method.input().get_field_by_name("request_id").is_some()) {
        let (service, input) = (method.parent_service().name().to_owned(), method.input());
        writeln!(code, "repeatable!({} = \"{service}/{}\");", input.name(), method.name())?;
    }
    Ok(code)
}

/// The name of a method's access as a variant of the server's `Access`.
fn access(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<&'static str, Box<dyn Error>> {
    let extension = pool.get_extension_by_name(ACCESS_OPTION).ok_or("there is no option (taghook.v1.access)")?;
    let options = method.options();
    let number = options.get_extension(&extension).as_enum_number().unwrap_or_default();
    Ok(match number {
        1 => "AnyKey",
        2 => "Scope(Scope::Read)",
        3 => "Scope(Scope::Write)",
        4 => "Scope(Scope::Admin)",
        5 => "Root",
        _ => return Err(format!("{} has no option (taghook.v1.access): who may call it?", method.full_name()).into()),
    })
}

/// All proto files under `dir`, sorted, so that the output doesn't depend on the file system's order.
fn proto_files(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
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
