//! How what attempts stream is sent: in turn, when the connection has room, before their results.

use std::sync::Arc;
use std::time::Duration;

use coretex_proto::v1::ServerOutputAck;
use tokio::time::Instant;

use super::{Attempt, Phase, Table, message};
use crate::worker::stream::Rest;

/// When it is looked again whether a full connection has room.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Table {
    /// Lists an attempt that has something to send.
    pub(in crate::worker) fn list_output(&mut self, attempt: Arc<Attempt>) {
        self.streaming.push(attempt);
    }

    /// Sends what the listed attempts have streamed, and the results that waited for that. Returns
    /// when to look again.
    pub(in crate::worker) fn flush_output(&mut self, now: Instant) -> Option<Instant> {
        // Without a connection the next one begins with it.
        let live = self.live.clone()?;
        let mut again: Option<Instant> = None;
        let mut sent = Vec::new();
        for attempt in std::mem::take(&mut self.streaming) {
            let entry = self.entries.get(&attempt.lease);
            if entry.is_none_or(|entry| entry.disowned.is_some()) {
                attempt.stream.abandon();
                continue;
            }
            let rest = attempt.stream.send(now, |piece| {
                let room = live.has_room_for_output();
                if room {
                    live.push(message::output(&attempt.reference, piece));
                }
                room
            });
            let at = match rest {
                Rest::Nothing => {
                    sent.push(Arc::clone(&attempt.lease));
                    continue;
                }
                Rest::Blocked => now + LOOK_AGAIN,
                Rest::Later(at) => at,
            };
            again = Some(again.map_or(at, |again| again.min(at)));
            self.streaming.push(attempt);
        }
        for lease in sent {
            let phase = self.entries.get(&lease).map(|entry| &entry.phase);
            if matches!(phase, Some(Phase::Finished { sent: None, .. })) {
                self.resend(&lease, now);
            }
        }
        again
    }

    /// The server has stored output, or wants some again; then the result comes again, too.
    pub(in crate::worker) fn acknowledge_output(&mut self, ack: &ServerOutputAck, now: Instant) {
        let Some(entry) = self.entries.get_mut(ack.lease_id.as_str()) else {
            return;
        };
        let attempt = Arc::clone(&entry.attempt);
        let stream = &attempt.stream;
        if stream.acknowledge(ack.channel(), ack.sequence, ack.resend, now) {
            self.streaming.push(Arc::clone(&attempt));
        }
        if ack.resend
            && let Phase::Finished { sent, .. } = &mut entry.phase
        {
            *sent = None;
            if !stream.has_unsent() {
                // The server missed what it has by now.
                self.resend(&attempt.lease, now);
            }
        }
    }

    /// On a new connection everything that is not stored is sent again.
    pub(super) fn list_all_output(&mut self) {
        for entry in self.entries.values() {
            if entry.disowned.is_none() && entry.attempt.stream.rewind() {
                self.streaming.push(Arc::clone(&entry.attempt));
            }
        }
    }

    /// Sends again what nothing was heard of for long.
    pub(super) fn list_overdue_output(&mut self, now: Instant, patience: Duration) {
        for entry in self.entries.values() {
            let stream = &entry.attempt.stream;
            if entry.disowned.is_none() && stream.rewind_overdue(now, patience) {
                self.streaming.push(Arc::clone(&entry.attempt));
            }
        }
    }
}
