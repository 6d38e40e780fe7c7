use proptest::prelude::*;

use super::*;

fn chunk(channel: Channel, sequence: u32, data: &[u8]) -> Chunk {
    Chunk {
        channel,
        sequence,
        time: Timestamp::from_micros(u64::from(sequence)),
        data: Bytes::copy_from_slice(data),
    }
}

fn arrived(chunk: Chunk) -> Arrived {
    let after_hole = false;
    Arrived { chunk, after_hole }
}

/// A stream as a reader of the store sees it.
#[derive(Debug, Default)]
struct Stream {
    record: OutputRecord,
    pages: Vec<Page>,
}

impl Stream {
    fn append(&mut self, attempt: u32, chunks: &[Chunk]) -> Appended {
        let arrived: Vec<Arrived> = chunks.iter().cloned().map(arrived).collect();
        let appended = self.record.append(attempt, &arrived);
        for (number, page) in &appended.closed {
            assert_eq!(*number as usize, self.pages.len());
            self.pages.push(page.clone());
        }
        self.record = appended.record.clone();
        assert_eq!(self.record.pages as usize, self.pages.len());
        appended
    }

    /// Every entry with its attempt and its place.
    fn entries(&self) -> Vec<(Position, u32, Entry)> {
        let tail = Page {
            attempt: self.record.attempt,
            entries: self.record.tail.clone(),
        };
        let pages = self.pages.iter().chain(std::iter::once(&tail)).enumerate();
        pages
            .flat_map(|(page, kept)| {
                let entries = kept.entries.iter().enumerate();
                entries.map(move |(index, entry)| {
                    let (page, index) = (page as u32, index as u32);
                    (Position { page, index }, kept.attempt, entry.clone())
                })
            })
            .collect()
    }
}

#[test]
fn what_comes_twice_is_kept_once_and_what_is_missing_is_asked_for() {
    let mut stream = Stream::default();
    let batch = |from: u32, to: u32| -> Vec<Chunk> {
        (from..=to)
            .map(|sequence| chunk(Channel::Log, sequence, b"x"))
            .collect()
    };
    assert!(stream.append(1, &batch(1, 3)).changed);
    let again = stream.append(1, &batch(1, 3));
    assert!(!again.changed && again.missing.is_empty());
    let ahead = stream.append(1, &batch(5, 6));
    assert_eq!(ahead.missing, [Channel::Log]);
    assert!(!ahead.changed);
    assert_eq!(stream.record.last(1, Channel::Log), 3);
    assert_eq!(stream.record.last(2, Channel::Log), 0);
    assert!(stream.append(1, &batch(2, 6)).missing.is_empty());
    assert_eq!(stream.record.last(1, Channel::Log), 6);
    assert_eq!(stream.entries().len(), 6);
    // One channel says nothing of the other.
    assert_eq!(stream.record.last(1, Channel::Output), 0);
}

#[test]
fn what_a_store_has_lost_is_a_hole() {
    let mut record = OutputRecord::default();
    record.log.next = 4;
    let mut one = arrived(chunk(Channel::Log, 9, b"x"));
    assert_eq!(record.append(0, &[one.clone()]).missing, [Channel::Log]);
    one.after_hole = true;
    let appended = record.append(0, &[one]);
    assert!(appended.missing.is_empty());
    assert_eq!(appended.record.log.next, 10);
}

#[test]
fn a_channel_is_cut_once_for_each_attempt_and_the_other_is_not() {
    let mut stream = Stream::default();
    let large = vec![b'x'; MAX_CHUNK];
    let fits = (MAX_CHANNEL_BYTES as usize / MAX_CHUNK) as u32;
    for sequence in 1..=fits + 3 {
        stream.append(1, &[chunk(Channel::Output, sequence, &large)]);
    }
    // A small one would have found room, but what comes after a gap is no stream.
    stream.append(1, &[chunk(Channel::Output, fits + 4, b"s")]);
    stream.append(1, &[chunk(Channel::Log, 1, b"still here")]);
    stream.append(2, &[chunk(Channel::Output, 1, b"s")]);
    let output = &stream.record.output;
    assert_eq!(output.bytes, MAX_CHANNEL_BYTES);
    assert_eq!(output.dropped_chunks, 5);
    assert_eq!(output.dropped_bytes, 3 * MAX_CHUNK as u64 + 2);
    let gaps: Vec<(u32, u32)> = stream
        .entries()
        .iter()
        .filter(|(_, _, entry)| entry.gap)
        .map(|(_, attempt, entry)| (*attempt, entry.chunk.sequence))
        .collect();
    assert_eq!(gaps, [(1, fits + 1), (2, 1)]);
    let logs = stream.entries().into_iter();
    assert_eq!(
        logs.filter(|(_, _, e)| e.chunk.channel == Channel::Log)
            .count(),
        1
    );
}

