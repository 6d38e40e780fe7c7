//! What a handler streams: every piece is kept until the server has stored it, and sent again in the
//! next session until then. Bounded: who streams faster than the server stores waits.
//!
//! Plain bookkeeping; what is sent when is the table's business.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use coretex_proto::v1::OutputChannel;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes that an attempt may have streamed without hearing that they are stored.
const WINDOW: usize = 256 * 1024;
/// What a piece counts beside its bytes.
const PIECE_OVERHEAD: usize = 64;
/// How long after the server has asked for pieces again they are sent: it has too much to hold.
const RESEND_PAUSE: Duration = Duration::from_millis(100);

/// One piece.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) channel: OutputChannel,
    /// Its place in the channel, from 1.
    pub(super) sequence: i32,
    pub(super) chunk: Bytes,
    pub(super) time: SystemTime,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Stream {
    state: Mutex<State>,
    /// Rings when there is room again, or no need for any.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Pieces so far, of the output and of the log.
    made: [i32; 2],
    /// Not stored yet, as far as the server has said.
    pieces: VecDeque<Piece>,
    /// What they count.
    bytes: usize,
    /// How many of them are sent.
    sent: usize,
    /// Listed among those that have something to send.
    listed: bool,
    /// Nothing is to be sent before.
    not_before: Option<Instant>,
    /// When a piece was last sent or stored.
    moved: Option<Instant>,
    closed: bool,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushed {
    Taken { list: bool },
    Full,
    Closed,
}

/// What is left to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Nothing,
    /// The connection takes no more just now.
    Blocked,
    /// Not before then.
    Later(Instant),
}

const fn place(channel: OutputChannel) -> usize {
    match channel {
        OutputChannel::Log => 1,
        OutputChannel::Output | OutputChannel::Unspecified => 0,
    }
}

fn cost(chunk: &Bytes) -> usize {
    chunk.len() + PIECE_OVERHEAD
}

impl State {
    /// Sends everything again that is not stored. True when it has to be listed for that.
    fn rewind(&mut self) -> bool {
        self.sent = 0;
        !self.pieces.is_empty() && !std::mem::replace(&mut self.listed, true)
    }
}

