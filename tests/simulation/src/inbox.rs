//! What workers are sent, and what must hold of every message that they get. What they say themselves
//! is in `process` and `streams`.

use coretex_core::job::transition::Outcome;
use coretex_engine::{AttemptRef, ToWorker};
use coretex_store::{Shard, Store, codec};
use coretex_testbench::secs;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use crate::points::{Point, Strike};
use crate::process::Run;
use crate::streams::Streams;
use crate::world::World;

impl World {
    /// Workers read what they are sent.
    pub(crate) async fn hear(&mut self) {
        self.notice_deaths();
        for number in 0..self.processes.len() {
            loop {
                let process = &mut self.processes[number];
                let place = process.place;
                if self.cluster.is_still(place) {
                    break;
                }
                let Some(connection) = &mut process.connection else {
                    process.held_up = None;
                    break;
                };
                if let Some((until, message)) = process.held_up.take() {
                    if Instant::now() < until {
                        process.held_up = Some((until, message));
                        break;
                    }
                    self.heard(number, message).await;
                    continue;
                }
                match connection.inbox.try_recv() {
                    Ok(message) => self.receive(number, place, message).await,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        process.connection = None;
                        break;
                    }
                }
            }
        }
    }

    /// A message comes to a worker.
    async fn receive(&mut self, number: usize, place: usize, message: ToWorker) {
        match self.points.reach(Point::Send) {
            None => self.heard(number, message).await,
            Some(Strike::KillBefore) => self.kill(place),
            Some(Strike::Lost) => self.processes[number].connection = None,
            Some(Strike::WorkerDies) => self.processes[number].die(),
            Some(Strike::Delayed) => {
                self.processes[number].held_up = Some((Instant::now() + secs(3), message));
            }
            Some(strike) => {
                if matches!(strike, Strike::StoreDown | Strike::StoreStall) {
                    self.take_store_away(place, strike);
                }
                self.heard(number, message).await;
                self.strike_after(number, place, strike);
            }
        }
    }

    async fn heard(&mut self, number: usize, message: ToWorker) {
        self.note(format_args!("w{number} hears {}", brief(&message)));
        match message {
            ToWorker::Assignment { job, attempt, .. } => {
                let lease = attempt.lease_id;
                self.book.hand_out(lease);
                assert!(job.input.as_ref().is_none_or(|input| !input.is_apart()));
                // It stands in the store: nothing comes from a commit that may not be applied.
                let key = format!("job/{}\0{}", attempt.tenant, attempt.job_id).into_bytes();
                let keys = [key.into()];
                let read = self.cluster.base.get(Shard::Data(0), &keys).await.unwrap();
                if let Some(record) = &read.value[0] {
                    let (_, stored) =
                        codec::decode::<coretex_core::job::Job>(&record.value).unwrap();
                    let known = stored.attempts.iter().any(|one| one.lease_id == lease);
                    assert!(known, "{lease} was handed out before its commit");
                    if stored.holds(lease) {
                        self.alone(&stored, &attempt);
                    }
                }
                self.within_limits(&job, &attempt).await;
                let place = self.processes[number].place;
                self.not_paused(place, &job).await;
                let slots = job.spec.placement.slots.0;
                let process = &mut self.processes[number];
                let used: u32 = process
                    .runs
                    .iter()
                    .filter(|run| run.result.is_none())
                    .map(|run| run.slots)
                    .sum();
                assert!(
                    used + slots <= process.slots,
                    "{} has {used} of {} slots in use and gets a job that takes {slots}",
                    process.name,
                    process.slots
                );
                process.runs.push(Run {
                    attempt,
                    slots,
                    streams: Streams::default(),
                    started: false,
                    confirmed: !job.spec.confirm_start,
                    since: Instant::now(),
                    told_to_stop: false,
                    result: None,
                });
            }
            ToWorker::ResultAck { attempt, applied } => {
                let runs = &mut self.processes[number].runs;
                for run in runs.extract_if(.., |run| run.attempt == attempt) {
                    if let Some(outcome) = &run.result
                        && applied
                    {
                        self.book.applied(&attempt, outcome);
                        for (channel, stream) in run.streams.iter().enumerate() {
                            if stream.said > 0 {
                                self.book.stored(&attempt, channel, stream.said);
                            }
                        }
                    }
                }
            }
            ToWorker::Cancel { attempt, .. } => self.told_to_stop(number, &attempt),
            ToWorker::Revoke { attempt, .. } => {
                self.told_to_stop(number, &attempt);
                if self.dice.below(3) > 0 {
                    self.stop(number, &attempt).await;
                }
            }
            ToWorker::StartConfirmed(attempt) => {
                for run in &mut self.processes[number].runs {
                    run.confirmed |= run.attempt == attempt;
                }
            }
            ToWorker::OutputAck {
                attempt,
                channel,
                sequence,
                resend,
            } => {
                self.hear_stored(number, &attempt, channel, sequence, resend)
                    .await;
            }
            ToWorker::Drain { .. } => {}
        }
    }

    /// Whoever else still runs this job does so under an attempt that the job has done with.
    fn alone(&self, job: &coretex_core::job::Job, attempt: &AttemptRef) {
        let others = self.processes.iter().flat_map(|process| &process.runs);
        for other in others.filter(|run| {
            run.attempt.tenant == attempt.tenant && run.attempt.job_id == attempt.job_id
        }) {
            let lease = other.attempt.lease_id;
            assert_ne!(lease, attempt.lease_id, "it has been handed out twice");
            let record = job.attempts.iter().find(|one| one.lease_id == lease);
            assert!(
                record.is_none_or(|record| record.end.is_some()),
                "{} was handed out while {lease} is live: {record:?}",
                attempt.lease_id
            );
        }
    }

    fn told_to_stop(&mut self, number: usize, attempt: &AttemptRef) {
        for run in &mut self.processes[number].runs {
            if run.attempt == *attempt {
                run.told_to_stop = true;
            }
        }
    }

    /// A worker stops an attempt and says so.
    async fn stop(&mut self, number: usize, attempt: &AttemptRef) {
        let mut found = false;
        for run in &mut self.processes[number].runs {
            if run.attempt == *attempt && run.result.is_none() {
                run.result = Some(Outcome::Cancelled);
                found = true;
            }
        }
        if found {
            self.report(number, attempt, Outcome::Cancelled).await;
        }
    }
}

/// A message in a few words.
fn brief(message: &ToWorker) -> String {
    let named = |what: &str, attempt: &AttemptRef| {
        let (job, number, lease) = (&attempt.job_id, attempt.attempt, attempt.lease_id);
        format!("{what} of {job} attempt {number} {lease}")
    };
    match message {
        ToWorker::Assignment { attempt, .. } => named("assignment", attempt),
        ToWorker::StartConfirmed(attempt) => named("start confirmed", attempt),
        ToWorker::Cancel { attempt, .. } => named("cancel", attempt),
        ToWorker::Revoke { attempt, .. } => named("revoke", attempt),
        ToWorker::ResultAck { attempt, applied } => {
            named(if *applied { "ack" } else { "late" }, attempt)
        }
        ToWorker::OutputAck { attempt, .. } => named("output ack", attempt),
        ToWorker::Drain { .. } => "drain".to_owned(),
    }
}
