//! What the attempts of a job stream while they run: which pieces are kept, in which page, and from
//! where on nothing more is. The result of a job is not here.
//!
//! All that is kept of a job is one stream of entries, cut into pages. The last page is open and
//! stands in the [`OutputRecord`]; the pages before it never change again, so a [`Position`] in the
//! stream holds for ever. A page belongs to one attempt, and attempts follow one another.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// What is kept of one channel of a job, in bytes, over all its attempts.
pub const MAX_CHANNEL_BYTES: u64 = 4 * 1024 * 1024;
/// How many pieces are kept of it: small ones cost more than their bytes.
pub const MAX_CHANNEL_CHUNKS: u32 = 262_144;
/// The largest piece.
pub const MAX_CHUNK: usize = 256 * 1024;
/// An open page of more bytes is closed. Small, because every batch writes it anew; large enough
/// that an hour of tokens is some hundred pages.
const PAGE_BYTES: usize = 8 * 1024;
/// What a piece takes beside its bytes, about.
pub const CHUNK_OVERHEAD: usize = 18;

/// The two kinds of what is streamed. Numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Parts of the output.
    Output = 1,
    /// What the worker says of its work.
    Log = 2,
}

impl Channel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Output, Self::Log];
}

/// A piece as its worker sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which channel.
    pub channel: Channel,
    /// Its place in that channel of the attempt, from 1.
    pub sequence: u32,
    /// When it was made, by the worker's clock.
    pub time: Timestamp,
    /// The bytes.
    pub data: Bytes,
}

/// A piece that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The piece.
    pub chunk: Chunk,
    /// Its worker has no piece before it any more: a store that was taken back has lost what it had
    /// acknowledged. It is kept although some are missing.
    pub after_hole: bool,
}

/// What is kept: a piece, or the mark that from here on nothing of the channel and attempt is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Entry {
    /// The piece. Of a mark: the first that is missing, without bytes.
    pub chunk: Chunk,
    /// Whether it is the mark.
    pub gap: bool,
}

/// An entry as it is stored: without names, because there are many.
#[derive(Serialize, Deserialize)]
struct Stored(u8, u32, Timestamp, Bytes);

/// Marks a gap in the first number of a stored entry.
const GAP: u8 = 0x10;

impl From<Entry> for Stored {
    fn from(entry: Entry) -> Self {
        let Entry { chunk, gap } = entry;
        let code = chunk.channel as u8 | if gap { GAP } else { 0 };
        Self(code, chunk.sequence, chunk.time, chunk.data)
    }
}

impl TryFrom<Stored> for Entry {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let Stored(code, sequence, time, data) = stored;
        let channel = match code & !GAP {
            1 => Channel::Output,
            2 => Channel::Log,
            other => return Err(format!("an entry of channel {other}")),
        };
        let chunk = Chunk {
            channel,
            sequence,
            time,
            data,
        };
        let gap = code & GAP != 0;
        Ok(Self { chunk, gap })
    }
}

/// A page that is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Whose entries.
    pub attempt: u32,
    /// In the order in which they were kept.
    pub entries: Vec<Entry>,
}

/// How one channel of a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// The next piece of the attempt.
    pub next: u32,
    /// Pieces kept, over all attempts.
    pub chunks: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Pieces that were not kept because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_chunks: u64,
    /// Their bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_bytes: u64,
    /// Whether the attempt has its mark: nothing more of it is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Default for ChannelState {
    fn default() -> Self {
        Self {
            next: 1,
            chunks: 0,
            bytes: 0,
            dropped_chunks: 0,
            dropped_bytes: 0,
            cut: false,
        }
    }
}

impl ChannelState {
    /// Whether it takes nothing more of any attempt.
    const fn is_full(&self) -> bool {
        self.dropped_chunks > 0
    }

    fn restart(&mut self) {
        self.next = 1;
        self.cut = false;
    }
}

/// What a job has streamed, but for the pages that are closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// The attempt that writes.
    pub attempt: u32,
    /// Pages that are closed; the open one has this number.
    pub pages: u32,
    /// How the channel of the output stands.
    pub output: ChannelState,
    /// How the channel of log lines stands.
    pub log: ChannelState,
    /// The open page.
    pub tail: Vec<Entry>,
}

