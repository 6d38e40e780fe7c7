//! Slots in use: entered and freed with the writes of their jobs, compared with the held index, and
//! given up when their session has ended or their assignment was never sent.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, ReplicaId, SessionId, TenantId};
use coretex_core::job::Progress;
use coretex_core::lease::{HeldKey, Standing, Tick};
use coretex_core::time::Timestamp;

use super::State;
use crate::access::Caller;
use crate::commits::Loaded;
use crate::keyspace::HeldEntry;
use crate::types::{AttemptRef, ToWorker};

/// A slot in use, by its lease.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) session: SessionId,
    pub(crate) tenant: TenantId,
    pub(crate) job_id: JobId,
    /// The number of the attempt; 0 = not known, because only the held index told of it.
    pub(crate) attempt: u32,
    /// How many slots of the worker it takes; 1 until a record told.
    slots: u32,
    /// How often the job had changed by the record that last told of it: its events, which only
    /// grow in one life of a job. Versions name writes and have no order.
    changes: u32,
    /// The job as last written, while the attempt is current.
    pub(crate) loaded: Option<Loaded>,
    /// When the worker said that it started, until that is written.
    pub(crate) started_at: Option<Timestamp>,
    /// Progress that is not written yet.
    pub(crate) progress: Option<Progress>,
    /// When progress was last written.
    pub(crate) progress_written: Option<Tick>,
    /// Whether a lazy write is queued.
    pub(crate) lazy_queued: bool,
    /// Missing in the held index at the last comparison.
    pub(crate) suspect: bool,
}

impl Slot {
    fn new(tenant: TenantId, job_id: JobId, attempt: u32, session: SessionId) -> Self {
        Self {
            session,
            tenant,
            job_id,
            attempt,
            slots: 1,
            changes: 0,
            loaded: None,
            started_at: None,
            progress: None,
            progress_written: None,
            lazy_queued: false,
            suspect: false,
        }
    }

    /// What is known of the attempt is from a store that has been taken back: whatever is read next
    /// counts. The record itself is kept, for what its worker says meanwhile: a version names a
    /// write, so one that is lost only makes a commit read anew.
    pub(crate) const fn distrust(&mut self) {
        self.changes = 0;
    }

    /// Whether the caller sees the job that the slot is used for.
    pub(crate) fn is_visible(&self, caller: &Caller) -> bool {
        let own = |loaded: &Loaded| loaded.job.principal_id == caller.principal_id;
        self.tenant == caller.tenant
            && (!caller.own_jobs_only() || self.loaded.as_ref().is_some_and(own))
    }

    /// Whether the index says more of the attempt than is known here.
    fn is_behind(&self, standing: Standing) -> bool {
        match standing {
            Standing::Current => self.loaded.is_none(),
            Standing::CancelRequested => {
                let asked = |loaded: &Loaded| loaded.job.cancel.is_some();
                self.loaded.as_ref().is_none_or(|loaded| !asked(loaded))
            }
            Standing::Over => self.loaded.is_some(),
        }
    }

    /// Whether a worker that names `attempt` means this slot: nothing but an exact match counts.
    pub(crate) fn is(&self, attempt: &AttemptRef) -> bool {
        (self.attempt == attempt.attempt || self.attempt == 0)
            && self.job_id == attempt.job_id
            && self.tenant == attempt.tenant
    }
}

/// A session that ended with attempts out.
#[derive(Debug)]
pub(super) struct LostSession {
    session: SessionId,
    since: Tick,
    /// Its attempts are given up no sooner, because that has just failed.
    again_at: Tick,
}

/// What a comparison of slots and held index has found, twice in a row.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Slots of connected workers that the index does not know; they are free now.
    pub(crate) stale: Vec<(SessionId, AttemptRef)>,
    /// Entries of connected workers that no slot stands for.
    pub(crate) unknown: Vec<HeldEntry>,
    /// Jobs that stand otherwise in the index than in memory: somebody else has changed them.
    pub(crate) behind: Vec<(TenantId, JobId)>,
}

impl State {
    /// From now on the attempts of a session wait for their worker.
    pub(super) fn lose(&mut self, id: &SessionId, now: Tick) {
        if self.lost.iter().all(|lost| lost.session != *id) {
            self.lost.push(LostSession {
                session: id.clone(),
                since: now,
                again_at: now,
            });
        }
    }

