//! Who is well: what the checks need to know of streams, processes and weather.

use std::collections::BTreeSet;

use coretex_core::id::SessionId;

use super::super::checks::{Broken, Checks, Healthy};
use super::super::replica::Replica;
use super::super::wire::Conn;
use super::super::worker::Worker;
use super::net::Link;
use super::{RECOVERY, World};

impl World {
    pub(super) fn look(&mut self) -> Result<(), Broken> {
        let mut checks = std::mem::take(&mut self.checks);
        let looked = self.look_with(&mut checks);
        self.checks = checks;
        looked
    }

    fn look_with(&self, checks: &mut Checks) -> Result<(), Broken> {
        let store_well = self.now >= self.weather.store_trouble_until + RECOVERY;
        let flaky = self.now < self.weather.flaky_until.max(self.weather.slow_until);
        let mut healthy = Vec::new();
        let mut hosting = Vec::new();
        let mut known = BTreeSet::new();
        for (conn, link) in &self.links {
            let (Some(process), Some(replica)) = (self.worker_of(*conn), self.replica_of(link))
            else {
                continue;
            };
            // A worker that came back is not taken up while the store is away; that is not its fault.
            let waits = self.now < self.weather.outage_until + RECOVERY;
            if link.up_dead || link.down_dead || !(process.welcomed || waits) {
                continue;
            }
            let node = &self.nodes[link.replica];
            let well = self.now >= node.trouble_until;
            let id = SessionId::from_trusted(&format!("s{conn}"));
            let Some((id, session)) = replica.sessions.get_key_value(&id) else {
                continue;
            };
            if !session.open || !well {
                continue;
            }
            if !flaky {
                hosting.extend(process.runs.keys().copied());
            }
            if !session.takes_work() || !process.welcomed {
                continue;
            }
            let recovered = self.now >= node.trouble_until + RECOVERY;
            if store_well && recovered && replica.may_hold(self.now) {
                healthy.push(Healthy {
                    replica,
                    id,
                    session,
                    worker: process,
                });
            }
        }
        for process in self.seats.iter().filter_map(|seat| seat.worker.as_ref()) {
            known.extend(process.runs.keys().copied());
        }
        checks.look(&self.store, &healthy, &hosting, &known, self.now)
    }

    /// The worker at the end of a stream, if it knows the stream.
    fn worker_of(&self, conn: Conn) -> Option<&Worker> {
        let link = self.links.get(&conn)?;
        let seat = &self.seats[link.worker];
        seat.worker
            .as_ref()
            .filter(|worker| seat.of == link.worker_of && worker.conn == Some(conn))
    }

    fn replica_of(&self, link: &Link) -> Option<&Replica> {
        let node = &self.nodes[link.replica];
        node.replica.as_ref().filter(|_| node.of == link.replica_of)
    }
}
