//! The shape of a job: what all jobs that fare alike have in common.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Needs;
use crate::id::{PoolName, WorkerId};

/// A stable hash of what placement needs apart from tenant and topic, and of the keys by which a job
/// takes turns and is limited. Jobs of one tenant, topic and shape suit the same workers and meet
/// the same limit, so that a claimer decides once for all of them.
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
    // What came later counts only where it is used, so that the shapes of other jobs stay.
    if !needs.slots.is_one() {
        text(&mut hash, "slots");
        number(&mut hash, needs.slots.0 as usize);
    }
    for (name, key) in [
        ("fairness", needs.fairness_key),
        ("concurrency", needs.concurrency_key),
    ] {
        if !key.is_empty() {
            text(&mut hash, name);
            text(&mut hash, key);
        }
    }
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
