//! The routing tables in force, and what follows when others take their place.

use std::collections::BTreeMap;
use std::sync::Arc;

use coretex_core::id::{PoolName, TenantId};
use coretex_core::routing::Routing;
use coretex_core::routing::pattern::TopicPattern;
use parking_lot::RwLock;

use crate::access::Caller;
use crate::engine::Engine;

/// The tables that this replica goes by.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    current: RwLock<Arc<Routing>>,
    problem: RwLock<Option<String>>,
}

impl Tables {
    pub(crate) fn new(routing: Routing) -> Self {
        Self {
            current: RwLock::new(Arc::new(routing)),
            problem: RwLock::default(),
        }
    }
}

impl Engine {
    /// The tables in force.
    #[must_use]
    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.tables().current.read())
    }

    /// Puts other tables in force. Waiting jobs go by them at once: a queue is a topic, and where
    /// its jobs may go is looked up when they are placed. What runs goes on.
    pub fn set_routing(&self, routing: Routing) {
        let routing = Arc::new(routing);
        *self.tables().current.write() = Arc::clone(&routing);
        *self.tables().problem.write() = None;
        self.place_by(routing);
    }

    /// Why the tables could not be replaced by what their source holds now; `None` = they are what
    /// it holds.
    #[must_use]
    pub fn routing_problem(&self) -> Option<String> {
        self.tables().problem.read().clone()
    }

    /// Notes that the source of the tables holds something that cannot be used: those in force
    /// stay, and status says why.
    pub fn keep_routing(&self, problem: String) {
        *self.tables().problem.write() = Some(problem);
    }

    /// The same for a caller: what is wrong may name other tenants, so only those with system rights
    /// see it.
    pub(crate) fn routing_problem_for(&self, caller: &Caller) -> Option<String> {
        let problem = self.routing_problem()?;
        if caller.system {
            return Some(problem);
        }
        Some("the routing tables cannot be replaced; system admins see why".to_owned())
    }

    /// Makes the dispatcher go by these tables.
    pub(crate) fn place_by(&self, routing: Arc<Routing>) {
        let mut state = self.dispatcher().lock();
        state.routing = routing;
        state.gates.open_all();
        state.fleet_changed();
        drop(state);
        self.dispatcher().wake();
    }
}

/// The pools of the table that a tenant may use.
pub(crate) fn pools_of_table<'a>(
    routing: &'a Routing,
    tenant: &'a TenantId,
) -> impl Iterator<Item = &'a PoolName> {
    routing
        .pools()
        .filter(|(_, rule)| rule.tenants.is_empty() || rule.tenants.contains(tenant))
        .map(|(pool, _)| pool)
}

/// The patterns of topics that are open to a tenant, by the pools that they name.
pub(crate) fn patterns_by_pool(
    routing: &Routing,
    tenant: &TenantId,
) -> BTreeMap<PoolName, Vec<TopicPattern>> {
    let mut patterns: BTreeMap<PoolName, Vec<TopicPattern>> = BTreeMap::new();
    let open = routing
        .topics()
        .filter(|(_, rule)| rule.tenants.is_empty() || rule.tenants.contains(tenant));
    for (pattern, rule) in open {
        for pool in &rule.pools {
            let naming = patterns.entry(pool.clone()).or_default();
            naming.push(pattern.clone());
        }
    }
    patterns
}
