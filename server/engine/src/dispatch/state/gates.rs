//! Limits on running jobs, as far as this replica has met them. The store keeps the limits; a gate
//! only keeps claims from being tried that would meet a full one again, and lets some through when
//! there may be room.

use std::collections::BTreeMap;
use std::time::Duration;

use coretex_core::id::TenantId;
use coretex_core::lease::Tick;
use coretex_store::Index;

use crate::keyspace;

/// A gate that has not been met for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Limits of which it is tried in one go whether there is room that nobody has told of.
const EXPLORED: usize = 64;

/// Limits whose counts are looked at in one go.
const COUNTED: usize = 256;

/// What a claim has to go through: its tenant's limit, and that of its concurrency key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gate {
    /// The running jobs of a tenant.
    Tenant(TenantId),
    /// Those with a key.
    Key(TenantId, String),
}

impl Gate {
    /// The gates of a job of `tenant`; `key` empty = it has no limit of its own.
    pub(crate) fn of(tenant: &TenantId, key: &str) -> impl Iterator<Item = Self> {
        let own = (!key.is_empty()).then(|| Self::Key(tenant.clone(), key.to_owned()));
        std::iter::once(Self::Tenant(tenant.clone())).chain(own)
    }

    fn tenant(&self) -> &TenantId {
        match self {
            Self::Tenant(tenant) | Self::Key(tenant, _) => tenant,
        }
    }
}

/// A limit that was met.
#[derive(Debug)]
struct Closed {
    /// Claims that may be tried.
    permits: u32,
    /// There may be room that nobody here knows of: each claim that goes through lets more be tried.
    exploring: bool,
    /// When it was last met.
    met: Tick,
    /// When it was last tried whether there is room that nobody has told of, or when it was first
    /// met.
    tried: Tick,
}

/// The gates that are closed.
#[derive(Debug, Default)]
pub(crate) struct Gates(BTreeMap<Gate, Closed>);

impl Gates {
    /// Whether a job may be tried to be claimed; takes a permit where that is asked for.
    pub(crate) fn admit(&mut self, tenant: &TenantId, key: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        if !self.is_open(tenant, key) {
            return false;
        }
        for gate in Gate::of(tenant, key) {
            if let Some(closed) = self.0.get_mut(&gate) {
                closed.permits = closed.permits.saturating_sub(1);
            }
        }
        true
    }

    /// Whether a job might be admitted.
    pub(crate) fn is_open(&self, tenant: &TenantId, key: &str) -> bool {
        self.0.is_empty()
            || Gate::of(tenant, key)
                .all(|gate| self.0.get(&gate).is_none_or(|closed| closed.permits > 0))
    }

    /// The limit is met: nothing more is tried until there may be room.
    pub(crate) fn met(&mut self, gate: Gate, now: Tick) {
        let closed = self.0.entry(gate).or_insert(Closed {
            permits: 0,
            exploring: false,
            met: now,
            tried: now,
        });
        (closed.permits, closed.exploring, closed.met) = (0, false, now);
    }

    /// One was admitted and went through: where that was not known before, there may be room for
    /// more.
    pub(crate) fn passed(&mut self, tenant: &TenantId, key: &str) {
        self.widen(tenant, key, |closed| if closed.exploring { 2 } else { 0 });
    }

    /// One that was admitted needed no room after all, or one that had some has left.
    pub(crate) fn left(&mut self, tenant: &TenantId, key: &str) {
        self.widen(tenant, key, |_| 1);
    }

    fn widen(&mut self, tenant: &TenantId, key: &str, permits: impl Fn(&Closed) -> u32) {
        if self.0.is_empty() {
            return;
        }
        for gate in Gate::of(tenant, key) {
            if let Some(closed) = self.0.get_mut(&gate) {
                closed.permits = closed.permits.saturating_add(permits(closed));
            }
        }
    }

