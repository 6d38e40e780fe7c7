//! The pieces of one attempt that have come and are not stored yet: in order, without gaps, bounded.

use std::time::Duration;

use coretex_core::id::SessionId;
use coretex_core::job::output::{Arrived, Channel, MAX_CHUNK, OutputRecord};
use coretex_core::lease::Tick;
use coretex_store::Version;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::types::AttemptRef;

/// What an attempt may have waiting, in bytes; what is more is asked for again.
const MAX_WAITING: usize = 4 * MAX_CHUNK;
/// A batch of so many bytes is stored at once. With an open page it stays below what the store
/// writes in one piece.
pub(super) const BATCH_BYTES: usize = 48 * 1024;
/// What a piece costs here beside its bytes.
const PIECE_OVERHEAD: usize = 64;

/// One attempt.
#[derive(Debug)]
pub(super) struct Gathered {
    attempt: AttemptRef,
    waiting: Mutex<Waiting>,
    /// What writes: one at a time.
    pub(super) writer: tokio::sync::Mutex<Writer>,
    /// Rings when there is a whole batch.
    pub(super) enough: Notify,
}

/// What is known of the store by whoever writes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// The record and its version, as last read or written.
    pub(super) known: Option<(OutputRecord, Option<Version>)>,
    /// Taken to be written, and not written yet.
    pub(super) batch: Vec<Arrived>,
    /// When something was last written.
    pub(super) written: Option<Instant>,
}

#[derive(Debug, Default)]
struct Waiting {
    pieces: Vec<Arrived>,
    /// What they cost.
    bytes: usize,
    /// The same of those that are being written.
    taken: usize,
    output: Flow,
    log: Flow,
    /// Of the worker that has it now.
    session: Option<SessionId>,
    /// A task writes what is here.
    writing: bool,
    /// It is forgotten, and so is what is still sent here.
    closed: bool,
    heard: Tick,
}

/// How one channel comes in.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// What has to come next; `None` = only the store knows.
    next: Option<u32>,
    /// What is stored.
    stored: u32,
    /// Something was not taken and is to be sent again.
    missing: bool,
    /// The piece that came too early when the worker was last asked. If it comes again as the first,
    /// the worker has none before it.
    early: Option<u32>,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It waits to be stored.
    Taken {
        /// A task has to be started that writes.
        begin: bool,
    },
    /// It came before, and is stored: it was the last that is.
    Stored,
    /// It came before, or what was asked for again has not come yet.
    Known,
    /// It is to be sent again, with all after the last that is kept.
    Refused {
        /// That one.
        last: u32,
    },
    /// The attempt was forgotten.
    Closed,
}

impl Waiting {
    const fn flow(&mut self, channel: Channel) -> &mut Flow {
        match channel {
            Channel::Output => &mut self.output,
            Channel::Log => &mut self.log,
        }
    }
}

fn cost(arrived: &Arrived) -> usize {
    arrived.chunk.data.len() + PIECE_OVERHEAD
}

impl Gathered {
    pub(super) fn new(attempt: AttemptRef) -> Self {
        Self {
            attempt,
            waiting: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            enough: Notify::new(),
        }
    }

    pub(super) const fn attempt(&self) -> &AttemptRef {
        &self.attempt
    }

    /// The session that the last piece came by.
    pub(super) fn session(&self) -> Option<SessionId> {
        self.waiting.lock().session.clone()
    }

