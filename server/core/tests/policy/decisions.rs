//! From bundles and a job to a decision.

use std::time::Duration;

use coretex_core::job::{ActorType, McpCall};
use coretex_core::policy::Decision;
use coretex_core::policy::terms::OnExpire;
use serde_json::json;

use crate::support::{brief, job, rules, snapshot};

fn decide(bundles: &[&str], case: &crate::support::Case) -> String {
    brief(&case.ask(&snapshot(bundles)).unwrap())
}

#[test]
fn the_first_match_of_each_bundle_votes_and_the_strictest_vote_wins() {
    let allow = rules(&["id: r, decision: allow"]);
    let deny = rules(&["id: r, decision: deny"]);
    let ask = rules(&["id: r, decision: require_approval"]);
    let slow = rules(&["id: r, decision: throttle, rate: {permits: 1, per: 1s}"]);
    let within =
        rules(&["id: r, decision: allow_with_constraints, constraints: {redaction_level: full}"]);
    let order = [&allow, &within, &slow, &ask, &deny];
    for (low, left) in order.iter().enumerate() {
        for (high, right) in order.iter().enumerate() {
            let outcome = job("job.x").ask(&snapshot(&[left, right])).unwrap();
            let wanted = low.max(high);
            assert_eq!(usize::from(outcome.decision.strictness()), wanted);
            assert_eq!(outcome.bundle_id, if low >= high { "a" } else { "b" });
            assert_eq!(
                outcome.rates.is_empty(),
                !(low == 2 || high == 2) || wanted == 4
            );
            assert_eq!(
                outcome.constraints.is_some(),
                (low == 1 || high == 1) && wanted < 4
            );
        }
    }
}

#[test]
fn rules_are_tried_by_priority_and_then_in_file_order() {
    let text = rules(&[
        "id: low, priority: -1, decision: deny",
        "id: first, decision: allow, match: {topics: [job.a]}",
        "id: second, decision: require_approval, match: {topics: [job.a, job.b]}",
        "id: high, priority: 7, decision: deny, match: {labels: {stop: '*'}}",
    ]);
    assert_eq!(decide(&[&text], &job("job.a")), "allow a/first");
    assert_eq!(decide(&[&text], &job("job.b")), "require_approval a/second");
    assert_eq!(decide(&[&text], &job("job.c")), "deny a/low");
    assert_eq!(
        decide(&[&text], &job("job.a").label("stop", "now")),
        "deny a/high"
    );
}

#[test]
fn without_a_vote_the_strictest_default_decides() {
    let none = "version: 1\n";
    let allow = "version: 1\ndefault_decision: allow\n";
    let ask = "version: 1\ndefault_decision: require_approval\n";
    let deny = "version: 1\ndefault_decision: deny\n";
    assert_eq!(decide(&[], &job("job.x")), "deny -");
    assert_eq!(decide(&[none], &job("job.x")), "deny -");
    assert_eq!(decide(&[none, allow], &job("job.x")), "allow -");
    assert_eq!(decide(&[ask, allow], &job("job.x")), "require_approval -");
    assert_eq!(decide(&[ask, allow, deny], &job("job.x")), "deny -");
    // A vote goes before every default.
    let voted = rules(&["id: r, decision: allow"]);
    assert_eq!(decide(&[deny, &voted], &job("job.x")), "allow b/r");
    let outcome = job("job.x").ask(&snapshot(&[ask])).unwrap();
    assert_eq!(outcome.approval.unwrap().required, 1);
    assert_eq!(
        outcome.reason,
        "no rule matched: default decision of bundle `a`"
    );
}

