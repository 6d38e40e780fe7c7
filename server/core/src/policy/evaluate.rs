//! The evaluator: what a snapshot says about a job.
//!
//! Every bundle tries its rules in order; the first that matches is its vote. Topic lists of tenants
//! and the safety section can only take away. The strictest vote wins; where no rule voted, the
//! strictest default decision that is written does, and a denial if there is none.
//!
//! What cannot be evaluated never makes a decision milder: a rule of which nobody can say whether it
//! matches counts as matched as far as it restricts, as not matched as far as it allows, and the
//! rules after it are tried as well.
//!
//! There is one evaluator. An explanation is made by the same code, which then tells a `Recorder`
//! what it does and tries all rules instead of those that the index finds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::key::{counter_ref, key_value, shortened};
use super::matching::{Criterion, Fit};
use super::restrict::{lists_vote, safety_votes};
use super::rule::{RateKey, Rule};
use super::snapshot::{Compiled, Snapshot};
use super::subject::{Facts, InputApart, Subject};
use super::terms::ApprovalTerms;
use super::vote::{Vote, Voter, outcome};
use super::{Constraints, Decision, Remediation};
use crate::expression::Expression;
use crate::routing::Rate;

/// What is decided about a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// Why, for people. Of one deciding rule it is that rule's own reason.
    pub reason: String,
    /// The bundle whose rule, list or default decided; empty = none did.
    pub bundle_id: String,
    /// The rule that decided; empty = a list, the safety section or a default did.
    pub rule_id: String,
    /// What the job has to keep once it runs; never with a denial.
    pub constraints: Option<Constraints>,
    /// For a denial: what the caller could do instead.
    pub remediations: Vec<Remediation>,
    /// For `RequireApproval`: what the approval has to be.
    pub approval: Option<ApprovalTerms>,
    /// Permits that the job has to take from every one of these rates before it runs: for
    /// `Throttle`, and for `RequireApproval` where a rule asked for throttling beside.
    pub rates: Vec<RateTaken>,
    /// The counters that the job adds one to when it is accepted. A denied job is not counted.
    pub counts: Vec<CounterRef>,
}

/// A permit of a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateTaken {
    /// The name of the bucket: `<tenant>/<bundle>/<rule>/<kind of key>/<value>`, a long value hashed.
    pub bucket: String,
    /// How often.
    pub rate: Rate,
}

/// One count of a counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterRef {
    /// The counter: `<bundle>/<counter>`.
    pub id: String,
    /// Which of its counts: `<tenant>/<value of its key>`, a long value hashed.
    pub key: String,
    /// How far it looks back.
    pub window: Duration,
}

/// What counters stand at, as far as the caller has read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(BTreeMap<String, u64>);

impl History {
    /// Nothing was read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what a counter stands at.
    pub fn insert(&mut self, counter: &CounterRef, value: u64) {
        self.insert_id(counter.id.clone(), value);
    }

    /// Adds what the counter `<bundle>/<counter>` stands at for the job in question.
    pub fn insert_id(&mut self, id: String, value: u64) {
        self.0.insert(id, value);
    }
}

/// Why there is no decision yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// Rules that were reached read these counters: ask again with their values.
    #[error("needs the values of {} counters", .0.len())]
    NeedsHistory(Vec<CounterRef>),
    /// A rule that was reached reads the input, which stands apart: ask again with it.
    #[error("needs the input, which is stored apart")]
    NeedsInput,
    /// The kernel itself failed. Neither a denial nor an allowance.
    #[error("{0}")]
    Trouble(String),
}

impl From<InputApart> for Undecided {
    fn from(_: InputApart) -> Self {
        Self::NeedsInput
    }
}

/// Is told what the evaluator does.
pub(super) trait Recorder {
    /// Whether rules that the index leaves out are tried as well.
    const ALL_RULES: bool;

    fn bundle(&mut self, bundle: &Compiled);
    fn rule(&mut self, rule: &Rule, subject: &Subject<'_>, tried: &Tried);
    fn restriction(&mut self, voter: Voter<'_>, decision: Decision, reason: &str);
    fn default_decision(&mut self, bundle: &str, decision: Decision);
}

/// How trying a rule came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tried {
    pub(super) fit: Fit,
    /// The criterion that failed, or that nobody can be sure of.
    pub(super) criterion: Option<Criterion>,
    /// What the condition gave, if it was evaluated.
    pub(super) condition: Option<Condition>,
}

/// What a condition gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was true or false.
    Value(bool),
    /// It could not be evaluated; why.
    Failed(String),
}

/// Listens to nothing.
struct Silent;

impl Recorder for Silent {
    const ALL_RULES: bool = false;

