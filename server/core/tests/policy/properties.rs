//! What holds for any bundles and any job.

use std::sync::Arc;

use coretex_core::id::TenantId;
use coretex_core::job::McpCall;
use coretex_core::policy::{Bundle, Decision, Outcome, Snapshot, Undecided};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Case, job};

fn pick(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(words)
}

fn globs(words: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    let some = proptest::sample::subsequence(words, 1..=words.len().min(3));
    prop_oneof![3 => Just(None), 1 => some.prop_map(Some)]
}

fn rule() -> impl Strategy<Value = Value> {
    let criteria = (
        globs(&["acme", "other", "a*", "*"]),
        globs(&[
            "job.>", "job.a", "job.a.*", "job.a.>", "job.*.b", "job.a.b", "job.c",
        ]),
        globs(&["db", "db.*", "mail"]),
        globs(&["pii", "write", "p*"]),
        globs(&["drop", "read", "*"]),
        globs(&["core"]),
        proptest::option::weighted(0.2, any::<bool>()),
        globs(&["prod", "test"]),
    );
    let when = proptest::option::weighted(
        0.4,
        pick(&[
            "true",
            "input.n > 1",
            "has(input.n) && input.n == 2",
            "job.mcp.tool == 'drop'",
            "job.topic.startsWith('job.a')",
            "labels.env == 'prod'",
            "history.c > 2",
            "history.c < 1 || tenant == 'acme'",
        ]),
    );
    let decision = pick(&[
        "allow",
        "allow",
        "deny",
        "require_approval",
        "throttle",
        "allow_with_constraints",
    ]);
    (criteria, when, decision, -1_i32..2).prop_map(|(criteria, when, decision, priority)| {
        let (tenants, topics, capabilities, risk_tags, tools, teams, secrets, env) = criteria;
        let mut matches = json!({});
        let lists = [
            ("tenants", tenants),
            ("topics", topics),
            ("capabilities", capabilities),
            ("risk_tags", risk_tags),
            ("teams", teams),
        ];
        for (key, list) in lists {
            if let Some(list) = list {
                matches[key] = json!(list);
            }
        }
        if let Some(tools) = tools {
            matches["mcp"] = json!({"tools": tools});
        }
        if let Some(secrets) = secrets {
            matches["secrets_present"] = json!(secrets);
        }
        if let Some(env) = env {
            matches["labels"] = json!({"env": env});
        }
        let mut rule = json!({"priority": priority, "match": matches, "decision": decision});
        if let Some(when) = when {
            rule["when"] = json!(when);
        }
        match decision {
            "throttle" => {
                rule["rate"] = json!({"permits": 1, "per": "1s", "key": {"cel": "labels.env"}})
            }
            "allow_with_constraints" => {
                rule["constraints"] = json!({"budgets": {"max_retries": priority + 1}});
            }
            _ => {}
        }
        rule
    })
}

/// A bundle of up to `most` rules, with ids by their place.
fn bundle(most: usize) -> impl Strategy<Value = Arc<Bundle>> {
    let default = proptest::option::of(pick(&["allow", "deny", "require_approval"]));
    (proptest::collection::vec(rule(), 0..most), default).prop_map(|(mut rules, default)| {
        for (place, rule) in rules.iter_mut().enumerate() {
            rule["id"] = json!(format!("r{place}"));
        }
        let mut text = json!({
            "version": 1,
            "counters": [{"id": "c", "key": "principal", "window": "1h"}],
            "rules": rules,
        });
        if let Some(default) = default {
            text["default_decision"] = json!(default);
        }
        let bundle = Bundle::parse(&text.to_string());
        Arc::new(bundle.unwrap_or_else(|problems| panic!("{problems:?}")))
    })
}

fn case() -> impl Strategy<Value = Case> {
    let tool = || pick(&["", "drop", "read"]);
    let topics = pick(&["job.a", "job.b", "job.a.b", "job.a.b.c", "job.c"]);
    (
        (
            topics,
            pick(&["acme", "other"]),
            pick(&["", "db", "db.x"]),
            pick(&["", "pii", "write"]),
        ),
        (
            tool(),
            tool(),
            pick(&["", "prod", "test"]),
            pick(&["", "core"]),
        ),
        proptest::option::of(0_i64..4),
        proptest::option::of(0_u64..4),
        any::<bool>(),
    )
        .prop_map(
            |((topic, tenant, capability, tag), (said, label, env, team), n, count, secret)| {
                let mut case = job(topic);
                case.tenant = TenantId::parse(tenant).unwrap();
                team.clone_into(&mut case.spec.team_id);
                let metadata = &mut case.spec.metadata;
                capability.clone_into(&mut metadata.capability);
                if !tag.is_empty() {
                    metadata.risk_tags = vec![tag.to_owned()];
                }
                if !said.is_empty() {
                    metadata.mcp = Some(McpCall {
                        tool: said.to_owned(),
                        ..McpCall::default()
                    });
                }
                let mut input = json!({});
                if let Some(n) = n {
                    input["n"] = json!(n);
                }
                if secret {
                    input["s"] = json!(["secret:", "//x"].concat());
                }
                let mut case = case.input(&input);
                if !label.is_empty() {
                    case = case.label("mcp.tool", label);
                }
                if !env.is_empty() {
                    case = case.label("env", env);
                }
                if let Some(count) = count {
                    for name in ["a", "b", "c", "d"] {
                        case = case.counter(&format!("{name}/c"), count);
                    }
                }
                case
            },
        )
}

