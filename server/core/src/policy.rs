//! The safety kernel's pure half: decisions as jobs keep them, and how they are made.
//!
//! Which bundles are in force, what counters stand at and what a rate has left is kept elsewhere and
//! comes in as arguments.

pub mod bundle;
pub mod cases;
mod constraints;
pub mod diff;
pub mod evaluate;
pub mod explain;
pub mod glob;
mod index;
mod key;
mod matching;
mod mcp;
mod restrict;
pub mod rule;
pub mod safety;
pub mod secrets;
pub mod signature;
mod snapshot;
mod subject;
pub mod terms;
mod vote;

pub use self::bundle::Bundle;
pub use self::constraints::NOTHING;
pub use self::evaluate::{Condition, CounterRef, History, Outcome, RateTaken, Undecided};
pub use self::explain::Explanation;
pub use self::mcp::fold_labels;
pub use self::snapshot::{
    MAX_BUNDLES, MAX_SNAPSHOT_PATTERNS, MAX_SNAPSHOT_RULES, Snapshot, SnapshotError,
};
pub use self::subject::Subject;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What policy says about a job. Numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// It may run.
    Allow = 1,
    /// It may not run.
    Deny = 2,
    /// A human has to say.
    RequireApproval = 3,
    /// It may run later.
    Throttle = 4,
    /// It may run within constraints.
    AllowWithConstraints = 5,
}

/// A change to a denied request that would be allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remediation {
    /// Its id within the decision.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// What it changes and why.
    pub summary: String,
    /// The topic to use instead; empty = unchanged.
    pub replacement_topic: String,
    /// The capability to use instead; empty = unchanged.
    pub replacement_capability: String,
    /// Labels to add.
    pub add_labels: BTreeMap<String, String>,
    /// Labels to remove.
    pub remove_labels: Vec<String>,
}

/// Limits that come with a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    /// The longest one attempt may run.
    pub max_runtime: Option<Duration>,
    /// The most retries.
    pub max_retries: Option<u32>,
    /// The most artifact bytes.
    pub max_artifact_bytes: Option<u64>,
    /// The most jobs of this kind at once.
    pub max_concurrent_jobs: Option<u32>,
    /// Run isolated.
    pub isolated: bool,
    /// Reachable hosts.
    pub network_allowlist: Vec<String>,
    /// Readable paths.
    pub fs_read_only: Vec<String>,
    /// Writable paths.
    pub fs_read_write: Vec<String>,
    /// Tools that may be used.
    pub allowed_tools: Vec<String>,
    /// Commands that may be run.
    pub allowed_commands: Vec<String>,
    /// The most files one change may touch.
    pub max_files: Option<u32>,
    /// The most lines one change may touch.
    pub max_lines: Option<u32>,
    /// Paths that may not be touched.
    pub deny_path_globs: Vec<String>,
    /// How strongly outputs are redacted; empty = not.
    pub redaction_level: String,
}

/// One decision about one job, as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDecision {
    /// When it was made.
    pub time: Timestamp,
    /// The attempt that it was made for; 0 = for the acceptance. The job fills it in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// What was decided.
    pub decision: Decision,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The rule that decided; empty = the default decision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule_id: String,
    /// The policy snapshot it was made under.
    pub policy_snapshot: String,
    /// The configuration that it was made under; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub config_hash: String,
    /// Limits that come with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Constraints>,
    /// The approval that it waits for or was granted by; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub approval_id: String,
    /// For `RequireApproval`: what the approval has to be like. It moves on to the approval, and so
    /// is never stored here.
    #[serde(skip)]
    pub terms: Option<terms::ApprovalTerms>,
    /// Changes that would be allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remediations: Vec<Remediation>,
    /// For `Throttle`: not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// For `Throttle`: the bucket that had nothing left; empty = no bucket but the time decides.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bucket: String,
    /// Buckets from which the job has taken what it needs; it takes nothing from them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<String>,
}

impl JobDecision {
    /// A decision that has nothing to say beside its verdict.
    #[must_use]
    pub const fn plain(decision: Decision, policy_snapshot: String, time: Timestamp) -> Self {
        Self {
            time,
            attempt: 0,
            decision,
            reason: String::new(),
            rule_id: String::new(),
            policy_snapshot,
            config_hash: String::new(),
            constraints: None,
            approval_id: String::new(),
            terms: None,
            remediations: Vec::new(),
            retry_at: None,
            bucket: String::new(),
            taken: Vec::new(),
        }
    }

    /// Whether it lets the job run.
    #[must_use]
    pub const fn allows(&self) -> bool {
        matches!(
            self.decision,
            Decision::Allow | Decision::AllowWithConstraints
        )
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
