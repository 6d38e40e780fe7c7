//! Limits on what runs at once: the tables of every server, the keys of jobs, and that there are
//! never more than may be, counted from the records.

use std::collections::BTreeMap;

use coretex_core::id::TenantId;
use coretex_core::job::{Concurrency, ConcurrencyAction, Job};
use coretex_core::routing::{Routing, TenantRule};
use coretex_engine::AttemptRef;
use coretex_testbench::SeededIds;

use crate::world::{TENANTS, World};

/// How many jobs of each tenant may run.
pub(crate) const MOST: u64 = 4;
/// How many may with each key.
const KEYS: [(&str, u32); 2] = [("k", 1), ("l", 3)];

/// The tables of every server.
pub(crate) fn tables() -> Routing {
    let rule = TenantRule {
        max_running_jobs: Some(MOST),
        ..TenantRule::default()
    };
    let tenants = TENANTS.map(|name| (TenantId::from_trusted(name), rule.clone()));
    Routing::new(
        BTreeMap::new(),
        BTreeMap::new(),
        tenants.into_iter().collect(),
        TenantRule::default(),
    )
    .unwrap()
}

/// Some key, and something that happens when it is full.
pub(crate) fn any_key(dice: &SeededIds) -> Concurrency {
    let (key, limit) = KEYS[dice.below(2) as usize];
    Concurrency {
        key: key.to_owned(),
        limit,
        on_limit: [
            ConcurrencyAction::Queue,
            ConcurrencyAction::Reject,
            ConcurrencyAction::CancelOldest,
        ][dice.below(3) as usize],
    }
}

/// How many run: of each tenant, and of each tenant with each key.
#[derive(Debug, Default)]
pub(crate) struct Running {
    tenants: BTreeMap<TenantId, u64>,
    keys: BTreeMap<(TenantId, String), u32>,
}

impl Running {
    /// Counts from the records.
    pub(crate) fn of(jobs: &[Job]) -> Self {
        let mut running = Self::default();
        for job in jobs {
            let Some(lease) = &job.lease else { continue };
            *running.tenants.entry(job.tenant.clone()).or_default() += 1;
            let spec = job.spec.concurrency.as_ref();
            let key = spec.map_or("", |concurrency| concurrency.key.as_str());
            assert_eq!(lease.concurrency_key, key, "what {} counts for", job.id);
            if !key.is_empty() {
                let key = (job.tenant.clone(), key.to_owned());
                *running.keys.entry(key).or_default() += 1;
            }
        }
        running
    }

    /// Whether as many jobs of a job's tenant run as may.
    pub(crate) fn is_tenant_full(&self, job: &Job) -> bool {
        self.tenants.get(&job.tenant) == Some(&MOST)
    }

    /// Whether as many run with a job's key as may.
    pub(crate) fn is_key_full(&self, job: &Job) -> bool {
        job.spec.concurrency.as_ref().is_some_and(|concurrency| {
            let key = (job.tenant.clone(), concurrency.key.clone());
            self.keys.get(&key) == Some(&concurrency.limit)
        })
    }

    /// No more run than may; how many limits are met.
    pub(crate) fn check(&self) -> u64 {
        let mut met = 0;
        for (tenant, running) in &self.tenants {
            assert!(*running <= MOST, "{running} run of {tenant}");
            met += u64::from(*running == MOST);
        }
        for ((tenant, key), running) in &self.keys {
            let limit = KEYS.iter().find(|(name, _)| name == key).unwrap().1;
            assert!(*running <= limit, "{running} run of {tenant} with {key}");
            met += u64::from(*running == limit);
        }
        met
    }
}

impl World {
    /// No more run than may at the moment in which a job is handed out.
    pub(crate) async fn within_limits(&self, job: &Job, attempt: &AttemptRef) {
        let tenant = &attempt.tenant;
        let running = self.size(&format!("run/{tenant}")).await;
        assert!(running <= MOST, "{running} run of {tenant}");
        if let Some(Concurrency { key, limit, .. }) = &job.spec.concurrency {
            let running = self.size(&format!("conc/{tenant}\0{key}")).await;
            assert!(
                running <= u64::from(*limit),
                "{running} run of {tenant} with {key}"
            );
        }
    }
}
