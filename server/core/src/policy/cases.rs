//! Cases beside bundles: jobs that a policy is expected to decide in a certain way, and which rules
//! they cover.
//!
//! A file of cases is `<name>.cases.yaml` beside the bundle `<name>.yaml`. Cases are run against all
//! bundles that are in force together, by the evaluator of the server.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::explain::{Explanation, RuleResult};
use super::safety::Safety;
use super::{Constraints, Decision, History, Outcome, Snapshot, Subject, Undecided};
use crate::document::{Document, Field, Object, Problem, Reader};
use crate::expression::parse_timestamp;
use crate::id::{TenantId, Topic};
use crate::job::{ActorType, Budget, JobMetadata, JobSpec, McpCall, Priority};
use crate::payload::Payload;
use crate::time::Timestamp;

/// The most cases of one file.
pub const MAX_CASES: usize = 10_000;
/// What time it is in a case that does not say: 2026-01-01T12:00:00Z.
const NOON: Timestamp = Timestamp::from_micros(1_767_268_800_000_000);

/// A job, and what policy should say about it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about, for people.
    pub name: String,
    /// Its first line in the file, from 1.
    pub line: usize,
    tenant: TenantId,
    principal: String,
    spec: JobSpec,
    input: Option<Payload>,
    config: Option<Json>,
    safety: Option<Safety>,
    /// What counters stand at, by `<counter>` or `<bundle>/<counter>`; others stand at 0.
    history: BTreeMap<String, u64>,
    now: Timestamp,
    expected: Expected,
}

/// What is expected of a decision; what is not said may be anything.
#[derive(Clone, Debug)]
struct Expected {
    decision: Decision,
    rule_id: Option<String>,
    bundle_id: Option<String>,
    reason_contains: Option<String>,
    constraints: Option<Constraints>,
}

/// How a case came out.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Its first line in the file, from 1.
    pub line: usize,
    /// Everything that was not as expected; empty = it passed.
    pub failures: Vec<String>,
    /// What was decided; `None` = nothing could be.
    pub outcome: Option<Outcome>,
}

/// How often the cases came to a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCoverage {
    /// The bundle.
    pub bundle_id: String,
    /// The rule.
    pub rule_id: String,
    /// Its first line in the bundle, from 1.
    pub line: usize,
    /// Cases that it matched.
    pub matched: usize,
    /// Cases whose decision it made, alone or with others.
    pub decided: usize,
}

/// How all cases came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// The cases, in file order.
    pub cases: Vec<CaseResult>,
    /// The rules, by bundle and in file order.
    pub coverage: Vec<RuleCoverage>,
}

/// Reads a file of cases.
///
/// # Errors
/// Everything that is wrong, in the order of the text; at least one problem.
pub fn parse(text: &str) -> Result<Vec<Case>, Vec<Problem>> {
    let document = Document::parse(text)?;
    let reader = Reader::new();
    let mut cases = Vec::new();
    if let Some(mut object) = reader.root(document.root()).object() {
        let items = object
            .require("cases")
            .map_or_else(Vec::new, |field| field.items(MAX_CASES));
        object.finish();
        cases.extend(items.iter().filter_map(read_case));
    }
    let problems = reader.into_problems();
    if problems.is_empty() {
        Ok(cases)
    } else {
        Err(problems)
    }
}

/// Runs cases against the bundles that are in force together.
#[must_use]
pub fn run(snapshot: &Snapshot, cases: &[Case]) -> Report {
    let mut coverage: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    let cases = cases
        .iter()
        .map(|case| {
            let (failures, outcome) = match case.explain(snapshot) {
                Ok(explained) => {
                    cover(&explained, &mut coverage);
                    let failures = case.expected.failures(&explained.outcome);
                    (failures, Some(explained.outcome))
                }
                Err(undecided) => (vec![format!("nothing was decided: {undecided}")], None),
            };
            CaseResult {
                name: case.name.clone(),
                line: case.line,
                failures,
                outcome,
            }
        })
        .collect();
    let rules = snapshot.bundles().flat_map(|(name, bundle)| {
        let rules = bundle.rules.iter();
        rules.map(move |rule| (name.to_owned(), rule))
    });
    let coverage = rules
        .map(|(bundle_id, rule)| {
            let key = (bundle_id, rule.id.clone());
            let (matched, decided) = coverage.get(&key).copied().unwrap_or_default();
            let (bundle_id, rule_id) = key;
            RuleCoverage {
                bundle_id,
                rule_id,
                line: rule.line,
                matched,
                decided,
            }
        })
        .collect();
    Report { cases, coverage }
}

