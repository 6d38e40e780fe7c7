//! What source code may not do: which names read the clock, the environment or
//! randomness, do I/O, leave the process, or sleep.
//!
//! Which crates a rule holds for is decided where it is applied, in
//! `tests/architecture.rs`. The scanner is strict and easy to reason about rather
//! than complete: a name that hides behind a re-export of another crate of ours is
//! found there, at the re-export.

use std::fmt;

use crate::source::{Function, Role, Source, Token, TokenKind, Use, functions, uses};

/// A kind of thing that some code may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Reads the time of the machine; virtual time (`tokio::time`) is not meant.
    Clock,
    /// Reads environment variables, arguments, folders or names of the machine.
    Environment,
    /// Uses randomness that no seed determines.
    Randomness,
    /// Touches files, network, processes, threads or a runtime.
    Io,
    /// Prints or ends the process.
    Process,
    /// Waits for time to pass instead of for a condition.
    Sleep,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Rule::Clock => "reads the clock",
            Rule::Environment => "reads the environment",
            Rule::Randomness => "uses randomness",
            Rule::Io => "does I/O",
            Rule::Process => "prints or exits",
            Rule::Sleep => "sleeps",
        })
    }
}

/// A name that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The line, counted from 1.
    pub line: usize,
    /// The name, resolved.
    pub name: String,
}

/// Paths that break a rule, with everything below them.
const PATHS: &[(&str, Rule)] = &[
    // A value of it exists only where somebody read the clock.
    ("std::time::Instant", Rule::Clock),
    ("std::time::SystemTime::now", Rule::Clock),
    ("std::time::SystemTime::elapsed", Rule::Clock),
    ("std::time::*", Rule::Clock),
    ("std::*", Rule::Clock),
    ("rustix::time", Rule::Clock),
    ("quanta", Rule::Clock),
    ("std::env", Rule::Environment),
    ("dirs", Rule::Environment),
    ("dotenvy", Rule::Environment),
    ("hostname", Rule::Environment),
    ("gethostname", Rule::Environment),
    ("rand", Rule::Randomness),
    ("getrandom", Rule::Randomness),
    ("fastrand", Rule::Randomness),
    ("ring::rand", Rule::Randomness),
    ("std::hash::RandomState", Rule::Randomness),
    ("std::collections::hash_map::RandomState", Rule::Randomness),
    ("std::fs", Rule::Io),
    ("std::net", Rule::Io),
    ("std::os", Rule::Io),
    ("std::process", Rule::Io),
    ("std::thread", Rule::Io),
    ("std::io::stdin", Rule::Io),
    ("tokio", Rule::Io),
    ("std::io::stdout", Rule::Process),
    ("std::io::stderr", Rule::Process),
    ("std::process::exit", Rule::Process),
    ("std::process::abort", Rule::Process),
    ("std::thread::sleep", Rule::Sleep),
    ("std::thread::park_timeout", Rule::Sleep),
    ("tokio::time::sleep", Rule::Sleep),
    ("tokio::time::sleep_until", Rule::Sleep),
];

/// Parts of `rand` that do nothing that their seed does not determine.
const SEEDED: &[&str] = &[
    "rand::Rng",
    "rand::RngCore",
    "rand::SeedableRng",
    "rand::distr",
    "rand::rngs::SmallRng",
    "rand::rngs::StdRng",
    "rand::seq",
];

/// Last segments of a path, or method names, that break a rule wherever they come from.
const NAMES: &[(&str, Rule)] = &[
    ("now_utc", Rule::Clock),
    ("now_local", Rule::Clock),
    ("now_v1", Rule::Clock),
    ("now_v6", Rule::Clock),
    ("now_v7", Rule::Clock),
    ("clock_gettime", Rule::Clock),
    ("gettimeofday", Rule::Clock),
    ("getenv", Rule::Environment),
    ("new_v4", Rule::Randomness),
    ("thread_rng", Rule::Randomness),
    ("from_entropy", Rule::Randomness),
    ("from_os_rng", Rule::Randomness),
    ("try_from_os_rng", Rule::Randomness),
    ("OsRng", Rule::Randomness),
    ("SysRng", Rule::Randomness),
    ("ThreadRng", Rule::Randomness),
];

