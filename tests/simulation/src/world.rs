//! The world of one history: an engine, its clients and worker processes, and the dice that say what
//! happens next. What happens to server, store and kernel is here; what clients and workers do is in
//! [`clients`](super::clients) and [`process`](super::process).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coretex_core::id::{JobId, LeaseId, WorkerId};
use coretex_engine::{Caller, FromWorker, Retention, SubmitJob};
use coretex_store::CommitError;
use coretex_store::layers::{Fault, FaultRates};

use super::process::Process;
use super::{ONLY, TENANTS};
use crate::support::{Answer, Bench, Script, SeededIds, Setup, millis, pass, secs, serving};

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) dice: Arc<SeededIds>,
    pub(super) bench: Bench,
    pub(super) kernel: Arc<Script>,
    pub(super) fleet: Caller,
    pub(super) processes: Vec<Process>,
    /// Everything that was accepted, or may have been.
    pub(super) accepted: BTreeSet<(String, JobId)>,
    pub(super) perhaps: BTreeMap<(String, JobId), SubmitJob>,
    /// Every lease that any worker was ever handed.
    pub(super) handed: BTreeSet<LeaseId>,
    pub(super) keys: u32,
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let kernel = Script::new(Answer::Allow);
        let bench = Bench::with(Setup {
            seed,
            kernel: kernel.clone(),
            resend: !seed.is_multiple_of(3),
            retention: Retention {
                jobs: secs(if seed.is_multiple_of(4) { 20 } else { 7_200 }),
                ..Retention::default()
            },
            ..Setup::default()
        })
        .await;
        let processes = (0..4)
            .map(|number| Process {
                name: format!("w{number}"),
                slots: 1 + number,
                connection: None,
                runs: Vec::new(),
            })
            .collect();
        Self {
            seed,
            dice: SeededIds::new(seed ^ 0x5eed),
            bench,
            kernel,
            fleet: serving(&TENANTS),
            processes,
            accepted: BTreeSet::new(),
            perhaps: BTreeMap::new(),
            handed: BTreeSet::new(),
            keys: 0,
        }
    }

    /// A line of the history, for who looks at one.
    #[expect(clippy::print_stderr, reason = "for a person at a terminal")]
    pub(super) fn note(&self, what: std::fmt::Arguments<'_>) {
        if ONLY.is_some() {
            eprintln!("{} {what}", self.bench.now());
        }
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    pub(super) fn tenant(&self) -> &'static str {
        TENANTS[self.dice.below(2) as usize]
    }

    pub(super) fn any_job(&self) -> Option<(String, JobId)> {
        let count = self.accepted.len() as u64;
        self.accepted
            .iter()
            .nth(self.dice.below(count) as usize)
            .cloned()
    }

    pub(super) async fn step(&mut self) {
        let die = self.dice.below(100);
        self.note(format_args!("step {die}"));
        match die {
            0..30 => self.submit().await,
            30..38 => self.connect().await,
            38..42 => self.disconnect().await,
            42..62 => self.work().await,
            62..67 => self.cancel().await,
            67..82 => self.wait().await,
            82..84 => self.crash().await,
            84..90 => self.break_store(),
            90..93 => self.look().await,
            93..96 => self.operate().await,
            96..98 => self.change_mind(),
            _ => self.replay().await,
        }
        self.hear().await;
    }

    async fn wait(&mut self) {
        let time = match self.dice.below(4) {
            0 => self.dice.below(20),
            1 | 2 => self.dice.below(1_500),
            _ => self.dice.below(9_000),
        };
        for process in &self.processes {
            if let Some(connection) = &process.connection
                && self.dice.below(8) > 0
            {
                let beat = FromWorker::Heartbeat {
                    active_jobs: 0,
                    cpu_load: self.dice.below(100) as f64,
                    gpu_utilization: 0.0,
                };
                drop(connection.session.receive(beat).await);
            }
        }
        pass(millis(time)).await;
    }

    async fn crash(&mut self) {
        self.bench.faulty.restore();
        self.bench.faulty.rates(FaultRates::default());
        for process in &mut self.processes {
            process.connection = None;
        }
        if self.one_in(2) {
            let engine = self.bench.engine.clone();
            drop(tokio::time::timeout(secs(5), engine.drain(secs(2))).await);
        }
        self.bench.crash().await;
    }

    fn break_store(&mut self) {
        let faulty = &self.bench.faulty;
        match self.dice.below(10) {
            0 => faulty.script([Fault::Before(CommitError::Unavailable {
                reason: "test".to_owned(),
            })]),
            1 => faulty.script([Fault::After]),
            2 => faulty.script([Fault::Late(millis(self.dice.below(9_000)))]),
            3 => faulty.script([Fault::Delay(millis(self.dice.below(9_000)))]),
            4 => faulty.script([Fault::SlowAnswer(millis(self.dice.below(9_000)))]),
            5 => faulty.rates(FaultRates {
                before: 0.05,
                after: 0.05,
                late: 0.05,
                delay: 0.2,
                longest_delay: millis(700),
            }),
            6 => faulty.take_down(),
            _ => {
                faulty.rates(FaultRates::default());
                faulty.restore();
            }
        }
    }

    async fn operate(&mut self) {
        let number = self.dice.below(4) as usize;
        let name = WorkerId::parse(&self.processes[number].name).unwrap();
        match self.dice.below(3) {
            0 => {
                let undo = self.dice.below(3) > 0;
                drop(
                    self.bench
                        .engine
                        .drain_worker(&self.fleet, &name, undo)
                        .await,
                );
            }
            _ => {
                let slots = 1 + self.dice.below(4) as u32;
                let process = &mut self.processes[number];
                process.slots = process.slots.max(slots);
                if let Some(connection) = &process.connection {
                    let more = FromWorker::Capacity {
                        max_parallel_jobs: process.slots,
                    };
                    drop(connection.session.receive(more).await);
                }
            }
        }
    }

    fn change_mind(&mut self) {
        let answer = match self.dice.below(10) {
            0 => Answer::Deny,
            1 | 2 => Answer::Trouble,
            3 | 4 => Answer::Throttle(millis(self.dice.below(5_000))),
            _ => Answer::Allow,
        };
        self.kernel.say(answer);
    }
}
