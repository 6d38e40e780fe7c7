//! How workers stand towards a waiting job, taken together.

use std::collections::BTreeMap;

use coretex_core::placement::Mismatch;

use super::{ALL_BUSY, NO_MATCH};

/// Ways in which workers do not suit that are named at most; each may hold long labels.
const MAX_MISMATCHES: usize = 5;

/// How the workers for a topic, or those of one pool, stand towards a job.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) free: u32,
    busy: u32,
    draining: u32,
    /// Workers that suit and are held up by a pause.
    paused: Option<(u32, String)>,
    overloaded: u32,
    /// Workers that do not suit, by why not.
    mismatches: BTreeMap<String, u32>,
}

impl Standing {
    pub(super) fn count(&mut self, answer: std::result::Result<(), Mismatch<'_>>) {
        match answer {
            Ok(()) => self.free += 1,
            Err(Mismatch::Full { .. }) => self.busy += 1,
            Err(Mismatch::Draining) => self.draining += 1,
            Err(Mismatch::Overloaded) => self.overloaded += 1,
            Err(Mismatch::Paused { scope }) => {
                let (paused, _) = self.paused.get_or_insert_with(|| (0, scope.to_string()));
                *paused += 1;
            }
            Err(
                mismatch @ (Mismatch::TenantNotServed
                | Mismatch::TopicNotServed { .. }
                | Mismatch::CapabilityMissing { .. }
                | Mismatch::LabelMismatch { .. }
                | Mismatch::PoolNotMapped
                | Mismatch::TooSmall { .. }),
            ) => *self.mismatches.entry(mismatch.to_string()).or_default() += 1,
        }
    }

    /// Why none of them takes the job now, for programs and for people; `None` when one does.
    pub(super) fn obstacle(&self) -> Option<(&'static str, String)> {
        let (busy, draining) = (self.busy, self.draining);
        if self.free > 0 {
            None
        } else if busy > 0 {
            Some((ALL_BUSY, format!("all {busy} suitable worker(s) are busy")))
        } else if let Some((workers, scope)) = &self.paused {
            let message = format!("{workers} suitable worker(s) are held up by a pause of {scope}");
            Some(("pool_paused", message))
        } else if self.overloaded > 0 {
            let message = format!("all {} suitable worker(s) are overloaded", self.overloaded);
            Some((ALL_BUSY, message))
        } else if draining > 0 {
            let message = format!("all {draining} suitable worker(s) are draining");
            Some(("workers_draining", message))
        } else {
            let message = format!("no worker suits the job: {}", self.why_none_suits());
            Some((NO_MATCH, message))
        }
    }

    fn why_none_suits(&self) -> String {
        let mut all: Vec<_> = self.mismatches.iter().collect();
        // What keeps most workers out comes first.
        all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut parts: Vec<String> = all
            .iter()
            .take(MAX_MISMATCHES)
            .map(|(text, count)| format!("{count} worker(s): {text}"))
            .collect();
        if let Some(more) = all.len().checked_sub(MAX_MISMATCHES)
            && more > 0
        {
            parts.push(format!("and {more} more reasons"));
        }
        parts.join("; ")
    }
}
