//! The Rust files of a package, parsed, and which of them only tests see.

use std::path::{Path, PathBuf};

use crate::source::{self, Source};
use crate::workspace::{self, Package};

/// All Rust files of a package, relative to the root.
#[must_use]
pub fn rust_files(package: &Package) -> Vec<PathBuf> {
    let folder = package.folder.display().to_string();
    workspace::files(&folder, ".rs")
}

/// A file given relative to the root, split into product and test code.
///
/// # Panics
/// When it cannot be read or is not made of Rust tokens.
#[must_use]
pub fn parse(file: &Path) -> Source {
    source::parse(&workspace::read(file))
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The files under `src` that are compiled without `cfg(test)`.
#[must_use]
pub fn product_sources(package: &Package) -> Vec<(PathBuf, Source)> {
    let only_for_tests = test_modules(package);
    rust_files(package)
        .into_iter()
        .filter(|file| file.starts_with(package.folder.join("src")))
        .filter(|file| !only_for_tests.iter().any(|test| file.starts_with(test)))
        .map(|file| {
            let source = parse(&file);
            (file, source)
        })
        .collect()
}

/// Files and folders of modules that only tests see (`#[cfg(test)] mod name;`).
#[must_use]
pub fn test_modules(package: &Package) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in rust_files(package) {
        let folder = file.parent().unwrap_or(&file);
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let children = match name.as_ref() {
            "lib" | "main" | "mod" => folder.to_path_buf(),
            name => folder.join(name),
        };
        for module in parse(&file).test_modules {
            found.push(children.join(format!("{module}.rs")));
            found.push(children.join(module));
        }
    }
    found
}
