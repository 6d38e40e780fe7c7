//! Slots for a job: at the worker that suits it best, among those that can take it now.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::{Arc, LazyLock};

use coretex_core::id::{PoolName, SessionId, Topic, WorkerId};
use coretex_core::job::Job;
use coretex_core::lease::Tick;
use coretex_core::placement::{Mismatch, Needs, check, choose};

use super::State;
use super::session::SessionState;

/// Workers that can take a job and are compared. With more of them, the next job is for others: what
/// a choice costs does not grow with the fleet, and a choice among so many is a good one.
const ENOUGH: usize = 64;
/// Comes before every session.
static NOBODY: LazyLock<SessionId> = LazyLock::new(|| SessionId::from_trusted(""));

impl State {
    /// Those that serve a topic, beginning after `after`.
    fn serving_from(
        &self,
        topic: &Topic,
        after: Option<&SessionId>,
    ) -> impl Iterator<Item = (&SessionId, &SessionState)> {
        let serving = self.by_topic.get(topic);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let upto = after.map_or(Bound::Excluded(&*NOBODY), Bound::Included);
        let rest = serving.map(|ids| ids.range::<SessionId, _>((from, Bound::Unbounded)));
        let first = serving.map(|ids| ids.range::<SessionId, _>((Bound::Unbounded, upto)));
        rest.into_iter()
            .flatten()
            .chain(first.into_iter().flatten())
            .filter_map(|id| self.sessions.get_key_value(id))
    }

    /// Frees a reservation of so many slots.
    pub(crate) fn release(&mut self, session: &SessionId, slots: u32) {
        if let Some(session) = self.sessions.get_mut(session) {
            session.reserved = session.reserved.saturating_sub(slots);
        }
    }

    /// Takes the slots that a job needs at the worker that suits it best, leaving out some.
    pub(super) fn reserve(
        &mut self,
        needs: &Needs<'_>,
        kept: &HashSet<SessionId>,
    ) -> Option<(SessionId, WorkerId, PoolName)> {
        self.tie = self.tie.wrapping_add(1);
        let mut candidates: Vec<(&SessionId, &SessionState)> = Vec::new();
        // A preferred one is looked for among all.
        let plain = needs.preferred_worker_id.is_none() && needs.preferred_pool.is_none();
        let enough = if plain { ENOUGH } else { usize::MAX };
        for (id, session) in self.serving_from(needs.topic, self.looked_at.as_ref()) {
            if session.free_slots() == 0 || kept.contains(id) {
                continue;
            }
            if check(needs, &self.view(id, session)).is_ok() {
                candidates.push((id, session));
                if candidates.len() == enough {
                    break;
                }
            }
        }
        let last = candidates.last().filter(|_| candidates.len() == enough);
        let last = last.map(|(id, _)| (*id).clone());
        let views = candidates
            .iter()
            .map(|(id, session)| self.view(id, session));
        let chosen = choose(needs, views, self.tie)?;
        let id = candidates[chosen].0.clone();
        // Where there are more, the next job looks at those.
        if last.is_some() {
            self.looked_at = last;
        }
        let session = self.sessions.get_mut(&id)?;
        session.reserved += needs.slots.0;
        Some((id, session.worker_id.clone(), session.pool.clone()))
    }

    /// Of the workers that lack nothing but free slots to take a job, the one that lacks fewest,
    /// leaving out some.
    pub(super) fn fullest_that_suits(
        &self,
        needs: &Needs<'_>,
        kept: &HashSet<SessionId>,
    ) -> Option<SessionId> {
        self.serving(needs.topic)
            .filter(|(id, session)| !kept.contains(*id) && session.gets_jobs())
            .filter(|(id, session)| {
                let answer = check(needs, &self.view(id, session));
                matches!(answer, Err(Mismatch::Full { .. }))
            })
            .max_by_key(|(id, session)| (session.free_slots(), *id))
            .map(|(id, _)| id.clone())
    }

    /// Takes slots for a newcomer, if no queue that the chosen worker serves holds anything that
    /// could be run here, and no limit is known to be met.
    pub(crate) fn reserve_fast(
        &mut self,
        job: &Job,
        now: Tick,
    ) -> Option<(SessionId, WorkerId, PoolName)> {
        let queue = self.queues.get(&job.spec.topic)?;
        if !queue.is_known_empty(now) {
            return None;
        }
        let (routing, pauses) = (Arc::clone(&self.routing), Arc::clone(&self.pauses));
        let limit = routing.concurrency(&job.spec, &job.tenant);
        let key = limit.map_or("", |limit| limit.key);
        if !self.gates.is_open(&job.tenant, key) {
            return None;
        }
        let needs = Needs::of(job).under(&routing, &pauses);
        let taken = self.reserve(&needs, &HashSet::new())?;
        let session = self.sessions.get(&taken.0)?;
        let topics_empty = session.topics.len() == 1
            || session.topics.iter().all(|topic| {
                self.queues
                    .get(topic)
                    .is_some_and(|queue| queue.is_known_empty(now))
            });
        if topics_empty {
            return Some(taken);
        }
        self.release(&taken.0, needs.slots.0);
        None
    }
}
