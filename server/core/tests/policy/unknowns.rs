//! What the evaluator does not know: it asks for counters and inputs, and what nobody can know never
//! makes a decision milder.

use std::time::Duration;

use coretex_core::job::McpCall;
use coretex_core::payload::{Content, Payload};
use coretex_core::policy::{Decision, Undecided};
use serde_json::json;

use crate::support::{brief, job, rules, snapshot};

fn decide(bundles: &[&str], case: &crate::support::Case) -> String {
    brief(&case.ask(&snapshot(bundles)).unwrap())
}

#[test]
fn what_cannot_be_evaluated_restricts_and_never_allows() {
    let broken = "when: input.missing > 1";
    let table = [
        ("deny", "", "deny a/r"),
        ("require_approval", "", "require_approval a/r"),
        ("throttle", ", rate: {permits: 1, per: 1s}", "throttle a/r"),
        ("allow", "", "deny -"),
        (
            "allow_with_constraints",
            ", constraints: {redaction_level: full}",
            "deny -",
        ),
    ];
    for (decision, more, wanted) in table {
        let text = rules(&[&format!("id: r, decision: {decision}, {broken}{more}")]);
        // Alone, over a default that denies, a rule that would be milder than it changes nothing.
        let alone = if decision == "deny" { "deny -" } else { wanted };
        let outcome = job("job.x")
            .input(&json!({}))
            .ask(&snapshot(&[&text]))
            .unwrap();
        assert_eq!(outcome.decision, Decision::Deny, "{alone}: {outcome:?}");
        // Beside a vote that allows, it restricts.
        let allow = rules(&["id: ok, decision: allow"]);
        let outcome = job("job.x")
            .input(&json!({}))
            .ask(&snapshot(&[&text, &allow]))
            .unwrap();
        let expected = match decision {
            "allow" => "allow b/ok".to_owned(),
            "allow_with_constraints" => "allow_with_constraints b/ok".to_owned(),
            _ => wanted.to_owned(),
        };
        assert_eq!(brief(&outcome), expected);
        if wanted != "deny -" {
            assert!(
                outcome.reason.contains("could not be evaluated: 1:"),
                "{}",
                outcome.reason
            );
            assert!(
                outcome.reason.contains("input.missing"),
                "{}",
                outcome.reason
            );
        }
        assert_eq!(
            outcome.constraints.is_some(),
            decision == "allow_with_constraints"
        );
    }
}

#[test]
fn a_rule_that_cannot_be_evaluated_hides_no_stricter_one_behind_it() {
    let text = rules(&[
        "id: slow, decision: throttle, rate: {permits: 1, per: 1s}, when: input.missing == 1",
        "id: no, decision: deny",
    ]);
    assert_eq!(
        decide(&[&text], &job("job.x").input(&json!({}))),
        "deny a/no"
    );
    let text = rules(&[
        "id: no, decision: deny, when: input.missing == 1",
        "id: ok, decision: allow",
    ]);
    assert_eq!(
        decide(&[&text], &job("job.x").input(&json!({}))),
        "deny a/no"
    );
    assert_eq!(
        decide(&[&text], &job("job.x").input(&json!({"missing": 2}))),
        "allow a/ok"
    );
}

#[test]
fn counters_are_asked_for_when_a_rule_that_reads_them_is_reached() {
    let text = "version: 1\ncounters:\n  - {id: mine, key: principal, window: 1h}\n  - {id: all, key: \"'all'\", window: 1d}\n  - {id: odd, key: labels.missing, window: 1d}\nrules:\n  - {id: small, match: {topics: [job.small]}, decision: allow}\n  - {id: many, decision: deny, when: history.mine >= 3}\n  - {id: busy, decision: deny, when: history.all >= 100}\n  - {id: rest, decision: allow}\n  - {id: never, decision: deny, when: history.odd > 1}\n";
    let snapshot = snapshot(&[text]);
    let outcome = job("job.small").ask(&snapshot).unwrap();
    assert_eq!(brief(&outcome), "allow a/small");
    // Whatever the rule, an accepted job is counted wherever it has a key.
    let counts: Vec<(&str, &str)> = outcome
        .counts
        .iter()
        .map(|c| (c.id.as_str(), c.key.as_str()))
        .collect();
    assert_eq!(counts, [("a/mine", "acme/ann"), ("a/all", "acme/all")]);
    let Err(Undecided::NeedsHistory(needs)) = job("job.x").ask(&snapshot) else {
        panic!("asks for nothing");
    };
    // Both at once, and not the one of a rule behind one that matches.
    let ids: Vec<&str> = needs.iter().map(|need| need.id.as_str()).collect();
    assert_eq!(ids, ["a/all", "a/mine"]);
    assert_eq!(needs[1].window, Duration::from_secs(3_600));
    let with = |mine, all| job("job.x").counter("a/mine", mine).counter("a/all", all);
    assert_eq!(brief(&with(2, 5).ask(&snapshot).unwrap()), "allow a/rest");
    let denied = with(3, 5).ask(&snapshot).unwrap();
    assert_eq!(brief(&denied), "deny a/many");
    assert!(denied.counts.is_empty());
    assert_eq!(brief(&with(2, 100).ask(&snapshot).unwrap()), "deny a/busy");
}

