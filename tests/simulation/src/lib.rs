//! Deterministic simulation of the engine: clients, workers, servers that die, stand still and come
//! back, a bad store and a bad bus, in virtual time and from a seed. Whatever happens, the store is
//! consistent, no lease is handed out twice, no result is applied twice, and in the end every job
//! has ended or its diagnosis says why not.
//!
//! `history` runs random histories, `lives` walks through the life of a job and lets one fault
//! strike at each point of it (`points`). Both use the same `world`: servers (`cluster`),
//! worker processes (`process`, `inbox`, `streams`), clients (`clients`), trouble (`weather`),
//! operators (`operators`), what is owed to them (`book`), and what must be true (`checks`, `limits`). `defect` breaks promises on purpose, to
//! show that the checks notice.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails here fails the test"
)]

mod book;
mod checks;
mod clients;
mod cluster;
mod cores;
mod defect;
mod history;
mod inbox;
mod limits;
mod lives;
mod operators;
mod points;
mod process;
mod streams;
mod weather;
mod world;

pub use cores::on_all_cores;
pub use defect::Defect;
pub use history::{Plan, STEPS, Tale, tell};
pub use lives::{Case, Life, cases, live, strikes};
pub use points::{Point, Strike};
pub use world::Tally;
