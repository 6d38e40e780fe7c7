//! Bundles as text: everything that is wrong is told, where it is.

use coretex_core::policy::Bundle;

fn problems(text: &str) -> Vec<String> {
    let problems = Bundle::parse(text).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect()
}

const FULL: &str = r#"
version: 1
default_decision: deny
default_tenant: {allow: [job.>]}
tenants:
  acme:
    allow: [job.db.*, job.web.>]
    deny: [job.db.drop]
counters:
  - id: jobs_per_hour
    key: principal + "/" + job.topic
    window: 1h
rules:
  - id: everything
    priority: -5
    match:
      tenants: [acme, "test-*"]
      teams: [core]
      topics: [job.db.*]
      capabilities: ["db.*"]
      risk_tags: [write]
      requires: [gpu]
      pack_ids: [std]
      actor_ids: ["*@acme.example"]
      actor_types: [human, service]
      labels: {env: prod, region: [eu, "us-*"]}
      secrets_present: false
      mcp: {servers: [db], tools: ["drop_*"], resources: ["*"], actions: [call]}
    when: history.jobs_per_hour < 10 && input.rows > 5
    decision: allow_with_constraints
    reason: writes in small steps
    constraints:
      budgets: {max_runtime: 5m, max_retries: 0, max_artifact_bytes: 1000000, max_concurrent_jobs: 2}
      sandbox: {isolated: true, network_allowlist: [db.acme.example], fs_read_only: [/etc], fs_read_write: [/tmp]}
      toolchain: {allowed_tools: [sql], allowed_commands: [psql]}
      diff: {max_files: 1, max_lines: 10, deny_path_globs: ["*.key"]}
      redaction_level: partial
  - id: slow
    decision: throttle
    rate: {permits: 5, per: 1m, burst: 10, key: {cel: labels.team}}
  - id: ask
    decision: require_approval
    approval:
      roles: [approver, admin]
      required: 2
      expires_after: 1h
      on_expire: escalate
      escalate_to: [admin]
      reason_required: true
  - id: never
    decision: deny
    remediations:
      - id: staging
        title: Use the staging database
        summary: The same statement against a copy.
        replacement_topic: job.db.staging
        replacement_capability: db.read
        add_labels: {env: staging}
        remove_labels: [prod]
"#;

