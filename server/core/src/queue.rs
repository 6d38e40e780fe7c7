//! The order in which waiting jobs are served, and when a newcomer need not queue.
//!
//! A *queue* is the part of the ready index that belongs to one topic. Its members are [`ReadyKey`]s.
//! [`QueueGuard`] is one replica's knowledge that nothing in a queue could be run by its workers.
//! Who goes first is in [`rank`] (classes, and how waiting jobs rise) and [`turns`] (between
//! tenants); [`merge_heads`] and [`claim_order`] are the simpler order of the model. Reading the
//! index and committing claims is the engine's part.

pub mod rank;
pub mod turns;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use crate::id::{JobId, TenantId};
use crate::job::Priority;
use crate::lease::Tick;
use crate::placement::Shape;
use crate::time::Timestamp;

/// How often a replica with free slots reads the queues of its workers again. It bounds what a lost
/// doorbell costs: a job that waits beside a free slot is handed out within one second, of which
/// this leaves a tenth for the read and the commit.
pub const REREAD_EVERY: Duration = Duration::from_millis(900);

/// How long an empty read of a queue is believed. Longer than [`REREAD_EVERY`], so that a replica
/// that reads on time never loses it; short, so that one that was paused, or cannot reach the store,
/// does not let newcomers pass jobs that other replicas queued meanwhile.
pub const EMPTY_FOR: Duration = Duration::from_millis(2_000);

/// One replica's knowledge that nothing waits in a queue, which is what lets a new job take a free
/// slot without queueing.
///
/// Knowledge comes from a read that found nothing and ends with anything added since the read
/// *began*: by this replica, by a doorbell of another one, or by a worker that connects (what nobody
/// here could run before may be runnable now).
#[derive(Clone, Debug, Default)]
pub struct QueueGuard {
    /// Grows with everything that may have been added.
    generation: u64,
    /// Own commits under way that may add.
    adding: u32,
    /// The begin of the last read that found nothing, while nothing has been added since.
    empty_since: Option<Tick>,
}

/// A read of a queue that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadToken {
    generation: u64,
    began: Tick,
}

impl QueueGuard {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// To be called before the read is sent.
    #[must_use]
    pub const fn begin_read(&self, now: Tick) -> ReadToken {
        ReadToken {
            generation: self.generation,
            began: now,
        }
    }

    /// To be called with the answer. `found_nothing` means: no waiting job that a worker of this
    /// replica could run, were it idle. Jobs that none of them suits wait for other workers and
    /// hold nobody up. A read that failed is not finished.
    pub fn finish_read(&mut self, token: ReadToken, found_nothing: bool) {
        if !found_nothing {
            self.empty_since = None;
        } else if token.generation == self.generation && self.adding == 0 {
            self.empty_since = self.empty_since.max(Some(token.began));
        }
    }

    /// Something may have been added: a doorbell rang, a worker connected or changed, a commit of
    /// unknown outcome may be applied later, or the store went back in time.
    pub fn added(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.empty_since = None;
    }

    /// A commit of this replica that adds to the queue is about to be sent. Until [`Self::end_add`]
    /// no read counts as empty: it might have been answered just before that commit.
    pub fn begin_add(&mut self) {
        self.adding = self.adding.saturating_add(1);
        self.added();
    }

    /// That commit was answered, or given up.
    pub fn end_add(&mut self) {
        self.adding = self.adding.saturating_sub(1);
        self.added();
    }

    /// Whether a new job may take a free slot at once. It may only if this holds for *every* queue
    /// that the slot's worker serves: the slot belongs to all of them.
    #[must_use]
    pub fn is_known_empty(&self, now: Tick) -> bool {
        self.adding == 0
            && self
                .empty_since
                .is_some_and(|began| now.since(began) < EMPTY_FOR)
    }
}

/// A member of a queue: `tenant 0x00 shape(8) priority(1) accept time(8) job_id`, numbers
/// big-endian. Within a tenant and shape, byte order is serving order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadyKey {
    /// Whose job it is.
    pub tenant: TenantId,
    /// What it needs.
    pub shape: Shape,
    /// Its class.
    pub priority: Priority,
    /// Since when it waits.
    pub accepted: Timestamp,
    /// The job.
    pub job_id: JobId,
}

/// A member of a queue that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed member of a ready index")]
pub struct MalformedKey;

impl ReadyKey {
    /// Bytes between the tenant's terminator and the job id.
    const FIXED: usize = 8 + 1 + 8;

    /// The index member.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = shape_prefix(&self.tenant, self.shape);
        bytes.reserve(1 + 8 + self.job_id.as_bytes().len());
        bytes.push(self.priority.class());
        bytes.extend_from_slice(&self.accepted.to_be_bytes());
        bytes.extend_from_slice(self.job_id.as_bytes());
        bytes
    }

    /// Reads an index member.
    ///
    /// # Errors
    /// When it was not made by [`Self::encode`].
    pub fn decode(member: &[u8]) -> Result<Self, MalformedKey> {
        let zero = member
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(MalformedKey)?;
        let (tenant, rest) = (&member[..zero], &member[zero + 1..]);
        if tenant.is_empty() || rest.len() <= Self::FIXED {
            return Err(MalformedKey);
        }
        let priority = match rest[8] {
            0 => Priority::Critical,
            1 => Priority::Interactive,
            2 => Priority::Batch,
            _ => return Err(MalformedKey),
        };
        Ok(Self {
            tenant: TenantId::from_trusted(text(tenant)?),
            shape: Shape(number(&rest[..8])),
            priority,
            accepted: Timestamp::from_micros(number(&rest[9..Self::FIXED])),
            job_id: JobId::from_trusted(text(&rest[Self::FIXED..])?),
        })
    }

    /// Serving order among jobs of any tenant and shape: class, then the longest wait, then id.
    #[must_use]
    pub fn serving_order(&self, other: &Self) -> Ordering {
        let key = |key: &Self| (key.priority.class(), key.accepted);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.job_id.cmp(&other.job_id))
            .then_with(|| self.tenant.cmp(&other.tenant))
    }
}

