//! A connected worker, as the dispatcher sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use coretex_core::id::{LeaseId, PoolName, SessionId, TenantId, Topic, WorkerId};
use coretex_core::lease::Tick;
use coretex_core::placement::{Tenants, WorkerView};
use coretex_core::routing::PoolRule;
use coretex_core::time::Timestamp;
use tokio::sync::mpsc;

use crate::sessions::outbound::Outbound;
use crate::types::{SessionEnd, ToWorker};

/// The attempts of a worker, and how many slots they take together.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    slots: BTreeMap<LeaseId, u32>,
    used: u32,
}

impl Leases {
    /// Enters an attempt, or corrects how many slots it takes.
    pub(crate) fn insert(&mut self, lease: LeaseId, slots: u32) {
        self.remove(lease);
        self.slots.insert(lease, slots);
        self.used = self.used.saturating_add(slots);
    }

    /// Takes an attempt out; false when it was not there.
    pub(crate) fn remove(&mut self, lease: LeaseId) -> bool {
        let Some(slots) = self.slots.remove(&lease) else {
            return false;
        };
        self.used = self.used.saturating_sub(slots);
        true
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many attempts there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many slots they take.
    pub(crate) const fn used(&self) -> u32 {
        self.used
    }
}

/// A connected worker.
#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) worker_id: WorkerId,
    pub(crate) tenant: TenantId,
    pub(crate) pool: PoolName,
    pub(crate) topics: Vec<Topic>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Tenants whose jobs it gets.
    pub(crate) serves: Vec<TenantId>,
    pub(crate) max_parallel: u32,
    pub(crate) cpu_load: f64,
    pub(crate) gpu_utilization: f64,
    /// It said that it takes no more.
    pub(crate) leaving: bool,
    /// An operator said that it gets no more.
    pub(crate) drained: bool,
    /// Its welcome has been sent; before, it gets nothing.
    pub(crate) open: bool,
    pub(crate) sdk: String,
    pub(crate) protocol_version: u32,
    pub(crate) principal_id: String,
    pub(crate) connect_time: Timestamp,
    /// Its last sign of life, in store time and by this process's clock.
    pub(crate) heard_time: Timestamp,
    pub(crate) heard: Tick,
    pub(crate) sender: mpsc::Sender<ToWorker>,
    /// The bytes of what waits in `sender` and behind it.
    pub(crate) outbound: Arc<Outbound>,
    /// Why it has ended.
    pub(crate) end: Arc<OnceLock<SessionEnd>>,
    pub(crate) leases: Leases,
    /// Slots taken for commits under way.
    pub(crate) reserved: u32,
}

impl SessionState {
    /// Slots in use or taken.
    pub(crate) const fn active(&self) -> u32 {
        self.leases.used().saturating_add(self.reserved)
    }

    /// Whether it may be sent more: it reads what it is sent, or has little to read. The channel
    /// itself has room for the largest worker there may be.
    pub(crate) fn has_room(&self) -> bool {
        let waiting = self.sender.max_capacity() - self.sender.capacity();
        let slots = self.leases.len().max(self.max_parallel as usize);
        waiting < slots + crate::sessions::OUTBOUND_SLACK
    }

    pub(crate) fn has_free_slot(&self) -> bool {
        self.free_slots() > 0
    }

    /// Whether it may get jobs, as far as its slots allow.
    pub(crate) fn gets_jobs(&self) -> bool {
        self.open && !self.leaving && !self.drained && !self.outbound.is_full()
    }

    /// How many slots may be taken now.
    pub(crate) fn free_slots(&self) -> usize {
        if self.gets_jobs() {
            self.max_parallel.saturating_sub(self.active()) as usize
        } else {
            0
        }
    }

    pub(crate) fn view<'a>(
        &'a self,
        session: &'a SessionId,
        rule: Option<&'a PoolRule>,
    ) -> WorkerView<'a> {
        WorkerView {
            rule,
            worker_id: &self.worker_id,
            session,
            pool: &self.pool,
            topics: &self.topics,
            any_topic: false,
            capabilities: &self.capabilities,
            labels: &self.labels,
            max_parallel: self.max_parallel,
            // One that has much to read is as busy as can be.
            active: if self.outbound.is_full() {
                self.active().max(self.max_parallel)
            } else {
                self.active()
            },
            cpu_load: self.cpu_load as f32,
            gpu_utilization: self.gpu_utilization as f32,
            draining: self.leaving || self.drained || !self.open,
            tenants_served: Tenants::List(&self.serves),
        }
    }
}