    /// Jobs have ended elsewhere: what waits for their places may be tried. True when there was a
    /// limit to be met.
    pub(crate) fn left_elsewhere(&mut self, tenant: &TenantId, keys: &[String], jobs: u32) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let of_keys = keys
            .iter()
            .map(|key| (Gate::Key(tenant.clone(), key.clone()), 1));
        let of_tenant = std::iter::once((Gate::Tenant(tenant.clone()), jobs));
        let mut opened = false;
        for (gate, places) in of_keys.chain(of_tenant) {
            if let Some(closed) = self.0.get_mut(&gate) {
                closed.permits = closed.permits.saturating_add(places);
                opened = true;
            }
        }
        opened
    }

    /// Time has passed: some are tried once, because what others did may not have been heard. Those
    /// go first that have not been tried for longest.
    pub(crate) fn try_again(&mut self, now: Tick) {
        self.0
            .retain(|_, closed| now.since(closed.met) < FORGET_AFTER);
        let mut closed: Vec<&mut Closed> = self.0.values_mut().collect();
        if closed.len() > EXPLORED {
            closed.sort_by_key(|closed| closed.tried);
        }
        for closed in closed.into_iter().take(EXPLORED) {
            closed.permits = closed.permits.max(1);
            closed.exploring = true;
            closed.tried = now;
        }
    }

    /// Forgets every limit: they may have changed.
    pub(crate) fn open_all(&mut self) {
        self.0.clear();
    }

    /// What counts for the limits that were met.
    pub(crate) fn counted_by(&self) -> Vec<(TenantId, Index)> {
        let index = |gate: &Gate| match gate {
            Gate::Tenant(tenant) => keyspace::open_held(tenant),
            Gate::Key(tenant, key) => keyspace::concurrency(tenant, key),
        };
        let gates = self.0.keys().take(COUNTED);
        gates
            .map(|gate| (gate.tenant().clone(), index(gate)))
            .collect()
    }

    /// Whether a limit was met and not left since.
    pub(crate) fn is_met(&self, gate: &Gate) -> bool {
        self.0.contains_key(gate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick::new(Duration::from_secs(seconds))
    }

    #[test]
    fn a_met_limit_admits_as_many_as_have_left() {
        let mut gates = Gates::default();
        let tenant = TenantId::from_trusted("acme");
        assert!(gates.admit(&tenant, "k"));
        gates.met(Gate::Key(tenant.clone(), "k".to_owned()), at(0));
        assert!(!gates.admit(&tenant, "k"));
        assert!(gates.admit(&tenant, "other") && gates.admit(&tenant, ""));
        gates.left(&tenant, "k");
        assert!(gates.admit(&tenant, "k"));
        assert!(!gates.admit(&tenant, "k"));
    }

    #[test]
    fn of_many_met_limits_a_few_are_tried_at_once_and_each_in_its_turn() {
        let mut gates = Gates::default();
        let tenant = TenantId::from_trusted("acme");
        let keys: Vec<String> = (0..200).map(|key| format!("k{key}")).collect();
        for key in &keys {
            gates.met(Gate::Key(tenant.clone(), key.clone()), at(0));
        }
        let mut tried = std::collections::BTreeSet::new();
        for second in 1..=4 {
            gates.try_again(at(second));
            let open = keys.iter().filter(|key| gates.is_open(&tenant, key));
            let open: Vec<&String> = open.collect();
            assert!(open.len() <= EXPLORED);
            for key in &open {
                assert!(gates.admit(&tenant, key));
                gates.met(Gate::Key(tenant.clone(), (*key).clone()), at(second));
            }
            tried.extend(open);
        }
        assert_eq!(tried.len(), keys.len());
    }

    #[test]
    fn a_job_takes_no_permit_of_its_tenant_that_its_key_keeps_out() {
        let mut gates = Gates::default();
        let tenant = TenantId::from_trusted("acme");
        gates.met(Gate::Tenant(tenant.clone()), at(0));
        gates.met(Gate::Key(tenant.clone(), "k".to_owned()), at(0));
        gates.left(&tenant, "");
        assert!(!gates.admit(&tenant, "k"));
        assert!(gates.admit(&tenant, ""));
        assert!(!gates.admit(&tenant, ""));
    }

    #[test]
    fn room_that_nobody_told_of_is_found_in_time() {
        let mut gates = Gates::default();
        let tenant = TenantId::from_trusted("acme");
        gates.met(Gate::Tenant(tenant.clone()), at(0));
        gates.try_again(at(1));
        assert!(gates.admit(&tenant, ""));
        // It went through: more are tried, twice as many each time.
        gates.passed(&tenant, "");
        assert!(gates.admit(&tenant, "") && gates.admit(&tenant, ""));
        assert!(!gates.admit(&tenant, ""));
        assert!(!gates.left_elsewhere(&TenantId::from_trusted("beta"), &[], 1));
        assert!(gates.left_elsewhere(&tenant, &[], 1));
        assert!(gates.admit(&tenant, ""));
        assert!(!gates.admit(&tenant, ""));
        gates.try_again(at(31));
        assert!(!gates.is_met(&Gate::Tenant(tenant)));
    }
}