    /// Takes a piece if it is the next one and `room` has room for it.
    pub(super) fn offer(
        &self,
        session: &SessionId,
        mut arrived: Arrived,
        now: Tick,
        room: impl FnOnce(usize) -> bool,
    ) -> Offered {
        let (channel, sequence) = (arrived.chunk.channel, arrived.chunk.sequence);
        let size = cost(&arrived);
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Offered::Closed;
        }
        waiting.heard = now;
        if waiting.session.as_ref() != Some(session) {
            waiting.session = Some(session.clone());
        }
        let full = waiting.bytes + waiting.taken + size > MAX_WAITING;
        let flow = waiting.flow(channel);
        match flow.next {
            Some(next) if sequence < next => {
                let stored = sequence == flow.stored;
                return if stored {
                    Offered::Stored
                } else {
                    Offered::Known
                };
            }
            Some(next) if sequence > next => {
                if flow.early == Some(sequence) {
                    arrived.after_hole = true;
                } else if flow.missing {
                    return Offered::Known;
                } else {
                    flow.missing = true;
                    flow.early = Some(sequence);
                    return Offered::Refused { last: flow.stored };
                }
            }
            Some(_) | None => {}
        }
        if full || !room(size) {
            // Then what follows is too early because of this, and not for want of what was before.
            flow.early = None;
            if std::mem::replace(&mut flow.missing, true) {
                return Offered::Known;
            }
            return Offered::Refused { last: flow.stored };
        }
        flow.next = Some(sequence.saturating_add(1));
        flow.missing = false;
        flow.early = None;
        waiting.bytes += size;
        waiting.pieces.push(arrived);
        if waiting.bytes >= BATCH_BYTES {
            self.enough.notify_one();
        }
        let begin = !std::mem::replace(&mut waiting.writing, true);
        Offered::Taken { begin }
    }

    /// Channels of which something is to be sent again, each with the last that is kept.
    pub(super) fn missing(&self) -> Vec<(Channel, u32)> {
        let mut waiting = self.waiting.lock();
        let mut missing = Vec::new();
        for channel in Channel::ALL {
            let flow = waiting.flow(channel);
            if flow.missing {
                missing.push((channel, flow.stored));
            }
        }
        missing
    }

    /// Takes a batch out to be written.
    pub(super) fn take(&self) -> Vec<Arrived> {
        let mut waiting = self.waiting.lock();
        let mut bytes = 0;
        let fits = |piece: &&Arrived| {
            let first = bytes == 0;
            bytes += cost(piece);
            first || bytes <= BATCH_BYTES
        };
        let count = waiting.pieces.iter().take_while(fits).count();
        let batch: Vec<Arrived> = waiting.pieces.drain(..count).collect();
        let bytes: usize = batch.iter().map(cost).sum();
        waiting.bytes -= bytes;
        waiting.taken += bytes;
        batch
    }

    /// What was taken is written, or given up; its cost.
    pub(super) fn settle(&self) -> usize {
        std::mem::take(&mut self.waiting.lock().taken)
    }

    /// Whether everything that has come is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().pieces.is_empty()
    }

    /// Whether a whole batch waits.
    pub(super) fn has_batch(&self) -> bool {
        self.waiting.lock().bytes >= BATCH_BYTES
    }

    /// The channel is stored up to here.
    pub(super) fn stored(&self, channel: Channel, last: u32) {
        let mut waiting = self.waiting.lock();
        let flow = waiting.flow(channel);
        flow.stored = flow.stored.max(last);
    }

    /// The store lacks something before what has come, of which `early` is the first: what waits of
    /// the channel is dropped, to be sent again. Returns its cost.
    pub(super) fn demand(&self, channel: Channel, last: u32, early: u32) -> usize {
        let mut waiting = self.waiting.lock();
        let before = waiting.bytes;
        let of = |piece: &Arrived| piece.chunk.channel == channel;
        let dropped: usize = waiting.pieces.iter().filter(|one| of(one)).map(cost).sum();
        waiting.pieces.retain(|piece| !of(piece));
        waiting.bytes = before - dropped;
        *waiting.flow(channel) = Flow {
            next: Some(last.saturating_add(1)),
            stored: last,
            missing: true,
            early: Some(early),
        };
        dropped
    }

    /// Ends the writing if nothing waits any more.
    pub(super) fn rests(&self) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.pieces.is_empty() {
            waiting.writing = false;
        }
        !waiting.writing
    }

    /// Whether nothing waits and nothing has come for this long.
    pub(super) fn is_idle(&self, now: Tick, time: Duration) -> bool {
        let waiting = self.waiting.lock();
        !waiting.writing && waiting.pieces.is_empty() && now.since(waiting.heard) >= time
    }

    /// Takes nothing more, and drops what waits; what it and what was taken cost.
    pub(super) fn close(&self) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.pieces.clear();
        std::mem::take(&mut waiting.bytes) + std::mem::take(&mut waiting.taken)
    }
}