#[test]
fn a_bundle_may_use_every_key() {
    let bundle = Bundle::parse(FULL);
    let bundle = bundle.unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(bundle.rules.len(), 4);
    assert_eq!(bundle.rules[0].history, ["jobs_per_hour"]);
    assert_eq!(bundle.rules[1].line, 38);
    let json = bundle.source().to_string();
    let again = Bundle::parse(&json).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(again.source(), bundle.source());
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let text = r#"version: 2
defualt_decision: allow
default_decision: throttle
default_tenant: nobody
tenants:
  "a b": {}
  acme: {alow: [job.x], deny: [db.x]}
counters:
  - {id: 9lives, key: principal, window: 1h}
  - {id: c, key: input.x, window: 0s}
  - {id: c, key: principal, window: 1h}
rules:
  - id: one
    match: {topics: [job.a.>.b], tenant: [x], labels: {env: []}}
    when: jbo.topic == "x" && history.d > 1
    decision: deny
    rate: {permits: 1, per: 1m}
  - id: one
    decision: throttle
  - decision: alow
  - id: two
    decision: require_approval
    approval: {roles: [boss], escalate_to: [admin], on_expire: reject}
  - id: three
    decision: allow
    constraints: {budgets: {max_runtime: 5}}
  - id: four
    decision: throttle
    rate: {permits: 0, per: 1m, key: {cel: "history.c"}}
  - id: five
    decision: deny
    remediations: [{id: x}, {id: x, add_labels: {a: b}}]
  - id: six
    decision: allow_with_constraints
  - 7
"#;
    let wanted = [
        "1:10: version: must be a whole number from 1 to 1, is 2",
        "2:1: defualt_decision: unknown key `defualt_decision`; did you mean `default_decision`?",
        "3:19: default_decision: must be one of allow, deny, require_approval, is `throttle`",
        "4:17: default_tenant: `tenants` has no entry `nobody`",
        "6:10: tenants.\"a b\": the name of a tenant may hold only letters, digits, `_` and `-`",
        "7:10: tenants.acme.alow: unknown key `alow`; did you mean `allow`?",
        "7:32: tenants.acme.deny[0]: must be `job.` followed by dotted tokens of letters, digits, `_` and `-`, `*` for any one token, or `>` at the end for the rest",
        "9:10: counters[0].id: must be a letter or `_`, followed by letters, digits and `_`, at most 64 in all",
        "10:18: counters[1].key: unknown variable `input`",
        "10:35: counters[1].window: must be from 1s to 1year",
        "11:10: counters[2].id: the counter id `c` stands here twice",
        "14:22: rules[0].match.topics[0]: may have `>` only as its last token",
        "14:34: rules[0].match.tenant: unknown key `tenant`; did you mean `tenants`?",
        "14:61: rules[0].match.labels.env: must not be empty",
        "15:11: rules[0].when: unknown variable `jbo`",
        "15:31: rules[0].when: `history` has no `d`",
        "17:11: rules[0].rate: `rate` goes with decision throttle, not with deny",
        "18:5: rules[1]: decision throttle needs `rate`",
        "18:9: rules[1].id: the rule id `one` stands here twice",
        "20:5: rules[2]: `id` is missing",
        "20:15: rules[2].decision: must be one of allow, deny, require_approval, throttle, allow_with_constraints, is `alow`; did you mean `allow`?",
        "23:24: rules[3].approval.roles[0]: must be one of admin, operator, approver, submitter, worker, viewer, auditor, is `boss`",
        "23:44: rules[3].approval.escalate_to: `escalate_to` goes with `on_expire: escalate`",
        "23:64: rules[3].approval.on_expire: needs `expires_after`",
        "26:18: rules[4].constraints: `constraints` goes with decision allow_with_constraints or require_approval or throttle, not with allow",
        "26:42: rules[4].constraints.budgets.max_runtime: must be a duration such as `90s`, `5m` or `1h30m`, is a number",
        "29:21: rules[5].rate.permits: must be a whole number from 1 to 1000000, is 0",
        "29:45: rules[5].rate.key.cel: unknown variable `history`",
        "32:29: rules[6].remediations[1]: the id `x` stands here twice",
        "33:5: rules[7]: decision allow_with_constraints needs `constraints`",
        "35:5: rules[8]: must be a mapping, is a number",
    ];
    assert_eq!(problems(text), wanted);
}

#[test]
fn what_is_missing_is_told() {
    assert_eq!(problems("{}"), ["1:1: `version` is missing"]);
    assert_eq!(problems("[]"), ["1:1: must be a mapping, is a list"]);
    assert_eq!(problems("version: '1'\n"), Vec::<String>::new());
    assert_eq!(
        problems("version: 1\nrules: [{}]\n"),
        [
            "2:9: rules[0]: `id` is missing",
            "2:9: rules[0]: `decision` is missing"
        ]
    );
}

#[test]
fn what_a_bundle_may_cost_is_bounded() {
    let started = std::time::Instant::now();
    // Each of these patterns takes much memory, and more of them than there may be are not compiled.
    let mut text = "version: 1\nrules:\n".to_owned();
    for rule in 0..9_000 {
        text.push_str(&format!(
            "  - {{id: r{rule}, decision: deny, when: \"input.matches('a{{9}}')\"}}\n"
        ));
    }
    let found = problems(&text);
    assert_eq!(
        found,
        ["1003:5: rules[1000]: more than 1000 regular expressions up to here"]
    );
    let many: String = (0..60_000).map(|key| format!("k{key}: 1\n")).collect();
    let found = problems(&format!("version: 1\n{many}"));
    assert_eq!(found.len(), 101);
    assert!(
        found[100].ends_with("and 59900 more problems"),
        "{}",
        found[100]
    );
    let rules: String = (0..10_001)
        .map(|rule| format!("  - {{id: r{rule}, decision: deny}}\n"))
        .collect();
    let found = problems(&format!("version: 1\nrules:\n{rules}"));
    assert_eq!(
        found,
        ["3:3: rules: must have at most 10000 items, has 10001"]
    );
    assert!(started.elapsed() < std::time::Duration::from_secs(60));
}
