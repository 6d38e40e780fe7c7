//! The commits of a job's life, shaped like the engine's, for programs that measure stores.

#![allow(dead_code, reason = "every program uses a part")]

use std::time::Duration;

use bytes::Bytes;
use coretex_store::{Batch, CommitId, Key, Precondition, Shard, Write};

pub(crate) const SHARD: Shard = Shard::Data(0);

/// A number that looks random, the same for the same input.
fn mix(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn commit_id(job: u64, step: u64) -> CommitId {
    CommitId((u128::from(mix(job * 4 + step)) << 64) | u128::from(mix(job * 4 + step + 7777)))
}

/// The names of one job: ids grow with time, as UUIDs of version 7 do.
pub(crate) struct Job {
    number: u64,
    id: [u8; 16],
}

impl Job {
    pub(crate) fn new(number: u64) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(1_700_000_000_000_000 + number * 125).to_be_bytes());
        id[8..].copy_from_slice(&mix(number).to_be_bytes());
        Self { number, id }
    }

    pub(crate) fn key(&self) -> Key {
        [b"job/acme/".as_slice(), &self.id].concat().into()
    }

    fn idempotency(&self) -> Key {
        let mut hash = [0; 32];
        for part in 0..4 {
            let word = mix(self.number * 4 + part).to_be_bytes();
            hash[part as usize * 8..][..8].copy_from_slice(&word);
        }
        [b"idem/acme/".as_slice(), &hash].concat().into()
    }

    fn ready(&self) -> Bytes {
        [b"\x02".as_slice(), &self.id].concat().into()
    }

    fn due(&self) -> Bytes {
        [self.id.as_slice(), b"deadline"].concat().into()
    }

    pub(crate) fn submit(&self) -> Batch {
        let id = || Bytes::copy_from_slice(&self.id);
        let mut batch = Batch::new(SHARD, commit_id(self.number, 0));
        batch.create(self.key(), Bytes::from(vec![b'j'; 600]));
        batch.preconditions.push(Precondition::Absent {
            key: self.idempotency(),
        });
        batch.preconditions.push(Precondition::SizeBelow {
            index: Bytes::from_static(b"open/acme"),
            limit: 100_000,
            name_holders: 0,
        });
        batch.writes.push(Write::Put {
            key: self.idempotency(),
            value: Bytes::from(vec![b'i'; 48]),
            ttl: Some(Duration::from_secs(600)),
        });
        batch
            .add("all/acme".into(), id())
            .add("open/acme".into(), id())
            .add("topic/acme/job.work".into(), id())
            .add("held/replica-1/session-1".into(), self.ready())
            .add("due".into(), self.due())
            .append(Bytes::from(vec![b'e'; 100]));
        batch
    }

    pub(crate) fn finish(&self) -> Batch {
        let id = || Bytes::copy_from_slice(&self.id);
        let mut batch = Batch::new(SHARD, commit_id(self.number, 1));
        let submitted = commit_id(self.number, 0).version();
        batch.replace(self.key(), submitted, Bytes::from(vec![b'k'; 800]));
        batch
            .remove("open/acme".into(), id())
            .remove("held/replica-1/session-1".into(), self.ready())
            .remove("due".into(), self.due())
            .add("ended/acme".into(), id())
            .append(Bytes::from(vec![b'f'; 100]));
        batch
    }

    pub(crate) fn retire(&self) -> Batch {
        let id = || Bytes::copy_from_slice(&self.id);
        let mut batch = Batch::new(SHARD, commit_id(self.number, 2));
        batch.delete(self.key(), commit_id(self.number, 1).version());
        batch
            .remove("all/acme".into(), id())
            .remove("topic/acme/job.work".into(), id())
            .remove("ended/acme".into(), id());
        batch
    }
}
