//! Files as a whole: duplicates, many mistakes at once, bytes that are no text.

use std::time::{Duration, Instant};

use crate::{load_bytes, load_text, refused};

/// A look at every name for every mistake would take hours.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn duplicates_do_not_hide_what_else_is_wrong() {
    let text = "[topics.'job.a']\ntimeout = '5m'\ntimeout = '6m'\n\n[pools.a]\nweight = 0\n\n\
                [topics.'job.a']\npools = []\n[pools.a]\n";
    assert_eq!(
        refused(text),
        [
            "3:1: duplicate key",
            "6:10: `pools.a.weight` must be a whole number from 1 to 1000",
            "8:9: duplicate key",
            "9:9: `topics.\"job.a\".pools` must name at least one; leave it out for all",
            "10:8: duplicate key",
        ]
    );
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
    let text = "[tenants.t]\nweight = 0\n[limits]\nmax_sesions = 1\n[topics.'a']\ntimeout = 1\n\
                [retention]\njobs = 7\n[pools.p]\nx = 1\n";
    let found = refused(text);
    let places: Vec<&str> = found
        .iter()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    assert_eq!(
        places,
        ["2:10", "4:1", "5:9", "6:11", "8:8", "10:1"],
        "{found:?}"
    );
    // Every broken line is told, and what follows from it is not.
    let found = refused("dev = \nlisten = = 1\n[topics.'job.a']\npool = 1\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(
        found[0].starts_with("1:") && found[1].starts_with("2:"),
        "{found:?}"
    );
    assert!(
        !found.iter().any(|line| line.contains("unknown")),
        "{found:?}"
    );
}

#[test]
fn files_that_are_no_text_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let error = load_bytes(folder.path(), b"dev = true\n# \xc3\xa4 \xff\n").unwrap_err();
    let problem = &error.problems[0];
    assert!(problem.place.ends_with("c.toml:2:5"), "{error}");
    assert_eq!(problem.message, "the file is not UTF-8");
    let error = load_bytes(folder.path(), &vec![b'#'; 16 * 1024 * 1024 + 1]).unwrap_err();
    assert_eq!(error.problems[0].message, "the file is larger than 16MiB");
}

#[test]
fn a_summary_is_one_bounded_line() {
    let text: String = (0..30).map(|number| format!("x{number} = 1\n")).collect();
    let error = load_text(&text).unwrap_err();
    let brief = error.brief();
    assert!(!brief.contains('\n'));
    assert!(brief.contains("c.toml:1:1: unknown key `x0`"), "{brief}");
    assert!(brief.contains("c.toml:20:1"), "{brief}");
    assert!(!brief.contains("c.toml:21:1"), "{brief}");
    assert!(brief.ends_with("; and 10 more"), "{brief}");
}

#[test]
fn a_file_full_of_mistakes_is_told_of_soon() {
    let pools: String = (0..1_000)
        .map(|number| format!("[pools.{number:0>40}]\n"))
        .collect();
    let names: String = (0..1_000)
        .map(|number| format!("'{number:x>40}',\n"))
        .collect();
    let topics: String = (0..100)
        .map(|number| format!("[topics.'job.t{number}']\npools = [\n{names}]\n"))
        .collect();
    let started = Instant::now();
    let found = refused(&(pools + &topics));
    assert_eq!(found.len(), 100_000);
    assert!(found[99_999].starts_with("101299:1: "), "{}", found[99_999]);
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}
