//! All attempts of the process, and what is owed to the server about each. Outlives connections.
//!
//! Here is the life of an attempt; what happens to all of them when connections come and go is in
//! `link`, and how what they stream is sent in `output`. Plain bookkeeping under one lock: no waiting, no clock of its own, no tasks. What has to be
//! started is returned as [`Start`].
//!
//! ```text
//!   assigned --> Waiting --> Confirming --> Running --> Finished --> (acknowledged: gone)
//!                  |  (only with confirm_start) |
//!                  +--> rejected: gone          +--> disowned: gone without a result
//! ```

mod link;
mod output;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coretex_proto::v1::open_session_request::Message;
use coretex_proto::v1::{AttemptRef, Job, WorkerCapacity, WorkerResult};
use tokio::time::Instant;

use super::attempt::{Attempt, CancelReason, STOP_GRACE};
use super::message;
use super::outbox::{OUTPUT_ROOM, Outbox};

/// When a result that was not acknowledged is sent again on the same connection. Longer than a
/// server takes on a bad day; across connections results are sent again at once.
const RESEND_AFTER: Duration = Duration::from_secs(10);

/// A handler to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) attempt: Arc<Attempt>,
    pub(super) job: Box<Job>,
}

#[derive(Debug)]
enum Phase {
    /// Waits for a slot of this process.
    Waiting {
        job: Box<Job>,
        valid_until: Option<Instant>,
    },
    /// Holds a slot; waits for the server's word to begin.
    Confirming { job: Box<Job> },
    /// Holds a slot; the handler runs.
    Running,
    /// The server has not acknowledged the result.
    Finished {
        result: Box<WorkerResult>,
        sent: Option<Instant>,
    },
}

/// The attempt is no longer this worker's, but its handler still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disowned {
    /// The server of this connection waits for an answer to free the slot.
    AnswerOwed,
    /// Nobody waits.
    Silent,
}