    fn bundle(&mut self, _: &Compiled) {}
    fn rule(&mut self, _: &Rule, _: &Subject<'_>, _: &Tried) {}
    fn restriction(&mut self, _: Voter<'_>, _: Decision, _: &str) {}
    fn default_decision(&mut self, _: &str, _: Decision) {}
}

impl Snapshot {
    /// Decides about a job.
    ///
    /// # Errors
    /// [`Undecided`]: counters or the input have to be read first, or the kernel failed.
    pub fn evaluate(&self, subject: &Subject<'_>, history: &History) -> Result<Outcome, Undecided> {
        self.judge(subject, history, &mut Silent)
    }

    pub(super) fn judge<R: Recorder>(
        &self,
        subject: &Subject<'_>,
        history: &History,
        recorder: &mut R,
    ) -> Result<Outcome, Undecided> {
        let mut votes = Vec::new();
        let mut needs = BTreeSet::new();
        for bundle in &self.bundles {
            recorder.bundle(bundle);
            votes.extend(lists_vote(bundle, subject, recorder));
            let mut ballot = Ballot {
                bundle,
                subject,
                history,
                needs: &mut needs,
                votes: &mut votes,
            };
            if R::ALL_RULES {
                ballot.fill(0..bundle.len(), recorder)?;
            } else {
                ballot.fill(bundle.index.candidates(subject), recorder)?;
            }
        }
        if let Some(safety) = subject.safety {
            safety_votes(safety, subject, &mut votes, recorder)?;
        }
        if !needs.is_empty() {
            return Err(Undecided::NeedsHistory(needs.into_iter().collect()));
        }
        let section = subject
            .safety
            .and_then(|safety| safety.constraints.as_ref());
        let mut decided = outcome(votes, || self.default_vote(recorder), section);
        if decided.decision != Decision::Deny {
            let counters = self.bundles.iter().flat_map(|bundle| {
                let counters = bundle.bundle.counters.iter();
                counters.filter_map(|counter| counter_ref(bundle, counter, subject).ok())
            });
            decided.counts = counters.collect();
        }
        Ok(decided)
    }

    /// The strictest default decision that is written.
    fn default_vote<R: Recorder>(&self, recorder: &mut R) -> Vote<'_> {
        let mut strictest: Option<(&str, Decision)> = None;
        for bundle in &self.bundles {
            let Some(decision) = bundle.bundle.default_decision else {
                continue;
            };
            recorder.default_decision(&bundle.name, decision);
            if strictest.is_none_or(|(_, other)| decision.strictness() > other.strictness()) {
                strictest = Some((&bundle.name, decision));
            }
        }
        let Some((bundle, decision)) = strictest else {
            let reason = "no rule matched, and no bundle has a default decision".to_owned();
            return Vote::new(Voter::Default { bundle: "" }, Decision::Deny, reason);
        };
        let reason = format!("no rule matched: default decision of bundle `{bundle}`");
        let mut vote = Vote::new(Voter::Default { bundle }, decision, reason);
        if decision == Decision::RequireApproval {
            vote.approval = Some(ApprovalTerms::default());
        }
        vote
    }
}

/// The rules of one bundle while they are tried.
struct Ballot<'b, 's, 'a, 'h> {
    bundle: &'s Compiled,
    subject: &'b Subject<'a>,
    history: &'h History,
    needs: &'b mut BTreeSet<CounterRef>,
    votes: &'b mut Vec<Vote<'s>>,
}

impl<'s> Ballot<'_, 's, '_, '_> {
    /// Tries rules until one matches for sure.
    fn fill<R: Recorder>(
        &mut self,
        ranks: impl Iterator<Item = u32>,
        recorder: &mut R,
    ) -> Result<(), Undecided> {
        // Once a counter is missing, the rest is read only for what else has to be asked for.
        let mut waiting = false;
        for rule in ranks.filter_map(|rank| self.bundle.rule(rank)) {
            let (fit, criterion) = rule.matches.fit(self.subject)?;
            let mut tried = Tried {
                fit,
                criterion,
                condition: None,
            };
            if fit != Fit::No
                && let Some(when) = &rule.when
            {
                let (facts, missing) = self.counted(rule);
                waiting |= !missing.is_empty();
                self.needs.extend(missing);
                if waiting {
                    continue;
                }
                let condition = self.condition(when, facts)?;
                tried.fit = match &condition {
                    Condition::Value(false) => Fit::No,
                    Condition::Value(true) => fit,
                    Condition::Failed(_) => Fit::Unknown,
                };
                tried.condition = Some(condition);
            }
            recorder.rule(rule, self.subject, &tried);
            if tried.fit == Fit::No {
                continue;
            }
            if !waiting {
                let vote = self.vote(rule, &tried)?;
                self.votes.push(vote);
            }
            if tried.fit == Fit::Yes {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The counters that a rule reads: what is known of them, and what has to be asked for. One
    /// whose key cannot be evaluated has no value.
    fn counted(&self, rule: &Rule) -> (Json, Vec<CounterRef>) {
        let mut known = serde_json::Map::new();
        let mut missing = Vec::new();
        let counters = self.bundle.bundle.counters.iter();
        for counter in counters.filter(|counter| rule.history.contains(&counter.id)) {
            let Ok(wanted) = counter_ref(self.bundle, counter, self.subject) else {
                continue;
            };
            match self.history.0.get(&wanted.id) {
                Some(value) => {
                    known.insert(counter.id.clone(), json!(value));
                }
                None => missing.push(wanted),
            }
        }
        (Json::Object(known), missing)
    }

    /// Evaluates a condition: for every MCP call that the job may stand for, where it reads that.
    fn condition(&self, when: &Expression, history: Json) -> Result<Condition, Undecided> {
        let mut variants = self.subject.mcp().variants();
        if variants > 1 && !reads_mcp(when) {
            variants = 1;
        }
        let mut facts = Facts::new(self.subject, history, 0);
        let mut all: Option<Condition> = None;
        for variant in 0..variants {
            facts.choose(variant);
            let found = match when.evaluate_bool(&facts) {
                Ok(value) => Condition::Value(value),
                Err(_) if facts.missed_input() => return Err(Undecided::NeedsInput),
                Err(error) => Condition::Failed(error.to_string()),
            };
            all = Some(match all {
                None => found,
                Some(other) if other == found => other,
                Some(Condition::Failed(reason)) => Condition::Failed(reason),
                Some(Condition::Value(_)) => match found {
                    Condition::Failed(reason) => Condition::Failed(reason),
                    Condition::Value(_) => Condition::Failed(
                        "`job.mcp` is ambiguous: labels and metadata differ".to_owned(),
                    ),
                },
            });
        }
        Ok(all.unwrap_or(Condition::Failed("no facts".to_owned())))
    }

    fn vote(&self, rule: &'s Rule, tried: &Tried) -> Result<Vote<'s>, Undecided> {
        let (bundle, id) = (self.bundle.name.as_str(), rule.id.as_str());
        let mut reason = if rule.reason.is_empty() {
            format!("rule `{id}` of bundle `{bundle}`")
        } else {
            rule.reason.clone()
        };
        let voter = if tried.fit == Fit::Yes {
            Voter::Rule { bundle, rule: id }
        } else {
            match (&tried.condition, tried.criterion) {
                (Some(Condition::Failed(error)), _) => {
                    reason.push_str(&format!(
                        " (the condition of rule `{id}` could not be evaluated: {error})"
                    ));
                }
                (_, criterion) => {
                    let name = criterion.map(Criterion::name).unwrap_or_default();
                    reason.push_str(&format!(
                        " (whether `{name}` of rule `{id}` matches cannot be said)"
                    ));
                }
            }
            Voter::Unsure { bundle, rule: id }
        };
        let mut vote = Vote::new(voter, rule.decision, reason);
        vote.constraints = rule.constraints.as_ref();
        vote.remediations = &rule.remediations;
        if rule.decision == Decision::RequireApproval {
            vote.approval = Some(rule.approval.clone().unwrap_or_default());
        }
        if let Some(terms) = &rule.rate {
            let subject = self.subject;
            let (kind, value) = match &terms.key {
                RateKey::Tenant => ("tenant", Ok(String::new())),
                RateKey::Principal => ("principal", Ok(subject.principal_id.to_owned())),
                RateKey::Topic => ("topic", Ok(subject.spec.topic.to_string())),
                RateKey::Expression(expression) => ("cel", key_value(expression, subject)?),
            };
            // Jobs whose key cannot be evaluated share one bucket: they are limited all the same.
            let (kind, value) = match value {
                Ok(value) => (kind, shortened(&value)),
                Err(_) => ("failed", String::new()),
            };
            let tenant = subject.tenant;
            vote.rate = Some(RateTaken {
                bucket: format!("{tenant}/{bundle}/{id}/{kind}/{value}"),
                rate: terms.rate,
            });
        }
        Ok(vote)
    }
}

/// Whether an expression may read the MCP call.
fn reads_mcp(expression: &Expression) -> bool {
    expression.references().iter().any(|path| {
        let mut names = path.iter().map(String::as_str);
        names.next() == Some("job") && names.next().is_none_or(|field| field == "mcp")
    })
}
