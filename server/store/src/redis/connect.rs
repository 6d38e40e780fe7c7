//! Connections: how they are made, and what is checked on each new one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value};

use crate::Shard;

use super::errors::{reason, text};
use super::layout::{FORMAT, IDENTITY, Identity, Kind, State, key};
use super::options::RedisOptions;
use super::seen::{Mark, Seen};
use super::server::Facts;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConnectError {
    /// Nobody answers, or not in a way that a store can use now.
    Unreachable(String),
    /// The login or its rights.
    Refused(String),
    /// What answers is not the store that was opened.
    OtherStore(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreachable(reason) | Self::Refused(reason) | Self::OtherStore(reason)) = self;
        f.write_str(reason)
    }
}

/// A connection that was checked.
pub(super) struct Connection {
    inner: MultiplexedConnection,
    /// It is not used again once the connector has another one.
    generation: u64,
}

impl Connection {
    /// Sends commands together and returns their answers, errors of the server among them.
    pub(super) async fn send(&mut self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        self.inner
            .send_packed_commands(commands, 0, commands.len())
            .await
    }

    /// The generation of the connector that made it.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// A second handle on the same connection.
    pub(super) fn handle(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            generation: self.generation,
        }
    }
}

/// Makes connections.
pub(super) struct Connector {
    client: Client,
    options: Arc<RedisOptions>,
    seen: Arc<Seen>,
    /// What the store said of itself when it was opened.
    identity: Mutex<Option<Identity>>,
    /// What the server that was last connected to says it is.
    version: Mutex<String>,
    generation: AtomicU64,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    pub(super) fn new(client: Client, options: Arc<RedisOptions>, seen: Arc<Seen>) -> Self {
        Self {
            client,
            options,
            seen,
            identity: Mutex::default(),
            version: Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// Fixes what the store must be from now on.
    pub(super) fn expect(&self, identity: Identity) {
        *self.identity.lock() = Some(identity);
    }

    /// The version of the server that was last connected to.
    pub(super) fn version(&self) -> String {
        self.version.lock().clone()
    }

    /// Gives up the connections of a generation: those that are made from now on are good.
    pub(super) fn renew(&self, generation: u64) {
        let _ = self.generation.compare_exchange(
            generation,
            generation + 1,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Gives up every connection that there is.
    pub(super) fn renew_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes a connection to a master that has the store, with this timeout for its answers.
    pub(super) async fn connect(
        &self,
        answers: Duration,
    ) -> Result<(Connection, Facts), ConnectError> {
        let limit = self.options.connect_timeout;
        tokio::time::timeout(limit, Box::pin(self.try_connect(answers)))
            .await
            .unwrap_or_else(|_| {
                Err(ConnectError::Unreachable(
                    "redis does not answer in time".to_owned(),
                ))
            })
    }

    async fn try_connect(&self, answers: Duration) -> Result<(Connection, Facts), ConnectError> {
        let generation = self.generation.load(Ordering::Acquire);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.connect_timeout))
            .set_response_timeout(Some(answers));
        let inner = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| refused(&error))?;
        let mut connection = Connection { inner, generation };
        let facts = self.look(&mut connection).await?;
        Ok((connection, facts))
    }

    /// Checks who answers, and whether the store is where it was.
    async fn look(&self, connection: &mut Connection) -> Result<Facts, ConnectError> {
        let question = self.question();
        let answers = connection
            .send(&question.commands)
            .await
            .map_err(|error| refused(&error))?;
        let report = question.report(answers)?;
        if !report.facts.is_master() {
            return Err(ConnectError::Unreachable(
                "this redis is a replica".to_owned(),
            ));
        }
        let store = self.recognise(connection, report.identity).await?;
        report
            .facts
            .text("redis_version")
            .clone_into(&mut self.version.lock());
        let run_id = report.facts.text("run_id");
        self.seen.connected(run_id, store, &report.found);
        Ok(report.facts)
    }

    /// What is asked of every new connection, and once a second.
    pub(super) fn question(&self) -> Question {
        let marks = self.seen.marks();
        let mut commands = Pipeline::new();
        commands
            .cmd("INFO")
            .arg(&["server", "replication", "memory", "persistence"]);
        commands.cmd("GET").arg(IDENTITY);
        for (shard, _) in &marks {
            commands.cmd("GET").arg(key(*shard, Kind::State, b""));
        }
        Question { commands, marks }
    }

    /// Compares the identity that was found with the expected one, and puts it back into a server
    /// that has lost everything: the store goes on, empty.
    async fn recognise(
        &self,
        connection: &mut Connection,
        found: Option<Vec<u8>>,
    ) -> Result<Option<u128>, ConnectError> {
        let Some(expected) = *self.identity.lock() else {
            return Ok(None);
        };
        let Some(found) = found else {
            let mut commands = Pipeline::new();
            commands.add_command(creation(&expected));
            // Fails on a server that takes no writes now, which others will notice.
            connection
                .send(&commands)
                .await
                .map_err(|error| refused(&error))?;
            return Ok(Some(expected.id));
        };
        match Identity::decode(&found) {
            Some(found) if found.format == FORMAT && found.shards == expected.shards => {
                Ok(Some(found.id))
            }
            _ => Err(ConnectError::OtherStore(
                "the redis database is not the store that was opened".to_owned(),
            )),
        }
    }
}

/// What a server is asked about itself and the store.
pub(super) struct Question {
    pub(super) commands: Pipeline,
    marks: Vec<(Shard, Mark)>,
}

/// What it answered.
pub(super) struct Report {
    pub(super) facts: Facts,
    pub(super) identity: Option<Vec<u8>>,
    /// How far each shard is, with how far it was known to be before.
    pub(super) found: Vec<(Shard, Mark, u64)>,
}

impl Question {
    /// Reads the answers.
    pub(super) fn report(self, answers: Vec<Value>) -> Result<Report, ConnectError> {
        let mut answers = answers.into_iter();
        let facts = bytes(answers.next())?.unwrap_or_default();
        let identity = bytes(answers.next())?;
        let mut found = Vec::with_capacity(self.marks.len());
        for (shard, mark) in self.marks {
            let stored = bytes(answers.next())?;
            let state = key(shard, Kind::State, b"");
            // What is damaged is reported by those who need it.
            if let Ok(state) = State::decode(&state, stored.as_deref()) {
                found.push((shard, mark, state.commits));
            }
        }
        Ok(Report {
            facts: Facts::new(String::from_utf8_lossy(&facts)),
            identity,
            found,
        })
    }
}

/// Creates the identity of a store where there is none.
pub(super) fn creation(identity: &Identity) -> Cmd {
    let mut cmd = redis::cmd("SET");
    cmd.arg(IDENTITY).arg(identity.encode()).arg("NX");
    cmd
}

fn refused(error: &RedisError) -> ConnectError {
    let words = text(error);
    match error.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => ConnectError::Refused(words),
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => ConnectError::Refused(words),
        _ => ConnectError::Unreachable(words),
    }
}

