//! The routing tables in force, and what follows when others take their place.

use std::sync::Arc;

use coretex_core::routing::Routing;
use parking_lot::RwLock;

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
