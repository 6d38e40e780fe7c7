//! Names of entries and of pools, and sections that are none.

use crate::{load_text, refused, tables};

#[test]
fn names_of_entries_are_checked() {
    let pattern = "the name must be `job.` followed by dotted tokens of letters, digits, `_` and \
                   `-`, `*` for any one token, or `>` at the end for the rest";
    for name in ["a", "jobs.a", "job.a*", "job..a", "a b"] {
        let found = refused(&format!("[topics.'{name}']\n"));
        let path = match name {
            "a" => "topics.a".to_owned(),
            name => format!("topics.\"{name}\""),
        };
        assert_eq!(found, [format!("1:9: `{path}`: {pattern}")]);
    }
    assert_eq!(
        refused("[topics.'job.>.a']\n"),
        ["1:9: `topics.\"job.>.a\"`: the name may have `>` only as its last token"]
    );
    assert_eq!(
        refused("[pools.'a.b']\n[tenants.'']\n[tenants.'job.*']\n"),
        [
            "1:8: `pools.\"a.b\"`: the name may hold only letters, digits, `_` and `-`",
            "2:10: `tenants.\"\"`: the name must not be empty",
            "3:10: `tenants.\"job.*\"`: the name may hold only letters, digits, `_` and `-`",
        ]
    );
    // Dots without quotes make sections of sections.
    let error = load_text("[topics.job.a]\npools = ['p']\n").unwrap_err();
    assert_eq!(error.problems.len(), 1);
    assert_eq!(
        error.problems[0].message,
        "`topics.job` is no pattern of topics"
    );
    let hint = error.problems[0].hint.as_deref();
    assert_eq!(
        hint,
        Some("patterns stand in quotes: `[topics.\"job.a.*\"]`")
    );
    assert!(error.problems[0].place.ends_with("c.toml:1:9"));
}

#[test]
fn what_is_no_section_is_told_how_to_be_one() {
    assert_eq!(
        refused("pools = ['a']\ntopics = 5\ntenants = 'x'\n"),
        [
            "1:1: `pools` is a section of entries: write `[pools.NAME]`",
            "2:1: `topics` is a section of entries: write `[topics.\"job.a.*\"]`",
            "3:1: `tenants` is a section of entries: write `[tenants.NAME]`",
        ]
    );
    assert_eq!(
        refused("[[topics]]\n"),
        ["1:3: `topics` is a section of entries: write `[topics.\"job.a.*\"]`"]
    );
    assert_eq!(
        refused("[topics]\n'job.a' = 'gpu'\n"),
        ["2:1: `topics.\"job.a\"` must be a section: write `[topics.\"job.a\"]`"]
    );
    let error = load_text("[pools]\nweight = 5\n").unwrap_err();
    let hint = error.problems[0].hint.as_deref();
    assert_eq!(
        hint,
        Some("`weight` stands inside of an entry such as `[pools.NAME]`")
    );
    assert_eq!(
        refused("[topic.'job.a']\n[pool.a]\n[tenant.a]\n"),
        [
            "1:2: unknown key `topic`; did you mean `topics`?",
            "2:2: unknown key `pool`; did you mean `pools`?",
            "3:2: unknown key `tenant`; did you mean `tenants`?",
        ]
    );
}

#[test]
fn topics_name_only_pools_of_the_table() {
    assert_eq!(
        refused("[topics.'job.a']\npools = ['gpo', 'cpu', 'other']\n[pools.gpu]\n[pools.cpu]\n"),
        [
            "2:10: `topics.\"job.a\".pools[0]` is not in the table of pools; did you mean `gpu`?",
            "2:24: `topics.\"job.a\".pools[2]` is not in the table of pools",
        ]
    );
    // A pool with a mistake in it is there.
    assert_eq!(
        refused("[topics.'job.a']\npools = ['gpu']\n[pools.gpu]\nweight = 0\n"),
        ["4:10: `pools.gpu.weight` must be a whole number from 1 to 1000"]
    );
    // Without a table of pools every name will do.
    tables("[topics.'job.a']\npools = ['gpo']\n");
}

#[test]
fn tables_have_a_most() {
    let entries = |count: usize| -> String {
        let entry = |number| format!("[topics.'job.t{number}']\n");
        (0..count).map(entry).collect()
    };
    assert_eq!(tables(&entries(1_000)).topics().count(), 1_000);
    assert_eq!(
        refused(&entries(1_001)),
        ["1:2: `topics` must have at most 1000 entries"]
    );
}
