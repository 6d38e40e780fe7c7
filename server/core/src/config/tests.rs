use std::time::Duration;

use serde_json::{Value as Json, json};

use super::document::{MAX_DEPTH, MAX_LEAVES, check};
use super::sections::{Ceilings, Sections};
use super::*;
use crate::id::Topic;
use crate::job::JobSpec;
use crate::routing::LeftOpen;

mod fill;
mod random;

const CEILINGS: Ceilings = Ceilings {
    payload_bytes: 1_000,
    waiting_jobs: 100,
    labels: 64,
    kept_jobs: Duration::from_secs(3_600),
    kept_dead_letters: Duration::from_secs(7_200),
    documents: 1,
};

fn source(scope: ConfigScope) -> Source {
    let id = match scope {
        ConfigScope::System => "",
        ConfigScope::Org => "acme",
        ConfigScope::Team | ConfigScope::Workflow => "x",
        ConfigScope::Step => "x/y",
    };
    Source {
        name: ConfigName {
            scope,
            id: id.to_owned(),
        },
        revision: 1,
        etag: "7".to_owned(),
    }
}

/// The configuration of documents of the first scopes.
fn of(documents: &[Json]) -> Effective {
    let documents = ConfigScope::ALL.into_iter().zip(documents);
    let checked = documents.map(|(scope, data)| {
        let data = check(data, &CEILINGS).unwrap_or_else(|problems| panic!("{problems:?}"));
        (source(scope), data)
    });
    Effective::new(checked.collect(), 1).unwrap()
}

fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

const OPEN: LeftOpen = LeftOpen {
    timeout: true,
    schedule_to_start_timeout: true,
    retry: true,
    priority: true,
};

