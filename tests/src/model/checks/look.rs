//! States that may not last: a job beside a free slot, a slot that is not what it is taken for.

use std::collections::{BTreeMap, BTreeSet};

use coretex_core::id::LeaseId;
use coretex_core::lease::HeldKey;
use coretex_core::placement::suits;

use super::super::replica::Stage;
use super::super::store::{Store, needs};
use super::super::wire::{MILLI, Micros, SECOND};
use super::super::worker::HEARTBEAT;
use super::{Broken, Checks, Healthy, IDLE_BOUND, ensure};

/// A comparison with the held index, and the reads and commits that follow.
const REPAIR_BOUND: Micros = 5 * SECOND + 400 * MILLI;
/// The same when the worker has to be heard before.
const RETURN_BOUND: Micros = REPAIR_BOUND + HEARTBEAT;

const NO_ENTRY: &str = "no entry for";

impl Checks {
    /// The level-triggered invariants. `hosting`: leases whose worker is well with a session that
    /// nothing is wrong with but, perhaps, the store for everybody.
    pub(in super::super) fn look(
        &mut self,
        store: &Store,
        healthy: &[Healthy<'_>],
        hosting: &[LeaseId],
        known_to_workers: &BTreeSet<LeaseId>,
        now: Micros,
    ) -> Result<(), Broken> {
        for lease in hosting {
            self.hosted.insert(*lease, now);
        }
        self.look_for_idle(store, healthy, now)?;
        self.look_for_drift(store, healthy, now)?;
        self.look_for_limbo(store, known_to_workers, now);
        Ok(())
    }

    fn look_for_idle(
        &mut self,
        store: &Store,
        healthy: &[Healthy<'_>],
        now: Micros,
    ) -> Result<(), Broken> {
        let mut idle = BTreeMap::new();
        for key in store.ready() {
            let Some(job) = store.job(&key.job_id) else {
                continue;
            };
            for well in healthy.iter().filter(|well| well.session.free() > 0) {
                if suits(&needs(job), &well.session.view(well.id)).is_err() {
                    continue;
                }
                let pair = (key.job_id.clone(), well.id.clone());
                let since = self.idle.get(&pair).copied().unwrap_or(now);
                let waited = now - since;
                self.stats.longest_idle = self.stats.longest_idle.max(waited);
                ensure(waited <= IDLE_BOUND, || {
                    format!(
                        "{} waits beside a free slot of {} for {} ms",
                        key.job_id,
                        well.replica.id,
                        waited / MILLI
                    )
                })?;
                idle.insert(pair, since);
            }
        }
        self.idle = idle;
        Ok(())
    }

    fn look_for_drift(
        &mut self,
        store: &Store,
        healthy: &[Healthy<'_>],
        now: Micros,
    ) -> Result<(), Broken> {
        let mut drift = BTreeMap::new();
        for well in healthy {
            let prefix = HeldKey::session_prefix(&well.replica.id, well.id);
            let held = store.held(&prefix);
            let listed: BTreeSet<_> = held.iter().map(|key| key.lease_id).collect();
            let slots = &well.session.slots;
            let mut found = Vec::new();
            found.extend(
                listed
                    .iter()
                    .filter(|id| !slots.contains_key(id))
                    .map(|id| (*id, "no slot for")),
            );
            for (lease, slot) in slots {
                if slot.stage == Stage::Out && !listed.contains(lease) {
                    found.push((*lease, NO_ENTRY));
                }
                let here = well.worker.runs.contains_key(lease);
                if matches!(slot.stage, Stage::Out | Stage::Stopping) && !here {
                    found.push((*lease, "a slot for ever for"));
                }
            }
            for (lease, run) in &well.worker.runs {
                let current = store.job(&run.job).is_some_and(|job| job.holds(*lease));
                if !current && !run.stopping && !run.done {
                    found.push((*lease, "a worker goes on with"));
                }
            }
            for (lease, what) in found {
                let at = (well.id.clone(), lease, what);
                let since = self.drift.get(&at).copied().unwrap_or(now);
                let bound = if what == NO_ENTRY {
                    RETURN_BOUND
                } else {
                    REPAIR_BOUND
                };
                ensure(now - since <= bound, || {
                    format!(
                        "{what} lease {lease} in {} for {} ms",
                        well.id,
                        (now - since) / MILLI
                    )
                })?;
                drift.insert(at, since);
            }
        }
        self.drift = drift;
        Ok(())
    }

    /// Attempts that are out while no worker has them: not wrong, but worth knowing.
    fn look_for_limbo(&mut self, store: &Store, known: &BTreeSet<LeaseId>, now: Micros) {
        let mut limbo = BTreeMap::new();
        for lease in store.jobs().filter_map(|job| job.lease.as_ref()) {
            let id = lease.slot.lease_id;
            if !known.contains(&id) {
                let since = self.limbo.get(&id).copied().unwrap_or(now);
                self.stats.longest_limbo = self.stats.longest_limbo.max(now - since);
                limbo.insert(id, since);
            }
        }
        self.limbo = limbo;
    }
}
