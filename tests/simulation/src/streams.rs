//! What attempts stream: workers keep each piece until it is acknowledged and send it again when they
//! come back or are asked. What was acknowledged, and what went before a result that counts, is
//! stored once and in order.

use coretex_core::job::Job;
use coretex_core::job::output::{Channel, Chunk, OutputRecord};
use coretex_core::time::Timestamp;
use coretex_engine::{AttemptRef, Error, FromWorker, OutputFrom, ReadOutput, Role};
use coretex_store::{Shard, Store, codec};
use coretex_testbench::caller;

use crate::world::World;

/// How far the worker of an attempt is with one channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stream {
    /// The last piece that there is.
    pub(crate) said: u32,
    /// The last that was acknowledged.
    acked: u32,
}

impl Stream {
    /// Whether there are pieces to be sent again.
    pub(crate) const fn is_unacknowledged(&self) -> bool {
        self.acked < self.said
    }
}

/// The streams of an attempt, in the order of [`Channel::ALL`].
pub(crate) type Streams = [Stream; 2];

const fn place_of(channel: Channel) -> usize {
    match channel {
        Channel::Output => 0,
        Channel::Log => 1,
    }
}

/// A piece. Some are larger than a page.
fn piece(attempt: &AttemptRef, channel: Channel, sequence: u32) -> Chunk {
    let times = if sequence.is_multiple_of(5) { 500 } else { 1 };
    let text = format!("{} {channel:?} {sequence};", attempt.lease_id);
    Chunk {
        channel,
        sequence,
        time: Timestamp::from_micros(u64::from(sequence)),
        data: text.repeat(times).into(),
    }
}

impl World {
    /// An attempt says a few things more.
    pub(crate) async fn stream(&mut self, number: usize, attempt: &AttemptRef) {
        let channel = Channel::ALL[self.dice.below(2) as usize];
        let more = 1 + self.dice.below(4) as u32;
        let runs = &mut self.processes[number].runs;
        let Some(run) = runs.iter_mut().find(|run| run.attempt == *attempt) else {
            return;
        };
        let stream = &mut run.streams[place_of(channel)];
        let before = stream.said;
        stream.said += more;
        self.say_pieces(number, attempt, channel, before + 1..=before + more)
            .await;
    }

    async fn say_pieces(
        &mut self,
        number: usize,
        attempt: &AttemptRef,
        channel: Channel,
        pieces: std::ops::RangeInclusive<u32>,
    ) {
        for sequence in pieces {
            let chunk = piece(attempt, channel, sequence);
            let attempt = attempt.clone();
            let message = FromWorker::Output { attempt, chunk };
            self.say(number, message).await;
        }
    }

    /// A worker that has come back sends what was not acknowledged.
    pub(crate) async fn stream_again(&mut self, number: usize) {
        let runs = self.processes[number].runs.clone();
        for run in &runs {
            for channel in Channel::ALL {
                let Stream { said, acked } = run.streams[place_of(channel)];
                self.say_pieces(number, &run.attempt, channel, acked + 1..=said)
                    .await;
            }
        }
    }

    /// A worker hears that pieces up to `sequence` are stored, and perhaps has to send the rest again.
    pub(crate) async fn hear_stored(
        &mut self,
        number: usize,
        attempt: &AttemptRef,
        channel: Channel,
        sequence: u32,
        resend: bool,
    ) {
        if self.is_held(attempt).await {
            let stored = self.stored(attempt, channel).await;
            assert!(
                stored >= sequence,
                "piece {sequence} of {attempt:?} on {channel:?} was acknowledged, {stored} are stored"
            );
            self.book.stored(attempt, place_of(channel), sequence);
        }
        let runs = &mut self.processes[number].runs;
        let Some(run) = runs.iter_mut().find(|run| run.attempt == *attempt) else {
            return;
        };
        let stream = &mut run.streams[place_of(channel)];
        assert!(sequence <= stream.said, "{attempt:?} has said less");
        stream.acked = stream.acked.max(sequence);
        let Stream { said, acked } = *stream;
        let result = run.result.clone();
        if resend {
            self.say_pieces(number, attempt, channel, acked + 1..=said)
                .await;
            if let Some(outcome) = result {
                self.report(number, attempt, outcome).await;
            }
        }
    }

    /// Whether an attempt is the current one of its job.
    async fn is_held(&self, attempt: &AttemptRef) -> bool {
        self.record("job", attempt).await.is_some_and(|value| {
            let (_, job) = codec::decode::<Job>(&value).unwrap();
            job.holds(attempt.lease_id)
        })
    }

    /// Whether its job has an attempt on record.
    async fn is_remembered(&self, attempt: &AttemptRef) -> bool {
        self.record("job", attempt).await.is_some_and(|value| {
            let (_, job) = codec::decode::<Job>(&value).unwrap();
            let mut attempts = job.attempts.iter();
            attempts.any(|one| one.lease_id == attempt.lease_id)
        })
    }

    /// The last piece of an attempt that is stored.
    async fn stored(&self, attempt: &AttemptRef, channel: Channel) -> u32 {
        self.record("stream", attempt).await.map_or(0, |value| {
            let (_, record) = codec::decode::<OutputRecord>(&value).unwrap();
            record.last(attempt.attempt, channel)
        })
    }

    async fn record(&self, family: &str, attempt: &AttemptRef) -> Option<bytes::Bytes> {
        let key = format!("{family}/{}\0{}", attempt.tenant, attempt.job_id);
        let keys = [key.into_bytes().into()];
        let read = self.cluster.base.get(Shard::Data(0), &keys).await;
        let record = read.unwrap().value.remove(0)?;
        Some(record.value)
    }

    /// What has to be stored of streams is stored, once and in order, as engines read it.
    pub(crate) async fn streams_are_whole(&mut self) {
        let all = std::mem::take(&mut self.book.streamed);
        'attempts: for (_, (attempt, wanted)) in all {
            // Its job is deleted, and another one may have its name.
            if self.book.forgets && !self.is_remembered(&attempt).await {
                continue;
            }
            let who = caller(attempt.tenant.as_str(), "key:x", &[Role::Admin]);
            let reading = ReadOutput {
                attempt: Some(attempt.attempt),
                channels: Channel::ALL.to_vec(),
                from: OutputFrom::Sequence(1),
                follow: false,
            };
            let engine = self.any_engine().expect("a server");
            let mut pages = match engine.read_output(&who, &attempt.job_id, reading).await {
                Ok(pages) => pages,
                Err(Error::NotFound { .. }) if self.book.forgets => continue,
                Err(error) => panic!("output of {attempt:?}: {error}"),
            };
            let mut found = [0, 0];
            while let Some(page) = pages.recv().await {
                let page = match page {
                    Ok(page) => page,
                    // Its time came while it was read.
                    Err(Error::NotFound { .. }) if self.book.forgets => continue 'attempts,
                    Err(error) => panic!("output of {attempt:?}: {error}"),
                };
                for item in page {
                    let chunk = &item.entry.chunk;
                    let last = &mut found[place_of(chunk.channel)];
                    *last += 1;
                    assert!(!item.entry.gap, "a gap in {attempt:?}");
                    assert_eq!(*chunk, piece(&attempt, chunk.channel, *last));
                }
            }
            assert!(
                found[0] >= wanted[0] && found[1] >= wanted[1],
                "{found:?} pieces of {attempt:?} are stored, and were {wanted:?}"
            );
            self.tally.streamed += u64::from(found[0] + found[1]);
        }
    }
}