#[derive(Debug)]
struct Entry {
    attempt: Arc<Attempt>,
    phase: Phase,
    disowned: Option<Disowned>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    entries: HashMap<Arc<str>, Entry>,
    /// Leases of waiting entries in order of arrival; may name entries that are gone.
    waiting: VecDeque<Arc<str>>,
    /// Entries that hold a slot.
    active: usize,
    limit: usize,
    draining: bool,
    /// Where to send; `None` between sessions and while one session is handed over to the next.
    live: Option<Outbox>,
    /// Attempts whose progress the server has not been told.
    progress: Vec<Arc<Attempt>>,
    /// Attempts that have streamed what is not sent.
    streaming: Vec<Arc<Attempt>>,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            waiting: VecDeque::new(),
            active: 0,
            limit,
            draining: false,
            live: None,
            progress: Vec::new(),
            streaming: Vec::new(),
        }
    }

    /// Handlers that run, and attempts that are about to.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    /// Nothing runs and nothing is owed to the server.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many attempts are accepted at most: those that run, and as many again several times over
    /// whose acknowledgement is on its way. More means that the server has lost count.
    fn capacity(&self) -> usize {
        self.limit.saturating_mul(4).saturating_add(64)
    }

    /// Messages that may wait on one connection: some for each attempt, and output.
    pub(super) fn outbox_capacity(&self) -> usize {
        self.capacity()
            .saturating_mul(4)
            .saturating_add(OUTPUT_ROOM)
    }

    fn send(&self, message: Message) {
        if let Some(live) = &self.live {
            live.push(message);
        }
    }

    /// Takes an attempt, or gives it back through `from`, the connection that it came by.
    pub(super) fn assign(
        &mut self,
        attempt: Attempt,
        job: Job,
        valid_for: Option<Duration>,
        now: Instant,
        from: &Outbox,
    ) -> Vec<Start> {
        let refuse = |why| {
            from.push(message::reject(&attempt.reference, why));
            Vec::new()
        };
        if self.entries.contains_key(&attempt.lease) {
            // A repetition: already here.
            return Vec::new();
        }
        if self.draining {
            return refuse("the worker is draining");
        }
        if self.live.is_none() {
            // Not among what the next session was told about: it would be nobody's.
            return refuse("the worker is changing its connection");
        }
        if self.entries.len() >= self.capacity() {
            return refuse("the worker holds too many attempts");
        }
        let lease = Arc::clone(&attempt.lease);
        let entry = Entry {
            attempt: Arc::new(attempt),
            phase: Phase::Waiting {
                job: Box::new(job),
                valid_until: valid_for.and_then(|valid_for| now.checked_add(valid_for)),
            },
            disowned: None,
        };
        self.entries.insert(Arc::clone(&lease), entry);
        self.waiting.push_back(lease);
        self.fill(now)
    }

    /// Gives free slots to what waits; what has waited for too long is given back.
    fn fill(&mut self, now: Instant) -> Vec<Start> {
        let mut starts = Vec::new();
        while self.active < self.limit
            && let Some(lease) = self.waiting.pop_front()
        {
            let Some(entry) = self.entries.get_mut(&lease) else {
                continue;
            };
            let phase = std::mem::replace(&mut entry.phase, Phase::Running);
            let Phase::Waiting { job, valid_until } = phase else {
                entry.phase = phase;
                continue;
            };
            let started = message::started(&entry.attempt.reference);
            if valid_until.is_some_and(|until| now > until) {
                self.reject(&lease, "not started in time");
                continue;
            }
            if entry.attempt.confirm_start {
                entry.phase = Phase::Confirming { job };
            } else {
                let attempt = Arc::clone(&entry.attempt);
                starts.push(Start { attempt, job });
            }
            self.active += 1;
            self.send(started);
        }
        starts
    }

    fn reject(&mut self, lease: &str, why: &str) {
        if let Some(entry) = self.entries.remove(lease) {
            self.send(message::reject(&entry.attempt.reference, why));
        }
    }

    /// Gives back what has waited for a slot for too long. Returns when to look again.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let mut nearest: Option<Instant> = None;
        let mut expired = Vec::new();
        self.waiting.retain(|lease| {
            let phase = self.entries.get(lease).map(|entry| &entry.phase);
            let Some(Phase::Waiting { valid_until, .. }) = phase else {
                return false;
            };
            match valid_until {
                Some(until) if now > *until => expired.push(Arc::clone(lease)),
                Some(until) => nearest = Some(nearest.map_or(*until, |n| n.min(*until))),
                None => {}
            }
            !matches!(valid_until, Some(until) if now > *until)
        });
        for lease in expired {
            self.reject(&lease, "not started in time");
        }
        // One tick later: at the very instant the assignment is still valid.
        nearest.map(|at| at + Duration::from_millis(1))
    }

    /// The server lets an attempt begin.
    pub(super) fn confirm(&mut self, lease: &str) -> Vec<Start> {
        let Some(entry) = self.entries.get_mut(lease) else {
            return Vec::new();
        };
        match std::mem::replace(&mut entry.phase, Phase::Running) {
            Phase::Confirming { job } => {
                let attempt = Arc::clone(&entry.attempt);
                vec![Start { attempt, job }]
            }
            other => {
                entry.phase = other;
                Vec::new()
            }
        }
    }

    /// Somebody cancels the job.
    pub(super) fn cancel(
        &mut self,
        of: &AttemptRef,
        reason: String,
        grace: Duration,
        now: Instant,
    ) -> Vec<Start> {
        let Some(entry) = self.entries.get_mut(of.lease_id.as_str()) else {
            // Not here (any more): the server may still count its slot.
            self.send(Message::Result(Box::new(message::not_run(of))));
            return Vec::new();
        };
        match &entry.phase {
            Phase::Running => {
                let end = now.checked_add(grace).unwrap_or(now + STOP_GRACE);
                entry
                    .attempt
                    .stop
                    .request(CancelReason::Requested(reason), end);
                Vec::new()
            }
            // The result is the answer, and on its way.
            Phase::Finished { .. } => Vec::new(),
            Phase::Waiting { .. } | Phase::Confirming { .. } => {
                let result = message::not_run(&entry.attempt.reference);
                self.conclude(&of.lease_id, Some(result), now)
            }
        }
    }

    /// The attempt is no longer this worker's; the server wants to hear when it has stopped.
    pub(super) fn revoke(&mut self, of: &AttemptRef, now: Instant) -> Vec<Start> {
        match self.entries.get_mut(of.lease_id.as_str()) {
            None => {
                self.send(Message::Result(Box::new(message::not_run(of))));
                Vec::new()
            }
            Some(entry) => {
                entry.disowned = Some(Disowned::AnswerOwed);
                entry.attempt.stream.abandon();
                match &entry.phase {
                    Phase::Running => {
                        let stop = &entry.attempt.stop;
                        stop.request(CancelReason::Revoked, now + STOP_GRACE);
                        Vec::new()
                    }
                    Phase::Finished { result, sent } => {
                        // The result is the answer; nobody will acknowledge it. Unless it waits for
                        // output that nobody wants any more, it is on its way.
                        let unsent = sent.is_none().then(|| result.clone());
                        self.entries.remove(of.lease_id.as_str());
                        if let Some(result) = unsent {
                            self.send(Message::Result(result));
                        }
                        Vec::new()
                    }
                    Phase::Waiting { .. } | Phase::Confirming { .. } => {
                        let result = message::not_run(of);
                        self.conclude(&of.lease_id, Some(result), now)
                    }
                }
            }
        }
    }

    /// An attempt is over. Without a result it ends unanswered: the server will take it for lost.
    pub(super) fn conclude(
        &mut self,
        lease: &str,
        result: Option<WorkerResult>,
        now: Instant,
    ) -> Vec<Start> {
        let Some(entry) = self.entries.get_mut(lease) else {
            return Vec::new();
        };
        if matches!(entry.phase, Phase::Running | Phase::Confirming { .. }) {
            self.active -= 1;
        }
        entry.attempt.stream.finish();
        match (result, entry.disowned) {
            (Some(result), None) => {
                entry.phase = Phase::Finished {
                    result: Box::new(result),
                    sent: None,
                };
                self.resend(lease, now);
            }
            (Some(result), Some(Disowned::AnswerOwed)) => {
                self.entries.remove(lease);
                self.send(Message::Result(Box::new(result)));
            }
            (None, _) | (_, Some(Disowned::Silent)) => {
                self.entries.remove(lease);
            }
        }
        self.fill(now)
    }

    /// Sends the result of a finished attempt, if there is a connection and everything that it has
    /// streamed is sent.
    fn resend(&mut self, lease: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(lease)
            && let Phase::Finished { result, sent } = &mut entry.phase
            && let Some(live) = &self.live
            && !entry.attempt.stream.has_unsent()
        {
            *sent = Some(now);
            live.push(Message::Result(result.clone()));
        }
    }

    /// Sends again what was not acknowledged for long.
    pub(super) fn resend_overdue(&mut self, now: Instant) {
        self.list_overdue_output(now, RESEND_AFTER);
        let overdue: Vec<Arc<str>> = self
            .entries
            .iter()
            .filter(|(_, entry)| match &entry.phase {
                Phase::Finished { sent, .. } => {
                    sent.is_none_or(|sent| now.duration_since(sent) >= RESEND_AFTER)
                }
                Phase::Waiting { .. } | Phase::Confirming { .. } | Phase::Running => false,
            })
            .map(|(lease, _)| Arc::clone(lease))
            .collect();
        for lease in overdue {
            self.resend(&lease, now);
        }
    }

    /// The server has stored a result.
    pub(super) fn acknowledge(&mut self, lease: &str) {
        let finished = |entry: &Entry| matches!(entry.phase, Phase::Finished { .. });
        if self.entries.get(lease).is_some_and(finished) {
            self.entries.remove(lease);
        }
    }

    /// Changes how many run at once.
    pub(super) fn set_limit(&mut self, limit: usize, now: Instant) -> Vec<Start> {
        if limit == self.limit {
            return Vec::new();
        }
        self.limit = limit;
        self.send_limit();
        self.fill(now)
    }

    fn send_limit(&self) {
        self.send(Message::Capacity(WorkerCapacity {
            max_parallel_jobs: i32::try_from(self.limit).unwrap_or(i32::MAX),
        }));
    }
}
