//! The workspace as data: its root, its files, its packages and what they depend on.
//!
//! Failures panic with what was tried: there is nobody to handle them in a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::tools;

/// Folders that hold no source of ours.
const SKIPPED: &[&str] = &["target", "node_modules"];

/// The folder that holds the root `Cargo.toml`.
#[must_use]
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// All files below `folder` (relative to the root) whose name ends with `suffix`,
/// relative to the root, sorted. Hidden and generated folders are left out; a
/// missing folder has no files.
#[must_use]
pub fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let root = root();
    let mut found = Vec::new();
    let mut pending = vec![root.join(folder)];
    while let Some(folder) = pending.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                    pending.push(path);
                }
            } else if name.ends_with(suffix) {
                found.push(relative(&root, &path));
            }
        }
    }
    found.sort();
    found
}

/// The text of a file given relative to the root.
#[must_use]
pub fn read(file: &Path) -> String {
    let path = root().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"))
}

/// What a dependency is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Linked into the crate.
    Normal,
    /// Used by its build script.
    Build,
    /// Used by its own tests, examples and benchmarks only.
    Dev,
}

/// One line of a dependency table.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// Package name, also where the crate is renamed.
    pub name: String,
    /// What it is needed for.
    pub kind: Kind,
}

/// A member of the workspace.
#[derive(Debug, Clone)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Its folder, relative to the root.
    pub folder: PathBuf,
    /// What it asks for, not what that pulls in.
    pub dependencies: Vec<Dependency>,
}

/// The members of the workspace as cargo sees them, without any network.
#[must_use]
pub fn packages() -> Vec<Package> {
    let root = root();
    let output = tools::run(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "metadata",
                "--no-deps",
                "--offline",
                "--format-version",
                "1",
            ])
            .current_dir(&root),
    );
    let metadata: Value = serde_json::from_str(&output)
        .unwrap_or_else(|error| panic!("cargo metadata printed no JSON: {error}"));
    array(&metadata, "packages")
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(text(package, "manifest_path"));
            let folder = manifest.parent().unwrap_or(&manifest);
            Package {
                name: text(package, "name"),
                folder: relative(&root, folder),
                dependencies: array(package, "dependencies")
                    .iter()
                    .map(dependency)
                    .collect(),
            }
        })
        .collect()
}

fn dependency(value: &Value) -> Dependency {
    let kind = match value["kind"].as_str() {
        None => Kind::Normal,
        Some("build") => Kind::Build,
        Some("dev") => Kind::Dev,
        Some(other) => panic!("cargo metadata knows a dependency kind {other:?} that we do not"),
    };
    Dependency {
        name: text(value, "name"),
        kind,
    }
}

fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    match &value[field] {
        Value::Array(items) => items,
        other => panic!("cargo metadata: {field} is not a list but {other}"),
    }
}

fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::String(text) => text.clone(),
        other => panic!("cargo metadata: {field} is not a text but {other}"),
    }
}

fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}