/// A place in the stream of entries: before the entry with that index in that page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The page.
    pub page: u32,
    /// The entry.
    pub index: u32,
}

/// What a batch of pieces makes of what a job has streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The record from now on.
    pub record: OutputRecord,
    /// Pages that were closed, with their numbers.
    pub closed: Vec<(u32, Page)>,
    /// Whether anything is new.
    pub changed: bool,
    /// Channels of which a piece before those that came is missing.
    pub missing: Vec<Channel>,
}

impl OutputRecord {
    /// How a channel stands.
    #[must_use]
    pub const fn channel(&self, channel: Channel) -> &ChannelState {
        match channel {
            Channel::Output => &self.output,
            Channel::Log => &self.log,
        }
    }

    const fn channel_mut(&mut self, channel: Channel) -> &mut ChannelState {
        match channel {
            Channel::Output => &mut self.output,
            Channel::Log => &mut self.log,
        }
    }

    /// About how many bytes it takes with all its pages.
    #[must_use]
    pub fn size(&self) -> u64 {
        let of =
            |state: &ChannelState| state.bytes + u64::from(state.chunks) * CHUNK_OVERHEAD as u64;
        of(&self.output) + of(&self.log)
    }

    /// Whether a position is one of this stream.
    #[must_use]
    pub fn holds(&self, position: Position) -> bool {
        position.page < self.pages
            || (position.page == self.pages && position.index as usize <= self.tail.len())
    }

    /// The last piece of an attempt that is kept or dropped for good; 0 = none.
    #[must_use]
    pub const fn last(&self, attempt: u32, channel: Channel) -> u32 {
        if attempt == self.attempt {
            self.channel(channel).next - 1
        } else {
            0
        }
    }

    /// Takes a batch of pieces of `attempt`, which is not earlier than the one that writes. What was
    /// taken before is left out, and so is what comes after a piece that is missing.
    #[must_use]
    pub fn append(&self, attempt: u32, arrived: &[Arrived]) -> Appended {
        let mut appended = Appended {
            record: self.clone(),
            closed: Vec::new(),
            changed: false,
            missing: Vec::new(),
        };
        if attempt > self.attempt {
            appended.close();
            appended.record.attempt = attempt;
            for channel in Channel::ALL {
                appended.record.channel_mut(channel).restart();
            }
        }
        for one in arrived {
            appended.take(one);
        }
        let bytes = |entry: &Entry| entry.chunk.data.len() + CHUNK_OVERHEAD;
        if appended.record.tail.iter().map(bytes).sum::<usize>() > PAGE_BYTES {
            appended.close();
        }
        appended
    }
}

impl Appended {
    fn close(&mut self) {
        if self.record.tail.is_empty() {
            return;
        }
        let page = Page {
            attempt: self.record.attempt,
            entries: std::mem::take(&mut self.record.tail),
        };
        self.closed.push((self.record.pages, page));
        self.record.pages += 1;
    }

    fn take(&mut self, arrived: &Arrived) {
        let chunk = &arrived.chunk;
        let state = self.record.channel_mut(chunk.channel);
        if chunk.sequence < state.next {
            return;
        }
        if chunk.sequence > state.next && !arrived.after_hole {
            if !self.missing.contains(&chunk.channel) {
                self.missing.push(chunk.channel);
            }
            return;
        }
        self.changed = true;
        state.next = chunk.sequence.saturating_add(1);
        let size = chunk.data.len() as u64;
        let fits = !state.is_full()
            && state.chunks < MAX_CHANNEL_CHUNKS
            && state.bytes + size <= MAX_CHANNEL_BYTES;
        if fits {
            state.chunks += 1;
            state.bytes += size;
            self.record.tail.push(Entry {
                chunk: chunk.clone(),
                gap: false,
            });
            return;
        }
        state.dropped_chunks += 1;
        state.dropped_bytes += size;
        if !std::mem::replace(&mut state.cut, true) {
            let data = Bytes::new();
            let chunk = Chunk {
                data,
                ..chunk.clone()
            };
            self.record.tail.push(Entry { chunk, gap: true });
        }
    }
}