    /// Attempts of sessions whose adoption window is over. They are named again a second later,
    /// until they are gone.
    pub(crate) fn lost_attempts(
        &mut self,
        replica: &ReplicaId,
        window: Duration,
        now: Tick,
    ) -> Vec<HeldEntry> {
        let over = |lost: &LostSession| now.since(lost.since) >= window && now >= lost.again_at;
        if !self.lost.iter().any(over) {
            return Vec::new();
        }
        let slots = &self.slots;
        let mut entries = Vec::new();
        self.lost.retain_mut(|lost| {
            if !over(lost) {
                return true;
            }
            lost.again_at = now + Duration::from_secs(1);
            let before = entries.len();
            let here = slots
                .iter()
                .filter(|(_, slot)| slot.session == lost.session);
            entries.extend(here.map(|(lease, slot)| HeldEntry {
                replica: replica.clone(),
                session: slot.session.clone(),
                tenant: slot.tenant.clone(),
                job_id: slot.job_id.clone(),
                lease_id: *lease,
            }));
            entries.len() > before
        });
        let waited_for: HashSet<_> = self.lost.iter().map(|lost| &lost.session).collect();
        self.departed.retain(|id, _| waited_for.contains(id));
        entries
    }

    /// Notes an attempt that nobody has seen: its commit may be applied, now or later.
    pub(crate) fn note_unsent(&mut self, entry: HeldEntry, now: Tick) {
        self.unsent.entry(entry.lease_id).or_insert((entry, now));
    }

    /// It has been given back.
    pub(crate) fn forget_unsent(&mut self, lease: LeaseId) {
        self.unsent.remove(&lease);
    }

    /// Attempts to be given back; those noted longer than `patience` ago are forgotten.
    pub(crate) fn unsent(&mut self, patience: Duration, now: Tick) -> Vec<HeldEntry> {
        self.unsent
            .retain(|_, (_, since)| now.since(*since) < patience);
        self.unsent
            .values()
            .map(|(entry, _)| entry.clone())
            .collect()
    }

    /// Enters or refreshes a slot as a written job has it.
    pub(crate) fn put_slot(&mut self, told: &coretex_core::job::Slot, after: &Loaded) {
        let (lease, job) = (told.lease_id, &after.job);
        let slot = self.slots.entry(lease).or_insert_with(|| {
            let (tenant, id) = (job.tenant.clone(), job.id.clone());
            Slot::new(tenant, id, told.attempt, told.session.clone())
        });
        // Writes of one job may report out of order.
        if slot.changes > job.events.total() {
            return;
        }
        slot.changes = job.events.total();
        slot.slots = job.spec.placement.slots.0;
        slot.attempt = told.attempt;
        slot.loaded = job.holds(lease).then(|| after.clone());
        slot.suspect = false;
        self.place_slot(lease, &told.session);
    }

    /// Puts a slot where its session is.
    fn place_slot(&mut self, lease: LeaseId, session: &SessionId) {
        if let Some(slot) = self.slots.get_mut(&lease)
            && slot.session != *session
        {
            let old = std::mem::replace(&mut slot.session, session.clone());
            if let Some(old) = self.sessions.get_mut(&old) {
                old.leases.remove(lease);
            }
        }
        let slots = self.slots.get(&lease).map_or(1, |slot| slot.slots);
        if let Some(session) = self.sessions.get_mut(session) {
            session.leases.insert(lease, slots);
        }
    }

    /// Compares the slots with the members of the held index. What differs twice in a row is no
    /// commit under way: it is put right here, as far as memory goes.
    pub(crate) fn compare(&mut self, held: Vec<HeldKey>, now: Tick) -> Found {
        let listed: HashSet<(SessionId, LeaseId)> = held
            .iter()
            .map(|entry| (entry.session.clone(), entry.lease_id))
            .collect();
        let mut found = Found::default();
        for (lease, slot) in &mut self.slots {
            if listed.contains(&(slot.session.clone(), *lease)) {
                slot.suspect = false;
            } else if slot.suspect {
                let attempt = AttemptRef {
                    tenant: slot.tenant.clone(),
                    job_id: slot.job_id.clone(),
                    attempt: slot.attempt,
                    lease_id: *lease,
                };
                found.stale.push((slot.session.clone(), attempt));
            } else {
                slot.suspect = true;
                found
                    .behind
                    .push((slot.tenant.clone(), slot.job_id.clone()));
            }
        }
        for (_, attempt) in &found.stale {
            self.remove_slot(attempt.lease_id);
        }
        let mut suspects = BTreeSet::new();
        for entry in held {
            let slot = self.slots.get(&entry.lease_id);
            let known = slot.is_some_and(|slot| slot.session == entry.session);
            if let Some(slot) = slot.filter(|slot| known && slot.is_behind(entry.standing)) {
                found
                    .behind
                    .push((slot.tenant.clone(), slot.job_id.clone()));
            }
            // A commit that is long under way: it, or the adoption, will say.
            let opening = self
                .sessions
                .get(&entry.session)
                .is_some_and(|one| !one.open);
            if known || opening || self.dispatching.contains(&entry.lease_id) {
                continue;
            }
            let name = (entry.session.clone(), entry.lease_id);
            if !self.suspect_entries.contains(&name) {
                suspects.insert(name);
            } else if self.sessions.contains_key(&entry.session) {
                found.unknown.push(entry.into());
            } else {
                // Of a session that has ended, and its worker may come back.
                let slot = Slot::new(entry.tenant, entry.job_id, 0, entry.session.clone());
                self.slots.entry(entry.lease_id).or_insert(slot);
                self.place_slot(entry.lease_id, &entry.session);
            }
        }
        self.suspect_entries = suspects;
        // Nobody else gives up the attempts of sessions that are not there any more.
        let orphaned: BTreeSet<SessionId> = self
            .slots
            .values()
            .filter(|slot| !self.sessions.contains_key(&slot.session))
            .map(|slot| slot.session.clone())
            .collect();
        for session in orphaned {
            self.lose(&session, now);
        }
        found
    }