/// The bytes of an answer.
fn bytes(answer: Option<Value>) -> Result<Option<Vec<u8>>, ConnectError> {
    match answer {
        Some(Value::BulkString(bytes)) => Ok(Some(bytes)),
        Some(Value::VerbatimString { text, .. } | Value::SimpleString(text)) => {
            Ok(Some(text.into_bytes()))
        }
        Some(Value::ServerError(error)) => Err(match error.code() {
            "NOAUTH" | "WRONGPASS" | "NOPERM" => ConnectError::Refused(reason(&error)),
            _ => ConnectError::Unreachable(reason(&error)),
        }),
        _ => Ok(None),
    }
}

/// The keys that the scripts use of every shard, for a check of rights.
pub(super) fn scratch(shard: Shard) -> Vec<u8> {
    key(shard, Kind::Upload, b"rights")
}

/// Makes the connections of the pool. A connection is trusted until it fails: asking before every
/// read would double the round trips.
#[derive(Debug)]
pub(super) struct PoolManager(pub(super) Arc<Connector>);

impl Manager for PoolManager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        let timeout = self.0.options.read_timeout;
        self.0
            .connect(timeout)
            .await
            .map(|(connection, _)| connection)
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        _: &Metrics,
    ) -> RecycleResult<ConnectError> {
        if connection.generation == self.0.generation.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(RecycleError::message("made before the last failure"))
        }
    }
}
