//! The kernel that decides by the policy of the store.

use std::fmt;
use std::sync::Arc;

use coretex_core::policy::{History, JobDecision, Outcome, Snapshot, Subject};
use parking_lot::RwLock;

use crate::kernel::{Facts, Judgement, Kernel, Undecided};

/// Decides by the snapshot that it was last given.
#[derive(Default)]
pub struct PolicyKernel {
    current: RwLock<Current>,
}

/// What is in force.
#[derive(Clone)]
struct Current {
    id: String,
    /// Or why nothing can be decided.
    snapshot: Result<Arc<Snapshot>, String>,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            id: String::new(),
            snapshot: Err("the policy has not been loaded yet".to_owned()),
        }
    }
}

impl fmt::Debug for PolicyKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PolicyKernel")
            .field(&self.current.read().id)
            .finish()
    }
}

impl Kernel for PolicyKernel {
    fn snapshot(&self) -> String {
        self.current.read().id.clone()
    }

    fn judge(&self, facts: Facts<'_>, history: &History) -> Result<Judgement, Undecided> {
        let current = self.current.read().clone();
        let snapshot = current.snapshot.map_err(Undecided::Trouble)?;
        judge_by(&snapshot, facts, history)
    }

    fn follows_store(&self) -> bool {
        true
    }

    fn is_sound(&self) -> bool {
        self.current.read().snapshot.is_ok()
    }

    fn policy(&self) -> Option<Arc<Snapshot>> {
        self.current.read().snapshot.clone().ok()
    }

    fn follow(&self, snapshot: Snapshot) {
        *self.current.write() = Current {
            id: snapshot.id().to_owned(),
            snapshot: Ok(Arc::new(snapshot)),
        };
    }

    fn stand_still(&self, snapshot_id: &str, reason: &str) {
        *self.current.write() = Current {
            id: snapshot_id.to_owned(),
            snapshot: Err(format!("the policy in force cannot be used: {reason}")),
        };
    }
}

/// The subject of an evaluation.
pub(super) fn subject_of<'a>(facts: &Facts<'a>) -> Subject<'a> {
    let subject = Subject::new(facts.tenant, facts.principal_id, facts.spec, facts.now);
    subject
        .with_input(facts.input)
        .with_config(facts.config.map(|config| &config.data))
        .with_safety(facts.config.and_then(|config| config.typed.safety.as_ref()))
}

/// Decides by one snapshot.
pub(super) fn judge_by(
    snapshot: &Snapshot,
    facts: Facts<'_>,
    history: &History,
) -> Result<Judgement, Undecided> {
    let outcome = snapshot.evaluate(&subject_of(&facts), history)?;
    Ok(judgement(snapshot, outcome, &facts))
}

/// A judgement from the outcome of an evaluation.
pub(super) fn judgement(snapshot: &Snapshot, outcome: Outcome, facts: &Facts<'_>) -> Judgement {
    let id = snapshot.id().to_owned();
    let mut decision = JobDecision::plain(outcome.decision, id, facts.now);
    if let Some(config) = facts.config {
        decision.config_hash.clone_from(&config.hash);
    }
    decision.reason = outcome.reason;
    decision.rule_id = outcome.rule_id;
    decision.constraints = outcome.constraints;
    decision.remediations = outcome.remediations;
    Judgement {
        decision,
        terms: outcome.approval,
        rates: outcome.rates,
        counts: outcome.counts,
    }
}