fn text(bytes: &[u8]) -> Result<&str, MalformedKey> {
    std::str::from_utf8(bytes).map_err(|_| MalformedKey)
}

/// The number in eight big-endian bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What every member of a tenant starts with.
#[must_use]
pub fn tenant_prefix(tenant: &TenantId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tenant.as_bytes().len() + 1 + ReadyKey::FIXED);
    bytes.extend_from_slice(tenant.as_bytes());
    bytes.push(0);
    bytes
}

/// What every member of a tenant, shape and class starts with.
#[must_use]
pub fn class_prefix(tenant: &TenantId, shape: Shape, priority: Priority) -> Vec<u8> {
    let mut bytes = shape_prefix(tenant, shape);
    bytes.push(priority.class());
    bytes
}

/// Where the skip scan goes on after a tenant, shape and class.
#[must_use]
pub fn after_class(tenant: &TenantId, shape: Shape, priority: Priority) -> Vec<u8> {
    let mut bytes = shape_prefix(tenant, shape);
    bytes.push(priority.class() + 1);
    bytes
}

/// What every member of a tenant and shape starts with.
#[must_use]
pub fn shape_prefix(tenant: &TenantId, shape: Shape) -> Vec<u8> {
    let mut bytes = tenant_prefix(tenant);
    bytes.extend_from_slice(&shape.0.to_be_bytes());
    bytes
}

/// Where the skip scan goes on after a tenant and shape: reading one member from here gives the
/// head of the next shape, or of the next tenant.
#[must_use]
pub fn after_shape(tenant: &TenantId, shape: Shape) -> Vec<u8> {
    match shape.0.checked_add(1) {
        Some(next) => shape_prefix(tenant, Shape(next)),
        None => after_tenant(tenant),
    }
}

/// Where the skip scan goes on after all shapes of a tenant. Tenant names hold no byte below `-`.
#[must_use]
pub fn after_tenant(tenant: &TenantId) -> Vec<u8> {
    let mut bytes = tenant.as_bytes().to_vec();
    bytes.push(1);
    bytes
}

/// Merges the heads of several (tenant, shape) lists, each in serving order, into the first `limit`
/// candidates in serving order. The result is exact when every list was read up to at least `limit`
/// entries.
#[must_use]
pub fn merge_heads(heads: Vec<Vec<ReadyKey>>, limit: usize) -> Vec<ReadyKey> {
    /// The next of a list. Greatest = served first, because the heap is a max-heap.
    struct Head(ReadyKey, std::vec::IntoIter<ReadyKey>);
    impl PartialEq for Head {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }
    impl Eq for Head {}
    impl PartialOrd for Head {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Head {
        fn cmp(&self, other: &Self) -> Ordering {
            other.0.serving_order(&self.0)
        }
    }

    let mut heap: BinaryHeap<Head> = heads
        .into_iter()
        .filter_map(|list| {
            let mut rest = list.into_iter();
            rest.next().map(|first| Head(first, rest))
        })
        .collect();
    let mut merged = Vec::with_capacity(limit.min(heap.len()));
    while merged.len() < limit
        && let Some(Head(first, mut rest)) = heap.pop()
    {
        merged.push(first);
        if let Some(next) = rest.next() {
            heap.push(Head(next, rest));
        }
    }
    merged
}

/// The block of `candidates` (in serving order) that a claimer with `free_slots` tries first:
/// `free_slots` of them, starting at a random multiple within the first `replicas × free_slots`,
/// so that claimers that read the same head do not all fight for it. A block starts inside the
/// first priority class: no class is passed over for a lower one.
///
/// `fraction` in `[0, 1)` is the random choice.
#[must_use]
pub fn pick_block(
    candidates: &[ReadyKey],
    free_slots: usize,
    replicas: usize,
    fraction: f64,
) -> Range<usize> {
    let Some(first) = candidates.first() else {
        return 0..0;
    };
    if free_slots == 0 {
        return 0..0;
    }
    let class = candidates
        .iter()
        .take_while(|key| key.priority == first.priority)
        .count();
    let window = class.min(replicas.max(1).saturating_mul(free_slots));
    let blocks = window.div_ceil(free_slots).max(1);
    // Truncation is the point; the product is far below 2^53.
    let block = ((fraction.clamp(0.0, 1.0) * blocks as f64) as usize).min(blocks - 1);
    let start = (block * free_slots).min(window.saturating_sub(free_slots));
    start..candidates.len().min(start + free_slots)
}

/// All positions of `candidates` in the order in which a claimer tries them: its block
/// ([`pick_block`]) first, then what is left in serving order. What is left is needed when
/// candidates of the block suit none of the free slots.
pub fn claim_order(
    candidates: &[ReadyKey],
    free_slots: usize,
    replicas: usize,
    fraction: f64,
) -> impl Iterator<Item = usize> + use<> {
    let block = pick_block(candidates, free_slots, replicas, fraction);
    let (before, after) = (0..block.start, block.end..candidates.len());
    block.chain(before).chain(after)
}

#[cfg(test)]
mod tests;