#[cfg(test)]
mod tests {
    use coretex_core::id::{JobId, LeaseId, TenantId};
    use coretex_core::job::output::Chunk;
    use coretex_core::time::Timestamp;

    use super::*;

    fn gathered() -> Gathered {
        Gathered::new(AttemptRef {
            tenant: TenantId::from_trusted("acme"),
            job_id: JobId::from_trusted("j"),
            attempt: 1,
            lease_id: LeaseId::new(1),
        })
    }

    fn offer(gathered: &Gathered, sequence: u32, room: bool) -> Offered {
        let chunk = Chunk {
            channel: Channel::Log,
            sequence,
            time: Timestamp::ZERO,
            data: "x".into(),
        };
        let arrived = Arrived {
            chunk,
            after_hole: false,
        };
        let session = SessionId::from_trusted("s");
        gathered.offer(&session, arrived, Tick::new(Duration::ZERO), |_| room)
    }

    const TAKEN: Offered = Offered::Taken { begin: false };

    #[test]
    fn pieces_are_taken_in_order_and_asked_for_again_once() {
        let gathered = gathered();
        // Only the store knows where it begins.
        assert_eq!(offer(&gathered, 4, true), Offered::Taken { begin: true });
        assert_eq!(offer(&gathered, 5, true), TAKEN);
        assert_eq!(offer(&gathered, 5, true), Offered::Known);
        gathered.stored(Channel::Log, 5);
        assert_eq!(offer(&gathered, 4, true), Offered::Known);
        assert_eq!(offer(&gathered, 5, true), Offered::Stored);
        assert_eq!(offer(&gathered, 7, true), Offered::Refused { last: 5 });
        assert_eq!(offer(&gathered, 8, true), Offered::Known);
        assert_eq!(gathered.missing(), [(Channel::Log, 5)]);
        assert_eq!(offer(&gathered, 6, true), TAKEN);
        assert!(gathered.missing().is_empty());
        assert_eq!(offer(&gathered, 7, true), TAKEN);
    }

    #[test]
    fn what_found_no_room_is_no_hole() {
        let gathered = gathered();
        offer(&gathered, 1, true);
        gathered.stored(Channel::Log, 1);
        for _ in 0..3 {
            // What follows is too early each time, and is never taken without what is before it.
            assert!(matches!(
                offer(&gathered, 2, false),
                Offered::Refused { last: 1 } | Offered::Known
            ));
            assert_eq!(offer(&gathered, 3, true), Offered::Known);
            assert_eq!(offer(&gathered, 4, true), Offered::Known);
        }
        assert_eq!(gathered.take().len(), 1);
        assert_eq!(offer(&gathered, 2, true), TAKEN);
        assert_eq!(offer(&gathered, 3, true), TAKEN);
    }

    #[test]
    fn room_is_given_back_whichever_way_it_ends() {
        let one = 1 + PIECE_OVERHEAD;
        let gathered = gathered();
        for sequence in 1..=3 {
            offer(&gathered, sequence, true);
        }
        assert_eq!(gathered.take().len(), 3);
        offer(&gathered, 4, true);
        assert_eq!(gathered.settle(), 3 * one);
        assert_eq!(gathered.settle(), 0);
        assert_eq!(gathered.demand(Channel::Log, 1, 4), one);
        offer(&gathered, 2, true);
        gathered.take();
        offer(&gathered, 3, true);
        assert_eq!(gathered.close(), 2 * one);
        assert_eq!(gathered.settle(), 0);
        assert_eq!(offer(&gathered, 4, true), Offered::Closed);
    }
}
