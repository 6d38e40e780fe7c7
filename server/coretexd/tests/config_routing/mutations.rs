//! Nothing that anybody can write makes the loader stumble.

use coretexd::config::dump::dump;
use proptest::prelude::*;

use crate::{FULL, load_bytes, tables};

/// What is put into a good file at some place.
fn mutation() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "[",
        "]",
        "[[",
        "]]",
        "=",
        ".",
        ",",
        "\"",
        "'",
        "'''",
        "\"\"\"",
        "{",
        "}",
        "\n",
        "\r\n",
        "\r",
        "#",
        "*",
        ">",
        "\\",
        "\\u0000",
        "\u{0}",
        "\u{feff}",
        "ä",
        "🦀",
        "0x",
        "1e9",
        "-",
        "nan",
        "true",
        "1979-05-27",
        "topics",
        "[topics]",
        "[pools.x]",
        "weight = 0",
        "[tenants.\"*\"]",
        "job.a",
        "''",
    ]);
    prop_oneof![words.prop_map(str::to_owned), ".{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_file_it_loads_or_says_where_it_is_wrong(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..20, mutation()), 1..4),
    ) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, removed, added) in changes {
            let start = at.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
        }
        let text: String = text.into_iter().collect();
        let folder = tempfile::tempdir().unwrap();
        match load_bytes(folder.path(), text.as_bytes()) {
            Ok(loaded) => {
                prop_assert_eq!(tables(&dump(&loaded)), loaded.config.routing);
            }
            Err(error) => {
                prop_assert!(!error.problems.is_empty());
                let file = format!("{}/c.toml:", folder.path().display());
                for problem in &error.problems {
                    let place = problem.place.strip_prefix(&file);
                    prop_assert!(place.is_some(), "{}", error);
                    let (line, column) = place.unwrap_or_default().split_once(':').unwrap();
                    let (line, column): (usize, usize) = (line.parse().unwrap(), column.parse().unwrap());
                    let found = text.split('\n').nth(line - 1);
                    prop_assert!(found.is_some(), "{}", error);
                    // One behind the end is where something is missing.
                    let width = found.unwrap_or_default().chars().count() + 1;
                    prop_assert!((1..=width).contains(&column), "{}", error);
                    prop_assert!(!problem.message.is_empty());
                }
            }
        }
    }
}
