//! `coretexctl policy check` and `test`: no server, and told as a compiler does.

use crate::support::Ctl;

const GOOD: &str = "version: 1
default_decision: deny
counters:
  - {id: per_hour, key: principal, window: 1h}
rules:
  - id: drop
    match: {topics: [job.db.>]}
    when: input.sql.startsWith('drop')
    decision: deny
    reason: no drops
  - id: busy
    match: {topics: [job.db.>]}
    when: history.per_hour >= 100
    decision: throttle
    rate: {permits: 1, per: 1m, key: principal}
  - id: small
    match: {topics: [job.db.>]}
    decision: allow_with_constraints
    constraints: {budgets: {max_runtime: 5m}}
  - id: nobody
    match: {topics: [job.nobody]}
    decision: allow
";

const CASES: &str = "cases:
  - name: a drop is denied
    subject: {topic: job.db.query, tenant: acme, input: {sql: drop table x}}
    expect: {decision: deny, rule_id: drop, reason_contains: drops}
  - name: a query has five minutes
    subject: {topic: job.db.query, input: {sql: select 1}}
    expect: {decision: allow_with_constraints, constraints: {budgets: {max_runtime: 300s}}}
  - name: the hundredth has to wait
    subject: {topic: job.db.query, input: {sql: select 1}}
    history: {per_hour: 100}
    expect: {decision: throttle, bundle_id: db}
  - name: others are denied
    subject: {topic: job.mail, metadata: {risk_tags: [pii], actor_type: human, mcp: {tool: x}}, labels: {a: b}, priority: batch, estimated_cost: 2.5, budget: {max_total_tokens: 7}}
    expect: {decision: deny}
";

#[tokio::test]
async fn a_good_bundle_is_ok() {
    let ctl = Ctl::new();
    let bundle = ctl.file("db.yaml", GOOD);
    let ran = ctl.run(&["policy", "check", &bundle]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert_eq!(ran.stdout, "ok: 1 bundle, 4 rules, 0 cases\n");
}

#[tokio::test]
async fn problems_are_told_with_file_line_and_column() {
    let ctl = Ctl::new();
    let bad = ctl.file(
        "bad.yaml",
        "version: 1\nrules:\n  - id: a\n    decison: deny\n    when: jbo.topic == 'x'\n",
    );
    let shadowed = ctl.file(
        "shadowed.yaml",
        "version: 1\nrules:\n  - {id: all, decision: deny}\n  - {id: never, decision: allow}\n",
    );
    let ran = ctl.run(&["policy", "check", &bad, &shadowed]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""), "{ran:?}");
    let wanted = format!(
        "{bad}:3:5: error: rules[0]: `decision` is missing\n\
         {bad}:4:5: error: rules[0].decison: unknown key `decison`; did you mean `decision`?\n\
         {bad}:5:11: error: rules[0].when: unknown variable `jbo`\n\
         {shadowed}:4:1: warning: rule `never` is never reached: a rule before it matches every job\n\
         3 errors\n"
    );
    assert_eq!(ran.stdout, wanted);

    let ran = ctl
        .run(&["policy", "check", &bad, "--output", "json"])
        .await;
    assert_eq!(ran.code, Some(1));
    let json = ran.json();
    assert_eq!(json["ok"], false);
    assert_eq!(json["problems"][1]["line"], 4);
    assert_eq!(json["problems"][1]["column"], 5);
    assert_eq!(json["problems"][1]["path"], "rules[0].decison");
    assert_eq!(json["problems"][1]["severity"], "error");
}

#[tokio::test]
async fn files_that_cannot_be_read_are_wrong_usage() {
    let ctl = Ctl::new();
    for (name, content) in [("binary.yaml", &[0xff, 0xfe, 0x00][..])] {
        let file = ctl.file(name, content);
        let ran = ctl.run(&["policy", "check", &file]).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(
            ran.stderr.contains("cause: it is not UTF-8"),
            "{}",
            ran.stderr
        );
    }
    let ran = ctl.run(&["policy", "check", "/no/such/file.yaml"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr
            .starts_with("error: cannot read /no/such/file.yaml"),
        "{}",
        ran.stderr
    );
    let large = ctl.file("large.yaml", "x".repeat(2 << 20));
    let ran = ctl.run(&["policy", "check", &large]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stdout.contains("longer than 1048576 bytes"),
        "{}",
        ran.stdout
    );
}

#[tokio::test]
async fn cases_beside_a_bundle_are_run_and_coverage_is_told() {
    let ctl = Ctl::new();
    let bundle = ctl.file("db.yaml", GOOD);
    let cases = ctl.file("db.cases.yaml", CASES);
    let ran = ctl.run(&["policy", "test", &bundle]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let wanted = format!(
        "{cases}:2: ok: a drop is denied\n\
         {cases}:5: ok: a query has five minutes\n\
         {cases}:8: ok: the hundredth has to wait\n\
         {cases}:12: ok: others are denied\n\
         uncovered: rule `nobody` of bundle `db` was matched by no case\n\
         4 cases passed, 0 failed; 3 of 4 rules decided\n"
    );
    assert_eq!(ran.stdout, wanted);
    let ran = ctl.run(&["policy", "test", &bundle, "-o", "json"]).await;
    let json = ran.json();
    assert_eq!((ran.code, &json["ok"]), (Some(0), &true.into()));
    assert_eq!(json["cases"][2]["decision"], "throttle");
    assert_eq!(json["coverage"][3]["matched"], 0);
}

#[tokio::test]
async fn a_case_that_fails_says_what_came_instead() {
    let ctl = Ctl::new();
    let bundle = ctl.file("db.yaml", GOOD);
    let cases = ctl.file(
        "more.cases.yaml",
        "cases:\n  - name: wrong\n    subject: {topic: job.db.query, input: {sql: drop x}}\n    expect: {decision: allow, rule_id: small}\n",
    );
    let ran = ctl.run(&["policy", "test", &bundle, &cases]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let start = format!(
        "{cases}:2: failed: wrong\n  expected allow, got deny: no drops\n  expected rule `small`, got `drop`\n"
    );
    assert!(ran.stdout.starts_with(&start), "{}", ran.stdout);
}

#[tokio::test]
async fn cases_that_are_wrong_are_told_as_bundles_are() {
    let ctl = Ctl::new();
    let bundle = ctl.file("db.yaml", GOOD);
    let cases = ctl.file(
        "db.cases.yaml",
        "cases:\n  - name: x\n    subject: {topic: db, tennant: a}\n    now: noon\n    expect: {decison: deny}\n",
    );
    let ran = ctl.run(&["policy", "test", &bundle]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with(&format!(
            "{cases}:3:22: error: cases[0].subject.topic: must be `job.`"
        )),
        "{lines:?}"
    );
    assert!(
        lines[1].contains(
            ":3:26: error: cases[0].subject.tennant: unknown key `tennant`; did you mean `tenant`?"
        ),
        "{lines:?}"
    );
    assert!(
        lines[2].contains(":4:10: error: cases[0].now: must be a time"),
        "{lines:?}"
    );
    assert!(
        lines[3].contains(":5:13: error: cases[0].expect: `decision` is missing"),
        "{lines:?}"
    );
    let without = ctl.file("other.yaml", "version: 1\n");
    let ran = ctl.run(&["policy", "test", &without]).await;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("hint: put them into NAME.cases.yaml"),
        "{}",
        ran.stderr
    );
}
