//! The servers of one history: engines on one store and one bus, each with a way of its own to both
//! that may be broken alone. They start, die, stand still and come back here; what makes them is in
//! the history or the scenario.

use std::sync::Arc;
use std::time::Duration;

use coretex_bus::{Bus, Faults, InProcBus};
use coretex_core::time::{Clock, Timestamp};
use coretex_engine::Engine;
use coretex_store::Store;
use coretex_store::embedded::EmbeddedStore;
use coretex_store::layers::{FaultRates, Faulty, Resend, ResendPolicy};
use coretex_testbench::audit::{Audit, audit};
use coretex_testbench::{
    Names, SeededIds, Setup, Tap, VirtualClock, memory_store, pass, secs, start_on,
};
use tokio::time::Instant;

use crate::defect::{Defect, DefectiveStore};
use crate::points::{Points, WatchedBus, WatchedStore};

/// What was on its way while a server was in trouble is over after this time.
pub(crate) const MENDED: Duration = secs(20);

/// One server process.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) engine: Engine,
    pub(crate) tap: Arc<Tap>,
    /// Its way to the store.
    pub(crate) link: Arc<Faulty>,
    /// Its way to the bus.
    pub(crate) bus: coretex_bus::Faulty,
    /// It stands still until then.
    pub(crate) still_until: Option<Instant>,
    /// It reaches the store as it should from this store time on; `None` = it does not.
    pub(crate) well_from: Option<Timestamp>,
}

impl Server {
    /// From now on it gets no time: what it asks of the store hangs, and it reaches nobody.
    pub(crate) fn stand_still(&mut self, time: Duration) {
        self.link.pause();
        self.bus.set_down(true);
        self.still_until = Some(Instant::now() + time);
    }

    /// The way to the store works again, and so does the server.
    pub(crate) fn mend(&mut self, now: Timestamp) {
        self.is_well_from(now + MENDED);
        self.link.restore();
        self.link.rates(FaultRates::default());
        self.bus.set_down(false);
        self.still_until = None;
    }

    /// One that does not reach the store does so from this time on.
    pub(crate) fn is_well_from(&mut self, time: Timestamp) {
        self.well_from.get_or_insert(time);
    }

    /// One that reaches the store has some trouble until this time.
    pub(crate) fn is_unwell_until(&mut self, time: Timestamp) {
        self.well_from = self.well_from.map(|well| well.max(time));
    }
}

/// All servers, and what they share.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) base: Arc<EmbeddedStore>,
    pub(crate) clock: Arc<VirtualClock>,
    /// The places of servers; an empty one is of a server that is dead.
    pub(crate) servers: Vec<Option<Server>>,
    names: Arc<Names>,
    hub: InProcBus,
    setup: Setup,
    points: Arc<Points>,
    defect: Option<Defect>,
    starts: u64,
}

impl Cluster {
    /// Starts as many servers.
    pub(crate) async fn start(
        setup: Setup,
        servers: usize,
        points: Arc<Points>,
        defect: Option<Defect>,
    ) -> Self {
        let clock = VirtualClock::new();
        let mut cluster = Self {
            base: memory_store(&clock),
            clock,
            servers: Vec::new(),
            names: Arc::default(),
            hub: InProcBus::new(),
            setup,
            points,
            defect,
            starts: 0,
        };
        for place in 0..servers {
            cluster.servers.push(None);
            cluster.revive(place).await;
        }
        cluster
    }

    /// Store time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether several servers can use the store at once.
    pub(crate) fn is_shared(&self) -> bool {
        !self.setup.exclusive
    }

    /// A server starts in an empty place. One that cannot start is started again.
    pub(crate) async fn revive(&mut self, place: usize) {
        while self.servers[place].is_none() {
            self.starts += 1;
            let seed = self.setup.seed ^ (self.starts << 32);
            let below: Arc<dyn Store> = Arc::clone(&self.base) as Arc<dyn Store>;
            let link = Arc::new(Faulty::new(below, SeededIds::new(seed ^ 0xfa17)));
            let tap = Arc::new(Tap::new(
                Arc::clone(&link) as Arc<dyn Store>,
                Arc::clone(&self.names),
                self.setup.exclusive,
            ));
            let watched: Arc<dyn Store> = Arc::new(WatchedStore {
                inner: Arc::clone(&tap),
                link: Arc::clone(&link),
                points: Arc::clone(&self.points),
            });
            let store: Arc<dyn Store> = if self.setup.resend {
                Arc::new(Resend::new(watched, ResendPolicy::default()))
            } else {
                watched
            };
            let store: Arc<dyn Store> = match self.defect {
                Some(defect) => Arc::new(DefectiveStore::new(store, defect, seed)),
                None => store,
            };
            let peer: Arc<dyn Bus> = Arc::new(self.hub.peer());
            let bus = coretex_bus::Faulty::new(peer, Faults::NONE, seed ^ 0xb05);
            let watched = WatchedBus {
                inner: Arc::new(bus.clone()),
                tap: Arc::clone(&tap),
                link: Arc::clone(&link),
                points: Arc::clone(&self.points),
            };
            let started = start_on(&self.setup, self.starts, store, Arc::new(watched)).await;
            if tap.is_dead() {
                continue;
            }
            match started {
                Ok(engine) => {
                    self.servers[place] = Some(Server {
                        engine,
                        tap,
                        link,
                        bus,
                        still_until: None,
                        well_from: Some(self.clock.now()),
                    });
                }
                Err(_) => pass(secs(1)).await,
            }
        }
    }

    /// A server dies at once. What is left of it in memory stops using time.
    pub(crate) fn kill(&mut self, place: usize) {
        if let Some(server) = self.servers[place].take() {
            server.tap.kill();
            tokio::spawn(async move { server.engine.drain(Duration::ZERO).await });
        }
    }

    /// The places of servers that live.
    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.servers.len())
            .filter(|place| self.servers[*place].is_some())
            .collect()
    }

    /// The places of servers that live and can be reached.
    pub(crate) fn awake(&self) -> Vec<usize> {
        let mut alive = self.alive();
        alive.retain(|place| !self.is_still(*place));
        alive
    }

    /// Whether the server in this place stands still, or there is none.
    pub(crate) fn is_still(&self, place: usize) -> bool {
        self.servers[place]
            .as_ref()
            .is_none_or(|server| server.still_until.is_some())
    }

    /// Servers that have stood still for long enough go on.
    pub(crate) fn wake_up(&mut self) {
        let (now, store_time) = (Instant::now(), self.clock.now());
        for server in self.servers.iter_mut().flatten() {
            if server.still_until.is_some_and(|until| until <= now) {
                server.mend(store_time);
            }
        }
    }

    /// Everything works again.
    pub(crate) fn mend_all(&mut self) {
        let now = self.clock.now();
        for server in self.servers.iter_mut().flatten() {
            server.mend(now);
            server.bus.set_faults(Faults::NONE);
        }
    }

    /// Everything in the store, checked.
    pub(crate) async fn audit(&self) -> Audit {
        audit(&self.base, &self.names).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for place in 0..self.servers.len() {
            if let Some(server) = self.servers[place].take() {
                server.tap.kill();
            }
        }
    }
}
