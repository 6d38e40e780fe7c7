//! Generates Python, TypeScript and Go from `proto/`, compiles them with the strictest
//! settings their users have, and compares what they send.
//!
//! It proves that no name in the contract hurts in these languages, and that all of
//! them mean the same bytes. Clients for these languages are not tested here.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use coretex_proto::v1;
use coretex_tests::{tools, workspace};
use prost::Message;
use tempfile::TempDir;

#[test]
fn python_type_checks_and_sends_the_same() {
    let (Some(generated), Some([python, mypy, _])) = (
        generate("python"),
        tools::find_all(["python-tools", "mypy", "protoc-gen-mypy_grpc"]),
    ) else {
        return;
    };
    let folder = generated.path().join("python");
    // The generator of stubs is built into the Python package and no plugin for buf.
    tools::run(
        tools::command(&python, &workspace::root())
            .args(["-m", "grpc_tools.protoc", "-I", "proto", "-I", "proto-deps"])
            .arg(format!("--grpc_python_out={}", folder.display()))
            .arg(format!("--mypy_grpc_out={}", folder.display()))
            .args(workspace::files("proto/coretex", "_service.proto")),
    );
    copy_smoke("python", &folder);
    tools::run(tools::command(&mypy, &folder).arg("."));
    let sent = tools::run(tools::command(&python, &folder).args(["-B", "smoke.py"]));
    assert_eq!(sent.trim(), request());
}

#[test]
fn typescript_compiles_and_sends_the_same() {
    let (Some(generated), Some([tsc, plugin, node])) = (
        generate("typescript"),
        tools::find_all(["tsc", "protoc-gen-es", "node"]),
    ) else {
        return;
    };
    let folder = generated.path().join("typescript");
    copy_smoke("typescript", &folder);
    // The packages are where the plugin is: `node_modules/.bin/protoc-gen-es`.
    let plugin = fs::canonicalize(plugin).unwrap();
    let modules = plugin
        .ancestors()
        .find(|path| path.ends_with("node_modules"))
        .unwrap();
    symlink(modules, folder.join("node_modules")).unwrap();
    tools::run(tools::command(&tsc, &folder).args(["--project", "."]));
    let sent = tools::run(tools::command(&node, &folder).arg("out/smoke.js"));
    assert_eq!(sent.trim(), request());
}

#[test]
fn go_compiles_and_sends_the_same() {
    let (Some(generated), Some(go)) = (generate("go"), tools::find("go")) else {
        return;
    };
    let folder = generated.path().join("go");
    copy_smoke("go", &folder);
    let go_command = |arguments: &[&str]| {
        let mut command = tools::command(&go, &folder);
        command
            .args(arguments)
            .env("GOFLAGS", "-mod=readonly -buildvcs=false");
        // What `scripts/setup` downloaded; a test needs no network.
        command
            .env("GOMODCACHE", workspace::root().join(".tools/go"))
            .env("GOPROXY", "off");
        tools::run(&mut command)
    };
    go_command(&["vet", "./..."]);
    go_command(&["build", "./coretex/..."]);
    assert_eq!(go_command(&["run", "."]).trim(), request());
}

/// Generates all languages with the template of the repository into a new folder, or
/// nothing where a generator is missing.
fn generate(language: &str) -> Option<TempDir> {
    let [buf, ..] = tools::find_all([
        "buf",
        "protoc-gen-es",
        "protoc-gen-go",
        "protoc-gen-go-grpc",
        "protoc-gen-mypy",
        "python-tools",
    ])?;
    let folder = tempfile::tempdir().unwrap();
    tools::run(
        tools::command(&buf, &workspace::root())
            .args(["generate", "proto", "--output"])
            .arg(folder.path()),
    );
    assert!(
        folder.path().join(language).is_dir(),
        "buf.gen.yaml makes no {language}"
    );
    Some(folder)
}

/// Puts the small program of a language beside the generated code.
fn copy_smoke(language: &str, folder: &Path) {
    let smoke = workspace::root().join("tests/languages").join(language);
    let files: Vec<PathBuf> = fs::read_dir(smoke)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!files.is_empty());
    for file in files.iter().filter(|file| file.is_file()) {
        fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
    }
}

/// The request that the small programs make, as hexadecimal digits.
fn request() -> String {
    let request = v1::SubmitJobRequest {
        topic: "job.echo".to_owned(),
        input: Some(v1::Payload {
            data: Some(v1::payload::Data::Raw(b"hello".to_vec().into())),
            ..Default::default()
        }),
        priority: v1::JobPriority::Critical.into(),
        idempotency_key: "smoke".to_owned(),
        wait: Some(prost_types::Duration {
            seconds: 2,
            nanos: 0,
        }),
        max_redispatch: Some(0),
        ..Default::default()
    };
    hex::encode(request.encode_to_vec())
}
