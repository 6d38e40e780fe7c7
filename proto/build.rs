//! Compiles the contract: Rust types for the crate, and the descriptor set for reflection.
//!
//! The compiler is protox, so no `protoc` is needed. The descriptor set is taken from protox's own
//! encoding, because only that keeps the options of methods (prost-types drops extensions).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the `.proto` files are, relative to this crate: ours, and those that are not ours.
const INCLUDES: [&str; 2] = [".", "../proto-deps"];

/// Public files that clients of reflection need although no file of ours imports them: they
/// describe the details of errors.
const EXTRA_FILES: [&str; 2] = ["google/rpc/code.proto", "google/rpc/error_details.proto"];

/// Messages that hold secrets. Their `Debug` is written by hand and hides them.
const SECRETIVE: [&str; 2] = [
    ".coretex.v1.CreateApiKeyResponse",
    ".coretex.v1.ServerAssignment",
];

/// Parts of oneofs that are much larger than their siblings: without a box, every small message
/// of a session would take their space.
const BOXED: [&str; 3] = [
    ".coretex.v1.OpenSessionRequest.message.hello",
    ".coretex.v1.OpenSessionRequest.message.result",
    ".coretex.v1.OpenSessionResponse.message.assignment",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=coretex");
    println!("cargo::rerun-if-changed=../proto-deps");

    let files = proto_files(&root)?;
    let mut compiler = protox::Compiler::new(INCLUDES.map(|dir| root.join(dir)))?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    // Source info is what becomes the documentation of the generated types.
    generate(compiler.file_descriptor_set())?;

    // A server sends the descriptors to clients of reflection and keeps them in memory: without
    // source info they are a third of the size.
    compiler
        .include_source_info(false)
        .open_files(EXTRA_FILES)?;
    fs::write(
        out.join("coretex_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    Ok(())
}

/// Every `.proto` file below `coretex`, sorted, so that the result does not depend on the order
/// of the file system.
fn proto_files(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    let mut dirs = vec![root.join("coretex")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn generate(descriptors: tonic_prost_build::FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // Payloads are passed on without being copied.
    config.bytes(["."]);
    // Sorted maps make encoding deterministic: equal messages have equal bytes.
    config.btree_map(["."]);
    config.extern_path(".google.rpc", "::tonic_types::pb");
    config.skip_debug(SECRETIVE);
    for path in BOXED {
        config.boxed(path);
    }
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
