//! Reads: each is one transaction, so that its parts are of one instant.

use std::sync::Arc;

use bytes::Bytes;
use coretex_core::time::Timestamp;
use redis::{Cmd, Pipeline, Value};

use crate::{
    Entry, Key, LogId, LogPage, Member, Order, Range, Read, Record, Shard, StoreError, validate,
};

use super::Shared;
use super::errors::{Refusal, judge, reason, text, unavailable};
use super::layout::{Kind, State, decode_entry, decode_record, key, printable};

/// What Redis can count to.
const MOST: u64 = i64::MAX as u64;

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::DataLoss { what: what.into() }
}

fn nonsense() -> StoreError {
    unavailable("redis answered a read with nonsense")
}

/// The answers to a read, with the store time and state of its instant.
struct Answers {
    state: State,
    micros: u64,
    values: std::vec::IntoIter<Value>,
}

impl Shared {
    /// Sends commands over a connection of the pool; once more over a new one when the connection
    /// turns out to be dead. Only for what may be done twice.
    pub(super) async fn query(
        self: &Arc<Self>,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, StoreError> {
        self.is_open()?;
        let mut fresh = false;
        loop {
            let mut connection = self.pool.get().await.map_err(|error| {
                use deadpool::managed::{PoolError, TimeoutType};
                unavailable(match error {
                    PoolError::Backend(error) => error.to_string(),
                    PoolError::Timeout(TimeoutType::Wait) => {
                        "all connections to redis are in use".to_owned()
                    }
                    PoolError::Closed => "the store is closed".to_owned(),
                    error => error.to_string(),
                })
            })?;
            let error = match connection.send(commands).await {
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            // An answer that comes late must not be taken for that to another question.
            let connection = deadpool::managed::Object::take(connection);
            if fresh || error.is_timeout() {
                return Err(unavailable(text(&error)));
            }
            // The others have probably died with it.
            self.connector.renew(connection.generation());
            fresh = true;
        }
    }

    /// Runs a read of one shard.
    async fn read(
        self: &Arc<Self>,
        shard: Shard,
        commands: impl IntoIterator<Item = Cmd>,
    ) -> Result<Answers, StoreError> {
        validate::check_shard(shard, self.options.shards).map_err(|error| StoreError::Invalid {
            reason: error.to_string(),
        })?;
        let state = key(shard, Kind::State, b"");
        let mut pipeline = Pipeline::new();
        pipeline.cmd("MULTI").cmd("TIME");
        pipeline.cmd("GET").arg(state.as_slice());
        for command in commands {
            pipeline.add_command(command);
        }
        pipeline.cmd("EXEC");
        let mark = self.seen.mark(shard);
        let mut answers = self.query(&pipeline).await?;
        let Some(Value::Array(values)) = answers.pop() else {
            return Err(self.refusal(&answers));
        };
        let mut values = values.into_iter();
        let clock = micros(values.next()).ok_or_else(nonsense)?;
        let stored = bytes(values.next().ok_or_else(nonsense)?)?;
        let state = State::decode(&state, stored.as_deref())
            .map_err(|_| damaged("the state of a shard"))?;
        self.seen.saw(shard, mark, state.commits);
        Ok(Answers {
            state,
            micros: self.seen.time(clock.max(state.time)).as_micros(),
            values,
        })
    }

    /// Why a transaction was not run.
    fn refusal(&self, answers: &[Value]) -> StoreError {
        let error = answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        let Some(error) = error else {
            return nonsense();
        };
        if judge(error) == Refusal::NotMaster {
            self.refused(Refusal::NotMaster);
        }
        unavailable(reason(error))
    }

    pub(super) async fn get(
        self: &Arc<Self>,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError> {
        let full: Vec<_> = keys
            .iter()
            .map(|name| key(shard, Kind::Record, name))
            .collect();
        let mut command = redis::cmd("MGET");
        for key in &full {
            command.arg(key.as_slice());
        }
        let command = (!keys.is_empty()).then_some(command);
        let mut answers = self.read(shard, command).await?;
        let mut records = Vec::with_capacity(keys.len());
        if !keys.is_empty() {
            for (value, (full, name)) in array(answers.values.next())?
                .into_iter()
                .zip(full.iter().zip(keys))
            {
                let record = match bytes(value)? {
                    None => None,
                    Some(stored) => decode_record(full, stored, answers.micros)
                        .map_err(|_| damaged(format!("record {}", printable(name))))?,
                };
                records.push(record);
            }
        }
        Ok(answers.with(records))
    }

    pub(super) async fn range(
        self: &Arc<Self>,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> Result<Read<Vec<Vec<Member>>>, StoreError> {
        let limit = (limit as u64).min(MOST);
        let empty = |range: &Range| limit == 0 || is_empty(range);
        let commands = ranges.iter().filter(|range| !empty(range)).map(|range| {
            let (start, end) = bounds(range);
            let (name, from, to) = match order {
                Order::Ascending => ("ZRANGEBYLEX", start, end),
                Order::Descending => ("ZREVRANGEBYLEX", end, start),
            };
            let mut command = redis::cmd(name);
            command.arg(key(shard, Kind::Index, &range.index));
            command.arg(from).arg(to).arg("LIMIT").arg(0).arg(limit);
            command
        });
        let mut answers = self.read(shard, commands.collect::<Vec<_>>()).await?;
        let mut members = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut found = Vec::new();
            if !empty(range) {
                for member in array(answers.values.next())? {
                    found.push(bytes(member)?.map(Bytes::from).ok_or_else(nonsense)?);
                }
            }
            members.push(found);
        }
        Ok(answers.with(members))
    }

    pub(super) async fn count(
        self: &Arc<Self>,
        shard: Shard,
        range: &Range,
        cap: u64,
    ) -> Result<Read<u64>, StoreError> {
        let index = key(shard, Kind::Index, &range.index);
        // Neither walks through the members.
        let command = if is_empty(range) {
            None
        } else if range.start.is_empty() && range.end.is_none() {
            let mut command = redis::cmd("ZCARD");
            command.arg(index);
            Some(command)
        } else {
            let (start, end) = bounds(range);
            let mut command = redis::cmd("ZLEXCOUNT");
            command.arg(index).arg(start).arg(end);
            Some(command)
        };
        let mut answers = self.read(shard, command).await?;
        let members = match answers.values.next() {
            None => 0,
            Some(Value::Int(members)) => u64::try_from(members).unwrap_or(0),
            Some(Value::ServerError(error)) => return Err(unavailable(reason(&error))),
            Some(_) => return Err(nonsense()),
        };
        Ok(answers.with(members.min(cap)))
    }

    pub(super) async fn tail(
        self: &Arc<Self>,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> Result<Read<LogPage>, StoreError> {
        let log = key(shard, Kind::Log, b"");
        let limit = (limit as u64).min(MOST);
        let command = (limit > 0).then(|| {
            let mut command = redis::cmd("XRANGE");
            command
                .arg(log.as_slice())
                .arg(format!("{from}-0"))
                .arg("+");
            command.arg("COUNT").arg(limit);
            command
        });
        let mut answers = self.read(shard, command).await?;
        let State { first, next, .. } = answers.state;
        let mut entries = Vec::new();
        if limit > 0 {
            for row in array(answers.values.next())? {
                let expected = from.max(first) + entries.len() as u64;
                let (id, entry) = entry(row).ok_or_else(nonsense)?;
                let value = decode_entry(&log, entry);
                let Some(value) = value.ok().filter(|_| id == expected && id < next) else {
                    return Err(damaged(format!("log entry {expected}")));
                };
                entries.push(Entry { id, value });
            }
        }
        let expected = next.saturating_sub(from.max(first)).min(limit);
        if (entries.len() as u64) < expected {
            let missing = from.max(first) + entries.len() as u64;
            return Err(damaged(format!("log entry {missing}")));
        }
        Ok(answers.with(LogPage {
            entries,
            first,
            next,
        }))
    }

    pub(super) async fn time(self: &Arc<Self>) -> Result<Timestamp, StoreError> {
        let answers = self.read(Shard::Sys, None).await?;
        Ok(Timestamp::from_micros(answers.micros))
    }

    pub(super) async fn trim(
        self: &Arc<Self>,
        shard: Shard,
        before: LogId,
    ) -> Result<(), StoreError> {
        validate::check_shard(shard, self.options.shards).map_err(|error| StoreError::Invalid {
            reason: error.to_string(),
        })?;
        // The text and not the name: it is not called often enough to be worth loading.
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("EVAL")
            .arg(&self.scripts.trim.text)
            .arg(2)
            .arg(key(shard, Kind::State, b""))
            .arg(key(shard, Kind::Log, b""))
            .arg(before);
        match self.query(&pipeline).await?.pop() {
            Some(Value::Array(parts)) if parts.first() == Some(&Value::Int(0)) => Ok(()),
            Some(Value::Array(_)) => Err(damaged("the state of a shard")),
            Some(Value::ServerError(error)) => {
                self.refused(judge(&error));
                Err(unavailable(reason(&error)))
            }
            _ => Err(nonsense()),
        }
    }
}

impl Answers {
    fn with<T>(&self, value: T) -> Read<T> {
        Read {
            value,
            time: Timestamp::from_micros(self.micros),
        }
    }
}

/// Whether a range has no room for a member.
fn is_empty(range: &Range) -> bool {
    range.end.as_ref().is_some_and(|end| *end <= range.start)
}

/// The bounds of a range as Redis writes them.
fn bounds(range: &Range) -> (Vec<u8>, Vec<u8>) {
    let start = if range.start.is_empty() {
        b"-".to_vec()
    } else {
        [b"[", range.start.as_ref()].concat()
    };
    let end = match &range.end {
        None => b"+".to_vec(),
        Some(end) => [b"(", end.as_ref()].concat(),
    };
    (start, end)
}

/// The microseconds of an answer to `TIME`.
fn micros(answer: Option<Value>) -> Option<u64> {
    let Some(Value::Array(parts)) = answer else {
        return None;
    };
    let mut numbers = parts.into_iter().map(|part| match part {
        Value::BulkString(text) => std::str::from_utf8(&text).ok()?.parse::<u64>().ok(),
        _ => None,
    });
    let (seconds, micros) = (numbers.next()??, numbers.next()??);
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

fn bytes(answer: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match answer {
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::Nil => Ok(None),
        Value::ServerError(error) => Err(unavailable(reason(&error))),
        _ => Err(nonsense()),
    }
}

fn array(answer: Option<Value>) -> Result<Vec<Value>, StoreError> {
    match answer {
        Some(Value::Array(values)) => Ok(values),
        Some(Value::ServerError(error)) => Err(unavailable(reason(&error))),
        _ => Err(nonsense()),
    }
}

/// The id and the bytes of an entry of a stream.
fn entry(row: Value) -> Option<(LogId, Vec<u8>)> {
    let Value::Array(row) = row else { return None };
    let [Value::BulkString(id), Value::Array(fields)] = <[Value; 2]>::try_from(row).ok()? else {
        return None;
    };
    let [_, Value::BulkString(entry)] = <[Value; 2]>::try_from(fields).ok()? else {
        return None;
    };
    let id = std::str::from_utf8(&id).ok()?.strip_suffix("-0")?;
    Some((id.parse().ok()?, entry))
}
