//! Putting limits together: of constraints, safety sections and terms of approvals. Whoever keeps
//! the result keeps each part, in whichever order they came.

use std::time::Duration;

use coretex_core::id::Topic;
use coretex_core::policy::safety::Safety;
use coretex_core::policy::terms::{ApprovalTerms, OnExpire, ROLES};
use coretex_core::policy::{Constraints, NOTHING};
use proptest::prelude::*;
use serde_json::{Value, json};

fn list(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> + Clone {
    proptest::sample::subsequence(words, 0..=words.len().min(4))
        .prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let hosts = list(&[
        "*",
        "*.acme.example",
        "api.acme.example",
        "db.acme.example",
        "other.example",
    ]);
    let paths = list(&["/", "/tmp", "/tmp/a", "/tmp/a/b", "/data", "/database"]);
    let tools = list(&["*", "git_*", "git_push", "sql", "sql_read"]);
    let numbers = (
        proptest::option::of(1_u64..4),
        proptest::option::of(0_u32..3),
        proptest::option::of(0_u64..3),
        proptest::option::of(1_u32..3),
        proptest::option::of(0_u32..3),
    );
    let words = proptest::sample::select(vec!["", "none", "low", "partial", "secret", "full"]);
    (
        hosts,
        paths.clone(),
        paths,
        tools.clone(),
        tools,
        numbers,
        words,
        any::<bool>(),
    )
        .prop_map(
            |(hosts, read, write, tools, commands, numbers, level, isolated)| {
                Constraints {
                    max_runtime: numbers.0.map(Duration::from_secs),
                    max_retries: numbers.1,
                    max_artifact_bytes: numbers.2,
                    max_concurrent_jobs: numbers.3,
                    isolated,
                    network_allowlist: hosts,
                    fs_read_only: read,
                    fs_read_write: write.clone(),
                    allowed_tools: tools,
                    allowed_commands: commands,
                    max_files: numbers.4,
                    max_lines: numbers.1,
                    deny_path_globs: write,
                    redaction_level: level.to_owned(),
                }
                // In the form that rules have them.
                .tightest(&Constraints::default())
            },
        )
}

/// Whether a host may be reached.
fn reaches(constraints: &Constraints, host: &str) -> bool {
    let list = &constraints.network_allowlist;
    if list.is_empty() {
        return !constraints.isolated;
    }
    list.iter().any(|entry| match entry.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => entry == host,
    })
}

fn uses(tools: &[String], tool: &str) -> bool {
    tools.is_empty()
        || tools.iter().any(|entry| match entry.strip_suffix('*') {
            Some(prefix) => tool.starts_with(prefix),
            None => entry == tool,
        })
}

fn terms() -> impl Strategy<Value = ApprovalTerms> {
    (
        proptest::sample::subsequence(&ROLES[..4], 0..=3),
        1_u32..4,
        proptest::option::of(1_u64..4),
        proptest::sample::subsequence(&ROLES[..3], 0..=2),
        any::<bool>(),
    )
        .prop_map(|(roles, required, expires, escalate, reason_required)| {
            let names = |roles: Vec<&str>| roles.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let terms = ApprovalTerms {
                roles: names(roles),
                required,
                also: Vec::new(),
                expires_after: expires.map(Duration::from_secs),
                on_expire: if escalate.is_empty() {
                    OnExpire::Reject
                } else {
                    OnExpire::Escalate
                },
                escalate_to: names(escalate),
                reason_required,
            };
            ApprovalTerms::strictest(&[terms]).unwrap()
        })
}

fn section() -> impl Strategy<Value = Safety> {
    let topics = || {
        list(&[
            "job.>", "job.a.>", "job.*.b", "job.a.b", "job.a.*", "job.c", "job.*",
        ])
    };
    (
        proptest::option::of(topics()),
        topics(),
        topics(),
        list(&["db.*", "db.read", "mail"]),
        any::<bool>(),
        proptest::option::of(constraints()),
    )
        .prop_map(
            |(allowed, denied, approval, capabilities, secrets, constraints)| {
                let mut section = json!({
                    "denied_topics": denied,
                    "approval_topics": approval,
                    "denied_capabilities": capabilities,
                    "denied_risk_tags": capabilities,
                    "deny_secrets": secrets,
                });
                if let Some(allowed) = allowed {
                    section["allowed_topics"] = json!(allowed);
                }
                let limits = constraints.map(|c| c.to_json()).filter(|c| *c != json!({}));
                if let Some(limits) = limits {
                    section["constraints"] = limits;
                }
                Safety::read(&section).unwrap().merge(&Safety::default())
            },
        )
}

