//! Explanations: who said what, and which criterion failed first.

use coretex_core::policy::explain::{CriterionExplanation, RuleResult};
use coretex_core::policy::{Condition, Decision};
use serde_json::json;

use crate::support::{job, rules, snapshot};

#[test]
fn an_explanation_names_the_first_criterion_that_failed() {
    let text = rules(&[
        "id: topic, match: {topics: [job.web], labels: {env: prod}}, decision: deny",
        "id: label, match: {topics: [job.db.*], labels: {env: prod}}, decision: deny",
        "id: cond, match: {topics: [job.db.*]}, when: input.rows > 10, decision: deny",
        "id: odd, match: {topics: [job.db.*]}, when: input.cols > 10, decision: throttle, rate: {permits: 1, per: 1s}",
        "id: hit, match: {topics: [job.db.*], tenants: ['ac*']}, when: input.rows == 3, decision: require_approval",
        "id: behind, decision: deny",
        "id: behind2, decision: deny",
    ]);
    let default = "version: 1\ndefault_decision: allow\ntenants: {acme: {deny: [job.db.query]}}\n";
    let case = job("job.db.query")
        .label("env", "test")
        .input(&json!({"rows": 3}))
        .safety(&json!({"approval_topics": ["job.db.>"]}));
    let snapshot = snapshot(&[&text, default]);
    let explained = snapshot.explain(&case.subject(), &case.history).unwrap();
    assert_eq!(Ok(&explained.outcome), case.ask(&snapshot).as_ref());
    assert_eq!(explained.outcome.decision, Decision::Deny);
    let [rules, lists] = explained.bundles.as_slice() else {
        panic!("{explained:#?}")
    };
    assert_eq!(rules.not_reached, 2);
    let tried: Vec<(&str, RuleResult)> = rules
        .rules
        .iter()
        .map(|r| (r.rule_id.as_str(), r.result))
        .collect();
    assert_eq!(
        tried,
        [
            ("topic", RuleResult::NotMatched),
            ("label", RuleResult::NotMatched),
            ("cond", RuleResult::NotMatched),
            ("odd", RuleResult::Unsure),
            ("hit", RuleResult::Matched),
        ]
    );
    let criterion = |name: &str, wanted: &str, found: &str| CriterionExplanation {
        name: name.to_owned(),
        wanted: wanted.to_owned(),
        found: found.to_owned(),
    };
    assert_eq!(
        rules.rules[0].criterion,
        Some(criterion("topics", "job.web", "job.db.query"))
    );
    assert_eq!(
        rules.rules[1].criterion,
        Some(criterion("labels", "env: prod", "env: test"))
    );
    assert_eq!(rules.rules[2].criterion, None);
    assert_eq!(rules.rules[2].condition, Some(Condition::Value(false)));
    assert!(
        matches!(&rules.rules[3].condition, Some(Condition::Failed(why)) if why.contains("input.cols"))
    );
    assert_eq!(rules.rules[4].condition, Some(Condition::Value(true)));
    assert_eq!(
        rules.rules[4].matched,
        [
            criterion("tenants", "ac*", "acme"),
            criterion("topics", "job.db.*", "job.db.query")
        ]
    );
    assert_eq!(
        lists.lists.as_ref().map(|lists| lists.decision),
        Some(Decision::Deny)
    );
    assert_eq!(explained.safety[0].decision, Decision::RequireApproval);
    assert!(explained.defaults.is_empty(), "a rule voted");
}

#[test]
fn an_explanation_tells_which_default_decided() {
    let allow = "version: 1\ndefault_decision: allow\n";
    let ask = "version: 1\ndefault_decision: require_approval\n";
    let case = job("job.x");
    let explained = snapshot(&[allow, ask])
        .explain(&case.subject(), &case.history)
        .unwrap();
    assert_eq!(
        explained.defaults,
        [
            ("a".to_owned(), Decision::Allow),
            ("b".to_owned(), Decision::RequireApproval)
        ]
    );
}