/// Macros that break a rule.
const MACROS: &[(&str, Rule)] = &[
    ("print", Rule::Process),
    ("println", Rule::Process),
    ("eprint", Rule::Process),
    ("eprintln", Rule::Process),
    ("dbg", Rule::Process),
];

/// Variables that cargo sets for every build of a crate alike.
const BUILD_VARIABLES: &[&str] = &["CARGO_PKG_NAME", "CARGO_PKG_VERSION", "OUT_DIR"];

/// What the shipped part of a file does that breaks any rule but [`Rule::Sleep`].
#[must_use]
pub fn findings(source: &Source) -> Vec<Finding> {
    let tokens = &source.product;
    let uses = uses(tokens, &[tokens]);
    // `.elapsed()` reads the clock on a system time, not on an instant of tokio.
    let knows_system_time = uses.iter().any(|used| {
        matches!(
            used.path.get(2).map(String::as_str),
            Some("SystemTime" | "UNIX_EPOCH")
        )
    });
    let mut found: Vec<Finding> = uses
        .iter()
        .flat_map(|used| {
            let elapsed = used.role == Role::Method && used.path[0] == "elapsed";
            let clock = (elapsed && knows_system_time).then_some(Rule::Clock);
            rules(used)
                .into_iter()
                .chain(clock)
                .map(|rule| finding(rule, used))
        })
        .filter(|found| found.rule != Rule::Sleep)
        .collect();
    found.sort_by_key(|found| found.line);
    found.dedup();
    found
}

/// Where the test part of a file sleeps for real. Virtual time may be slept: in a test
/// that says `start_paused = true`, and in functions that only such tests reach.
///
/// A file of tests (`all_tests`) is test code without being marked.
#[must_use]
pub fn sleeps(source: &Source, all_tests: bool) -> Vec<Finding> {
    let mut tokens = source.test.clone();
    if all_tests {
        tokens.extend_from_slice(&source.product);
    }
    let scope: [&[Token]; 2] = [&source.product, &source.test];
    let functions = functions(&tokens);
    let mut found: Vec<Finding> = Vec::new();
    for used in uses(&tokens, &scope) {
        // A paused clock does not stop a thread, so this is wrong even as an import.
        if rules(&used).contains(&Rule::Sleep) && used.path[0] == "std" {
            found.push(finding(Rule::Sleep, &used));
        }
    }
    for function in &functions {
        if only_in_virtual_time(function, &functions) {
            continue;
        }
        for used in uses(function.tokens, &scope) {
            if rules(&used).contains(&Rule::Sleep) {
                found.push(finding(Rule::Sleep, &used));
            }
        }
    }
    found.sort_by_key(|found| found.line);
    found.dedup();
    found
}

/// Whether tests reach a function, and only those whose time is virtual. Reached is
/// what is named: too much rather than too little.
fn only_in_virtual_time(function: &Function<'_>, all: &[Function<'_>]) -> bool {
    let mut reached_by = vec![function];
    let mut next = 0;
    while let Some(callee) = reached_by.get(next).copied() {
        let callers = all.iter().filter(|caller| names(caller, callee.name));
        for caller in callers.collect::<Vec<_>>() {
            if !reached_by.iter().any(|known| std::ptr::eq(*known, caller)) {
                reached_by.push(caller);
            }
        }
        next += 1;
    }
    let mut tests = reached_by
        .iter()
        .flat_map(|function| &function.attributes)
        .filter(|attribute| attribute.starts_with("#[test]") || attribute.contains("::test"))
        .peekable();
    tests.peek().is_some() && tests.all(|attribute| attribute.contains("start_paused=true"))
}

fn names(function: &Function<'_>, name: &str) -> bool {
    // Without its own name, which comes second.
    let mut inside = function.tokens.iter().skip(2);
    inside.any(|token| matches!(&token.kind, TokenKind::Ident(ident) if ident == name))
}

fn finding(rule: Rule, used: &Use) -> Finding {
    let mut name = used.path.join("::");
    match &used.role {
        Role::Macro(argument) => {
            name = format!("{name}!({})", argument.as_deref().unwrap_or_default());
        }
        Role::Method => name = format!(".{name}()"),
        Role::Path => {}
    }
    Finding {
        rule,
        line: used.line,
        name,
    }
}

