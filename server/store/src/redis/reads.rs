//! Reads: each is one call of the read script, so that its parts are of one instant.

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

/// The answer to a read, with the store time and state of its instant.
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
    async fn read(self: &Arc<Self>, shard: Shard, ask: Ask) -> Result<Answers, StoreError> {
        validate::check_shard(shard, self.options.shards).map_err(|error| StoreError::Invalid {
            reason: error.to_string(),
        })?;
        let state = key(shard, Kind::State, b"");
        let script = &self.scripts.read;
        let mark = self.seen.mark(shard);
        let command = ask.command("EVALSHA", &script.sha, &state);
        let mut answer = self.query(&single(command)).await?.pop();
        if let Some(Value::ServerError(error)) = &answer
            && judge(error) == Refusal::NoScript
        {
            // This loads it too.
            let command = ask.command("EVAL", &script.text, &state);
            answer = self.query(&single(command)).await?.pop();
        }
        let mut parts = array(answer)?.into_iter();
        let clock = micros(parts.next(), parts.next()).ok_or_else(nonsense)?;
        let stored = bytes(parts.next().ok_or_else(nonsense)?)?;
        let state = State::decode(&state, stored.as_deref())
            .map_err(|_| damaged("the state of a shard"))?;
        self.seen.saw(shard, mark, state.commits);
        Ok(Answers {
            state,
            micros: self.seen.time(clock.max(state.time)).as_micros(),
            values: array(parts.next())?.into_iter(),
        })
    }

    pub(super) async fn get(
        self: &Arc<Self>,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError> {
        let mut ask = Ask::new("get");
        ask.keys = keys
            .iter()
            .map(|name| key(shard, Kind::Record, name))
            .collect();
        let full = ask.keys.clone();
        let mut answers = self.read(shard, ask).await?;
        let mut records = Vec::with_capacity(keys.len());
        for (full, name) in full.iter().zip(keys) {
            let value = answers.values.next().ok_or_else(nonsense)?;
            records.push(match bytes(value)? {
                None => None,
                Some(stored) => decode_record(full, stored, answers.micros)
                    .map_err(|_| damaged(format!("record {}", printable(name))))?,
            });
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
        let mut ask = Ask::new("range");
        ask.operand(match order {
            Order::Ascending => "ZRANGEBYLEX",
            Order::Descending => "ZREVRANGEBYLEX",
        });
        ask.operand(limit.to_string());
        for range in ranges.iter().filter(|range| !empty(range)) {
            ask.keys.push(key(shard, Kind::Index, &range.index));
            let (start, end) = bounds(range);
            let (from, to) = match order {
                Order::Ascending => (start, end),
                Order::Descending => (end, start),
            };
            ask.operand(from);
            ask.operand(to);
        }
        let mut answers = self.read(shard, ask).await?;
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
        // Neither command walks through the members.
        let whole = range.start.is_empty() && range.end.is_none();
        let empty = is_empty(range);
        let mut ask = Ask::new(match (empty, whole) {
            (true, _) => "time",
            (false, true) => "size",
            (false, false) => "count",
        });
        if !empty {
            ask.keys.push(key(shard, Kind::Index, &range.index));
            let (start, end) = bounds(range);
            ask.operand(start);
            ask.operand(end);
        }
        let mut answers = self.read(shard, ask).await?;
        let members = match answers.values.next() {
            None if empty => 0,
            Some(Value::Int(members)) => u64::try_from(members).unwrap_or(0),
            _ => return Err(nonsense()),
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
        // Redis takes a count of zero for nothing at all.
        let mut ask = Ask::new(if limit > 0 { "tail" } else { "time" });
        ask.keys.push(log.clone());
        ask.operand(from.to_string());
        ask.operand(limit.to_string());
        let answers = self.read(shard, ask).await?;
        let State { first, next, .. } = answers.state;
        let from = from.max(first);
        let mut entries = Vec::new();
        for (row, expected) in answers.values.clone().zip(from..) {
            let (id, entry) = entry(row).ok_or_else(nonsense)?;
            let value = decode_entry(&log, entry).ok();
            let Some(value) = value.filter(|_| id == expected && id < next) else {
                return Err(damaged(format!("log entry {expected}")));
            };
            entries.push(Entry { id, value });
        }
        let found = entries.len() as u64;
        if found < next.saturating_sub(from).min(limit) {
            return Err(damaged(format!("log entry {}", from + found)));
        }
        Ok(answers.with(LogPage {
            entries,
            first,
            next,
        }))
    }

    pub(super) async fn time(self: &Arc<Self>) -> Result<Timestamp, StoreError> {
        let answers = self.read(Shard::Sys, Ask::new("time")).await?;
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

/// What is asked of the read script.
struct Ask {
    keys: Vec<Vec<u8>>,
    operands: Vec<Vec<u8>>,
}

impl Ask {
    fn new(what: &str) -> Self {
        Self {
            keys: Vec::new(),
            operands: vec![what.as_bytes().to_vec()],
        }
    }

    fn operand(&mut self, operand: impl Into<Vec<u8>>) {
        self.operands.push(operand.into());
    }

    fn command(&self, name: &str, script: &str, state: &[u8]) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len() + 1).arg(state);
        for word in self.keys.iter().chain(&self.operands) {
            command.arg(word.as_slice());
        }
        command
    }
}

fn single(command: Cmd) -> Pipeline {
    let mut commands = Pipeline::with_capacity(1);
    commands.add_command(command);
    commands
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
fn micros(seconds: Option<Value>, micros: Option<Value>) -> Option<u64> {
    let number = |part: Option<Value>| match part? {
        Value::BulkString(text) => std::str::from_utf8(&text).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    number(seconds)?
        .checked_mul(1_000_000)?
        .checked_add(number(micros)?)
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