impl Stream {
    /// Takes a piece when there is room for it. True when the attempt has to be listed among those
    /// that have something to send. What nobody wants any more is dropped.
    pub(super) async fn push(&self, channel: OutputChannel, chunk: Bytes) -> bool {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before looking: `notify_waiters` keeps no permit.
            room.as_mut().enable();
            match self.try_push(channel, &chunk) {
                Pushed::Taken { list } => return list,
                Pushed::Closed => return false,
                Pushed::Full => room.await,
            }
        }
    }

    fn try_push(&self, channel: OutputChannel, chunk: &Bytes) -> Pushed {
        let mut state = self.state.lock();
        if state.closed {
            return Pushed::Closed;
        }
        let cost = cost(chunk);
        if state.bytes + cost > WINDOW && !state.pieces.is_empty() {
            return Pushed::Full;
        }
        let made = &mut state.made[place(channel)];
        *made = made.saturating_add(1);
        let sequence = *made;
        state.bytes += cost;
        state.pieces.push_back(Piece {
            channel,
            sequence,
            chunk: chunk.clone(),
            time: SystemTime::now(),
        });
        let list = !std::mem::replace(&mut state.listed, true);
        Pushed::Taken { list }
    }

    /// Hands what is not sent yet to `send`, in order, until that takes no more.
    pub(super) fn send(&self, now: Instant, mut send: impl FnMut(&Piece) -> bool) -> Rest {
        let mut state = self.state.lock();
        if let Some(at) = state.not_before.filter(|at| now < *at) {
            return Rest::Later(at);
        }
        state.not_before = None;
        while let Some(piece) = state.pieces.get(state.sent) {
            if !send(piece) {
                return Rest::Blocked;
            }
            state.sent += 1;
            state.moved = Some(now);
        }
        state.listed = false;
        Rest::Nothing
    }

    /// Whether something is still to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        let state = self.state.lock();
        state.sent < state.pieces.len()
    }

    /// The server has stored a channel up to a place. With `resend` it has not kept what came after
    /// that. True when the attempt has to be listed to send it again.
    pub(super) fn acknowledge(
        &self,
        channel: OutputChannel,
        sequence: i32,
        resend: bool,
        now: Instant,
    ) -> bool {
        let mut state = self.state.lock();
        let (mut freed, mut sent) = (0, 0);
        let known = state.sent;
        let mut index = 0;
        state.pieces.retain(|piece| {
            let stored = piece.channel == channel && piece.sequence <= sequence;
            if stored {
                freed += cost(&piece.chunk);
                sent += usize::from(index < known);
            }
            index += 1;
            !stored
        });
        state.bytes -= freed;
        state.sent -= sent;
        state.moved = Some(now);
        let list = resend && {
            state.not_before = Some(now + RESEND_PAUSE);
            state.rewind()
        };
        drop(state);
        if freed > 0 {
            self.room.notify_waiters();
        }
        list
    }

    /// There is a new connection: what is not stored is sent again. True when the attempt has to be
    /// listed for that.
    pub(super) fn rewind(&self) -> bool {
        let mut state = self.state.lock();
        state.not_before = None;
        state.rewind()
    }

    /// As [`Self::rewind`], if nothing has moved for `patience`.
    pub(super) fn rewind_overdue(&self, now: Instant, patience: Duration) -> bool {
        let mut state = self.state.lock();
        let overdue = state.sent > 0
            && state
                .moved
                .is_some_and(|moved| now.duration_since(moved) >= patience);
        overdue && {
            state.moved = Some(now);
            state.rewind()
        }
    }

    /// Nothing more is taken; what is there is still sent.
    pub(super) fn finish(&self) {
        self.state.lock().closed = true;
        self.room.notify_waiters();
    }

    /// Nobody wants any of it any more.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.pieces.clear();
        state.bytes = 0;
        state.sent = 0;
        drop(state);
        self.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const LOG: OutputChannel = OutputChannel::Log;
    const OUTPUT: OutputChannel = OutputChannel::Output;

    fn sent(stream: &Stream, now: Instant) -> Vec<i32> {
        let mut sent = Vec::new();
        stream.send(now, |piece| {
            sent.push(piece.sequence);
            true
        });
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_kept_until_they_are_stored() {
        let (stream, now) = (Stream::default(), Instant::now());
        for _ in 0..3 {
            stream.push(LOG, "line".into()).await;
            stream.push(OUTPUT, "token".into()).await;
        }
        assert_eq!(sent(&stream, now), [1, 1, 2, 2, 3, 3]);
        assert!(!stream.has_unsent());
        stream.acknowledge(LOG, 2, false, now);
        assert!(stream.rewind());
        assert!(!stream.rewind(), "it is listed already");
        assert_eq!(sent(&stream, now), [1, 2, 3, 3]);
        // What was not sent stays unsent when what was sent before it is stored.
        stream.push(LOG, "more".into()).await;
        stream.acknowledge(OUTPUT, 3, false, now);
        assert_eq!(sent(&stream, now), [4]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_streams_too_fast_waits_for_the_server() {
        let (stream, now) = (Stream::default(), Instant::now());
        let large = || Bytes::from(vec![0; WINDOW / 2]);
        stream.push(OUTPUT, large()).await;
        assert!(stream.push(OUTPUT, large()).now_or_never().is_none());
        let waiting = stream.push(OUTPUT, large());
        let stored = async { stream.acknowledge(OUTPUT, 1, false, now) };
        tokio::join!(waiting, stored);
        let waiting = stream.push(OUTPUT, large());
        let over = async { stream.abandon() };
        let (list, ()) = tokio::join!(waiting, over);
        assert!(!list);
        assert!(sent(&stream, now).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_has_not_kept_is_sent_again_after_a_moment() {
        let (stream, now) = (Stream::default(), Instant::now());
        for _ in 0..4 {
            stream.push(LOG, "line".into()).await;
        }
        sent(&stream, now);
        assert!(stream.acknowledge(LOG, 2, true, now));
        let later = now + RESEND_PAUSE;
        assert_eq!(stream.send(now, |_| true), Rest::Later(later));
        assert_eq!(sent(&stream, later), [3, 4]);
        let patience = Duration::from_secs(10);
        assert!(!stream.rewind_overdue(later, patience));
        assert!(stream.rewind_overdue(later + patience, patience));
        assert_eq!(stream.send(later, |_| false), Rest::Blocked);
    }
}