/// The rules that one use of a name breaks.
fn rules(used: &Use) -> Vec<Rule> {
    let path = used.path.join("::");
    let last = used.path.last().map(String::as_str).unwrap_or_default();
    let named = NAMES
        .iter()
        .filter(|(name, _)| *name == last)
        .map(|(_, rule)| *rule);
    match &used.role {
        Role::Macro(argument) if last == "env" => {
            let known = argument
                .as_deref()
                .is_some_and(|name| BUILD_VARIABLES.contains(&name));
            if known {
                Vec::new()
            } else {
                vec![Rule::Environment]
            }
        }
        Role::Macro(_) => MACROS
            .iter()
            .filter(|(name, _)| *name == last)
            .map(|(_, rule)| *rule)
            .collect(),
        Role::Method => named.collect(),
        Role::Path => {
            let seeded = SEEDED.iter().any(|seeded| is_below(&path, seeded));
            let below = PATHS
                .iter()
                .filter(|(forbidden, _)| is_below(&path, forbidden) && used.path.len() > 1)
                .map(|(_, rule)| *rule)
                .filter(|rule| !(seeded && *rule == Rule::Randomness));
            let now = (last == "now" && !may_be_called_now(&used.path)).then_some(Rule::Clock);
            below.chain(named).chain(now).collect()
        }
    }
}

