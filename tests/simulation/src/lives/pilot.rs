//! A worker that behaves, and servers that are started again: it starts what it gets, works for a
//! while, answers until it is acknowledged, and comes back when its connection breaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coretex_core::job::Job;
use coretex_core::job::transition::Outcome;
use coretex_core::payload::Payload;
use coretex_engine::FromWorker;
use coretex_testbench::{failed, millis, pass, secs, succeeded};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Life;
use super::client::{Door, Doors};
use crate::process::Run;
use crate::world::World;

/// How often it looks.
const TICK: Duration = millis(100);
/// Nothing takes longer.
const PATIENCE: Duration = secs(200);

pub(super) struct Pilot {
    life: Life,
    doors: Doors,
    /// When dead servers start again.
    restarts: BTreeMap<usize, Instant>,
    /// The worker is not there until then.
    away_until: Instant,
    /// Where it looks next.
    next_place: usize,
    beat: Instant,
    /// What the life has in store for its first attempt has happened.
    over: bool,
}

impl Pilot {
    pub(super) fn new(life: Life, world: &World) -> Self {
        let now = Instant::now();
        let pilot = Self {
            life,
            doors: Doors::default(),
            restarts: BTreeMap::new(),
            away_until: now + millis(if life == Life::Queued { 1_500 } else { 0 }),
            next_place: 0,
            beat: now,
            over: false,
        };
        pilot.open_doors(world);
        pilot
    }

    pub(super) fn doors(&self) -> Doors {
        Arc::clone(&self.doors)
    }

    fn open_doors(&self, world: &World) {
        let servers = world.cluster.servers.iter().flatten();
        let alive = servers.filter(|server| !server.tap.is_dead());
        *self.doors.lock() = alive
            .map(|server| Door {
                engine: server.engine.clone(),
                tap: Arc::clone(&server.tap),
                link: Arc::clone(&server.link),
            })
            .collect();
    }

    /// Flies until the client has its answer and the worker its acknowledgements.
    pub(super) async fn fly_until(
        &mut self,
        world: &mut World,
        story: &mut JoinHandle<Arc<Job>>,
    ) -> Arc<Job> {
        self.fly(world, PATIENCE, |world| {
            story.is_finished() && world.processes[0].runs.is_empty()
        })
        .await;
        assert!(story.is_finished(), "the client has no answer");
        story.await.unwrap()
    }

    /// Flies for so long, or until it is done.
    pub(super) async fn fly(
        &mut self,
        world: &mut World,
        time: Duration,
        done: impl Fn(&World) -> bool,
    ) {
        let end = Instant::now() + time;
        while Instant::now() < end && !done(world) {
            self.keep_servers(world).await;
            self.keep_connection(world).await;
            world.hear().await;
            self.work(world).await;
            pass(TICK).await;
        }
    }

    async fn keep_servers(&mut self, world: &mut World) {
        world.notice_deaths();
        let now = Instant::now();
        for place in 0..world.cluster.servers.len() {
            if world.cluster.servers[place].is_some() {
                continue;
            }
            let at = *self.restarts.entry(place).or_insert(now + secs(1));
            if at <= now {
                self.restarts.remove(&place);
                world.cluster.revive(place).await;
            }
        }
        self.open_doors(world);
    }

    async fn keep_connection(&mut self, world: &mut World) {
        let now = Instant::now();
        if world.processes[0].connection.is_some() {
            if self.beat <= now {
                self.beat = now + secs(1);
                world.beat_all().await;
            }
            return;
        }
        if self.away_until > now {
            return;
        }
        self.away_until = now + millis(500);
        let alive = world.cluster.awake();
        if alive.is_empty() {
            return;
        }
        let place = alive[self.next_place % alive.len()];
        self.next_place += 1;
        world.connect_to(0, place, false).await;
        if world.processes[0].connection.is_some() {
            // The word that it began may have been lost.
            for run in &mut world.processes[0].runs {
                run.started &= run.result.is_some();
            }
        }
    }

    /// Once in a life something happens to the first attempt.
    async fn mishap(&mut self, world: &mut World, run: &Run) -> bool {
        let age = run.since.elapsed();
        let now = match self.life {
            Life::Rejected => !run.started,
            Life::WorkerLost | Life::Reconnected | Life::Moved => age >= millis(500),
            _ => false,
        };
        if self.over || !now {
            return false;
        }
        self.over = true;
        let back = Instant::now() + secs(1);
        match self.life {
            Life::Rejected => {
                let attempt = run.attempt.clone();
                world.processes[0].runs.clear();
                let reason = "not now".to_owned();
                world.say(0, FromWorker::Reject { attempt, reason }).await;
            }
            Life::WorkerLost => {
                world.processes[0].die();
                self.away_until = back;
            }
            _ => {
                world.processes[0].connection = None;
                self.away_until = back;
                self.next_place = usize::from(self.life == Life::Moved);
            }
        }
        true
    }

    async fn work(&mut self, world: &mut World) {
        for run in world.processes[0].runs.clone() {
            if world.processes[0].connection.is_none() {
                return;
            }
            if run.result.is_some() {
                continue;
            }
            if self.mishap(world, &run).await {
                return;
            }
            if !run.started {
                for held in &mut world.processes[0].runs {
                    held.started |= held.attempt == run.attempt;
                }
                world.say(0, FromWorker::Started(run.attempt.clone())).await;
                continue;
            }
            let over = run.confirmed && run.since.elapsed() >= self.life.work();
            if over || run.told_to_stop {
                let outcome = self.outcome(&run);
                for held in &mut world.processes[0].runs {
                    if held.attempt == run.attempt {
                        held.result = Some(outcome.clone());
                    }
                }
                world.report(0, &run.attempt, outcome).await;
            }
        }
    }

    fn outcome(&mut self, run: &Run) -> Outcome {
        if run.told_to_stop {
            return Outcome::Cancelled;
        }
        let first = !std::mem::replace(&mut self.over, true);
        match self.life {
            Life::Retried if first => failed("first"),
            Life::Large => Outcome::Succeeded {
                output: Some(Payload::json(vec![b'2'; 20 * 1024].into())),
            },
            _ => succeeded(),
        }
    }
}