proptest! {
    #[test]
    fn constraints_merge_in_any_order(a in constraints(), b in constraints(), c in constraints()) {
        prop_assert_eq!(a.tightest(&a), a.clone());
        prop_assert_eq!(a.tightest(&b), b.tightest(&a));
        prop_assert_eq!(a.tightest(&b).tightest(&c), a.tightest(&b.tightest(&c)));
    }

    #[test]
    fn merged_constraints_allow_what_both_allow(a in constraints(), b in constraints()) {
        let both = a.tightest(&b);
        for host in ["x.acme.example", "api.acme.example", "other.example", "elsewhere.example"] {
            prop_assert_eq!(reaches(&both, host), reaches(&a, host) && reaches(&b, host), "{}", host);
        }
        for tool in ["git_push", "git_pull", "sql", "sql_read", "mail"] {
            let allowed = uses(&a.allowed_tools, tool) && uses(&b.allowed_tools, tool);
            prop_assert_eq!(uses(&both.allowed_tools, tool), allowed, "{}", tool);
        }
        for (merged, a, b) in [
            (both.max_retries, a.max_retries, b.max_retries),
            (both.max_files, a.max_files, b.max_files),
        ] {
            prop_assert_eq!(merged, [a, b].into_iter().flatten().min());
        }
    }

    #[test]
    fn constraints_are_written_and_read_again(a in constraints()) {
        let json = a.to_json();
        prop_assume!(json != json!({}));
        let section = Safety::read(&json!({"constraints": json}));
        prop_assert_eq!(section.unwrap().constraints, Some(a));
    }

    #[test]
    fn sections_merge_in_any_order(a in section(), b in section(), c in section()) {
        prop_assert_eq!(a.merge(&a), a.clone());
        prop_assert_eq!(a.merge(&b), b.merge(&a));
        prop_assert_eq!(a.merge(&b).merge(&c), a.merge(&b.merge(&c)));
        prop_assert_eq!(Safety::read(&a.to_json()).unwrap(), a);
    }

    #[test]
    fn merged_sections_allow_the_topics_that_both_allow(a in section(), b in section()) {
        let both = a.merge(&b);
        let allows = |section: &Safety, topic: &Topic| {
            section.allowed_topics.as_ref().is_none_or(|list| list.iter().any(|p| p.matches(topic)))
        };
        for topic in ["job.a", "job.a.b", "job.a.c", "job.x.b", "job.c", "job.a.b.c", "job.d"] {
            let topic = Topic::parse(topic).unwrap();
            prop_assert_eq!(allows(&both, &topic), allows(&a, &topic) && allows(&b, &topic));
        }
    }

    #[test]
    fn strictest_terms_are_met_by_whoever_meets_each(
        all in proptest::collection::vec(terms(), 1..4),
        votes in proptest::collection::vec(proptest::sample::subsequence(&ROLES[..5], 1..=2), 0..6),
    ) {
        let merged = ApprovalTerms::strictest(&all).unwrap();
        let mut other = all.clone();
        other.reverse();
        prop_assert_eq!(&merged, &ApprovalTerms::strictest(&other).unwrap());
        prop_assert_eq!(&merged, &ApprovalTerms::strictest(&[merged.clone(), all[0].clone()]).unwrap());
        let approved = all.iter().all(|terms| terms.missing(&votes) == 0);
        prop_assert_eq!(merged.missing(&votes) == 0, approved);
        for terms in &all {
            prop_assert!(merged.missing(&votes) >= terms.missing(&votes));
            prop_assert!(terms.expires_after.is_none() || merged.expires_after <= terms.expires_after);
            prop_assert!(merged.on_expire == OnExpire::Reject || terms.on_expire == OnExpire::Escalate);
        }
        let stored = serde_json::to_string(&merged).unwrap();
        prop_assert_eq!(serde_json::from_str::<ApprovalTerms>(&stored).unwrap(), merged);
    }
}

#[test]
fn lists_without_a_common_entry_allow_nothing() {
    let of = |tools: &[&str]| Constraints {
        allowed_tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
        ..Constraints::default()
    };
    let both = of(&["sql"]).tightest(&of(&["git_*"]));
    assert_eq!(both.allowed_tools, [NOTHING]);
    assert_eq!(both.tightest(&of(&["sql"])).allowed_tools, [NOTHING]);
    assert_eq!(
        of(&["git_*"])
            .tightest(&of(&["git_push", "sql"]))
            .allowed_tools,
        ["git_push"]
    );
}

#[test]
fn a_section_tells_everything_that_is_wrong_with_pointers() {
    let table: Vec<(Value, Vec<(&str, &str)>)> = vec![
        (json!([]), vec![("", "must be a mapping, is a list")]),
        (
            json!({"denied_topics": ["x", 7], "deny_secrets": "yes", "alowed_topics": []}),
            vec![
                (
                    "/denied_topics/0",
                    "must be `job.` followed by dotted tokens of letters, digits, `_` and `-`, `*` for any one token, or `>` at the end for the rest",
                ),
                (
                    "/denied_topics/1",
                    "must be a text, is a number; put it in quotes",
                ),
                ("/deny_secrets", "must be true or false, is a text"),
                (
                    "/alowed_topics",
                    "unknown key `alowed_topics`; did you mean `allowed_topics`?",
                ),
            ],
        ),
        (
            json!({"constraints": {"budgets": {"max_retries": -1, "max_runtime": "0s"}, "sandbox": {"network_allowlist": []}}}),
            vec![
                (
                    "/constraints/budgets/max_runtime",
                    "must be from 1ms to 1year",
                ),
                (
                    "/constraints/budgets/max_retries",
                    "must be a whole number from 0 to 2147483647, is -1",
                ),
                (
                    "/constraints/sandbox/network_allowlist",
                    "must not be empty: leave it out to allow everything, or write [\"!\"] to allow nothing",
                ),
            ],
        ),
        (
            json!({"constraints": {}}),
            vec![("/constraints", "limits nothing")],
        ),
    ];
    for (section, wanted) in table {
        let found = Safety::read(&section).unwrap_err();
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(p, m)| (p.as_str(), m.as_str()))
            .collect();
        assert_eq!(found, wanted, "{section}");
    }
    // Numbers that came through protobuf are doubles.
    let section = Safety::read(&json!({"constraints": {"budgets": {"max_retries": 2.0}}})).unwrap();
    assert_eq!(section.constraints.unwrap().max_retries, Some(2));
}