impl Report {
    /// Whether every case passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.cases.iter().all(|case| case.failures.is_empty())
    }
}

fn cover(explained: &Explanation, coverage: &mut BTreeMap<(String, String), (usize, usize)>) {
    let outcome = &explained.outcome;
    for bundle in &explained.bundles {
        let matched = bundle
            .rules
            .iter()
            .filter(|rule| rule.result != RuleResult::NotMatched);
        for rule in matched {
            let key = (bundle.bundle_id.clone(), rule.rule_id.clone());
            let first = outcome.bundle_id == key.0 && outcome.rule_id == key.1;
            let counts = coverage.entry(key).or_default();
            counts.0 += 1;
            counts.1 += usize::from(first || rule.decision == outcome.decision);
        }
    }
}

impl Case {
    fn explain(&self, snapshot: &Snapshot) -> Result<Explanation, Undecided> {
        let subject = Subject::new(&self.tenant, &self.principal, &self.spec, self.now)
            .with_input(self.input.as_ref())
            .with_config(self.config.as_ref())
            .with_safety(self.safety.as_ref());
        let mut history = History::new();
        for (name, bundle) in snapshot.bundles() {
            for counter in &bundle.counters {
                let id = format!("{name}/{}", counter.id);
                let value = self.history.get(&id).or(self.history.get(&counter.id));
                history.insert_id(id, value.copied().unwrap_or_default());
            }
        }
        snapshot.explain(&subject, &history)
    }
}

impl Expected {
    fn failures(&self, outcome: &Outcome) -> Vec<String> {
        let mut failures = Vec::new();
        if outcome.decision != self.decision {
            failures.push(format!(
                "expected {}, got {}: {}",
                self.decision.word(),
                outcome.decision.word(),
                outcome.reason
            ));
        }
        let mut same = |what: &str, wanted: &Option<String>, found: &str| {
            if let Some(wanted) = wanted
                && wanted != found
            {
                failures.push(format!("expected {what} `{wanted}`, got `{found}`"));
            }
        };
        same("rule", &self.rule_id, &outcome.rule_id);
        same("bundle", &self.bundle_id, &outcome.bundle_id);
        if let Some(part) = &self.reason_contains
            && !outcome.reason.contains(part.as_str())
        {
            failures.push(format!(
                "expected a reason with `{part}`, got `{}`",
                outcome.reason
            ));
        }
        if let Some(wanted) = &self.constraints
            && outcome.constraints.as_ref() != Some(wanted)
        {
            let found = outcome.constraints.as_ref().map(Constraints::to_json);
            failures.push(format!(
                "expected constraints {}, got {}",
                wanted.to_json(),
                found.unwrap_or_default()
            ));
        }
        failures
    }
}

fn read_case(field: &Field<'_>) -> Option<Case> {
    let mut object = field.object()?;
    let name = object.require("name").and_then(|field| field.line(256));
    let subject = object.require("subject");
    let history = object
        .get("history")
        .map_or_else(Vec::new, |field| field.entries(1_000))
        .into_iter()
        .filter_map(|(name, value)| {
            let value = value.whole(0, i64::MAX)?;
            Some((name.to_owned(), value.unsigned_abs()))
        })
        .collect();
    let now = object.get("now").and_then(|field| {
        field.parsed(|text| {
            parse_timestamp(text).ok_or("must be a time such as `2026-01-31T12:00:00Z`")
        })
    });
    let expected = object.require("expect").and_then(|f| read_expected(&f));
    object.finish();
    let mut subject = subject?.object()?;
    let tenant = text(&mut subject, "tenant").map_or_else(
        || TenantId::parse("default"),
        |(field, text)| TenantId::parse(text).inspect_err(|error| field.problem(error)),
    );
    let principal = text(&mut subject, "principal").map_or("tester", |(_, text)| text);
    let spec = read_spec(&mut subject);
    let input = subject
        .get("input")
        .map(|field| Payload::json(field.node().to_json().to_string().into()));
    let config = subject.get("config").map(|field| field.node().to_json());
    let safety = subject
        .get("safety")
        .map(|field| Safety::read_field(&field));
    subject.finish();
    Some(Case {
        name: name?,
        line: field.position().0,
        tenant: tenant.ok()?,
        principal: principal.to_owned(),
        spec: spec?,
        input,
        config,
        safety,
        history,
        now: now.unwrap_or(NOON),
        expected: expected?,
    })
}

