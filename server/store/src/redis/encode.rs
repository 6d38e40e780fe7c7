//! From a batch to the keys and arguments of the commit script.

use std::collections::HashMap;

use bytes::Bytes;
use redis::Cmd;

use crate::{Batch, CommitError, Precondition, Rate, Shard, Version, Write};

use super::layout::{Kind, checksum, encode_entry, key};

/// Names of a batch that the script can tell apart.
const MAX_NAMES: usize = 60_000;
/// Keys of the script before the names: state, log, fence.
const FIRST_NAME: usize = 4;
/// Numbers above are not exact in a double.
const EXACT: u64 = 1 << 52;
/// A batch that deletes may bring this many bytes and still commit when memory is full.
const SMALL: usize = 1024;

/// A value that is uploaded before its commit is sent.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) key: Vec<u8>,
    pub(super) body: UploadBody,
}

/// What is uploaded.
#[derive(Debug)]
pub(super) enum UploadBody {
    /// The value of a record, to stand behind a header.
    Record(Bytes),
    /// A log entry as it is stored.
    Entry(Vec<u8>),
}

/// A batch as the script takes it, all but the generation of the connection.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) shard: Shard,
    /// Runs even when memory is full, because it makes room.
    pub(super) shrinks: bool,
    /// How much is sent.
    pub(super) bytes: usize,
    /// State and log of the shard, then what the batch names; the fence is the sender's.
    keys: Vec<Vec<u8>>,
    /// What `keys` name, from the third on.
    names: Vec<(Kind, Bytes)>,
    id: [u8; 16],
    /// What the batch makes of the records that it puts.
    pub(super) version: Version,
    program: Vec<u8>,
    operands: Vec<Bytes>,
    pub(super) appends: bool,
}

impl Default for Encoded {
    fn default() -> Self {
        Self {
            shard: Shard::Sys,
            shrinks: false,
            bytes: 0,
            keys: Vec::new(),
            names: Vec::new(),
            id: [0; 16],
            version: 0,
            program: Vec::new(),
            operands: Vec::new(),
            appends: false,
        }
    }
}

impl Encoded {
    /// The command that runs it, for a writer's connection.
    pub(super) fn command(&self, script: &str, fence: &[u8], generation: u64) -> Cmd {
        let mut cmd = Cmd::with_capacity(self.keys.len() + self.operands.len() + 8, self.bytes);
        cmd.arg("EVALSHA").arg(script).arg(self.keys.len() + 1);
        let (own, names) = self.keys.split_at(self.keys.len().min(2));
        for key in own {
            cmd.arg(key.as_slice());
        }
        cmd.arg(fence);
        for key in names {
            cmd.arg(key.as_slice());
        }
        cmd.arg(&self.id).arg(&self.version.to_le_bytes());
        cmd.arg(generation).arg(&self.program[..]);
        for operand in &self.operands {
            cmd.arg(operand.as_ref());
        }
        cmd
    }

    /// What the script means by a key number.
    pub(super) fn name(&self, number: usize) -> Option<&(Kind, Bytes)> {
        self.names.get(number.checked_sub(FIRST_NAME)?)
    }
}

/// Builds an [`Encoded`].
struct Encoder<'b> {
    shard: Shard,
    out: Encoded,
    numbers: HashMap<(u8, &'b [u8]), u16>,
}

