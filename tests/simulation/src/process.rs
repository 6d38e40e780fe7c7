//! Worker processes: they outlive their connections, keep what they run, and send results until they
//! are acknowledged. What they are sent is in `inbox`, what they stream in `streams`.

use coretex_core::job::transition::Outcome;
use coretex_engine::{AttemptRef, FromWorker, Hello, ToWorker};

use coretex_testbench::{Tap, Worker, failed, hello, millis, pass, secs, succeeded};
use tokio::time::Instant;

use crate::points::{Point, Strike, take_store_away};
use crate::streams::{Stream, Streams};
use crate::world::{TOPICS, World};

/// What a worker process does with an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) attempt: AttemptRef,
    /// How many slots it takes.
    pub(crate) slots: u32,
    /// What it has streamed.
    pub(crate) streams: Streams,
    pub(crate) started: bool,
    /// It may begin: the start is committed, or does not have to be.
    pub(crate) confirmed: bool,
    pub(crate) since: Instant,
    pub(crate) told_to_stop: bool,
    /// Its result, once it has one, sent until it is acknowledged.
    pub(crate) result: Option<Outcome>,
}

impl Run {
    /// Whether its worker has to keep it over a reconnection. A result alone is taken from whoever
    /// brings it; output is taken of attempts that are kept.
    fn is_wanted(&self) -> bool {
        self.result.is_none() || self.streams.iter().any(Stream::is_unacknowledged)
    }
}

/// A worker process: it outlives its connections.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) slots: u32,
    pub(crate) topics: &'static [&'static str],
    pub(crate) gpu: bool,
    /// The server that it is, or was, connected to.
    pub(crate) place: usize,
    pub(crate) connection: Option<Worker>,
    /// What is on its way to it, and arrives then.
    pub(crate) held_up: Option<(Instant, ToWorker)>,
    pub(crate) runs: Vec<Run>,
}

impl Process {
    /// The fleet of random histories: `w0` with one topic and one slot to `w3` with all and four.
    pub(crate) fn fleet() -> Vec<Self> {
        (0..4)
            .map(|number| Self {
                name: format!("w{number}"),
                slots: 1 + number,
                topics: match number {
                    0 => &TOPICS[..1],
                    1 => &TOPICS[..2],
                    _ => &TOPICS,
                },
                gpu: number >= 2,
                place: 0,
                connection: None,
                held_up: None,
                runs: Vec::new(),
            })
            .collect()
    }

    /// A worker of one topic and two slots.
    pub(crate) fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            slots: 2,
            topics: &TOPICS[..1],
            gpu: false,
            place: 0,
            connection: None,
            held_up: None,
            runs: Vec::new(),
        }
    }

    /// The process dies, and another one starts under its name.
    pub(crate) fn die(&mut self) {
        self.connection = None;
        self.held_up = None;
        self.runs.clear();
    }
}

impl World {
    /// Some worker connects to some server.
    pub(crate) async fn connect(&mut self) {
        let number = self.dice.below(self.processes.len() as u64) as usize;
        if let Some(place) = self.any_place() {
            let cut = self.one_in(2);
            self.connect_to(number, place, cut).await;
        }
    }

    /// A worker connects. With `cut`, the old connection is known to be broken; else it often is
    /// still open from the server's side.
    pub(crate) async fn connect_to(&mut self, number: usize, place: usize, cut: bool) {
        let Some(engine) = self.engine(place) else {
            return;
        };
        let process = &mut self.processes[number];
        let old = process.connection.take();
        let listed: Vec<AttemptRef> = process
            .runs
            .iter()
            .filter(|run| run.is_wanted())
            .map(|run| run.attempt.clone())
            .collect();
        let mut hello = Hello {
            running: listed.clone(),
            ..hello(&process.name, process.topics, process.slots)
        };
        if process.gpu {
            hello.capabilities.insert("gpu".to_owned());
        }
        if cut && let Some(old) = old {
            old.cut().await;
        }
        let moves = place != process.place;
        let opening = engine.open_session(&self.fleet, hello);
        let Ok(Ok(mut session)) = tokio::time::timeout(secs(12), opening).await else {
            return;
        };
        self.note(format_args!(
            "w{number} connects to server {place}, keeps {} and has to stop {}",
            session.welcome.kept.len(),
            session.welcome.revoked.len()
        ));
        let kept = session.welcome.kept.len() as u64;
        self.tally.kept += kept;
        if moves {
            self.tally.moved += kept;
        }
        let process = &mut self.processes[number];
        process.place = place;
        for kept in &session.welcome.kept {
            assert!(listed.contains(kept));
        }
        let revoked = session.welcome.revoked.clone();
        process.runs.retain(|run| !revoked.contains(&run.attempt));
        let inbox = session.outbound();
        process.connection = Some(Worker { session, inbox });
        self.stream_again(number).await;
        let process = &self.processes[number];
        // Results that were not acknowledged are sent again.
        let results: Vec<_> = process
            .runs
            .iter()
            .filter_map(|run| Some((run.attempt.clone(), run.result.clone()?)))
            .collect();
        for (attempt, outcome) in results {
            self.report(number, &attempt, outcome).await;
        }
    }

