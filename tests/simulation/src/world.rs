//! The world of one history or scenario: servers, worker processes, the book, and the dice that say
//! what happens next.

use std::sync::Arc;

use coretex_core::id::JobId;
use coretex_core::time::Timestamp;
use coretex_engine::{Caller, Engine};
use coretex_testbench::{Script, SeededIds, serving};
use tokio::time::Instant;

use crate::book::Book;
use crate::cluster::Cluster;
use crate::operators::StandingPauses;
use crate::points::Points;
use crate::process::Process;

pub(crate) const TOPICS: [&str; 3] = ["job.a", "job.b", "job.c"];
pub(crate) const TENANTS: [&str; 2] = ["acme", "beta"];

/// What happened how often, so that it shows when a simulation meets nothing any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs that were accepted.
    pub accepted: u64,
    /// Attempts that were handed out.
    pub handed_out: u64,
    /// Attempts that a worker kept over a reconnection.
    pub kept: u64,
    /// The same at another server.
    pub moved: u64,
    /// Attempts that were lost with a worker or a server.
    pub lost: u64,
    /// Jobs that were refused because their keys were full.
    pub refused: u64,
    /// Limits that were met when everything was checked.
    pub met: u64,
    /// Pauses that operators were told are in force.
    pub pauses: u64,
    /// Dead letters that were retried.
    pub retried: u64,
    /// Pieces of output that are stored in the end.
    pub streamed: u64,
    /// Servers that died.
    pub deaths: u64,
    /// Servers that stood still.
    pub standstills: u64,
    /// Times at which everything was checked.
    pub checks: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.handed_out += other.handed_out;
        self.kept += other.kept;
        self.moved += other.moved;
        self.lost += other.lost;
        self.refused += other.refused;
        self.met += other.met;
        self.pauses += other.pauses;
        self.retried += other.retried;
        self.streamed += other.streamed;
        self.deaths += other.deaths;
        self.standstills += other.standstills;
        self.checks += other.checks;
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dice: Arc<SeededIds>,
    pub(crate) cluster: Cluster,
    pub(crate) points: Arc<Points>,
    pub(crate) kernel: Arc<Script>,
    /// Whom all workers belong to.
    pub(crate) fleet: Caller,
    pub(crate) processes: Vec<Process>,
    pub(crate) book: Book,
    pub(crate) pauses: StandingPauses,
    pub(crate) tally: Tally,
    pub(crate) keys: u32,
    pub(crate) last_death: Option<Instant>,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        cluster: Cluster,
        points: Arc<Points>,
        kernel: Arc<Script>,
        processes: Vec<Process>,
    ) -> Self {
        Self {
            dice: SeededIds::new(seed ^ 0x5eed),
            cluster,
            points,
            kernel,
            fleet: serving(&TENANTS),
            processes,
            book: Book::default(),
            pauses: StandingPauses::new(),
            tally: Tally::default(),
            keys: 0,
            last_death: None,
        }
    }

    /// A line of the story, for who listens.
    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        tracing::info!(target: "story", "{} {what}", self.now());
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.cluster.now()
    }

    pub(crate) fn one_in(&self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    pub(crate) fn tenant(&self) -> &'static str {
        TENANTS[self.dice.below(2) as usize]
    }

    pub(crate) fn any_job(&self) -> Option<(String, JobId)> {
        let count = self.book.accepted.len() as u64;
        self.book
            .accepted
            .iter()
            .nth(self.dice.below(count) as usize)
            .cloned()
    }

    /// A server that lives, whatever state it is in.
    pub(crate) fn any_place(&self) -> Option<usize> {
        let alive = self.cluster.alive();
        let count = alive.len() as u64;
        alive.get(self.dice.below(count) as usize).copied()
    }

    /// The engine of a server that lives.
    pub(crate) fn any_engine(&self) -> Option<Engine> {
        let place = self.any_place()?;
        self.engine(place)
    }

    pub(crate) fn engine(&self, place: usize) -> Option<Engine> {
        let server = self.cluster.servers[place].as_ref()?;
        Some(server.engine.clone())
    }

    /// A server dies; the connections of its workers break.
    pub(crate) fn kill(&mut self, place: usize) {
        self.note(format_args!("server {place} dies"));
        self.tally.deaths += 1;
        self.last_death = Some(Instant::now());
        self.drop_connections(place);
        self.cluster.kill(place);
    }

    pub(crate) fn drop_connections(&mut self, place: usize) {
        for process in &mut self.processes {
            if process.place == place {
                process.connection = None;
            }
        }
    }

    /// Servers that died at a fault point are dead for everybody.
    pub(crate) fn notice_deaths(&mut self) {
        for place in 0..self.cluster.servers.len() {
            let server = self.cluster.servers[place].as_ref();
            if server.is_some_and(|server| server.tap.is_dead()) {
                self.kill(place);
            }
        }
    }
}
