//! A model of how jobs are claimed, leased, adopted and lost, run under a seeded simulator.
//!
//! Several replicas, workers and clients share a store and a bus in virtual time; everything in
//! between fails as a seed says. Decisions are those of `coretex_core`; what is modelled is the
//! order in which a replica reads, decides, commits and tells, which is what the engine implements.
//! A run is a function of its seed: the same seed gives the same run, on every machine.

mod checks;
mod defect;
mod faults;
mod replica;
mod rng;
mod store;
mod wire;
mod worker;
mod world;

pub use checks::Stats;
pub use defect::Defect;
pub use world::Report;

/// Runs one seed, with one guard of the protocol taken out if so asked.
#[must_use]
pub fn run(seed: u64, defect: Option<Defect>) -> Report {
    world::World::new(seed, defect, false).run()
}

/// The same run again, keeping the last lines of what happened.
#[must_use]
pub fn trace(seed: u64, defect: Option<Defect>) -> Report {
    world::World::new(seed, defect, true).run()
}
