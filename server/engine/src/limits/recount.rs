//! Counting again: what limits count is a set of index entries, derived from the records of jobs. A
//! difference is a bug and is reported as one; nothing is put right in silence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coretex_core::id::{JobId, TenantId};
use coretex_core::lease::HeldKey;
use coretex_store::{Index, Member, Order, Range};

use crate::engine::Engine;
use crate::{Result, keyspace, telemetry};

/// How often the owner of the shard counts a part again.
const EVERY: Duration = Duration::from_secs(60);
/// Slots in use of one part.
const PART: usize = 1_000;
/// Members of one index that are compared.
const MEMBERS: usize = 1_000;
/// How long a difference has to stand: a commit between two reads looks like one.
const STANDS: Duration = Duration::from_secs(1);

/// A difference between the indexes and the records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    tenant: TenantId,
    job_id: JobId,
    index: Index,
    member: Member,
    /// The index has what the record does not ask for; otherwise it lacks it.
    extra: bool,
}

impl Engine {
    /// Counts a part of what runs again, now and then, until the engine stops.
    pub(crate) async fn run_recount(self) {
        let mut from = Member::new();
        loop {
            tokio::time::sleep(EVERY).await;
            if !self.owns_shard() {
                continue;
            }
            match self.recount_part(&from).await {
                Ok(next) => from = next,
                Err(error) => tracing::warn!(%error, "limits not counted again"),
            }
        }
    }

    /// Counts what is held from `from` on; where the next part begins.
    async fn recount_part(&self, from: &Member) -> Result<Member> {
        let (found, next) = self.differences(from).await?;
        if !found.is_empty() {
            tokio::time::sleep(STANDS).await;
            let (again, _) = self.differences(from).await?;
            for difference in found.intersection(&again) {
                tracing::error!(
                    tenant = %difference.tenant,
                    job_id = %difference.job_id,
                    index = %String::from_utf8_lossy(&difference.index),
                    extra = difference.extra,
                    "an index differs from its records: a bug, please report it",
                );
                telemetry::bug("limit_count");
            }
        }
        Ok(next)
    }

    async fn differences(&self, from: &Member) -> Result<(BTreeSet<Difference>, Member)> {
        let held = self.members(keyspace::HELD, from.clone(), PART).await?;
        let next = match held.last() {
            Some(last) if held.len() == PART => [last.as_ref(), &[0]].concat().into(),
            Some(_) | None => Member::new(),
        };
        let names: BTreeSet<_> = held
            .iter()
            .filter_map(|member| HeldKey::decode(member).ok())
            .map(|key| (key.tenant, key.job_id))
            .collect();
        let mut found = BTreeSet::new();
        // What the records ask for, by index.
        let mut wanted: BTreeMap<(TenantId, Index), BTreeMap<Member, JobId>> = BTreeMap::new();
        // A limit that is met although nothing runs is what a lost entry would look like.
        let met = self.dispatcher().lock().gates.counted_by();
        for (tenant, index) in met {
            wanted.entry((tenant, index)).or_default();
        }
        let names: Vec<_> = names.into_iter().collect();
        for loaded in self.load_readable(&names).await?.into_iter().flatten() {
            let job = &loaded.job;
            for (index, member) in keyspace::counted(job) {
                let members = wanted.entry((job.tenant.clone(), index)).or_default();
                members.insert(member, job.id.clone());
            }
        }
        for ((tenant, index), members) in wanted {
            let there = self.members(index.clone(), Member::new(), MEMBERS).await?;
            let complete = there.len() < MEMBERS;
            let there: BTreeSet<Member> = there.into_iter().collect();
            let difference = |job_id: JobId, member: &Member, extra| Difference {
                tenant: tenant.clone(),
                job_id,
                index: index.clone(),
                member: member.clone(),
                extra,
            };
            let missing = members
                .iter()
                .filter(|(member, _)| !there.contains(*member));
            found.extend(
                missing
                    .filter(|_| complete)
                    .map(|(member, id)| difference(id.clone(), member, false)),
            );
            let others: Vec<_> = there
                .iter()
                .filter(|member| !members.contains_key(*member))
                .filter_map(|member| Some((member, keyspace::parse_by_time(member)?.1)))
                .collect();
            let names: Vec<_> = others
                .iter()
                .map(|(_, id)| (tenant.clone(), id.clone()))
                .collect();
            let loaded = self.load_readable(&names).await?;
            for ((member, id), loaded) in others.into_iter().zip(loaded) {
                let asked_for = loaded.is_some_and(|loaded| {
                    keyspace::counted(&loaded.job)
                        .any(|(name, wanted)| name == index && wanted == *member)
                });
                if !asked_for {
                    found.insert(difference(id, member, true));
                }
            }
        }
        Ok((found, next))
    }

    async fn members(&self, index: Index, start: Member, limit: usize) -> Result<Vec<Member>> {
        let range = [Range {
            index,
            start,
            end: None,
        }];
        let read = self
            .store()
            .range(self.shard(), &range, limit, Order::Ascending)
            .await?;
        Ok(read.value.into_iter().flatten().collect())
    }
}
