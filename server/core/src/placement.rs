//! Which worker gets a job, and why another does not.
//!
//! One set of functions serves the hot path ([`choose`]), the claim loop ([`suits`], [`Shape`]) and
//! the explanation to people ([`explain`]), so that what is explained is what was done.

mod shape;

use std::collections::BTreeMap;
use std::fmt;

use crate::id::{PoolName, SessionId, TenantId, Topic, WorkerId};
use crate::job::{Job, Slots};
use crate::pause::{Pause, PauseScope, Pauses};
use crate::routing::{PoolRule, Route, Routing};

pub use shape::{Shape, shape};

/// From this load on (percent, of CPU or GPU), a worker is a last choice: it gets a job only when
/// no other suitable worker has a free slot.
pub const LAST_CHOICE_LOAD: f32 = 90.0;

/// Whose jobs a worker may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenants<'a> {
    /// Everybody's.
    All,
    /// Only theirs.
    List(&'a [TenantId]),
}

impl Tenants<'_> {
    /// Whether `tenant` is among them.
    #[must_use]
    pub fn contains(&self, tenant: &TenantId) -> bool {
        match self {
            Self::All => true,
            Self::List(tenants) => tenants.contains(tenant),
        }
    }
}

/// What placement looks at in a connected worker.
#[derive(Clone, Debug)]
pub struct WorkerView<'a> {
    /// The worker's own name.
    pub worker_id: &'a WorkerId,
    /// Its connection.
    pub session: &'a SessionId,
    /// Its pool.
    pub pool: &'a PoolName,
    /// The topics it serves.
    pub topics: &'a [Topic],
    /// It serves every topic.
    pub any_topic: bool,
    /// What it can do.
    pub capabilities: &'a [String],
    /// What it is.
    pub labels: &'a BTreeMap<String, String>,
    /// Its slots.
    pub max_parallel: u32,
    /// Slots in use, those reserved for commits under way included.
    pub active: u32,
    /// CPU load in percent, as it says.
    pub cpu_load: f32,
    /// GPU load in percent, as it says.
    pub gpu_utilization: f32,
    /// It gets nothing new.
    pub draining: bool,
    /// Whose jobs it may get, by its credential.
    pub tenants_served: Tenants<'a>,
    /// What holds for the workers of its pool, if anything does.
    pub rule: Option<&'a PoolRule>,
}

impl WorkerView<'_> {
    /// Whether it serves `topic`.
    #[must_use]
    pub fn serves(&self, topic: &Topic) -> bool {
        self.any_topic || self.topics.contains(topic)
    }

    /// Slots that are neither in use nor reserved.
    #[must_use]
    pub const fn free(&self) -> u32 {
        self.max_parallel.saturating_sub(self.active)
    }

    /// Whether it may get jobs of `tenant`: by its credential, and by its pool.
    #[must_use]
    pub fn serves_tenant(&self, tenant: &TenantId) -> bool {
        let by_pool = |rule: &PoolRule| rule.tenants.is_empty() || rule.tenants.contains(tenant);
        self.tenants_served.contains(tenant) && self.rule.is_none_or(by_pool)
    }

    fn can(&self, capability: &String) -> bool {
        let by_pool = |rule: &PoolRule| rule.capabilities.contains(capability);
        self.capabilities.contains(capability) || self.rule.is_some_and(by_pool)
    }

    fn weight(&self) -> f64 {
        self.rule.map_or(1.0, |rule| f64::from(rule.weight.max(1)))
    }
}

/// What placement looks at in a job.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// Whose job it is.
    pub tenant: &'a TenantId,
    /// What it is about.
    pub topic: &'a Topic,
    /// Capabilities that the worker must have.
    pub requires: &'a [String],
    /// Labels that the worker must have.
    pub worker_labels: &'a BTreeMap<String, String>,
    /// A hint.
    pub preferred_pool: Option<&'a PoolName>,
    /// A hint that goes before the pool.
    pub preferred_worker_id: Option<&'a WorkerId>,
    /// How many slots of the worker it takes.
    pub slots: Slots,
    /// What jobs of one tenant take turns by; empty = nothing.
    pub fairness_key: &'a str,
    /// The key of its own limit on running jobs; empty = none.
    pub concurrency_key: &'a str,
    /// Which pools may serve it.
    pub route: Route<'a>,
    /// What is paused.
    pub pauses: &'a Pauses,
}

impl<'a> Needs<'a> {
    /// What a job asks for by itself, where every pool may serve it and nothing is paused.
    #[must_use]
    pub fn of(job: &'a Job) -> Self {
        let spec = &*job.spec;
        let concurrency = spec.concurrency.as_ref();
        Self {
            tenant: &job.tenant,
            topic: &spec.topic,
            requires: &spec.metadata.requires,
            worker_labels: &spec.placement.worker_labels,
            preferred_pool: spec.placement.preferred_pool.as_ref(),
            preferred_worker_id: spec.placement.preferred_worker_id.as_ref(),
            slots: spec.placement.slots,
            fairness_key: &spec.fairness_key,
            concurrency_key: concurrency.map_or("", |concurrency| &concurrency.key),
            route: Route::Open,
            pauses: Pauses::none(),
        }
    }

