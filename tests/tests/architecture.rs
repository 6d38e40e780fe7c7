//! The rules of the design that a compiler does not check: who depends on whom, who
//! knows which library, and who may read clock, environment and randomness. Rules for
//! tests and files are in `house_rules.rs`.
//!
//! Exceptions are listed here with their reason. The lists may only shrink: an entry
//! that no longer excuses anything fails too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use coretex_tests::problems::Problems;
use coretex_tests::rules::{self, Finding, Rule};
use coretex_tests::sources::{parse, product_sources};
use coretex_tests::workspace::{self, Kind};

/// `coretexd -> {api, cap} -> engine -> {store, bus} -> core`; `api, cap -> proto`;
/// `cli -> {sdk-rust, core}`, `sdk-rust -> proto`. Each crate with those of ours it may be linked with.
const ARROWS: &[(&str, &[&str])] = &[
    ("coretex-core", &[]),
    ("coretex-proto", &[]),
    ("coretex-store", &["coretex-core"]),
    ("coretex-bus", &["coretex-core"]),
    (
        "coretex-engine",
        &["coretex-core", "coretex-store", "coretex-bus"],
    ),
    (
        "coretex-api",
        &["coretex-core", "coretex-engine", "coretex-proto"],
    ),
    (
        "coretex-cap",
        &["coretex-core", "coretex-engine", "coretex-proto"],
    ),
    // Composes the server, so it names every engine of every contract.
    (
        "coretexd",
        &[
            "coretex-core",
            "coretex-store",
            "coretex-bus",
            "coretex-engine",
            "coretex-api",
            "coretex-cap",
        ],
    ),
    ("coretex", &["coretex-proto"]),
    // The kernel's pure half checks and tests bundles without a server, exactly as a server does.
    ("coretexctl", &["coretex", "coretex-core"]),
];

/// Crates that measure or test the whole and are part of nothing.
const FREE: &[&str] = &[
    "coretex-tests",
    "coretex-testbench",
    "coretex-simulation",
    "coretex-bench",
];

/// Development dependencies may go further down than the arrows (an API test builds
/// its engine on a store), never up; except these: crate, dependency, reason.
const UPWARD_IN_TESTS: &[(&str, &str, &str)] = &[(
    "coretex-engine",
    "coretex-testbench",
    "the engine's tests and the simulation share one bench",
)];

/// Who may know a library, free crates included. A name that ends with `*` is a prefix.
const KNOWN_BY: &[(&str, &[&str])] = &[
    ("redb", &["coretex-store"]),
    ("redis", &["coretex-store", "coretex-cap"]),
    ("deadpool-redis", &["coretex-store", "coretex-cap"]),
    ("deadpool", &["coretex-store"]),
    ("async-nats", &["coretex-bus", "coretex-cap"]),
    ("prost*", PROTOBUF),
    ("tonic*", PROTOBUF),
    ("protox*", PROTOBUF),
];
const PROTOBUF: &[&str] = &[
    "coretex-api",
    "coretex-cap",
    "coretex",
    "coretex-proto",
    "coretex-tests",
    "coretex-bench",
];

/// Crates that know a library all the same: crate, library, reason.
const KNOWN_ANYWAY: &[(&str, &str, &str)] = &[];

/// What the source of a crate may not do. Nothing below `coretexd` reads the clock, the
/// environment or randomness; no library prints or exits; `core` does no I/O either.
const FORBIDDEN: &[(&str, &[Rule])] = &[
    (
        "coretex-core",
        &[
            Rule::Clock,
            Rule::Environment,
            Rule::Randomness,
            Rule::Process,
            Rule::Io,
        ],
    ),
    ("coretex-store", SERVER),
    ("coretex-bus", SERVER),
    ("coretex-engine", SERVER),
    ("coretex-api", SERVER),
    ("coretex-cap", SERVER),
    ("coretex-proto", SERVER),
    // Runs in the processes of others, where time is real.
    ("coretex", &[Rule::Environment, Rule::Process]),
];
const SERVER: &[Rule] = &[
    Rule::Clock,
    Rule::Environment,
    Rule::Randomness,
    Rule::Process,
];

/// Source that breaks a rule all the same: file, rule, reason.
const EXCUSED: &[(&str, Rule, &str)] = &[];