#[test]
fn every_criterion_of_match_is_tested() {
    let full = job("job.db.query").label("env", "prod-eu").with(|case| {
        case.spec.team_id = "core".to_owned();
        let metadata = &mut case.spec.metadata;
        metadata.capability = "db.read".to_owned();
        metadata.risk_tags = vec!["pii".to_owned(), "write".to_owned()];
        metadata.requires = vec!["gpu".to_owned()];
        metadata.pack_id = "std".to_owned();
        metadata.actor_id = "bob".to_owned();
        metadata.actor_type = Some(ActorType::Human);
        metadata.mcp = Some(McpCall {
            server: "db".to_owned(),
            tool: "drop_table".to_owned(),
            resource: String::new(),
            action: "call".to_owned(),
        });
    });
    let table = [
        ("tenants: [acme]", true),
        ("tenants: [other, 'ac*']", true),
        ("tenants: [other]", false),
        ("teams: [core]", true),
        ("teams: [sales]", false),
        ("topics: [job.db.query]", true),
        ("topics: [job.*.query]", true),
        ("topics: [job.db.*]", true),
        ("topics: [job.>]", true),
        ("topics: [job.*]", false),
        ("topics: [job.db.query.>]", false),
        ("topics: [job.web, job.db.>]", true),
        ("capabilities: ['db.*']", true),
        ("capabilities: ['*.write']", false),
        ("risk_tags: [write]", true),
        ("risk_tags: [money]", false),
        ("requires: ['g*u']", true),
        ("requires: [cpu]", false),
        ("pack_ids: [std]", true),
        ("pack_ids: ['']", false),
        ("actor_ids: [bob]", true),
        ("actor_ids: [ann]", false),
        ("actor_types: [human]", true),
        ("actor_types: [service]", false),
        ("labels: {env: 'prod-*'}", true),
        ("labels: {env: [test, prod-eu]}", true),
        ("labels: {env: 'prod-*', region: '*'}", false),
        ("labels: {env: prod}", false),
        ("secrets_present: false", true),
        ("secrets_present: true", false),
        ("mcp: {servers: [db], tools: ['drop_*']}", true),
        ("mcp: {servers: [db], tools: ['select_*']}", false),
        ("mcp: {resources: ['*']}", false),
        ("mcp: {actions: [call]}", true),
        (
            "topics: [job.db.>], risk_tags: [pii], labels: {env: '*'}",
            true,
        ),
        (
            "topics: [job.db.>], risk_tags: [pii], labels: {zone: '*'}",
            false,
        ),
    ];
    for (criteria, matches) in table {
        if criteria.contains("['']") {
            continue;
        }
        let text = rules(&[&format!("id: r, decision: allow, match: {{{criteria}}}")]);
        let wanted = if matches { "allow a/r" } else { "deny -" };
        assert_eq!(decide(&[&text], &full), wanted, "{criteria}");
        // A bare job matches only what asks for nothing that it lacks.
        let bare = decide(&[&text], &job("job.other"));
        let asks_nothing = [
            "tenants: [acme]",
            "tenants: [other, 'ac*']",
            "topics: [job.>]",
            "topics: [job.*]",
            "secrets_present: false",
        ];
        assert_eq!(
            bare == "allow a/r",
            asks_nothing.contains(&criteria),
            "{criteria}"
        );
    }
}

#[test]
fn conditions_read_every_variable() {
    let case = job("job.db.query")
        .label("env", "prod")
        .input(&json!({"rows": 12, "sql": "drop table x"}))
        .with(|case| {
            case.spec.team_id = "core".to_owned();
            case.spec.estimated_cost = Some(2.5);
            case.config = Some(json!({"models": {"default": "small"}}));
        });
    let conditions = [
        "job.topic == 'job.db.query' && job.priority == 'interactive'",
        "job.labels.env == labels.env && labels['env'] == 'prod'",
        "tenant == 'acme' && team == 'core' && principal == 'ann'",
        "input.rows > 10 && input.sql.matches('(?i)drop')",
        "config.models.default == 'small'",
        "now.getHours() == 12 && now > timestamp('2026-01-01T00:00:00Z')",
        "now - duration('1h') < now && now.getDayOfWeek() == 6",
        "job.estimated_cost > 2 && !has(job.budget)",
        "job.mcp.tool == '' && job.capability == '' && job.risk_tags.size() == 0",
        "job.timeout_seconds == 3600 && job.max_attempts <= 1",
    ];
    for condition in conditions {
        let text = format!(
            "version: 1\nrules:\n  - id: r\n    decision: allow\n    when: \"{condition}\"\n"
        );
        assert_eq!(decide(&[&text], &case), "allow a/r", "{condition}");
    }
}