    pub(crate) async fn report(&mut self, number: usize, attempt: &AttemptRef, outcome: Outcome) {
        self.note(format_args!(
            "w{number} reports {} {outcome:?}",
            attempt.lease_id
        ));
        let message = FromWorker::Result {
            attempt: attempt.clone(),
            outcome,
            execution_duration: None,
            artifact_ids: Vec::new(),
        };
        self.say(number, message).await;
    }

    /// A worker says something. Its connection breaks when that cannot be done.
    pub(crate) async fn say(&mut self, number: usize, message: FromWorker) {
        let place = self.processes[number].place;
        if self.processes[number].connection.is_none() {
            return;
        }
        if self.cluster.is_still(place) {
            self.processes[number].connection = None;
            return;
        }
        let Some(strike) = self.points.reach(Point::Receive) else {
            self.deliver(number, message).await;
            return;
        };
        match strike {
            Strike::KillBefore => self.kill(place),
            Strike::Lost => self.processes[number].connection = None,
            Strike::WorkerDies => self.processes[number].die(),
            Strike::Delayed => {
                pass(secs(3)).await;
                self.deliver(number, message).await;
            }
            Strike::Doubled => {
                self.deliver(number, message.clone()).await;
                self.deliver(number, message).await;
            }
            Strike::StoreDown | Strike::StoreStall => {
                self.take_store_away(place, strike);
                self.deliver(number, message).await;
            }
            _ => {
                self.deliver(number, message).await;
                self.strike_after(number, place, strike);
            }
        }
    }

    async fn deliver(&mut self, number: usize, message: FromWorker) {
        let process = &self.processes[number];
        let (Some(connection), Some(server)) =
            (&process.connection, &self.cluster.servers[process.place])
        else {
            return;
        };
        let told = tokio::select! {
            biased;
            told = connection.session.receive(message) => told.is_ok(),
            () = until_dead(&server.tap) => false,
            () = pass(secs(12)) => false,
        };
        if !told {
            self.processes[number].connection = None;
        }
    }

    /// What strikes just after a message has arrived.
    pub(crate) fn strike_after(&mut self, number: usize, place: usize, strike: Strike) {
        match strike {
            Strike::KillAfter => self.kill(place),
            Strike::Cut => self.processes[number].connection = None,
            Strike::WorkerDiesAfter => self.processes[number].die(),
            _ => {}
        }
    }

    pub(crate) fn take_store_away(&self, place: usize, strike: Strike) {
        if let Some(server) = &self.cluster.servers[place] {
            take_store_away(&server.link, strike);
        }
    }

    pub(crate) async fn disconnect(&mut self) {
        let number = self.dice.below(self.processes.len() as u64) as usize;
        if let Some(connection) = self.processes[number].connection.take() {
            connection.cut().await;
        }
        if self.one_in(4) {
            // The process dies.
            self.processes[number].runs.clear();
        }
    }

    /// Some worker does something about some attempt.
    pub(crate) async fn work(&mut self) {
        let number = self.dice.below(self.processes.len() as u64) as usize;
        let process = &self.processes[number];
        if process.connection.is_none() || process.runs.is_empty() {
            return;
        }
        let place = self.dice.below(process.runs.len() as u64) as usize;
        let run = process.runs[place].clone();
        let attempt = run.attempt.clone();
        let say = match self.dice.below(13) {
            0..2 if run.result.is_none() => {
                self.processes[number].runs[place].started = true;
                FromWorker::Started(attempt)
            }
            2 if run.result.is_none() => FromWorker::Progress {
                attempt,
                percent: self.dice.below(101) as u8,
                message: String::new(),
            },
            3 if run.result.is_none() && !run.started => {
                self.processes[number].runs.remove(place);
                FromWorker::Reject {
                    attempt,
                    reason: "not now".to_owned(),
                }
            }
            4..7 if run.result.is_none() => {
                self.stream(number, &attempt).await;
                return;
            }
            _ => {
                // Some say a last word that is not acknowledged before the result comes.
                if run.result.is_none() && self.one_in(2) {
                    self.stream(number, &attempt).await;
                }
                let outcome = run.result.unwrap_or_else(|| match self.dice.below(5) {
                    0 => failed("broken"),
                    1 if run.told_to_stop => Outcome::Cancelled,
                    _ => succeeded(),
                });
                for run in &mut self.processes[number].runs {
                    if run.attempt == attempt {
                        run.result = Some(outcome.clone());
                    }
                }
                self.report(number, &attempt, outcome).await;
                return;
            }
        };
        self.say(number, say).await;
    }
}

/// Ends when a server dies.
pub(crate) async fn until_dead(tap: &Tap) {
    while !tap.is_dead() {
        pass(millis(100)).await;
    }
}