#[test]
fn crates_depend_along_the_arrows() {
    let mut wrong = Problems::default();
    let packages = workspace::packages();
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for package in &packages {
        if FREE.contains(&package.name.as_str()) {
            continue;
        }
        let Some(allowed) = arrows(&package.name) else {
            wrong.add(&format!("{} has no line in ARROWS", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let excused = || {
                UPWARD_IN_TESTS
                    .iter()
                    .any(|(from, excused, _)| *from == package.name && *excused == to)
            };
            let fine = match dependency.kind {
                Kind::Normal | Kind::Build => allowed.contains(&to),
                Kind::Dev => below(&package.name).contains(to) || to == package.name || excused(),
            };
            if ours.contains(to) && !fine {
                wrong.add(&format!(
                    "{} depends on {to} ({:?})",
                    package.name, dependency.kind
                ));
            }
        }
    }
    for (from, to, _) in UPWARD_IN_TESTS {
        let used = packages.iter().any(|package| {
            package.name == *from
                && package
                    .dependencies
                    .iter()
                    .any(|d| d.name == *to && d.kind == Kind::Dev)
        });
        if !used || below(from).contains(to) {
            wrong.add(&format!(
                "UPWARD_IN_TESTS: {from} -> {to} excuses nothing any more"
            ));
        }
    }
    wrong.none();
}

#[test]
fn the_arrows_have_no_cycle() {
    for (name, _) in ARROWS {
        assert!(!below(name).contains(name), "{name} is below itself");
    }
}

#[test]
fn a_library_is_known_only_where_it_belongs() {
    let mut wrong = Problems::default();
    let mut excuses_used = BTreeSet::new();
    for package in workspace::packages() {
        for dependency in package.dependencies.iter().filter(|d| d.kind != Kind::Dev) {
            let Some((_, known_by)) = KNOWN_BY
                .iter()
                .find(|(name, _)| matches(name, &dependency.name))
            else {
                continue;
            };
            let excuse = KNOWN_ANYWAY
                .iter()
                .find(|(name, library, _)| *name == package.name && *library == dependency.name);
            if known_by.contains(&package.name.as_str()) {
                continue;
            } else if let Some(excuse) = excuse {
                excuses_used.insert(*excuse);
            } else {
                wrong.add(&format!(
                    "{} knows {}; only {known_by:?} may",
                    package.name, dependency.name
                ));
            }
        }
    }
    for excuse in KNOWN_ANYWAY
        .iter()
        .filter(|excuse| !excuses_used.contains(*excuse))
    {
        wrong.add(&format!(
            "KNOWN_ANYWAY: {} -> {} excuses nothing any more",
            excuse.0, excuse.1
        ));
    }
    wrong.none();
}

#[test]
fn nothing_below_the_server_reads_clock_environment_or_randomness() {
    let mut wrong = Problems::default();
    let mut excuses_used = BTreeSet::new();
    for package in workspace::packages() {
        let Some((_, forbidden)) = FORBIDDEN.iter().find(|(name, _)| *name == package.name) else {
            continue;
        };
        for (file, source) in product_sources(&package) {
            for Finding { rule, line, name } in rules::findings(&source) {
                let file = file.display().to_string();
                if !forbidden.contains(&rule) {
                    continue;
                } else if let Some(at) = EXCUSED
                    .iter()
                    .position(|(path, excused, _)| *path == file && *excused == rule)
                {
                    excuses_used.insert(at);
                } else {
                    wrong.add(&format!(
                        "{file}:{line}: `{name}` {rule}; let the caller pass it in"
                    ));
                }
            }
        }
    }
    for (at, (file, rule, _)) in EXCUSED.iter().enumerate() {
        if !excuses_used.contains(&at) {
            wrong.add(&format!("EXCUSED: {file} no longer {rule}"));
        }
    }
    wrong.none();
}

fn arrows(name: &str) -> Option<&'static [&'static str]> {
    ARROWS
        .iter()
        .find(|(from, _)| *from == name)
        .map(|(_, to)| *to)
}

/// All crates that can be reached along the arrows.
fn below(name: &str) -> BTreeSet<&'static str> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<&str> = vec![name];
    while let Some(next) = pending.pop() {
        for to in arrows(next).unwrap_or_default() {
            if reached.insert(*to) {
                pending.push(to);
            }
        }
    }
    reached
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[test]
fn the_scanner_sees_the_whole_workspace() {
    // A rule that looks at nothing holds always.
    let packages = workspace::packages();
    for package in &packages {
        assert!(
            !product_sources(package).is_empty(),
            "{} has no sources",
            package.name
        );
    }
    for (name, _) in FORBIDDEN.iter().filter(|(name, _)| *name != "coretex-cap") {
        assert!(
            packages.iter().any(|package| package.name == *name),
            "{name} is not there"
        );
    }
    let clock = |finding: &Finding| finding.rule == Rule::Clock;
    let reads_it = parse(Path::new("tests/src/poll.rs"));
    assert!(
        rules::findings(&reads_it).iter().any(clock),
        "a clock that is read is not seen"
    );
    assert!(fs::exists(workspace::root().join("proto/coretex/v1")).is_ok_and(|there| there));
}
