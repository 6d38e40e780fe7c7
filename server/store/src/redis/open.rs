//! Opening: is this server one that a store can stand on, and is it our store?

use std::sync::Arc;

use redis::{Client, ClientTlsConfig, IntoConnectionInfo, Pipeline, TlsCertificates, Value};

use crate::Shard;

use super::connect::{ConnectError, Connection, Connector, creation, scratch};
use super::errors::{reason, text};
use super::layout::{FORMAT, IDENTITY, Identity};
use super::options::{RedisOpenError, RedisOptions};
use super::script::Scripts;
use super::seen::Seen;
use super::server::{self, Append};

/// What opening finds.
pub(super) struct Opened {
    pub(super) connector: Connector,
    pub(super) seen: Arc<Seen>,
    pub(super) scripts: Scripts,
    pub(super) identity: Identity,
}

/// Opens the store, creating it where there is none.
pub(super) async fn open(options: Arc<RedisOptions>) -> Result<Opened, RedisOpenError> {
    let seen = Arc::new(Seen::default());
    let connector = Connector::new(client(&options)?, options.clone(), seen.clone());
    let (mut connection, facts) =
        connector
            .connect(options.read_timeout)
            .await
            .map_err(|error| match error {
                ConnectError::Unreachable(reason) => RedisOpenError::Unreachable { reason },
                ConnectError::Refused(reason) => RedisOpenError::Refused { reason },
                ConnectError::OtherStore(reason) => RedisOpenError::Foreign { reason },
            })?;
    server::check(&facts)?;
    let append = append(&mut connection).await?;
    server::check_durability(&options, &facts, append.as_ref())?;
    let scripts = Scripts::new();
    check_rights(&mut connection, &scripts, options.shards).await?;
    let identity = identity(&mut connection, &options).await?;
    connector.expect(identity);
    tracing::info!(
        version = facts.text("redis_version"),
        appendonly = facts.number("aof_enabled") == 1,
        appendfsync = append.as_ref().map_or("unknown", |append| append.fsync.as_str()),
        durability = ?options.durability,
        maxmemory = facts.number("maxmemory"),
        "opened the redis store"
    );
    Ok(Opened {
        connector,
        seen,
        scripts,
        identity,
    })
}

fn client(options: &RedisOptions) -> Result<Client, RedisOpenError> {
    // The parser's own words may quote the URL.
    let wrong = |reason| RedisOpenError::Options { reason };
    let info = options
        .url
        .as_str()
        .into_connection_info()
        .map_err(|_| wrong("the redis url is not understood"))?;
    let tls = &options.tls;
    if tls.ca.is_none() && tls.identity.is_none() {
        return Client::open(info).map_err(|_| wrong("the redis url is not understood"));
    }
    let client_tls = tls
        .identity
        .clone()
        .map(|(client_cert, client_key)| ClientTlsConfig {
            client_cert,
            client_key,
        });
    let certificates = TlsCertificates {
        client_tls,
        root_cert: tls.ca.clone(),
    };
    Client::build_with_tls(info, certificates)
        .map_err(|_| wrong("certificates need a rediss url and have to be in PEM"))
}

async fn send(
    connection: &mut Connection,
    commands: &Pipeline,
) -> Result<Vec<Value>, RedisOpenError> {
    connection
        .send(commands)
        .await
        .map_err(|error| RedisOpenError::Unreachable {
            reason: text(&error),
        })
}

/// How the server writes its append-only file; `None` where the user may not ask.
async fn append(connection: &mut Connection) -> Result<Option<Append>, RedisOpenError> {
    let mut commands = Pipeline::new();
    commands
        .cmd("CONFIG")
        .arg("GET")
        .arg("appendonly")
        .arg("appendfsync");
    let answer = send(connection, &commands).await?.pop();
    let fields: Vec<String> = match answer {
        Some(Value::Array(fields)) => fields.into_iter().filter_map(word).collect(),
        Some(Value::Map(fields)) => fields
            .into_iter()
            .flat_map(|(name, value)| [word(name), word(value)])
            .flatten()
            .collect(),
        // Refused, or renamed away as hosted servers do.
        _ => return Ok(None),
    };
    let field = |name: &str| {
        let position = fields.iter().position(|field| field == name)?;
        fields.get(position + 1).cloned()
    };
    Ok(field("appendonly").map(|only| Append {
        only: only == "yes",
        fsync: field("appendfsync").unwrap_or_default(),
    }))
}

fn word(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Checks that the user may do everything that commits and reads do, in every shard.
async fn check_rights(
    connection: &mut Connection,
    scripts: &Scripts,
    shards: u16,
) -> Result<(), RedisOpenError> {
    let mut commands = Pipeline::new();
    commands.cmd("SCRIPT").arg("LOAD").arg(&scripts.rights.text);
    commands.cmd("SCRIPT").arg("LOAD").arg(&scripts.read.text);
    for script in scripts.of_writer() {
        commands.cmd("SCRIPT").arg("LOAD").arg(&script.text);
    }
    for shard in [Shard::Sys].into_iter().chain((0..shards).map(Shard::Data)) {
        let key = scratch(shard);
        let sha = &scripts.rights.sha;
        commands.cmd("EVALSHA").arg(sha).arg(1).arg(key);
    }
    for answer in send(connection, &commands).await? {
        if let Value::ServerError(error) = answer {
            return Err(RedisOpenError::Refused {
                reason: reason(&error),
            });
        }
    }
    Ok(())
}

/// The identity of the store, created where there is none.
async fn identity(
    connection: &mut Connection,
    options: &RedisOptions,
) -> Result<Identity, RedisOpenError> {
    let ours = Identity {
        format: FORMAT,
        shards: options.shards,
        id: options.ids.random(),
    };
    let mut commands = Pipeline::new();
    commands.add_command(creation(&ours));
    commands.cmd("GET").arg(IDENTITY);
    let mut answers = send(connection, &commands).await?;
    let found = match answers.pop() {
        Some(Value::BulkString(found)) => found,
        _ => {
            let reason = answers.pop().and_then(|answer| match answer {
                Value::ServerError(error) => Some(reason(&error)),
                _ => None,
            });
            return Err(RedisOpenError::Refused {
                reason: reason.unwrap_or_else(|| "the store cannot be created".to_owned()),
            });
        }
    };
    let Some(found) = Identity::decode(&found) else {
        return Err(RedisOpenError::Foreign {
            reason: format!("{IDENTITY} is something else"),
        });
    };
    if found.format != FORMAT {
        return Err(RedisOpenError::Format {
            found: found.format,
            supported: FORMAT,
        });
    }
    if found.shards != options.shards {
        return Err(RedisOpenError::Shards {
            found: found.shards,
            wanted: options.shards,
        });
    }
    Ok(found)
}
