//! What a job asks for: its spec, which never changes after acceptance, and the parts of it.
//!
//! What becomes of a job is in its record, [`Job`](super::Job).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{JobId, PoolName, Topic, WorkerId};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// The order in which waiting jobs are served.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Priority {
    /// Before everything else.
    Critical,
    /// The default.
    #[default]
    Interactive,
    /// After everything else.
    Batch,
}

impl Priority {
    /// The class as a sort key: lower is served first.
    #[must_use]
    pub const fn class(self) -> u8 {
        match self {
            Self::Critical => 0,
            Self::Interactive => 1,
            Self::Batch => 2,
        }
    }
}

/// What becomes of an attempt that is lost with its worker or server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerLossPolicy {
    /// It is handed out again, up to `max_redispatch` times.
    #[default]
    Retry,
    /// The job fails: at most once.
    Fail,
}

/// Who acts, as the caller claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ActorType {
    /// A person.
    Human,
    /// A program.
    Service,
}

/// The Model Context Protocol call that a job stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct McpCall {
    /// Server name.
    pub server: String,
    /// Tool name.
    pub tool: String,
    /// Resource.
    pub resource: String,
    /// Action.
    pub action: String,
}

/// Claims of the caller about the job, matched by policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobMetadata {
    /// What the job does, as a capability name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub capability: String,
    /// Why it may be dangerous.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub risk_tags: Vec<String>,
    /// Capabilities that the worker must have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// The pack it comes from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pack_id: String,
    /// On whose behalf.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor_id: String,
    /// What kind of actor that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor_type: Option<ActorType>,
    /// The MCP call it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp: Option<McpCall>,
}

/// Hints and constraints on where a job runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// A hint: this pool when it has a free slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_pool: Option<PoolName>,
    /// A hint: this worker when it has a free slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_worker_id: Option<WorkerId>,
    /// A constraint: labels that the worker must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub worker_labels: BTreeMap<String, String>,
    /// How many slots of its worker an attempt takes.
    #[serde(skip_serializing_if = "Slots::is_one")]
    pub slots: Slots,
}

/// How many slots of a worker one attempt takes; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slots(pub u32);

impl Slots {
    /// What an attempt takes unless its job says otherwise.
    pub const ONE: Self = Self(1);

    /// Whether it is [`Self::ONE`].
    #[must_use]
    pub fn is_one(&self) -> bool {
        *self == Self::ONE
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::ONE
    }
}

/// What happens to a job that finds as many running with its key as may run at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConcurrencyAction {
    /// It waits until one of them is over.
    #[default]
    Queue,
    /// It is refused at submission.
    Reject,
    /// The one that was handed out first is cancelled to make room.
    CancelOldest,
}

/// A limit on how many jobs with one key run at once, within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    /// The key.
    pub key: String,
    /// The most at once; at least 1.
    pub limit: u32,
    /// What happens to one more.
    #[serde(default)]
    pub on_limit: ConcurrencyAction,
}

/// Token budget of a job, delivered to the worker and to policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Input tokens; 0 = unlimited.
    pub max_input_tokens: i64,
    /// Output tokens; 0 = unlimited.
    pub max_output_tokens: i64,
    /// Tokens together; 0 = unlimited.
    pub max_total_tokens: i64,
}

/// Hints that come from, and go back to, the CAP bus protocol unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapFields {
    /// Environment of the job.
    pub env: BTreeMap<String, String>,
    /// Adapter that made it.
    pub adapter_id: String,
    /// Most input tokens the worker should read.
    pub max_input_tokens: i32,
    /// The worker may summarise.
    pub allow_summarization: bool,
    /// The worker may retrieve.
    pub allow_retrieval: bool,
    /// Free hints.
    pub tags: Vec<String>,
    /// Position in the caller's own sequence.
    pub step_index: i32,
}

/// What was asked for. Never changes after acceptance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// What the job is about.
    pub topic: Topic,
    /// The team whose configuration applies; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub team_id: String,
    /// Serving order.
    #[serde(default)]
    pub priority: Priority,
    /// For filters and policy; never constraints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Claims of the caller.
    #[serde(default)]
    pub metadata: JobMetadata,
    /// Where it runs.
    #[serde(default)]
    pub placement: Placement,
    /// Token budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What the caller expects it to cost, in the caller's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_cost: Option<f64>,
    /// Attempts after a reported failure or a timeout.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// What a lost worker means.
    #[serde(default)]
    pub on_worker_loss: WorkerLossPolicy,
    /// How long one attempt may take, from hand-out.
    pub timeout: Duration,
    /// How long it may be eligible without a worker.
    pub schedule_to_start_timeout: Duration,
    /// How long it may take in all, from acceptance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_after: Option<Duration>,
    /// Not eligible earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// How often it may be handed out again after losses.
    pub max_redispatch: u32,
    /// The worker runs only after the server committed `started`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirm_start: bool,
    /// What jobs of one tenant take turns by; empty = one group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fairness_key: String,
    /// How many such jobs run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Opaque to the server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub memory_id: String,
    /// The job that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_job_id: Option<JobId>,
    /// From the CAP bus protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<CapFields>,
}

impl JobSpec {
    /// The default of `timeout`.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3_600);
    /// The default of `schedule_to_start_timeout`.
    pub const DEFAULT_SCHEDULE_TO_START: Duration = Duration::from_secs(24 * 3_600);
    /// The default of `max_redispatch`.
    pub const DEFAULT_MAX_REDISPATCH: u32 = 3;

    /// A job about `topic` with every default.
    #[must_use]
    pub fn new(topic: Topic) -> Self {
        Self {
            topic,
            team_id: String::new(),
            priority: Priority::default(),
            labels: BTreeMap::new(),
            metadata: JobMetadata::default(),
            placement: Placement::default(),
            budget: None,
            estimated_cost: None,
            retry: RetryPolicy::default(),
            on_worker_loss: WorkerLossPolicy::default(),
            timeout: Self::DEFAULT_TIMEOUT,
            schedule_to_start_timeout: Self::DEFAULT_SCHEDULE_TO_START,
            deadline_after: None,
            not_before: None,
            max_redispatch: Self::DEFAULT_MAX_REDISPATCH,
            confirm_start: false,
            fairness_key: String::new(),
            concurrency: None,
            memory_id: String::new(),
            parent_job_id: None,
            cap: None,
        }
    }
}