#[test]
fn pieces_without_bytes_are_limited_too() {
    let mut record = OutputRecord::default();
    record.log.next = MAX_CHANNEL_CHUNKS + 1;
    record.log.chunks = MAX_CHANNEL_CHUNKS;
    let one = arrived(chunk(Channel::Log, MAX_CHANNEL_CHUNKS + 1, b""));
    let appended = record.append(0, &[one]);
    assert!(appended.record.tail[0].gap);
}

#[test]
fn an_hour_of_tokens_is_some_hundred_pages() {
    let mut stream = Stream::default();
    for sequence in 1..=36_000 {
        stream.append(1, &[chunk(Channel::Output, sequence, b"token ")]);
    }
    assert!(
        (50..300).contains(&stream.record.pages),
        "{}",
        stream.record.pages
    );
    assert!(stream.record.tail.len() < 500);
}

#[derive(Clone, Debug)]
struct Batch {
    attempt: u32,
    channel: Channel,
    /// Where it begins, before or after the piece that is next.
    shift: i32,
    sizes: Vec<usize>,
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let size = prop_oneof![
        8 => 0_usize..40,
        2 => 1_000_usize..9_000,
        1 => Just(MAX_CHUNK),
    ];
    let batch = (
        prop_oneof![6 => Just(0_u32), 1 => Just(1)],
        prop_oneof![Just(Channel::Output), Just(Channel::Log)],
        prop_oneof![6 => Just(0), 1 => -5_i32..0, 1 => 1_i32..3],
        prop::collection::vec(size, 1..12),
    );
    let batch = batch.prop_map(|(attempt, channel, shift, sizes)| Batch {
        attempt,
        channel,
        shift,
        sizes,
    });
    prop::collection::vec(batch, 1..60)
}

proptest! {
    #[test]
    fn the_stream_is_dense_bounded_and_never_changes(batches in batches()) {
        let mut stream = Stream::default();
        let mut attempt = 1;
        let mut before: Vec<(Position, u32, Entry)> = Vec::new();
        for batch in batches {
            attempt += batch.attempt;
            let next = stream.record.last(attempt, batch.channel) + 1;
            let first = next.saturating_add_signed(batch.shift).max(1);
            let chunks: Vec<Chunk> = (first..)
                .zip(&batch.sizes)
                .map(|(sequence, size)| chunk(batch.channel, sequence, &vec![sequence as u8; *size]))
                .collect();
            let appended = stream.append(attempt, &chunks);
            prop_assert_eq!(appended.missing.is_empty(), first <= next);
            let end = if first <= next { (first + chunks.len() as u32).max(next) } else { next };
            prop_assert_eq!(stream.record.last(attempt, batch.channel) + 1, end);
            let now = stream.entries();
            prop_assert_eq!(&now[..before.len()], &before[..]);
            prop_assert!(now.iter().all(|(at, _, _)| stream.record.holds(*at)));
            before = now;
        }
        for channel in Channel::ALL {
            let state = stream.record.channel(channel);
            prop_assert!(state.bytes <= MAX_CHANNEL_BYTES);
            let of: Vec<_> = before.iter().filter(|(_, _, e)| e.chunk.channel == channel).collect();
            let kept: u64 = of.iter().map(|(_, _, e)| e.chunk.data.len() as u64).sum();
            prop_assert_eq!(kept, state.bytes);
            for pair in of.windows(2) {
                let ((_, one, first), (_, two, second)) = (pair[0], pair[1]);
                prop_assert!(one <= two);
                if one == two {
                    prop_assert!(!first.gap, "nothing comes after a gap");
                    prop_assert_eq!(first.chunk.sequence + 1, second.chunk.sequence);
                } else {
                    prop_assert_eq!(second.chunk.sequence, 1);
                }
            }
        }
        let tail: usize = stream.record.tail.iter().map(|e| e.chunk.data.len()).sum();
        prop_assert!(tail <= PAGE_BYTES);
    }
}