    /// The same under these tables and pauses.
    #[must_use]
    pub fn under(self, routing: &'a Routing, pauses: &'a Pauses) -> Self {
        Self {
            route: routing.route(self.topic, self.tenant),
            pauses,
            ..self
        }
    }
}

/// The first reason why a worker does not get a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mismatch<'a> {
    /// The worker is not for this tenant's jobs.
    TenantNotServed,
    /// It does not serve the topic.
    TopicNotServed {
        /// The topic.
        topic: &'a str,
    },
    /// It lacks a capability.
    CapabilityMissing {
        /// The first that it lacks.
        capability: &'a str,
    },
    /// A label is missing or has another value.
    LabelMismatch {
        /// The first such label.
        label: &'a str,
        /// The value that the job asks for.
        wanted: &'a str,
        /// The value that the worker has.
        found: Option<&'a str>,
    },
    /// The table of topics does not give the topic to the worker's pool.
    PoolNotMapped,
    /// It has fewer slots than the job takes.
    TooSmall {
        /// Slots that the job takes.
        slots: u32,
        /// Slots that the worker has.
        max_parallel: u32,
    },
    /// It gets nothing new.
    Draining,
    /// Its pool, the topic or the tenant is paused.
    Paused {
        /// By this.
        scope: &'a PauseScope,
    },
    /// It is overloaded, and its pool gives such workers nothing.
    Overloaded,
    /// All its slots are in use.
    Full {
        /// Slots in use or reserved.
        active: u32,
        /// Slots it has.
        max_parallel: u32,
    },
}

impl Mismatch<'_> {
    /// A stable name for machines.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TenantNotServed => "tenant_not_served",
            Self::TopicNotServed { .. } => "topic_not_served",
            Self::CapabilityMissing { .. } => "capability_missing",
            Self::LabelMismatch { .. } => "label_mismatch",
            Self::PoolNotMapped => "pool_not_mapped",
            Self::TooSmall { .. } => "too_small",
            Self::Draining => "draining",
            Self::Paused { .. } => "paused",
            Self::Overloaded => "overloaded",
            Self::Full { .. } => "full",
        }
    }

    /// Whether the worker would suit if it were idle: then waiting helps, otherwise only another
    /// worker or another job does.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Overloaded => true,
            Self::TenantNotServed
            | Self::TopicNotServed { .. }
            | Self::CapabilityMissing { .. }
            | Self::LabelMismatch { .. }
            | Self::PoolNotMapped
            | Self::TooSmall { .. }
            | Self::Draining
            | Self::Paused { .. } => false,
        }
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TenantNotServed => f.write_str("does not serve this tenant"),
            Self::TopicNotServed { topic } => write!(f, "does not serve topic `{topic}`"),
            Self::CapabilityMissing { capability } => {
                write!(f, "lacks capability `{capability}`")
            }
            Self::LabelMismatch {
                label,
                wanted,
                found: Some(found),
            } => {
                write!(f, "label `{label}` is `{found}`, not `{wanted}`")
            }
            Self::LabelMismatch {
                label,
                wanted,
                found: None,
            } => {
                write!(f, "has no label `{label}` (`{wanted}` is asked for)")
            }
            Self::PoolNotMapped => f.write_str("is of a pool that does not serve this topic"),
            Self::TooSmall {
                slots,
                max_parallel,
            } => {
                write!(f, "has {max_parallel} slot(s), and the job takes {slots}")
            }
            Self::Draining => f.write_str("is draining"),
            Self::Paused { scope } => write!(f, "is held up by a pause of {scope}"),
            Self::Overloaded => f.write_str("is overloaded"),
            Self::Full {
                active,
                max_parallel,
            } => {
                write!(f, "all slots are in use ({active} of {max_parallel})")
            }
        }
    }
}

/// Whether `worker` could run the job if it had a free slot and were not draining.
///
/// The tenant comes first, so that nothing else about a worker is told to a tenant that it does not
/// serve.
///
/// # Errors
/// The first reason why not.
pub fn suits<'a>(needs: &Needs<'a>, worker: &WorkerView<'a>) -> Result<(), Mismatch<'a>> {
    if !worker.serves_tenant(needs.tenant) {
        return Err(Mismatch::TenantNotServed);
    }
    if !worker.serves(needs.topic) {
        return Err(Mismatch::TopicNotServed {
            topic: needs.topic.as_str(),
        });
    }
    if !needs.route.allows(worker.pool) {
        return Err(Mismatch::PoolNotMapped);
    }
    if let Some(missing) = needs.requires.iter().find(|name| !worker.can(name)) {
        return Err(Mismatch::CapabilityMissing {
            capability: missing,
        });
    }
    for (label, wanted) in needs.worker_labels {
        let found = worker.labels.get(label);
        if found != Some(wanted) {
            return Err(Mismatch::LabelMismatch {
                label,
                wanted,
                found: found.map(String::as_str),
            });
        }
    }
    if needs.slots.0 > worker.max_parallel && worker.max_parallel > 0 {
        return Err(Mismatch::TooSmall {
            slots: needs.slots.0,
            max_parallel: worker.max_parallel,
        });
    }
    Ok(())
}