fn in_force(bundles: &[(&str, &Arc<Bundle>)]) -> Snapshot {
    let bundles = bundles
        .iter()
        .map(|(name, bundle)| ((*name).to_owned(), Arc::clone(bundle)));
    Snapshot::new("s".to_owned(), bundles.collect()).unwrap()
}

/// Asks, with counters at 0 where the case has none.
fn ask(snapshot: &Snapshot, case: &Case) -> Outcome {
    match case.ask(snapshot) {
        Ok(outcome) => outcome,
        Err(Undecided::NeedsHistory(needs)) => {
            let mut case = case.clone();
            for need in &needs {
                case.history.insert(need, 0);
            }
            case.ask(snapshot).expect("all counters are known")
        }
        Err(other) => panic!("{other}"),
    }
}

fn voted(outcome: &Outcome) -> bool {
    !outcome.reason.starts_with("no rule matched")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_order_of_bundles_makes_no_difference(a in bundle(8), b in bundle(8), c in bundle(8), case in case()) {
        let one = in_force(&[("a", &a), ("b", &b), ("c", &c)]);
        let two = in_force(&[("c", &c), ("a", &a), ("b", &b)]);
        prop_assert_eq!(case.ask(&one), case.ask(&two));
    }

    #[test]
    fn one_more_bundle_never_makes_a_decision_milder(a in bundle(8), b in bundle(8), case in case()) {
        let alone = ask(&in_force(&[("a", &a)]), &case);
        let more = ask(&in_force(&[("a", &a), ("b", &b)]), &case);
        // Where nobody votes the default denies, and a bundle may well allow what nobody spoke of.
        prop_assume!(voted(&alone));
        prop_assert!(more.decision.strictness() >= alone.decision.strictness(), "{:?} {:?}", alone, more);
        if let (Some(before), false) = (&alone.constraints, more.decision == Decision::Deny) {
            let after = more.constraints.clone().unwrap_or_default();
            prop_assert_eq!(after.tightest(before), after);
        }
    }

    #[test]
    fn an_explanation_decides_as_an_evaluation(a in bundle(12), b in bundle(12), case in case()) {
        // The explanation tries every rule, the evaluation those that the index finds.
        let snapshot = in_force(&[("a", &a), ("b", &b)]);
        let explained = snapshot.explain(&case.subject(), &case.history);
        prop_assert_eq!(explained.map(|explained| explained.outcome), case.ask(&snapshot));
    }

    #[test]
    fn a_denial_carries_nothing_that_lets_a_job_run(a in bundle(8), b in bundle(8), case in case()) {
        let outcome = ask(&in_force(&[("a", &a), ("b", &b)]), &case);
        let denied = outcome.decision == Decision::Deny;
        prop_assert!(!denied || (outcome.constraints.is_none() && outcome.rates.is_empty() && outcome.counts.is_empty()));
        prop_assert_eq!(outcome.approval.is_some(), outcome.decision == Decision::RequireApproval);
        prop_assert!(outcome.decision != Decision::Throttle || !outcome.rates.is_empty());
        prop_assert!(outcome.decision != Decision::AllowWithConstraints || outcome.constraints.is_some());
        prop_assert!(!outcome.reason.is_empty());
    }
}

#[test]
fn an_index_over_many_rules_finds_what_a_scan_finds() {
    let mut text = "version: 1\nrules:\n".to_owned();
    for rule in 0..3_000 {
        let criteria = match rule % 6 {
            0 => format!("topics: [job.a{}.>]", rule % 70),
            1 => format!("topics: [job.*.b{}], tenants: [t{}]", rule % 50, rule % 30),
            2 => format!("capabilities: [c{}]", rule % 90),
            3 => format!(
                "tenants: [t{}], risk_tags: [r{}, s{}]",
                rule % 30,
                rule % 11,
                rule % 13
            ),
            4 => format!("labels: {{k{}: v}}", rule % 40),
            _ => format!("mcp: {{tools: [m{}]}}, topics: [job.a1.b1]", rule % 25),
        };
        let decision = if rule % 5 == 0 { "deny" } else { "allow" };
        text.push_str(&format!(
            "  - {{id: r{rule}, priority: {}, match: {{{criteria}}}, decision: {decision}}}\n",
            rule % 7
        ));
    }
    let bundle = Arc::new(Bundle::parse(&text).unwrap());
    let snapshot = in_force(&[("a", &bundle)]);
    let mut found = 0;
    for n in 0..2_000_usize {
        let mut case = job(&format!("job.a{}.b{}", n % 71, n % 53));
        case.tenant = TenantId::parse(&format!("t{}", n % 31)).unwrap();
        case.spec.metadata.capability = format!("c{}", n % 97);
        case.spec.metadata.risk_tags = vec![format!("r{}", n % 17)];
        let case = case
            .label(&format!("k{}", n % 41), "v")
            .label("mcp.tool", &format!("m{}", n % 29));
        let outcome = case.ask(&snapshot).unwrap();
        let scanned = snapshot
            .explain(&case.subject(), &case.history)
            .unwrap()
            .outcome;
        assert_eq!(outcome, scanned);
        found += usize::from(!outcome.rule_id.is_empty());
    }
    assert!(found > 1_000, "{found}");
}