/// Encodes a batch. Values above `upload_above` bytes are left out of it, under names from `name`.
///
/// # Errors
/// [`CommitError::Invalid`] when the batch has too many names.
pub(super) fn encode(
    batch: &Batch,
    upload_above: usize,
    mut name: impl FnMut() -> u128,
) -> Result<(Encoded, Vec<Upload>), CommitError> {
    let shard = batch.shard;
    let log = key(shard, Kind::Log, b"");
    let mut encoder = Encoder {
        shard,
        out: Encoded {
            shard,
            id: batch.commit_id.0.to_le_bytes(),
            version: batch.commit_id.version(),
            keys: vec![key(shard, Kind::State, b""), log.clone()],
            ..Encoded::default()
        },
        numbers: HashMap::with_capacity(16),
    };
    let checks = u16::try_from(batch.preconditions.len()).map_err(|_| too_many())?;
    encoder.out.program.extend_from_slice(&checks.to_be_bytes());
    for precondition in &batch.preconditions {
        encoder.check(precondition)?;
    }
    let mut uploads = Vec::new();
    let mut upload = |encoder: &mut Encoder<'_>, body: UploadBody| {
        let number = name().to_le_bytes();
        let (key, length) = (
            key(shard, Kind::Upload, &number),
            match &body {
                UploadBody::Record(value) => value.len() + super::layout::FULL_HEADER,
                UploadBody::Entry(entry) => entry.len(),
            },
        );
        encoder.upload(key.clone(), length)?;
        uploads.push(Upload { key, body });
        Ok::<(), CommitError>(())
    };
    // First, see the script: an id that the log does not take must be found out in time.
    for write in &batch.writes {
        if let Write::Append { value } = write {
            encoder.out.appends = true;
            let entry = encode_entry(&log, value);
            if value.len() > upload_above {
                upload(&mut encoder, UploadBody::Entry(entry))?;
                encoder.step(12, 0);
            } else {
                encoder.step(11, 0);
                encoder.out.operands.push(entry.into());
            }
        }
    }
    for write in &batch.writes {
        match write {
            Write::Put { key, value, ttl } => {
                let apart = value.len() > upload_above;
                if apart {
                    upload(&mut encoder, UploadBody::Record(value.clone()))?;
                }
                let ttl = ttl.map_or(0, |ttl| micros(ttl.as_micros()).max(1));
                encoder.put(key, value, ttl, apart)?;
            }
            Write::Delete { key } => {
                let number = encoder.number(Kind::Record, key)?;
                encoder.step(8, number);
            }
            Write::Add { index, member } => {
                let number = encoder.number(Kind::Index, index)?;
                encoder.step(9, number);
                encoder.out.operands.push(member.clone());
            }
            Write::Remove { index, member } => {
                let number = encoder.number(Kind::Index, index)?;
                encoder.step(10, number);
                encoder.out.operands.push(member.clone());
            }
            Write::Append { .. } => {}
        }
    }
    let mut out = encoder.out;
    out.shrinks = shrinks(batch);
    let operands: usize = out.operands.iter().map(Bytes::len).sum();
    let keys: usize = out.keys.iter().map(Vec::len).sum();
    // What surrounds each argument on the wire is about eight bytes.
    let around = (out.operands.len() + out.keys.len() + 8) * 8;
    out.bytes = operands + keys + out.program.len() + around;
    Ok((out, uploads))
}

/// Whether a batch leaves less than it finds: it deletes, and hardly brings anything.
fn shrinks(batch: &Batch) -> bool {
    let mut deletes = false;
    let mut brings = 0;
    for write in &batch.writes {
        match write {
            Write::Delete { .. } => deletes = true,
            Write::Remove { .. } => {}
            Write::Put { key, value, .. } => brings += key.len() + value.len(),
            Write::Add { index, member } => brings += index.len() + member.len(),
            Write::Append { value } => brings += value.len(),
        }
    }
    deletes && brings <= SMALL
}

impl<'b> Encoder<'b> {
    fn step(&mut self, operation: u8, number: u16) {
        self.out.program.push(operation);
        self.out.program.extend_from_slice(&number.to_be_bytes());
    }

    /// The number of a key of the script, from 1.
    fn add_key(&mut self, key: Vec<u8>, kind: Kind, name: Bytes) -> Result<u16, CommitError> {
        if self.out.names.len() >= MAX_NAMES {
            return Err(too_many());
        }
        let number = u16::try_from(self.out.names.len() + FIRST_NAME).map_err(|_| too_many())?;
        self.out.keys.push(key);
        self.out.names.push((kind, name));
        Ok(number)
    }

    fn number(&mut self, kind: Kind, name: &'b Bytes) -> Result<u16, CommitError> {
        let lookup = (kind as u8, name.as_ref());
        if let Some(number) = self.numbers.get(&lookup) {
            return Ok(*number);
        }
        let number = self.add_key(key(self.shard, kind, name), kind, name.clone())?;
        self.numbers.insert(lookup, number);
        Ok(number)
    }

