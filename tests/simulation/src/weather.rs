//! Trouble: what happens to servers, their ways to store and bus, the clock of the store and the
//! safety kernel.

use coretex_bus::Faults;
use coretex_core::id::WorkerId;
use coretex_engine::FromWorker;
use coretex_store::CommitError;
use coretex_store::layers::{Fault, FaultRates};
use coretex_testbench::{Answer, millis, pass, secs};

use crate::cluster::MENDED;
use crate::world::World;

impl World {
    /// Time passes; most workers give signs of life.
    pub(crate) async fn wait(&mut self) {
        let time = match self.dice.below(4) {
            0 => self.dice.below(20),
            1 | 2 => self.dice.below(1_500),
            _ => self.dice.below(9_000),
        };
        for number in 0..self.processes.len() {
            if self.dice.below(8) > 0 {
                let cpu_load = self.dice.below(100) as f64;
                self.beat(number, cpu_load).await;
            }
        }
        pass(millis(time)).await;
        self.cluster.wake_up();
    }

    pub(crate) async fn beat(&mut self, number: usize, cpu_load: f64) {
        let process = &mut self.processes[number];
        if self.cluster.is_still(process.place) {
            return;
        }
        if let Some(connection) = &process.connection {
            let beat = FromWorker::Heartbeat {
                active_jobs: 0,
                cpu_load,
                gpu_utilization: 0.0,
            };
            if connection.session.receive(beat).await.is_err() {
                process.connection = None;
            }
        }
    }

    /// A server dies, in good order or not, and mostly starts again at once.
    pub(crate) async fn crash(&mut self) {
        let Some(place) = self.any_place() else {
            return;
        };
        let orderly = self.one_in(2);
        let now = self.now();
        if let Some(server) = &mut self.cluster.servers[place]
            && orderly
        {
            server.mend(now);
            let engine = server.engine.clone();
            self.drop_connections(place);
            drop(tokio::time::timeout(secs(5), engine.drain(secs(2))).await);
        }
        self.kill(place);
        if !self.cluster.is_shared() || !self.one_in(3) {
            self.cluster.revive(place).await;
        }
    }

    /// A place without a server gets one.
    pub(crate) async fn revive(&mut self) {
        let empty = self.cluster.servers.iter().position(Option::is_none);
        if let Some(place) = empty {
            self.note(format_args!("server {place} starts"));
            self.cluster.revive(place).await;
        }
    }

    /// A server gets no time for a while.
    pub(crate) fn stand_still(&mut self) {
        let time = match self.dice.below(3) {
            0 => millis(self.dice.below(4_000)),
            1 => millis(self.dice.below(18_000)),
            _ => millis(self.dice.below(60_000)),
        };
        let Some(place) = self.any_place() else {
            return;
        };
        self.note(format_args!("server {place} stands still for {time:?}"));
        if let Some(server) = &mut self.cluster.servers[place] {
            server.stand_still(time);
            server.well_from = None;
            self.tally.standstills += 1;
        }
    }

    /// The way of one server to the store goes bad, or good again.
    pub(crate) fn break_store(&mut self) {
        let now = self.now();
        let Some(server) = self
            .any_place()
            .and_then(|place| self.cluster.servers[place].as_mut())
        else {
            return;
        };
        let die = self.dice.below(10);
        match die {
            0..5 => server.is_unwell_until(now + MENDED),
            5 | 6 => server.well_from = None,
            _ => {}
        }
        let link = &server.link;
        match die {
            0 => link.script([Fault::Before(CommitError::Unavailable {
                reason: "test".to_owned(),
            })]),
            1 => link.script([Fault::After]),
            2 => link.script([Fault::Late(millis(self.dice.below(9_000)))]),
            3 => link.script([Fault::Delay(millis(self.dice.below(9_000)))]),
            4 => link.script([Fault::SlowAnswer(millis(self.dice.below(9_000)))]),
            5 => link.rates(FaultRates {
                before: 0.05,
                after: 0.05,
                late: 0.05,
                delay: 0.2,
                longest_delay: millis(700),
            }),
            6 => link.take_down(),
            _ => {
                link.rates(FaultRates::default());
                // One that stands still goes on when its time has come.
                if server.still_until.is_none() {
                    link.restore();
                    server.is_well_from(now + MENDED);
                }
            }
        }
    }

    /// The way of one server to the bus goes bad, or good again.
    pub(crate) fn break_bus(&mut self) {
        let Some(server) = self
            .any_place()
            .and_then(|place| self.cluster.servers[place].as_ref())
        else {
            return;
        };
        let faults = match self.dice.below(4) {
            0 => Faults::NONE,
            1 => Faults::LOSE_ALL,
            _ => Faults {
                lose: 0.2,
                double: 0.2,
                delay: 0.3,
                max_delay: millis(self.dice.below(5_000)),
                reorder: 0.2,
            },
        };
        server.bus.set_faults(faults);
    }

    /// Somebody corrects the clock of the store a little.
    pub(crate) fn set_clock(&mut self) {
        let by = self.dice.below(5) as i64 - 2;
        self.note(format_args!("the clock of the store jumps by {by} s"));
        let before = self.now();
        self.cluster.clock.set(by);
        self.forget_times(before);
    }

    /// What operators do.
    pub(crate) async fn operate(&mut self) {
        let number = self.dice.below(self.processes.len() as u64) as usize;
        let name = WorkerId::parse(&self.processes[number].name).unwrap();
        if self.one_in(3) {
            let undo = self.dice.below(3) > 0;
            let Some(engine) = self.any_engine() else {
                return;
            };
            let drain = engine.drain_worker(&self.fleet, &name, undo);
            drop(tokio::time::timeout(secs(12), drain).await);
            return;
        }
        let slots = 1 + self.dice.below(4) as u32;
        let still = self.cluster.is_still(self.processes[number].place);
        let process = &mut self.processes[number];
        let slots = process.slots.max(slots);
        if let Some(connection) = &process.connection
            && !still
        {
            let more = FromWorker::Capacity {
                max_parallel_jobs: slots,
            };
            if connection.session.receive(more).await.is_ok() {
                process.slots = slots;
            }
        }
    }

    /// The safety kernel decides otherwise from now on.
    pub(crate) fn change_mind(&mut self) {
        let answer = match self.dice.below(10) {
            0 => Answer::Deny,
            1 | 2 => Answer::Trouble,
            3 | 4 => Answer::Throttle(millis(self.dice.below(5_000))),
            _ => Answer::Allow,
        };
        self.kernel.say(answer);
    }
}
