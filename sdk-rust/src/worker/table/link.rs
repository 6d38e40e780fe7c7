//! What happens to all attempts when connections come and go, and when the worker is to end.

use std::sync::Arc;

use coretex_proto::v1::open_session_request::Message;
use coretex_proto::v1::{AttemptRef, WorkerDrain};
use tokio::time::Instant;

use super::{Attempt, CancelReason, Disowned, Outbox, Phase, STOP_GRACE, Start, Table, message};

impl Table {
    /// Leaves the connection and says what the next one is to be told: all that is still ours.
    pub(in crate::worker) fn detach(&mut self) -> Vec<AttemptRef> {
        self.live = None;
        let ours = self.entries.values_mut().filter_map(|entry| {
            if entry.disowned.is_some() {
                // Who waited for the answer is gone.
                entry.disowned = Some(Disowned::Silent);
                return None;
            }
            Some(entry.attempt.reference.clone())
        });
        ours.collect()
    }

    /// Begins to use a connection whose server has taken over what [`detach`](Self::detach) named,
    /// but for `revoked`.
    pub(in crate::worker) fn attach(
        &mut self,
        outbox: Outbox,
        revoked: &[AttemptRef],
        now: Instant,
    ) -> Vec<Start> {
        self.live = Some(outbox);
        for of in revoked {
            let lease = of.lease_id.as_str();
            let Some(entry) = self.entries.get_mut(lease) else {
                continue;
            };
            entry.disowned = Some(Disowned::Silent);
            entry.attempt.stream.abandon();
            if matches!(entry.phase, Phase::Running) {
                let stop = &entry.attempt.stop;
                stop.request(CancelReason::Revoked, now + STOP_GRACE);
            } else {
                self.conclude(lease, None, now);
            }
        }
        self.list_all_output();
        let mut finished = Vec::new();
        for (lease, entry) in &self.entries {
            match &entry.phase {
                // The word that it began may have been lost.
                Phase::Confirming { .. } | Phase::Running if entry.disowned.is_none() => {
                    self.send(message::started(&entry.attempt.reference));
                }
                Phase::Finished { .. } => finished.push(Arc::clone(lease)),
                Phase::Waiting { .. } | Phase::Confirming { .. } | Phase::Running => {}
            }
        }
        for lease in finished {
            self.resend(&lease, now);
        }
        if self.limit == 0 {
            // In the hello 0 stands for the default.
            self.send_limit();
        }
        if self.draining {
            self.send(Message::Drain(WorkerDrain {}));
        }
        self.fill(now)
    }

    /// Goes on with the connection that was to be left, because no other could be had.
    pub(in crate::worker) fn reattach(&mut self, outbox: Outbox, now: Instant) -> Vec<Start> {
        self.live = Some(outbox);
        for entry in self.entries.values_mut() {
            if entry.disowned.is_some() {
                entry.disowned = Some(Disowned::AnswerOwed);
            }
        }
        self.resend_overdue(now);
        self.fill(now)
    }

    /// Takes nothing new from now on; gives back what has not begun.
    pub(in crate::worker) fn drain(&mut self) {
        self.draining = true;
        self.send(Message::Drain(WorkerDrain {}));
        for lease in std::mem::take(&mut self.waiting) {
            let phase = self.entries.get(&lease).map(|entry| &entry.phase);
            if matches!(phase, Some(Phase::Waiting { .. })) {
                self.reject(&lease, "the worker is draining");
            }
        }
    }

    /// Asks everything that runs to stop, and forgets what waits to begin.
    pub(in crate::worker) fn shut_down(&mut self, end: Instant) {
        let mut gone = Vec::new();
        for (lease, entry) in &self.entries {
            match &entry.phase {
                Phase::Running => entry.attempt.stop.request(CancelReason::Shutdown, end),
                Phase::Waiting { .. } | Phase::Confirming { .. } => gone.push(Arc::clone(lease)),
                Phase::Finished { .. } => {}
            }
        }
        for lease in gone {
            self.conclude(&lease, None, end);
        }
    }

    /// Lists an attempt whose progress is to be told.
    pub(in crate::worker) fn queue_progress(&mut self, attempt: Arc<Attempt>) {
        self.progress.push(attempt);
    }

    /// Tells the server the latest progress of each listed attempt, if it keeps up.
    pub(in crate::worker) fn flush_progress(&mut self) {
        let Some(live) = self.live.clone() else {
            // Told to the next connection.
            return;
        };
        for attempt in std::mem::take(&mut self.progress) {
            let entry = self.entries.get(&attempt.lease);
            let running = entry.is_some_and(|entry| {
                matches!(entry.phase, Phase::Running) && entry.disowned.is_none()
            });
            let latest = {
                let mut progress = attempt.progress.lock();
                progress.queued = false;
                progress.latest.take()
            };
            if let Some((percent, text)) = latest
                && running
                && live.has_room()
            {
                live.push(message::progress(&attempt.reference, percent, text));
            }
        }
    }
}