    fn check(&mut self, precondition: &'b Precondition) -> Result<(), CommitError> {
        match precondition {
            Precondition::Absent { key } => {
                let number = self.number(Kind::Record, key)?;
                self.step(1, number);
            }
            Precondition::At { key, version } => {
                let number = self.number(Kind::Record, key)?;
                self.step(2, number);
                self.operand(&[&version.to_le_bytes()]);
            }
            Precondition::SizeBelow {
                index,
                limit,
                name_holders,
            } => {
                let number = self.number(Kind::Index, index)?;
                self.step(3, number);
                let holders = (*name_holders as u64).min(1 << 31);
                self.operand(&[&limit.to_le_bytes(), &holders.to_le_bytes()]);
            }
            Precondition::Bucket { key, rate, cost } => {
                let number = self.number(Kind::Bucket, key)?;
                self.step(4, number);
                let (cost, cost_part) = refill(rate, *cost);
                let (room, room_part) = refill(rate, rate.burst);
                self.operand(&[
                    &rate.permits.to_le_bytes(),
                    &cost.to_le_bytes(),
                    &cost_part.to_le_bytes(),
                    &room.to_le_bytes(),
                    &room_part.to_le_bytes(),
                ]);
            }
            Precondition::Pointer { key: name, value } => {
                let number = self.number(Kind::Record, name)?;
                self.step(5, number);
                let record = key(self.shard, Kind::Record, name);
                self.operand(&[&checksum(&[&record, value]).to_le_bytes()]);
                self.out.operands.push(value.clone());
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        name: &'b Bytes,
        value: &Bytes,
        ttl: u64,
        apart: bool,
    ) -> Result<(), CommitError> {
        let number = self.number(Kind::Record, name)?;
        self.step(if apart { 7 } else { 6 }, number);
        let record = key(self.shard, Kind::Record, name);
        let sum = checksum(&[&record, value]);
        self.operand(&[&sum.to_le_bytes(), &ttl.to_le_bytes()]);
        self.out
            .operands
            .push(if apart { Bytes::new() } else { value.clone() });
        Ok(())
    }

    fn upload(&mut self, key: Vec<u8>, length: usize) -> Result<(), CommitError> {
        let number = self.add_key(key, Kind::Upload, Bytes::new())?;
        self.step(13, number);
        self.out.operands.push(length.to_string().into());
        Ok(())
    }

    fn operand(&mut self, parts: &[&[u8]]) {
        self.out.operands.push(parts.concat().into());
    }
}

/// How long it takes until so many permits are back: whole microseconds, and a rest in units of
/// `1 / permits`. The script adds such pairs and never multiplies, so its doubles stay exact.
fn refill(rate: &Rate, permits: u32) -> (u64, u64) {
    let units = u128::from(permits).saturating_mul(rate.per.as_micros());
    let per = u128::from(rate.permits.max(1));
    // Less than `permits`, which is a u32.
    let rest = u64::try_from(units % per).unwrap_or(0);
    (micros(units / per), rest)
}

/// Microseconds as the script can count them: up to 142 years.
fn micros(micros: u128) -> u64 {
    u64::try_from(micros).unwrap_or(u64::MAX).min(EXACT)
}

fn too_many() -> CommitError {
    CommitError::Invalid {
        reason: format!("a batch has more than {MAX_NAMES} names or checks"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::CommitId;

    fn b(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_name_is_one_key_and_appends_come_first() {
        let mut batch = Batch::new(Shard::Data(0), CommitId(7));
        batch
            .create(b("a"), b("v"))
            .add(b("a"), b("m"))
            .add(b("a"), b("n"))
            .append(b("entry"));
        let Ok((encoded, uploads)) = encode(&batch, 100, || 1) else {
            panic!("the batch is encoded");
        };
        assert!(uploads.is_empty());
        assert_eq!(encoded.keys.len(), 4);
        assert_eq!(encoded.name(4), Some(&(Kind::Record, b("a"))));
        assert_eq!(encoded.name(5), Some(&(Kind::Index, b("a"))));
        assert_eq!(encoded.name(3), None);
        let program = [0, 1, 1, 0, 4, 11, 0, 0, 6, 0, 4, 9, 0, 5, 9, 0, 5];
        assert_eq!(encoded.program, program);
        assert!(!encoded.shrinks);
    }

    #[test]
    fn only_deleting_makes_room() {
        let mut batch = Batch::new(Shard::Data(0), CommitId(7));
        batch.delete(b("a"), 3);
        assert!(shrinks(&batch));
        batch.create(b("b"), Bytes::from(vec![0; SMALL]));
        assert!(!shrinks(&batch));
    }

    #[test]
    fn refills_are_exact() {
        let rate = Rate {
            permits: 7,
            per: Duration::from_secs(1),
            burst: 3,
        };
        assert_eq!(refill(&rate, 3), (428_571, 3));
        let vast = Rate {
            permits: 1,
            per: Duration::MAX,
            burst: u32::MAX,
        };
        assert_eq!(refill(&vast, u32::MAX), (EXACT, 0));
    }
}