fn read_expected(field: &Field<'_>) -> Option<Expected> {
    let mut object = field.object()?;
    let decision = object
        .require("decision")
        .and_then(|field| field.word(&Decision::WORDS));
    let mut owned = |key| text(&mut object, key).map(|(_, text)| text.to_owned());
    let (rule_id, bundle_id) = (owned("rule_id"), owned("bundle_id"));
    let reason_contains = owned("reason_contains");
    let constraints = object
        .get("constraints")
        .and_then(|field| Constraints::read(&field));
    object.finish();
    Some(Expected {
        decision: decision?,
        rule_id,
        bundle_id,
        reason_contains,
        constraints,
    })
}

fn read_spec(subject: &mut Object<'_>) -> Option<JobSpec> {
    let topic = subject
        .require("topic")
        .and_then(|field| field.parsed(Topic::parse));
    let team = text(subject, "team").map(|(_, text)| text.to_owned());
    let priority = subject.get("priority").and_then(|field| {
        field.word(&[
            ("critical", Priority::Critical),
            ("interactive", Priority::Interactive),
            ("batch", Priority::Batch),
        ])
    });
    let labels = subject.get("labels").map(|field| {
        let entries = field.entries(1_000).into_iter();
        entries
            .filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned())))
            .collect()
    });
    let metadata = subject.get("metadata").and_then(|f| read_metadata(&f));
    let cost = subject
        .get("estimated_cost")
        .and_then(|field| field.number());
    let budget = subject.get("budget").and_then(|field| {
        let mut object = field.object()?;
        let mut tokens = |key| object.get(key).and_then(|field| field.whole(0, i64::MAX));
        let budget = Budget {
            max_input_tokens: tokens("max_input_tokens").unwrap_or_default(),
            max_output_tokens: tokens("max_output_tokens").unwrap_or_default(),
            max_total_tokens: tokens("max_total_tokens").unwrap_or_default(),
        };
        object.finish();
        Some(budget)
    });
    let mut spec = JobSpec::new(topic?);
    spec.team_id = team.unwrap_or_default();
    spec.priority = priority.unwrap_or_default();
    spec.labels = labels.unwrap_or_default();
    spec.metadata = metadata.unwrap_or_default();
    spec.estimated_cost = cost;
    spec.budget = budget;
    Some(spec)
}

fn read_metadata(field: &Field<'_>) -> Option<JobMetadata> {
    let mut object = field.object()?;
    let mut read = JobMetadata {
        capability: owned(&mut object, "capability"),
        pack_id: owned(&mut object, "pack_id"),
        actor_id: owned(&mut object, "actor_id"),
        ..JobMetadata::default()
    };
    let mut list = |key| {
        object
            .get(key)
            .map_or_else(Vec::new, |field| field.list(1_000, |item| item.line(256)))
    };
    (read.risk_tags, read.requires) = (list("risk_tags"), list("requires"));
    read.actor_type = object.get("actor_type").and_then(|field| {
        field.word(&[("human", ActorType::Human), ("service", ActorType::Service)])
    });
    read.mcp = object.get("mcp").and_then(|field| {
        let mut mcp = field.object()?;
        let call = McpCall {
            server: owned(&mut mcp, "server"),
            tool: owned(&mut mcp, "tool"),
            resource: owned(&mut mcp, "resource"),
            action: owned(&mut mcp, "action"),
        };
        mcp.finish();
        Some(call)
    });
    object.finish();
    Some(read)
}

fn text<'a>(object: &mut Object<'a>, key: &'static str) -> Option<(Field<'a>, &'a str)> {
    let field = object.get(key)?;
    let text = field.text()?;
    Some((field, text))
}

fn owned(object: &mut Object<'_>, key: &'static str) -> String {
    text(object, key).map_or_else(String::new, |(_, text)| text.to_owned())
}