#[test]
fn lists_of_tenants_always_apply_and_only_take_away() {
    let text = "version: 1\ndefault_tenant: {deny: [job.secret]}\ntenants:\n  acme: {allow: [job.db.>, job.web], deny: [job.db.drop]}\nrules:\n  - {id: ok, decision: allow}\n";
    assert_eq!(decide(&[text], &job("job.db.query")), "allow a/ok");
    assert_eq!(decide(&[text], &job("job.web")), "allow a/ok");
    assert_eq!(decide(&[text], &job("job.db.drop")), "deny -");
    assert_eq!(decide(&[text], &job("job.mail")), "deny -");
    let other = |topic: &str| {
        job(topic).with(|case| case.tenant = coretex_core::id::TenantId::parse("other").unwrap())
    };
    assert_eq!(decide(&[text], &other("job.mail")), "allow a/ok");
    assert_eq!(decide(&[text], &other("job.secret")), "deny -");
    // A list allows nothing by itself.
    let lists = "version: 1\ntenants: {acme: {allow: [job.>]}}\n";
    assert_eq!(decide(&[lists], &job("job.x")), "deny -");
    // A name stands for its entry.
    let named = "version: 1\ndefault_tenant: acme\ndefault_decision: allow\ntenants: {acme: {deny: [job.x]}}\n";
    assert_eq!(decide(&[named], &other("job.x")), "deny -");
    assert_eq!(decide(&[named], &other("job.y")), "allow -");
}

#[test]
fn the_safety_section_only_tightens() {
    let allow = rules(&["id: ok, decision: allow"]);
    let case = job("job.db.query").with(|case| {
        case.spec.metadata.capability = "db.read".to_owned();
        case.spec.metadata.risk_tags = vec!["pii".to_owned()];
        case.spec.metadata.requires = vec!["gpu".to_owned()];
    });
    let table = [
        (json!({}), "allow a/ok"),
        (json!({"allowed_topics": ["job.db.>"]}), "allow a/ok"),
        (json!({"allowed_topics": ["job.web.>"]}), "deny -"),
        (json!({"allowed_topics": []}), "deny -"),
        (json!({"denied_topics": ["job.*.query"]}), "deny -"),
        (
            json!({"approval_topics": ["job.db.*"]}),
            "require_approval -",
        ),
        (json!({"denied_capabilities": ["db.*"]}), "deny -"),
        (json!({"denied_capabilities": ["gpu"]}), "deny -"),
        (json!({"denied_risk_tags": ["pii"]}), "deny -"),
        (json!({"deny_secrets": true}), "allow a/ok"),
        (
            json!({"constraints": {"budgets": {"max_runtime": "5m"}}}),
            "allow_with_constraints a/ok",
        ),
    ];
    for (section, wanted) in table {
        let outcome = case
            .clone()
            .safety(&section)
            .ask(&snapshot(&[&allow]))
            .unwrap();
        assert_eq!(brief(&outcome), wanted, "{section}");
        // It makes nothing of a denial.
        assert!(decide(&[], &case.clone().safety(&section)).starts_with("deny"));
    }
    let section = json!({"deny_secrets": true});
    let leaky = case
        .safety(&section)
        .input(&json!({"key": "secret://vault/db"}));
    let outcome = leaky.ask(&snapshot(&[&allow])).unwrap();
    assert_eq!(brief(&outcome), "deny -");
    assert!(
        outcome.reason.contains("a secret:// reference"),
        "{}",
        outcome.reason
    );
}