#[test]
fn an_input_that_stands_apart_is_asked_for_when_a_rule_reads_it() {
    let apart = |topic: &str| {
        job(topic).with(|case| {
            case.input = Some(Payload {
                content: Content::Apart {
                    json: true,
                    size: 20_000,
                },
                content_type: String::new(),
            });
        })
    };
    let text = rules(&[
        "id: plain, match: {topics: [job.plain]}, decision: allow",
        "id: key, match: {topics: [job.key]}, decision: throttle, rate: {permits: 1, per: 1s, key: {cel: input.id}}",
        "id: secret, match: {topics: [job.secret], secrets_present: true}, decision: deny",
        "id: either, match: {topics: [job.either]}, decision: allow, when: \"input.x == 1 || job.topic == 'job.either'\"",
        "id: reads, match: {topics: [job.reads]}, decision: deny, when: input.x > 1",
        "id: rest, decision: allow",
    ]);
    let snapshot = snapshot(&[&text]);
    assert_eq!(
        brief(&apart("job.plain").ask(&snapshot).unwrap()),
        "allow a/plain"
    );
    for topic in ["job.key", "job.secret", "job.reads"] {
        assert_eq!(
            apart(topic).ask(&snapshot),
            Err(Undecided::NeedsInput),
            "{topic}"
        );
    }
    // Whatever the input is, this one is true.
    assert_eq!(
        brief(&apart("job.either").ask(&snapshot).unwrap()),
        "allow a/either"
    );
    assert_eq!(
        brief(&apart("job.other").ask(&snapshot).unwrap()),
        "allow a/rest"
    );
}

#[test]
fn inputs_that_are_no_json_cannot_be_read_by_conditions() {
    let text = rules(&[
        "id: r, decision: deny, when: input.x > 1",
        "id: ok, decision: allow",
    ]);
    let snapshot = snapshot(&[&text]);
    let with = |content: Content, content_type: &str| {
        let payload = Payload {
            content,
            content_type: content_type.to_owned(),
        };
        let outcome = job("job.x")
            .with(|case| case.input = Some(payload))
            .ask(&snapshot);
        brief(&outcome.unwrap())
    };
    let raw = |text: &'static str| Content::Raw(text.as_bytes().into());
    assert_eq!(
        with(raw("{\"x\": 1}"), "application/json; charset=utf-8"),
        "allow a/ok"
    );
    assert_eq!(
        with(raw("{\"x\": 2}"), "application/vnd.acme+json"),
        "deny a/r"
    );
    assert_eq!(with(raw("{\"x\": 1}"), ""), "deny a/r");
    assert_eq!(with(raw("{\"x\": 1"), "application/json"), "deny a/r");
    assert_eq!(
        with(Content::Raw(vec![0xff, 0xfe].into()), "application/json"),
        "deny a/r"
    );
    assert_eq!(with(Content::Artifact("a".to_owned()), ""), "deny a/r");
    // No input is null, which has no fields either.
    assert_eq!(brief(&job("job.x").ask(&snapshot).unwrap()), "deny a/r");
}

#[test]
fn labels_and_metadata_that_name_different_tools_restrict_by_either() {
    let text = rules(&[
        "id: drop, match: {mcp: {tools: ['drop_*']}}, decision: deny",
        "id: cel, match: {topics: [job.cel]}, decision: deny, when: \"job.mcp.server == 'db' && job.mcp.tool == 'wipe'\"",
        "id: read, match: {mcp: {tools: ['read_*']}}, decision: allow",
    ]);
    let snapshot = snapshot(&[&text]);
    let tool = |topic: &str, said: &str, label: &str| {
        let case = job(topic).with(|case| {
            case.spec.metadata.mcp = Some(McpCall {
                tool: said.to_owned(),
                server: "db".to_owned(),
                ..McpCall::default()
            });
        });
        let case = if label.is_empty() {
            case
        } else {
            case.label("mcp.tool", label)
        };
        brief(&case.ask(&snapshot).unwrap())
    };
    assert_eq!(tool("job.x", "read_rows", ""), "allow a/read");
    assert_eq!(tool("job.x", "read_rows", "read_rows"), "allow a/read");
    assert_eq!(tool("job.x", "", "read_rows"), "allow a/read");
    assert_eq!(tool("job.x", "read_rows", "drop_table"), "deny a/drop");
    assert_eq!(tool("job.x", "drop_table", "read_rows"), "deny a/drop");
    assert_eq!(tool("job.x", "read_rows", "other"), "deny -");
    assert_eq!(tool("job.cel", "read_rows", "wipe"), "deny a/cel");
    assert_eq!(tool("job.cel", "wipe", "read_rows"), "deny a/cel");
    assert_eq!(tool("job.cel", "read_rows", ""), "allow a/read");
}
