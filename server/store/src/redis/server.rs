//! What a server says about itself (`INFO`), and whether a store can stand on it.

use crate::Durability;

use super::options::{RedisOpenError, RedisOptions};

/// The oldest version that works: the first with flags of scripts, by which a script is refused
/// as a whole and may run although memory is full.
const NEEDED: &str = "7.0";

/// The fields of an answer to `INFO`.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts(String);

impl Facts {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A field, empty when there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(field, value)| (field == name).then_some(value))
            .unwrap_or_default()
    }

    /// A field that is a number, zero when there is none.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub(super) fn is_master(&self) -> bool {
        self.text("role") == "master"
    }
}

/// What `CONFIG GET appendonly appendfsync` says; `None` where the user may not ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Append {
    pub(super) only: bool,
    pub(super) fsync: String,
}

/// Checks that the server is new enough and keeps everything.
pub(super) fn check(facts: &Facts) -> Result<(), RedisOpenError> {
    let found = facts.text("redis_version");
    if version(found) < version(NEEDED) {
        return Err(RedisOpenError::Version {
            found: found.to_owned(),
            needed: NEEDED,
        });
    }
    let policy = facts.text("maxmemory_policy");
    if policy != "noeviction" {
        return Err(RedisOpenError::Eviction {
            found: policy.to_owned(),
        });
    }
    Ok(())
}

fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Checks that the server gives the durability that was asked for.
pub(super) fn check_durability(
    options: &RedisOptions,
    facts: &Facts,
    append: Option<&Append>,
) -> Result<(), RedisOpenError> {
    let refuse = |wanted, reason: String| Err(RedisOpenError::Durability { wanted, reason });
    let has_file = append.map_or(facts.number("aof_enabled") == 1, |append| append.only);
    match options.durability {
        Durability::Ephemeral => Ok(()),
        Durability::Async if has_file => {
            match append {
                None => tracing::warn!(
                    "the redis user may not run CONFIG GET: appendfsync is not known"
                ),
                Some(append) if append.fsync == "no" => tracing::warn!(
                    "redis has appendfsync no: a crash of its machine may lose half a minute"
                ),
                Some(_) => {}
            }
            Ok(())
        }
        Durability::Async => refuse(
            "async",
            "appendonly is no, so a restart may lose everything; set appendonly yes, or ask for \
             ephemeral"
                .to_owned(),
        ),
        Durability::Replicated => {
            let replicas = facts.number("connected_slaves");
            if replicas >= u64::from(options.replicas) {
                return Ok(());
            }
            let wanted = options.replicas;
            refuse(
                "replicated",
                format!("it has {replicas} replicas, {wanted} are needed"),
            )
        }
        Durability::Fsync => match append {
            None => refuse(
                "fsync",
                "the redis user may not run CONFIG GET, so appendfsync cannot be checked"
                    .to_owned(),
            ),
            Some(append) if !append.only => refuse("fsync", "appendonly is no".to_owned()),
            Some(append) if append.fsync != "always" => refuse(
                "fsync",
                format!("appendfsync is {}, not always", append.fsync),
            ),
            Some(_) => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(version: &str, policy: &str) -> Facts {
        Facts::new(format!(
            "# Server\r\nredis_version:{version}\r\nmaxmemory_policy:{policy}\r\nrole:master\r\n"
        ))
    }

    #[test]
    fn old_and_forgetful_servers_are_refused() {
        assert!(check(&facts("7.0.15", "noeviction")).is_ok());
        assert!(check(&facts("10.1", "noeviction")).is_ok());
        for (version, policy) in [("6.2.14", "noeviction"), ("", "noeviction")] {
            let refused = check(&facts(version, policy));
            assert!(matches!(refused, Err(RedisOpenError::Version { .. })));
        }
        let refused = check(&facts("7.2.0", "allkeys-lru"));
        assert!(matches!(refused, Err(RedisOpenError::Eviction { .. })));
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let facts = Facts::new("a_used_memory:1\r\nused_memory:27\r\nrole:slave\r\n");
        assert_eq!(facts.number("used_memory"), 27);
        assert_eq!(facts.number("maxmemory"), 0);
        assert!(!facts.is_master());
    }
}