#[test]
fn rates_name_their_buckets() {
    let text = rules(&[
        "id: t, decision: throttle, match: {topics: [job.t]}, rate: {permits: 5, per: 1m}",
        "id: p, decision: throttle, match: {topics: [job.p]}, rate: {permits: 5, per: 1m, burst: 9, key: principal}",
        "id: o, decision: throttle, match: {topics: ['job.o.>']}, rate: {permits: 5, per: 1m, key: topic}",
        "id: c, decision: throttle, match: {topics: [job.c]}, rate: {permits: 5, per: 1m, key: {cel: labels.customer}}",
    ]);
    let bucket = |case: &crate::support::Case| {
        let outcome = case.ask(&snapshot(&[&text])).unwrap();
        assert_eq!(outcome.decision, Decision::Throttle);
        outcome.rates[0].clone()
    };
    assert_eq!(bucket(&job("job.t")).bucket, "acme/a/t/tenant/");
    assert_eq!(bucket(&job("job.t")).rate.burst, 5);
    assert_eq!(bucket(&job("job.p")).bucket, "acme/a/p/principal/ann");
    assert_eq!(bucket(&job("job.p")).rate.burst, 9);
    assert_eq!(bucket(&job("job.p")).rate.per, Duration::from_secs(60));
    assert_eq!(bucket(&job("job.o.x")).bucket, "acme/a/o/topic/job.o.x");
    assert_eq!(
        bucket(&job("job.c").label("customer", "7")).bucket,
        "acme/a/c/cel/7"
    );
    assert_eq!(bucket(&job("job.c")).bucket, "acme/a/c/failed/");
    let long = bucket(&job("job.c").label("customer", &"x/".repeat(100))).bucket;
    assert!(
        long.starts_with("acme/a/c/cel/#") && long.len() < 60,
        "{long}"
    );
    // An approval takes its permits as well.
    let ask = rules(&["id: ask, decision: require_approval"]);
    let outcome = job("job.t").ask(&snapshot(&[&text, &ask])).unwrap();
    assert_eq!(
        (outcome.decision, outcome.rates.len()),
        (Decision::RequireApproval, 1)
    );
}

#[test]
fn approvals_of_several_rules_are_all_asked_for() {
    let one = rules(&[
        "id: r, decision: require_approval, reason: money, approval: {roles: [admin, approver], required: 2, expires_after: 2h, on_expire: escalate, escalate_to: [admin]}",
    ]);
    let two = rules(&[
        "id: s, decision: require_approval, reason: data, approval: {roles: [auditor], expires_after: 1h, reason_required: true}",
    ]);
    let outcome = job("job.x").ask(&snapshot(&[&one, &two])).unwrap();
    let terms = outcome.approval.unwrap();
    assert_eq!(terms.groups().len(), 2);
    assert_eq!(terms.expires_after, Some(Duration::from_secs(3_600)));
    assert_eq!(terms.on_expire, OnExpire::Reject);
    assert!(terms.reason_required);
    let votes = |votes: &[&str]| -> Vec<Vec<String>> {
        votes.iter().map(|role| vec![(*role).to_owned()]).collect()
    };
    assert_eq!(terms.missing(&votes(&["admin", "approver"])), 1);
    assert_eq!(terms.missing(&votes(&["admin", "auditor"])), 1);
    assert_eq!(terms.missing(&votes(&["admin", "auditor", "approver"])), 0);
    assert!(terms.admits(&["auditor"]) && !terms.admits(&["viewer"]));
    assert_eq!(outcome.reason, "money; rule `s` of bundle `b`: data");
}

#[test]
fn a_denial_offers_what_would_be_allowed() {
    let one = rules(&["id: r, decision: deny, remediations: [{id: x, replacement_topic: job.y}]"]);
    let two = rules(&["id: r, decision: deny, remediations: [{id: x, add_labels: {a: b}}]"]);
    let outcome = job("job.x").ask(&snapshot(&[&one, &two])).unwrap();
    let ids: Vec<&str> = outcome.remediations.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids, ["x", "x-2"]);
    assert_eq!(outcome.constraints, None);
}