fn is_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `now` of virtual time, of our own crates (which obey the same rule), or a plain
/// name, which is a variable or a function of the same file.
fn may_be_called_now(path: &[String]) -> bool {
    let root = path[0].as_str();
    path.len() == 1
        || path.starts_with(&["tokio".to_owned(), "time".to_owned()])
        || matches!(root, "Self" | "self" | "super" | "crate")
        || root.starts_with("coretex")
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
mod tests {
    use super::*;
    use crate::source::parse;

    fn found(text: &str) -> Vec<Rule> {
        let mut rules: Vec<Rule> = findings(&parse(text).unwrap())
            .into_iter()
            .map(|found| found.rule)
            .collect();
        rules.dedup();
        rules
    }

    fn slept(text: &str) -> usize {
        sleeps(&parse(text).unwrap(), true).len()
    }

    #[test]
    fn reading_the_clock_is_found() {
        for text in [
            "fn f() { std::time::SystemTime::now(); }",
            "use std::time::SystemTime; fn f() { SystemTime::now(); }",
            "use std::time::{self, Duration}; fn f() { time::SystemTime::now(); }",
            "use std::time as t; fn f() -> u8 { t::Instant::now() }",
            "use std::time::Instant as Tick; fn f() { Tick::now(); }",
            "use std::time::*; fn f() { Instant::now(); }",
            "fn f() { ::std::time::Instant::now(); }",
            "fn f() { m!(a, std::time::Instant::now()) }",
            "const F: fn() -> T = std::time::SystemTime::now;",
            "use std::time::UNIX_EPOCH; fn f() { UNIX_EPOCH.elapsed(); }",
            "use chrono::Utc; fn f() { Utc::now(); }",
            "fn f() { jiff::Timestamp::now(); }",
            "use jiff::Zoned; fn f() { Zoned::now(); }",
            "use uuid::Uuid; fn f() { Uuid::now_v7(); }",
            "fn f() { time::OffsetDateTime::now_utc(); }",
            "mod a { pub(crate) fn f() { std::time::Instant::now(); } }",
            "#[cfg(not(test))] fn f() { std::time::Instant::now(); }",
            "pub use std::time::Instant;",
        ] {
            assert!(found(text).contains(&Rule::Clock), "not found in: {text}");
        }
    }

    #[test]
    fn reading_the_environment_is_found() {
        for text in [
            "fn f() { std::env::var(\"HOME\"); }",
            "use std::env; fn f() { env::args(); }",
            "use std::{env::temp_dir, fmt};",
            "fn f() { env!(\"HOME\"); }",
            "fn f() { std::env!(\"HOME\"); }",
            "fn f() { dirs::home_dir(); }",
        ] {
            assert!(
                found(text).contains(&Rule::Environment),
                "not found in: {text}"
            );
        }
    }

    #[test]
    fn randomness_without_a_seed_is_found() {
        for text in [
            "fn f() { rand::random::<u8>(); }",
            "fn f() { rand::rng(); }",
            "use rand::thread_rng;",
            "use rand::prelude::*;",
            "use rand::{Rng, rngs::StdRng}; fn f() { StdRng::from_os_rng(); }",
            "use uuid::Uuid; fn f() { Uuid::new_v4(); }",
            "fn f() { getrandom::fill(b); }",
            "use std::hash::{BuildHasher, RandomState};",
            "use rand::rngs::OsRng;",
        ] {
            assert!(
                found(text).contains(&Rule::Randomness),
                "not found in: {text}"
            );
        }
    }

    #[test]
    fn input_output_and_process_ends_are_found() {
        for text in [
            "use std::fs::File;",
            "fn f() { std::net::lookup(); }",
            "use tokio::sync::X;",
        ] {
            assert!(found(text).contains(&Rule::Io), "not found in: {text}");
        }
        for text in [
            "fn f() { println!(\"x\"); }",
            "fn f() { std::process::exit(1); }",
            "use std::io; fn f() { writeln!(io::stderr(), \"x\"); }",
        ] {
            assert!(found(text).contains(&Rule::Process), "not found in: {text}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_found() {
        for text in [
            "use std::time::{Duration, SystemTime, UNIX_EPOCH}; fn f(t: SystemTime) {}",
            "use core::time::Duration;",
            "fn now(&self) -> Time { self.clock.now() }",
            "fn f(now: Time) { g(now); Self::now(); }",
            "use coretex_core::Clock; fn f(c: &dyn Clock) { Clock::now(c); }",
            "fn f() { env!(\"CARGO_PKG_VERSION\"); include!(concat!(env!(\"OUT_DIR\"), \"/x.rs\")); }",
            "fn f() { option_env!(\"COMMIT\"); }",
            "use rand::{Rng, SeedableRng, rngs::StdRng}; fn f(s: u64) { StdRng::seed_from_u64(s); }",
            "/// `std::time::Instant::now()`\nfn f() {} // std::env::var(\"X\")",
            "fn f() { let s = \"std::env::var\"; }",
            "#[cfg(test)] mod tests { use std::time::Instant; fn f() { Instant::now(); } }",
            "#[test] fn f() { std::env::var(\"X\"); }",
            "fn f(env: u8, rand: u8) { env + rand }",
        ] {
            assert_eq!(found(text), [], "found in: {text}");
        }
        let virtual_time = "use tokio::time::Instant; fn f() { Instant::now().elapsed(); }";
        assert_eq!(
            found(virtual_time),
            [Rule::Io],
            "tokio is I/O, but its time is no clock"
        );
    }

    #[test]
    fn a_finding_names_the_line_and_the_resolved_name() {
        let source = parse("use std::time::{\n  SystemTime,\n};\nfn f() {\n  SystemTime::now()\n}");
        let expected = Finding {
            rule: Rule::Clock,
            line: 5,
            name: "std::time::SystemTime::now".to_owned(),
        };
        assert_eq!(findings(&source.unwrap()), [expected]);
    }

    #[test]
    fn sleeping_in_tests_is_found() {
        assert_eq!(slept("#[test] fn f() { std::thread::sleep(d); }"), 1);
        assert_eq!(
            slept("use std::thread; fn helper() { thread::sleep(d); }"),
            1
        );
        assert_eq!(
            slept("use tokio::time; #[tokio::test] async fn f() { time::sleep(d).await }"),
            1
        );
        let source = parse("fn f() { std::thread::sleep(d); } #[cfg(test)] mod t { fn g() {} }");
        assert_eq!(
            sleeps(&source.unwrap(), false),
            [],
            "product code is not a test"
        );
    }

    #[test]
    fn virtual_time_may_be_slept() {
        let paused =
            "#[tokio::test(start_paused = true)] async fn f() { tokio::time::sleep(d).await; g() }";
        let helper = "async fn g() { tokio::time::sleep(d).await }";
        let real = "#[tokio::test] async fn h() { between() } fn between() { g() }";
        assert_eq!(slept(paused), 0);
        assert_eq!(slept(&format!("{paused} {helper}")), 0);
        assert_eq!(slept(&format!("{paused} {helper} {real}")), 1);
        assert_eq!(
            slept(&format!(
                "{paused} {helper} #[tokio::test] async fn i() {{}}"
            )),
            0
        );
        assert_eq!(slept(helper), 1, "nobody says in which time it runs");
        assert_eq!(
            slept("#[tokio::test(start_paused = true)] async fn f() { std::thread::sleep(d) }"),
            1
        );
    }
}
