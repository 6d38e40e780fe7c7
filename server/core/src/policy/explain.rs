//! Explanations: what the evaluator did, step by step.
//!
//! The evaluator itself tells it; nothing is decided here.

use super::Decision;
use super::evaluate::{Condition, History, Outcome, Recorder, Tried, Undecided};
use super::matching::{Criterion, Fit};
use super::rule::Rule;
use super::snapshot::{Compiled, Snapshot};
use super::subject::Subject;
use super::vote::Voter;

/// Why a decision is what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The snapshot that was asked.
    pub snapshot: String,
    /// What it decided; the same as [`Snapshot::evaluate`] gives.
    pub outcome: Outcome,
    /// Every bundle, in the order of their names.
    pub bundles: Vec<BundleExplanation>,
    /// What the safety section of the configuration takes away.
    pub safety: Vec<Restriction>,
    /// The default decisions that were looked at, because no rule voted: bundle and decision.
    pub defaults: Vec<(String, Decision)>,
}

/// What a bundle contributed.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleExplanation {
    /// Its name.
    pub bundle_id: String,
    /// What the topic lists of the tenant take away.
    pub lists: Option<Restriction>,
    /// Rules in the order of trying, up to the one that matched.
    pub rules: Vec<RuleExplanation>,
    /// Rules behind that one, which nobody looked at.
    pub not_reached: u32,
}

/// Something that keeps a job from running, whatever rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// What it votes for.
    pub decision: Decision,
    /// Why.
    pub reason: String,
}

/// How a rule was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleExplanation {
    /// Its id.
    pub rule_id: String,
    /// Its priority.
    pub priority: i32,
    /// Its first line in the bundle, from 1.
    pub line: usize,
    /// What it says about jobs that it matches.
    pub decision: Decision,
    /// Whether it matched.
    pub result: RuleResult,
    /// The first criterion that failed, or the first that nobody can be sure of.
    pub criterion: Option<CriterionExplanation>,
    /// For a rule that matched: everything that it asked for.
    pub matched: Vec<CriterionExplanation>,
    /// What its condition gave, if it was evaluated.
    pub condition: Option<Condition>,
}

/// Whether a rule matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleResult {
    /// It did: this is the vote of its bundle.
    Matched,
    /// It did not.
    NotMatched,
    /// Nobody can say. It counts as matched as far as it restricts, and the next ones were tried.
    Unsure,
}

/// A criterion of a rule and the job's own fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriterionExplanation {
    /// Its key in the rule: `topics`, `mcp.tools`, ...
    pub name: String,
    /// What the rule asks for.
    pub wanted: String,
    /// What the job has; empty = nothing.
    pub found: String,
}

impl CriterionExplanation {
    fn of(rule: &Rule, criterion: Criterion, subject: &Subject<'_>) -> Self {
        let (wanted, found) = rule.matches.describe(criterion, subject);
        Self {
            name: criterion.name(),
            wanted,
            found,
        }
    }
}

/// Writes down what the evaluator does.
#[derive(Debug, Default)]
struct Notes {
    bundles: Vec<BundleExplanation>,
    safety: Vec<Restriction>,
    defaults: Vec<(String, Decision)>,
}

impl Recorder for Notes {
    const ALL_RULES: bool = true;

    fn bundle(&mut self, bundle: &Compiled) {
        self.bundles.push(BundleExplanation {
            bundle_id: bundle.name.clone(),
            lists: None,
            rules: Vec::new(),
            not_reached: bundle.len(),
        });
    }

    fn rule(&mut self, rule: &Rule, subject: &Subject<'_>, tried: &Tried) {
        let Some(bundle) = self.bundles.last_mut() else {
            return;
        };
        let explain = |criterion| CriterionExplanation::of(rule, criterion, subject);
        bundle.not_reached = bundle.not_reached.saturating_sub(1);
        bundle.rules.push(RuleExplanation {
            rule_id: rule.id.clone(),
            priority: rule.priority,
            line: rule.line,
            decision: rule.decision,
            result: match tried.fit {
                Fit::Yes => RuleResult::Matched,
                Fit::No => RuleResult::NotMatched,
                Fit::Unknown => RuleResult::Unsure,
            },
            criterion: tried.criterion.map(explain),
            matched: match tried.fit {
                Fit::No => Vec::new(),
                Fit::Yes | Fit::Unknown => rule.matches.asked().map(explain).collect(),
            },
            condition: tried.condition.clone(),
        });
    }

    fn restriction(&mut self, voter: Voter<'_>, decision: Decision, reason: &str) {
        let restriction = Restriction {
            decision,
            reason: reason.to_owned(),
        };
        match (voter, self.bundles.last_mut()) {
            (Voter::Lists { .. }, Some(bundle)) => bundle.lists = Some(restriction),
            _ => self.safety.push(restriction),
        }
    }

    fn default_decision(&mut self, bundle: &str, decision: Decision) {
        self.defaults.push((bundle.to_owned(), decision));
    }
}

impl Snapshot {
    /// Decides about a job as [`Snapshot::evaluate`] does, and says how it came to that.
    ///
    /// # Errors
    /// As [`Snapshot::evaluate`].
    pub fn explain(
        &self,
        subject: &Subject<'_>,
        history: &History,
    ) -> Result<Explanation, Undecided> {
        let mut notes = Notes::default();
        let outcome = self.judge(subject, history, &mut notes)?;
        Ok(Explanation {
            snapshot: self.id().to_owned(),
            outcome,
            bundles: notes.bundles,
            safety: notes.safety,
            defaults: notes.defaults,
        })
    }
}