    /// Takes over a job as another replica has left it: which workers to tell what, and with `None`
    /// whose session is over because its worker has come back elsewhere.
    pub(crate) fn catch_up(
        &mut self,
        replica: &ReplicaId,
        read: &Loaded,
        now: Timestamp,
    ) -> Vec<(SessionId, Option<ToWorker>)> {
        let job = &*read.job;
        let now_out = job.slots().map(|slot| slot.lease_id);
        let ever_out = job.attempts.iter().map(|attempt| attempt.lease_id);
        let mut leases: Vec<LeaseId> = now_out.chain(ever_out).collect();
        leases.sort_unstable();
        leases.dedup();
        leases.retain(|lease| {
            let slot = self.slots.get(lease);
            // One that has changed more was written here since the record was read.
            slot.is_some_and(|slot| slot.changes <= job.events.total())
        });
        let mut told = Vec::new();
        for lease in leases {
            let Some(slot) = self.slots.get(&lease) else {
                continue;
            };
            let session = slot.session.clone();
            let before = slot.loaded.as_ref().map(|loaded| Arc::clone(&loaded.job));
            let attempt = AttemptRef {
                tenant: job.tenant.clone(),
                job_id: job.id.clone(),
                attempt: slot.attempt,
                lease_id: lease,
            };
            let here = job
                .slots()
                .find(|one| one.lease_id == lease && one.replica == *replica)
                .filter(|one| one.session == session);
            let stays = here.is_some();
            if let Some(here) = here.cloned() {
                self.put_slot(&here, read);
            } else {
                self.remove_slot(lease);
            }
            if job.holds(lease) && !stays {
                told.push((session, None));
            } else if job.holds(lease) {
                let asked = before.is_some_and(|before| before.cancel.is_some());
                if let Some(cancel) = job.cancel.as_ref().filter(|_| !asked) {
                    let message = ToWorker::Cancel {
                        attempt,
                        reason: cancel.reason.clone(),
                        grace: cancel.terminal_at.since(now),
                    };
                    told.push((session, Some(message)));
                }
            } else if before.is_some() {
                let reason = "the attempt was taken away".to_owned();
                told.push((session, Some(ToWorker::Revoke { attempt, reason })));
            }
        }
        told
    }

    /// Forgets every slot, and what was to become of them: they are another replica's now.
    pub(crate) fn forget_slots(&mut self) {
        self.slots.clear();
        self.lost.clear();
        self.unsent.clear();
        self.departed.clear();
        self.suspect_entries.clear();
        for session in self.sessions.values_mut() {
            session.leases.clear();
        }
    }

    /// Frees a slot; true when a connected worker has one more free now.
    pub(crate) fn remove_slot(&mut self, lease: LeaseId) -> bool {
        let Some(slot) = self.slots.remove(&lease) else {
            return false;
        };
        self.sessions
            .get_mut(&slot.session)
            .is_some_and(|session| session.leases.remove(lease))
    }

    /// As [`Self::remove_slot`], if the slot is one of this session.
    pub(crate) fn remove_slot_at(&mut self, lease: LeaseId, session: &SessionId) -> bool {
        let here = self.slots.get(&lease);
        here.is_some_and(|slot| slot.session == *session) && self.remove_slot(lease)
    }
}
