//! The house rules that a compiler does not check: versions and lints from one place,
//! tests that wait for conditions, none that is ignored, files that can be read at a
//! sitting. Who may depend on what is in `architecture.rs`.
//!
//! Exceptions are listed here with their reason. The lists may only shrink: an entry
//! that no longer excuses anything fails too.

use std::collections::BTreeSet;

use coretex_tests::problems::Problems;
use coretex_tests::rules::{self, Finding};
use coretex_tests::source;
use coretex_tests::sources::{parse, rust_files, test_modules};
use coretex_tests::workspace;

/// Test code that sleeps for real: file, reason.
const MAY_SLEEP: &[(&str, &str)] = &[
    (
        "tests/testbench/src/lib.rs",
        "time passes: all tests of the engine run in virtual time",
    ),
    (
        "tests/src/poll.rs",
        "the pause between two looks at a condition",
    ),
];

/// No Rust file is longer without a reason in its header.
const LONG: usize = 500;
const LONG_REASON: &str = "Over 500 lines because";
/// No proto file is longer.
const LONG_PROTO: usize = 300;

#[test]
fn versions_and_lints_come_from_the_root() {
    let mut wrong = Problems::default();
    for package in workspace::packages() {
        let file = package.folder.join("Cargo.toml");
        let manifest: toml::Table = workspace::read(&file)
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let from_root = |value: &toml::Value| value.get("workspace").and_then(toml::Value::as_bool);
        if manifest.get("lints").and_then(from_root) != Some(true) {
            wrong.add(&format!(
                "{}: [lints] is not `workspace = true`",
                file.display()
            ));
        }
        for table in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let dependencies = manifest.get(table).and_then(toml::Value::as_table);
            for (name, value) in dependencies.into_iter().flatten() {
                // A package names itself to switch on features for its own tests.
                if *name == package.name {
                    continue;
                }
                if from_root(value) != Some(true) {
                    wrong.add(&format!(
                        "{}: {table}.{name} is not `workspace = true`",
                        file.display()
                    ));
                }
            }
        }
    }
    wrong.none();
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let mut wrong = Problems::default();
    let mut excuses_used = BTreeSet::new();
    for package in workspace::packages() {
        let tests_only = ["coretex-tests", "coretex-testbench", "coretex-simulation"]
            .contains(&package.name.as_str());
        let only_for_tests = test_modules(&package);
        for file in rust_files(&package) {
            let in_source = file.starts_with(package.folder.join("src"));
            // Suites are library code that only tests call.
            let is_suite = file.components().any(|part| {
                let part = part.as_os_str().to_string_lossy();
                part.starts_with("conformance") || part.starts_with("suite")
            });
            let all_tests = tests_only
                || !in_source
                || is_suite
                || only_for_tests.iter().any(|test| file.starts_with(test));
            // Benchmarks and build scripts are no tests.
            if !in_source && !file.starts_with(package.folder.join("tests")) {
                continue;
            }
            for Finding { line, name, .. } in rules::sleeps(&parse(&file), all_tests) {
                let file = file.display().to_string();
                if MAY_SLEEP.iter().any(|(excused, _)| *excused == file) {
                    excuses_used.insert(file);
                } else {
                    wrong.add(&format!(
                        "{file}:{line}: `{name}`; wait with coretex_tests::poll or in virtual time"
                    ));
                }
            }
        }
    }
    for (file, _) in MAY_SLEEP
        .iter()
        .filter(|(file, _)| !excuses_used.contains(*file))
    {
        wrong.add(&format!("MAY_SLEEP: {file} no longer sleeps"));
    }
    wrong.none();
}

#[test]
fn no_test_is_ignored() {
    let mut wrong = Problems::default();
    for package in workspace::packages() {
        for file in rust_files(&package) {
            let source = parse(&file);
            for (attribute, line) in source::attributes(&source.product)
                .into_iter()
                .chain(source::attributes(&source.test))
            {
                let conditional = attribute.starts_with("#[cfg_attr(");
                let ignored = attribute.starts_with("#[ignore]")
                    || attribute.starts_with("#[ignore=")
                    || (conditional && attribute.contains(",ignore"));
                // A documentation example that is not compiled will be wrong one day.
                let example = attribute.starts_with("#[doc=") && attribute.contains("```ignore");
                if ignored || example {
                    wrong.add(&format!("{}:{line}: {attribute}", file.display()));
                }
            }
        }
    }
    wrong.none();
}

#[test]
fn long_files_say_why() {
    let mut wrong = Problems::default();
    for file in workspace::files("", ".rs") {
        let text = workspace::read(&file);
        let header = text.lines().take_while(|line| line.starts_with("//!"));
        let lines = text.lines().count();
        if lines > LONG && !header.clone().any(|line| line.contains(LONG_REASON)) {
            wrong.add(&format!(
                "{}: {lines} lines; split it or say `//! {LONG_REASON} ...`",
                file.display()
            ));
        }
    }
    for file in workspace::files("proto", ".proto") {
        let lines = workspace::read(&file).lines().count();
        if lines > LONG_PROTO {
            wrong.add(&format!(
                "{}: {lines} lines, at most {LONG_PROTO}",
                file.display()
            ));
        }
    }
    wrong.none();
}
