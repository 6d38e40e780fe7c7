//! Which worker gets a job, and why another does not.
//!
//! One set of functions serves the hot path ([`choose`]), the claim loop ([`suits`], [`Shape`]) and
//! the explanation to people ([`explain`]), so that what is explained is what was done.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{PoolName, SessionId, TenantId, Topic, WorkerId};

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
    /// Whose jobs it may get, by its credential and its pool.
    pub tenants_served: Tenants<'a>,
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
    /// It gets nothing new.
    Draining,
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
            Self::Draining => "draining",
            Self::Full { .. } => "full",
        }
    }

    /// Whether the worker would suit if it were idle: then waiting helps, otherwise only another
    /// worker or another job does.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::TenantNotServed
            | Self::TopicNotServed { .. }
            | Self::CapabilityMissing { .. }
            | Self::LabelMismatch { .. }
            | Self::Draining => false,
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
            Self::Draining => f.write_str("is draining"),
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
    if !worker.tenants_served.contains(needs.tenant) {
        return Err(Mismatch::TenantNotServed);
    }
    if !worker.serves(needs.topic) {
        return Err(Mismatch::TopicNotServed {
            topic: needs.topic.as_str(),
        });
    }
    if let Some(missing) = needs
        .requires
        .iter()
        .find(|name| !worker.capabilities.contains(name))
    {
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
    if worker.free() == 0 {
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

/// How loaded a worker is, from 0 (idle) to 3: `active/max + cpu/100 + gpu/100`.
#[must_use]
pub fn score(worker: &WorkerView<'_>) -> f64 {
    let slots = if worker.max_parallel == 0 {
        1.0
    } else {
        (f64::from(worker.active) / f64::from(worker.max_parallel)).min(1.0)
    };
    slots + percent(worker.cpu_load) / 100.0 + percent(worker.gpu_utilization) / 100.0
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

/// A stable hash of what placement needs apart from tenant and topic. Jobs of one tenant, topic and
/// shape suit the same workers, so that a claimer decides once for all of them.
///
/// It stands in stored index members: how it is computed never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub u64);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The [`Shape`] of a job. The order and repetition of `requires` make no difference.
#[must_use]
pub fn shape(needs: &Needs<'_>) -> Shape {
    let mut requires: Vec<&str> = needs.requires.iter().map(String::as_str).collect();
    requires.sort_unstable();
    requires.dedup();
    let mut hash = Sha256::new();
    number(&mut hash, requires.len());
    for name in requires {
        text(&mut hash, name);
    }
    number(&mut hash, needs.worker_labels.len());
    for (label, value) in needs.worker_labels {
        text(&mut hash, label);
        text(&mut hash, value);
    }
    text(&mut hash, needs.preferred_pool.map_or("", PoolName::as_str));
    text(
        &mut hash,
        needs.preferred_worker_id.map_or("", WorkerId::as_str),
    );
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    Shape(u64::from_be_bytes(first))
}

/// Counts and lengths go in front of what they count, so that no two inputs hash the same bytes.
fn number(hash: &mut Sha256, number: usize) {
    hash.update((number as u64).to_be_bytes());
}

fn text(hash: &mut Sha256, text: &str) {
    number(hash, text.len());
    hash.update(text.as_bytes());
}

#[cfg(test)]
mod tests;