/// Whether `worker` can take the job now.
///
/// # Errors
/// The first reason why not; lasting reasons come before passing ones.
pub fn check<'a>(needs: &Needs<'a>, worker: &WorkerView<'a>) -> Result<(), Mismatch<'a>> {
    suits(needs, worker)?;
    if worker.draining {
        return Err(Mismatch::Draining);
    }
    if let Some(Pause { scope, .. }) = needs.pauses.at(needs.tenant, needs.topic, worker.pool) {
        return Err(Mismatch::Paused { scope });
    }
    if is_last_choice(worker) && worker.rule.is_some_and(|rule| rule.skip_overloaded) {
        return Err(Mismatch::Overloaded);
    }
    if worker.free() < needs.slots.0.max(1) {
        return Err(Mismatch::Full {
            active: worker.active,
            max_parallel: worker.max_parallel,
        });
    }
    Ok(())
}

/// A load as percent from 0 to 100. Workers without a meter send nonsense: NaN counts as unknown,
/// which is 0, so that the slots in use decide.
fn percent(load: f32) -> f64 {
    if load.is_nan() {
        0.0
    } else {
        f64::from(load.clamp(0.0, 100.0))
    }
}

/// How loaded a worker is, from 0 (idle) to 3: `active/max + cpu/100 + gpu/100`, divided by the
/// weight of its pool.
#[must_use]
pub fn score(worker: &WorkerView<'_>) -> f64 {
    let slots = if worker.max_parallel == 0 {
        1.0
    } else {
        (f64::from(worker.active) / f64::from(worker.max_parallel)).min(1.0)
    };
    let load = percent(worker.cpu_load) / 100.0 + percent(worker.gpu_utilization) / 100.0;
    (slots + load) / worker.weight()
}

/// Whether the worker is so loaded that it is a last choice.
#[must_use]
pub fn is_last_choice(worker: &WorkerView<'_>) -> bool {
    // False for NaN.
    worker.cpu_load >= LAST_CHOICE_LOAD || worker.gpu_utilization >= LAST_CHOICE_LOAD
}

/// Picks a worker for the job: the position of the chosen one in `workers`, `None` when nobody can
/// take it now.
///
/// In this order: the preferred worker, the preferred pool, workers that are not a last choice, the
/// lowest [`score`], the fewest slots in use; what is still equal is decided by a hash of `tie` and
/// the session, so that the same arguments always give the same answer and callers that pass
/// another `tie` each time spread equal workers evenly.
pub fn choose<'a>(
    needs: &Needs<'a>,
    workers: impl IntoIterator<Item = WorkerView<'a>>,
    tie: u64,
) -> Option<usize> {
    let mut best: Option<(usize, Rank<'a>)> = None;
    for (position, worker) in workers.into_iter().enumerate() {
        if check(needs, &worker).is_err() {
            continue;
        }
        let rank = Rank::new(needs, &worker, tie);
        if best.as_ref().is_none_or(|(_, least)| rank.is_before(least)) {
            best = Some((position, rank));
        }
    }
    best.map(|(position, _)| position)
}

/// What decides between suitable workers.
struct Rank<'a> {
    /// Not the preferred worker, not the preferred pool, last choice: false goes first.
    classes: (bool, bool, bool),
    score: f64,
    active: u32,
    tie: u64,
    session: &'a SessionId,
}

impl<'a> Rank<'a> {
    fn new(needs: &Needs<'a>, worker: &WorkerView<'a>, tie: u64) -> Self {
        Self {
            classes: (
                needs.preferred_worker_id != Some(worker.worker_id),
                needs.preferred_pool != Some(worker.pool),
                is_last_choice(worker),
            ),
            score: score(worker),
            active: worker.active,
            tie: mix(tie, worker.session.as_bytes()),
            session: worker.session,
        }
    }

    fn is_before(&self, other: &Self) -> bool {
        self.classes
            .cmp(&other.classes)
            .then(self.score.total_cmp(&other.score))
            .then(self.active.cmp(&other.active))
            .then(self.tie.cmp(&other.tie))
            .then_with(|| self.session.cmp(other.session))
            .is_lt()
    }
}

/// FNV-1a over seed and bytes with a final avalanche: spreads ties, nothing more.
fn mix(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// What [`check`] says about every worker, in the order given.
pub fn explain<'a>(
    needs: &Needs<'a>,
    workers: impl IntoIterator<Item = WorkerView<'a>>,
) -> Vec<(usize, Result<(), Mismatch<'a>>)> {
    workers
        .into_iter()
        .map(|worker| check(needs, &worker))
        .enumerate()
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
