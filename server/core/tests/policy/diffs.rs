//! What changed between bundles.

use coretex_core::policy::Bundle;
use coretex_core::policy::diff::{BundleDiff, Change, RuleDiff, diff};

fn bundle(text: &str) -> Bundle {
    Bundle::parse(text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

#[test]
fn only_what_changed_is_told() {
    let old = bundle(
        "version: 1\ndefault_decision: deny\ntenants: {a: {deny: [job.x]}, b: {}}\ncounters: [{id: c, key: principal, window: 1h}]\nrules:\n  - {id: one, decision: allow, reason: x}\n  - {id: two, decision: deny}\n  - {id: three, decision: deny}\n  - {id: four, decision: deny}\n",
    );
    let new = bundle(
        "version: 1\ndefault_decision: allow\ntenants: {a: {deny: [job.y]}, d: {}}\ncounters: [{id: c, key: tenant, window: 1h}]\nrules:\n  - {id: four, decision: deny}\n  - {id: one, decision: require_approval, reason: x, when: 'true'}\n  - {id: three, decision: deny}\n  - {id: five, decision: deny}\n",
    );
    let same = bundle("version: 1\nrules: []\n");
    let written_otherwise = bundle("{\"rules\": [], \"version\": 1}");
    let changes = diff(
        &[("main", &old), ("same", &same), ("gone", &same)],
        &[("main", &new), ("same", &written_otherwise), ("new", &same)],
    );
    let names: Vec<(&str, Change)> = changes
        .iter()
        .map(|d| (d.bundle_id.as_str(), d.change))
        .collect();
    assert_eq!(
        names,
        [
            ("gone", Change::Removed),
            ("main", Change::Changed),
            ("new", Change::Added)
        ]
    );
    let rule = |id: &str, change, keys: &[&str]| RuleDiff {
        rule_id: id.to_owned(),
        change,
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    assert_eq!(
        changes[1],
        BundleDiff {
            bundle_id: "main".to_owned(),
            change: Change::Changed,
            keys: vec!["default_decision".to_owned()],
            tenants: vec![
                ("a".to_owned(), Change::Changed),
                ("b".to_owned(), Change::Removed),
                ("d".to_owned(), Change::Added),
            ],
            counters: vec![("c".to_owned(), Change::Changed)],
            rules: vec![
                rule("five", Change::Added, &[]),
                rule("one", Change::Changed, &["decision", "when"]),
                rule("two", Change::Removed, &[]),
            ],
            moved: vec!["four".to_owned()],
        }
    );
}

#[test]
fn rules_that_change_places_are_told() {
    let rules = |ids: &[(&str, i32)]| {
        let rules: String = ids
            .iter()
            .map(|(id, priority)| {
                format!("  - {{id: {id}, priority: {priority}, decision: deny}}\n")
            })
            .collect();
        bundle(&format!("version: 1\nrules:\n{rules}"))
    };
    let old = rules(&[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0)]);
    let new = rules(&[("b", 0), ("c", 0), ("a", 0), ("e", 0), ("d", 0)]);
    let changes = diff(&[("x", &old)], &[("x", &new)]);
    assert_eq!(changes[0].moved.len(), 2, "{changes:?}");
    assert!(changes[0].moved.contains(&"a".to_owned()));
    // Where the order in the file means nothing, nothing moved.
    let old = rules(&[("a", 1), ("b", 2)]);
    let new = rules(&[("b", 2), ("a", 1)]);
    let changes = diff(&[("x", &old)], &[("x", &new)]);
    assert!(changes[0].moved.is_empty() && changes[0].rules.is_empty());
    assert!(diff(&[("x", &old)], &[("x", &old)]).is_empty());
}