#[test]
fn ids_of_scopes_are_what_the_scope_needs() {
    let tenant = TenantId::from_trusted("acme");
    let parse = |scope, id: &str| ConfigName::parse(scope, id, &tenant).map(|name| name.id);
    for (scope, id, good) in [
        (ConfigScope::System, "", Some("")),
        (ConfigScope::System, "acme", None),
        (ConfigScope::Org, "", Some("acme")),
        (ConfigScope::Org, "acme", Some("acme")),
        (ConfigScope::Org, "beta", None),
        (ConfigScope::Team, "t-1", Some("t-1")),
        (ConfigScope::Team, "", None),
        (ConfigScope::Team, "a/b", None),
        (ConfigScope::Workflow, "w", Some("w")),
        (ConfigScope::Step, "w/s", Some("w/s")),
        (ConfigScope::Step, "w", None),
        (ConfigScope::Step, "w/", None),
        (ConfigScope::Step, "w/s/t", None),
    ] {
        assert_eq!(parse(scope, id).ok().as_deref(), good, "{scope:?} {id}");
    }
    let names = |team, workflow, step| {
        let chain = ConfigName::chain(&tenant, team, workflow, step);
        let names: Vec<String> = chain.iter().map(ToString::to_string).collect();
        names.join(" ")
    };
    assert_eq!(names("", "", ""), "system org");
    assert_eq!(names("", "", "s"), "system org");
    assert_eq!(
        names("t", "w", "s"),
        "system org team `t` workflow `w` step `w/s`"
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_where() {
    for (wrong, pointer, message) in [
        (json!([]), "", "must be an object of sections"),
        (json!({"limit": {}}), "/limit", "did you mean `limits`?"),
        (json!({"frob": 1}), "/frob", "known are topics, pools"),
        (
            json!({"limits": {"max_label": 1}}),
            "/limits/max_label",
            "did you mean `max_labels`?",
        ),
        (
            json!({"limits": {"max_labels": 65}}),
            "/limits/max_labels",
            "from 0 to 64",
        ),
        (
            json!({"limits": {"max_payload_bytes": 1001}}),
            "/limits/max_payload_bytes",
            "1000",
        ),
        (
            json!({"limits": {"max_attempts": 0}}),
            "/limits/max_attempts",
            "from 1",
        ),
        (
            json!({"limits": {"max_waiting_jobs": 1.5}}),
            "/limits/max_waiting_jobs",
            "whole",
        ),
        (
            json!({"limits": {"max_waiting_jobs": 0}}),
            "/limits/max_waiting_jobs",
            "from 1",
        ),
        (
            json!({"timeouts": {"job": 5}}),
            "/timeouts/job",
            "must be a duration",
        ),
        (
            json!({"timeouts": {"job": "0s"}}),
            "/timeouts/job",
            "must be from",
        ),
        (
            json!({"retention": {"jobs": "2h"}}),
            "/retention/jobs",
            "must be from",
        ),
        (
            json!({"retention": {"jobs": "1s"}}),
            "/retention/jobs",
            "must be from",
        ),
        (
            json!({"topics": {"job.a/b": {}}}),
            "/topics/job.a~1b",
            "dotted tokens",
        ),
        (
            json!({"topics": {"job.a": {"timeot": 1}}}),
            "/topics/job.a/timeot",
            "`timeout`",
        ),
        (
            json!({"topics": {"job.a": {"priority": "high"}}}),
            "/topics/job.a/priority",
            "one of",
        ),
        (
            json!({"topics": {"job.a": {"retry": {"jitter": 2}}}}),
            "/topics/job.a/retry/jitter",
            "0 to 1",
        ),
        (
            json!({"topics": {"job.a": {"risk_tags": ["x", "x"]}}}),
            "/topics/job.a/risk_tags/1",
            "twice",
        ),
        (
            json!({"topics": {"job.a": {"risk_tags": null}}}),
            "/topics/job.a/risk_tags",
            "taken back",
        ),
        (
            json!({"pools": {"preferred": {"job.>": "a b"}}}),
            "/pools/preferred/job.>",
            "letters",
        ),
        (
            json!({"limits": {"max_labels": null}}),
            "/limits/max_labels",
            "taken back",
        ),
        (json!({"limits": null}), "/limits", "taken back"),
        (
            json!({"timeouts": {"max_job": null}}),
            "/timeouts/max_job",
            "taken back",
        ),
        (json!({"safety": null}), "/safety", "taken back"),
        (
            json!({"safety": {"denied_topics": null}}),
            "/safety/denied_topics",
            "taken back",
        ),
        (
            json!({"safety": {"denied": []}}),
            "/safety/denied",
            "unknown key",
        ),
        (json!({"visibility": null}), "/visibility", "taken back"),
        (
            json!({"visibility": {"workers": ["safety.x"]}}),
            "/visibility/workers/0",
            "never see",
        ),
        (
            json!({"visibility": {"workers": ["modles"]}}),
            "/visibility/workers/0",
            "one of",
        ),
        (json!({"models": 3}), "/models", "must be a mapping"),
    ] {
        let problems = check(&wrong, &CEILINGS).unwrap_err();
        let [problem] = &problems[..] else {
            panic!("{wrong}: {problems:?}");
        };
        assert_eq!(problem.pointer, pointer, "{wrong}: {}", problem.message);
        assert!(
            problem.message.contains(message),
            "{wrong}: {}",
            problem.message
        );
    }
    let several = json!({"frob": 1, "limits": {"max_labels": -1, "x": 1}, "retention": null});
    assert_eq!(check(&several, &CEILINGS).unwrap_err().len(), 4);
}

#[test]
fn documents_are_bounded() {
    let says = |data: Json, message: &str| {
        let problems = check(&data, &CEILINGS).unwrap_err();
        let found = problems.iter().any(|one| one.message.contains(message));
        assert!(found, "{problems:?}");
    };
    says(json!({"models": {"a": "x".repeat(256 * 1024)}}), "bytes");
    says(json!({"models": {"a": vec![1; MAX_LEAVES + 1]}}), "values");
    says(json!({"models": {"a": vec![vec![1; 100]; 101]}}), "values");
    says(json!({"models": {"x".repeat(256): 1}}), "1 to 255 bytes");
    says(json!({"models": {"": 1}}), "1 to 255 bytes");
    let long = "k".repeat(255);
    let many: serde_json::Map<String, Json> = (0..1_100)
        .map(|n| (format!("{n}{}", &long[..250]), json!(1)))
        .collect();
    says(json!({"models": {long: many}}), "bytes of keys");
    for list in [false, true] {
        let nested = |depth: usize| {
            let leaf = json!(1);
            let deep = (0..depth).fold(leaf, |inner, _| {
                if list {
                    json!([inner])
                } else {
                    json!({"a": inner})
                }
            });
            json!({"models": {"a": deep}})
        };
        assert!(check(&nested(MAX_DEPTH - 2), &CEILINGS).is_ok());
        says(nested(MAX_DEPTH - 1), "nested deeper");
    }
    // The reader of sections stands what is allowed.
    let many: Vec<Json> = (0..MAX_LEAVES).map(|n| json!(n)).collect();
    assert!(check(&json!({"models": {"a": many}}), &CEILINGS).is_ok());
}

#[test]
fn a_narrower_scope_replaces_and_takes_back_and_never_loosens() {
    let merged = of(&[
        json!({
            "models": {"default": "a", "others": {"x": 1, "y": [1, 2]}},
            "timeouts": {"job": "1h", "max_job": "2h"},
            "limits": {"max_labels": 10, "max_attempts": 5},
            "topics": {"job.a": {"timeout": "5m", "risk_tags": ["write", "net"]}},
        }),
        json!({
            "models": {"default": "b", "others": {"x": null, "y": [3], "z": {}}},
            "timeouts": {"job": null, "max_job": "3h"},
            "limits": {"max_labels": 20, "max_attempts": 3},
            "topics": {"job.a": {"risk_tags": ["pay"]}, "job.b": {"timeout": "1s"}},
        }),
        json!({"topics": null, "timeouts": {"max_job": "119m"}}),
    ]);
    assert_eq!(
        merged.data,
        json!({
            "limits": {"max_attempts": 3, "max_labels": 10},
            "models": {"default": "b", "others": {"y": [3], "z": {}}},
            "timeouts": {"max_job": "119m"},
            "topics": {"job.a": {"risk_tags": ["net", "pay", "write"]}},
        })
    );
    let origins: Vec<&[String]> = merged.origins.iter().map(|one| &one.pointers[..]).collect();
    assert_eq!(
        origins,
        [
            &["/limits/max_labels", "/topics/job.a/risk_tags"][..],
            &[
                "/limits/max_attempts",
                "/models/default",
                "/models/others/y",
                "/topics/job.a/risk_tags"
            ],
            &["/timeouts/max_job"],
        ]
    );
    let origin = |pointer| merged.origin(pointer).map(|name| name.scope);
    assert_eq!(origin("/limits/max_labels"), Some(ConfigScope::System));
    assert_eq!(origin("/limits/max_attempts"), Some(ConfigScope::Org));
    assert_eq!(origin("/limits"), None);
}

#[test]
fn safety_only_tightens() {
    let merged = of(&[
        json!({"safety": {"allowed_topics": ["job.a.>", "job.b"], "denied_topics": ["job.a.x"]}}),
        json!({"safety": {"allowed_topics": ["job.>"], "deny_secrets": true}}),
        json!({"safety": {"allowed_topics": ["job.a.*"], "denied_topics": ["job.c"]}}),
    ]);
    assert_eq!(
        merged.data["safety"],
        json!({
            "allowed_topics": ["job.a.*"],
            "deny_secrets": true,
            "denied_topics": ["job.a.x", "job.c"],
        })
    );
    assert_eq!(
        merged.origins[1].pointers,
        ["/safety/allowed_topics", "/safety/deny_secrets"]
    );
    let safety = merged.typed.safety.unwrap();
    assert!(safety.deny_secrets);
}

#[test]
fn together_scopes_may_say_more_than_each_alone() {
    let scope = |name: &str| {
        let topics: serde_json::Map<String, Json> = (0..1_000)
            .map(|n| (format!("job.{name}.t{n}"), json!({"timeout": "1m"})))
            .collect();
        let tags: Vec<String> = (0..64).map(|n| format!("{name}-{n}")).collect();
        let denied: Vec<String> = (0..100).map(|n| format!("job.{name}.d{n}")).collect();
        let mut topics = topics;
        topics.remove(&format!("job.{name}.t0"));
        topics.insert("job.>".to_owned(), json!({"risk_tags": tags}));
        json!({"topics": topics, "safety": {"denied_topics": denied}})
    };
    let merged = of(&["a", "b", "c", "d", "e"].map(scope));
    let mut spec = JobSpec::new(topic("job.x"));
    let _ = merged.typed.fill_in_topic(&mut spec, OPEN);
    assert_eq!(spec.metadata.risk_tags.len(), 5 * 64);
    assert_eq!(merged.typed.safety.unwrap().denied_topics.len(), 500);
    assert_eq!(merged.data["topics"].as_object().unwrap().len(), 4_996);
}

#[test]
fn workers_see_what_they_may_and_never_more_than_wider_scopes_allow() {
    let system = json!({
        "models": {"default": "a", "key": "k"},
        "budgets": {"max": 1},
        "limits": {"max_labels": 1},
        "safety": {"deny_secrets": true},
    });
    let shown = |narrower: &[Json]| {
        let documents: Vec<Json> = [std::slice::from_ref(&system), narrower].concat();
        Json::Object(of(&documents).visible)
    };
    let says = |paths: &[&str]| json!({"visibility": {"workers": paths}});
    let default = json!({"models": {"default": "a", "key": "k"}, "budgets": {"max": 1}});
    assert_eq!(shown(&[]), default);
    assert_eq!(shown(&[says(&[])]), json!({}));
    assert_eq!(
        shown(&[says(&["models.default", "limits", "models.nothing.x"])]),
        json!({"models": {"default": "a"}, "limits": {"max_labels": 1}})
    );
    let team = |paths| [json!({}), says(paths)];
    assert_eq!(
        shown(&team(&["limits", "budgets"])),
        json!({"budgets": {"max": 1}})
    );
    assert_eq!(
        shown(&[
            says(&["models.default", "limits"]),
            says(&["models", "budgets"])
        ]),
        json!({"models": {"default": "a"}})
    );
    assert_eq!(
        shown(&[says(&["models.key"]), says(&["models.default"])]),
        json!({})
    );
}

#[test]
fn equal_data_has_equal_hashes() {
    let one = of(&[json!({"models": {"b": 2.0, "a": [1.0]}, "budgets": {}})]);
    let other = of(&[
        json!({"models": {"a": [1]}, "budgets": {}}),
        json!({"models": {"b": 2}}),
    ]);
    assert_eq!(
        one.data.to_string(),
        r#"{"budgets":{},"models":{"a":[1],"b":2}}"#
    );
    assert_eq!(one.hash, other.hash);
    assert_ne!(one.hash, Effective::empty().hash);
    assert_eq!(Effective::new(Vec::new(), 0).unwrap(), Effective::empty());
}

#[test]
fn what_a_later_build_has_written_is_not_ignored() {
    for later in [
        json!({"sandbox": {}}),
        json!({"safety": {"forbid": true}}),
        json!({"limits": {"max_cats": 1}}),
    ] {
        let documents = vec![(source(ConfigScope::Org), later)];
        assert_eq!(Effective::new(documents, 1).unwrap_err().len(), 1);
    }
}

#[test]
fn the_examples_of_the_documentation_are_documents() {
    let page = include_str!("../../../../docs/job-config.md");
    let examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(examples.len(), 1);
    for example in examples {
        let parsed = crate::document::Document::parse(example).unwrap();
        let data = parsed.root().to_json();
        let ceilings = Ceilings {
            documents: 1,
            ..Ceilings::MERGED
        };
        check(&data, &ceilings).unwrap();
        // It shows every section.
        let sections = data.as_object().unwrap().keys();
        assert_eq!(sections.count(), 9);
    }
}
