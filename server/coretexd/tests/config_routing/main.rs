//! The routing tables of the file: every field is read, every mistake has its place, and nothing
//! that anybody can write makes the loader stumble.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

mod entries;
mod files;
mod mutations;
mod reading;
mod values;

use std::fs;
use std::path::Path;

use clap::Parser;
use coretex_core::id::{PoolName, TenantId, Topic};
use coretex_core::routing::{Routing, TopicRule};
use coretexd::config::{ConfigError, Flags, Loaded, load};

pub(crate) fn load_bytes(folder: &Path, bytes: &[u8]) -> Result<Loaded, ConfigError> {
    let path = folder.join("c.toml");
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let flags = Flags::parse_from(["coretexd", "--config", path]);
    load(&flags, &[("HOME", "/home/somebody")].into_iter().collect())
}

pub(crate) fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    load_bytes(folder.path(), text.as_bytes())
}

pub(crate) fn tables(text: &str) -> Routing {
    let loaded = load_text(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    loaded.config.routing
}

/// What is wrong with a file, one line each: `line:column: message`.
pub(crate) fn refused(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let error = load_bytes(folder.path(), text.as_bytes()).unwrap_err();
    let file = format!("{}/c.toml:", folder.path().display());
    let problems = error.problems.iter();
    problems
        .map(|problem| {
            let place = problem.place.strip_prefix(&file).unwrap();
            format!("{place}: {}", problem.message)
        })
        .collect()
}

pub(crate) fn topic_rule(routing: &Routing, topic: &str) -> TopicRule {
    let topic = Topic::parse(topic).unwrap();
    routing.topic(&topic).unwrap().1.clone()
}

pub(crate) fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

/// Every key of every table.
pub(crate) const FULL: &str = r#"
[topics."job.a.*"]
pools = ["gpu", "default"]
tenants = ["acme"]
capability = "render"
risk_tags = ["money", "pii"]
timeout = "10m"
schedule_to_start_timeout = "1h30m"

[topics."job.a.*".retry]
max_attempts = 5
initial_backoff = "250ms"
multiplier = 1.5
max_backoff = "10s"
jitter = 0
non_retryable_codes = ["bad_input"]

[topics."job.a.*".concurrency]
key = "model"
limit = 4
on_limit = "cancel-oldest"

[topics."job.>"]
retry = { max_attempts = 2 }
concurrency = { limit = 1 }

[pools]
default = {}

[pools.gpu]
capabilities = ["cuda"]
tenants = ["acme", "other"]
weight = 1000
skip_overloaded = true

[tenants.acme]
weight = 7
max_running_jobs = 200
submit_rate = "100/s"
submit_burst = 500

[tenants."*"]
max_running_jobs = 20
submit_rate = "1_000/10m"
"#;
