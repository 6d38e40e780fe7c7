//! After the policy has moved: jobs that wait for a human are judged again. One that still needs its
//! approval keeps it, one that needs none goes on, one that is denied now ends.
//!
//! It is a courtesy: no vote counts under an old policy, because the deciding one judges again. So
//! nothing of a sweep is stored. What it did stands in the records of the jobs, and one that broke
//! off begins anew and passes by what is done.

use std::time::Duration;

use coretex_core::job::Job;
use coretex_core::time::Timestamp;
use coretex_store::{Member, Order, Range};

use crate::engine::Engine;
use crate::{Error, Result, keyspace};

/// How often it is looked whether the policy has moved.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long jobs that could not be judged are left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Jobs judged in one go.
const BATCH: usize = 50;
/// How long one go takes at least: not more than 500 a second.
const PAUSE: Duration = Duration::from_millis(100);

impl Engine {
    /// Sweeps whenever the policy has moved, until the engine stops.
    pub(crate) async fn run_approval_sweeps(self) {
        let mut swept = None;
        let mut pause = LOOK_EVERY;
        loop {
            tokio::time::sleep(pause).await;
            pause = LOOK_EVERY;
            if !self.owns_shard() {
                swept = None;
                continue;
            }
            let snapshot = self.kernel().snapshot();
            if swept.as_ref() == Some(&snapshot) {
                continue;
            }
            match self.sweep_approvals(&snapshot).await {
                Ok(0) => swept = Some(snapshot),
                Ok(left) => {
                    tracing::warn!(left, "jobs that wait for approval not judged again yet");
                    pause = RETRY_AFTER;
                }
                Err(error) => tracing::warn!(%error, "approvals not swept"),
            }
        }
    }

    /// Judges every job again that waits for an approval which was asked for under another snapshot;
    /// how many could not be judged.
    async fn sweep_approvals(&self, snapshot: &str) -> Result<usize> {
        let (mut start, mut left) = (Member::new(), 0);
        loop {
            let range = Range {
                start: start.clone(),
                ..Range::all(keyspace::PENDING_APPROVALS)
            };
            let read = self
                .store()
                .range(self.shard(), &[range], BATCH, Order::Ascending)
                .await?;
            let members: Vec<Member> = read.value.into_iter().flatten().collect();
            let (judged, failed) = self.sweep_batch(&members, snapshot).await?;
            left += failed;
            if judged > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match members.last() {
                // The policy may move again meanwhile; then all begins anew.
                Some(last) if members.len() == BATCH && self.kernel().snapshot() == snapshot => {
                    start = [last, &[0][..]].concat().into();
                }
                Some(_) | None => return Ok(left),
            }
        }
    }

    /// How many were judged, and how many of them in vain.
    async fn sweep_batch(&self, members: &[Member], snapshot: &str) -> Result<(usize, usize)> {
        let names: Vec<_> = members
            .iter()
            .filter_map(|member| keyspace::parse_pending(member))
            .map(|(tenant, _, job_id)| (tenant, job_id))
            .collect();
        let old = |job: &Job, _: Timestamp| {
            let pending = job.pending_approval();
            pending.is_some_and(|pending| pending.policy_snapshot != snapshot)
        };
        let (mut judged, mut failed) = (0, 0);
        for loaded in self.load_readable(&names).await?.into_iter().flatten() {
            if !old(&loaded.job, self.now()) {
                continue;
            }
            judged += 1;
            let job_id = loaded.job.id.clone();
            match self.judge_again(loaded, old).await {
                // Deleted, which takes an end first.
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    tracing::debug!(%error, %job_id, "not judged again");
                    failed += 1;
                }
            }
        }
        Ok((judged, failed))
    }
}
