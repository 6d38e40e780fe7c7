//! How the server is: memory, disk, role, looked at every few seconds.

use std::sync::{Arc, Weak};

use redis::{Pipeline, Value};
use tokio::time::MissedTickBehavior;

use crate::{Pressure, Shard, StoreError, Usage};

use super::Shared;
use super::errors::{Refusal, judge, unavailable};
use super::layout::{Identity, Kind, key};
use super::server::Facts;

/// Above this share of the memory there may be, new work is refused.
const HIGH_PERCENT: u64 = 85;

/// Looks at the server until the store is gone or closed.
pub(super) async fn run(shared: Weak<Shared>) {
    let Some(first) = shared.upgrade() else {
        return;
    };
    let mut ticks = tokio::time::interval(first.options.poll);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut closed = first.closing.subscribe();
    drop(first);
    loop {
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            _ = ticks.tick() => {}
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // A server that does not answer is noticed by those who need it.
        if let Ok(facts) = ask(&shared).await {
            look(&shared, &facts).await;
        }
    }
}

/// Asks the server how it is and where the shards are.
pub(super) async fn ask(shared: &Arc<Shared>) -> Result<Facts, StoreError> {
    let question = shared.connector.question();
    let answers = shared.query(&question.commands).await?;
    let report = question
        .report(answers)
        .map_err(|error| unavailable(error.to_string()))?;
    if report.facts.is_master() {
        let store = report.identity.as_deref().and_then(Identity::decode);
        let store = store.map(|identity| identity.id);
        let run_id = report.facts.text("run_id");
        shared.seen.connected(run_id, store, &report.found);
    }
    Ok(report.facts)
}

/// Bytes in use and allowed.
pub(super) fn usage(facts: &Facts) -> Usage {
    Usage {
        bytes: facts.number("used_memory"),
        capacity: facts.number("maxmemory"),
    }
}

/// What the memory means for new work.
pub(super) fn pressure(usage: Usage) -> Pressure {
    if usage.capacity == 0 {
        Pressure::Normal
    } else if usage.bytes >= usage.capacity {
        Pressure::ReadOnly
    } else if u128::from(usage.bytes) * 100 >= u128::from(usage.capacity) * u128::from(HIGH_PERCENT)
    {
        Pressure::High
    } else {
        Pressure::Normal
    }
}

async fn look(shared: &Arc<Shared>, facts: &Facts) {
    if !facts.is_master() {
        shared.refused(Refusal::NotMaster);
        return;
    }
    let policy = facts.text("maxmemory_policy");
    if policy != "noeviction" {
        tracing::error!(
            policy,
            "redis loses data when it is full; set maxmemory-policy noeviction"
        );
    }
    let mut pressure = pressure(usage(facts));
    // Whether writes work is found out by writing: Redis does not count all of its memory, and
    // disks and replicas may be in the way too.
    if pressure == Pressure::ReadOnly || shared.pressure() == Pressure::ReadOnly {
        pressure = match (writes(shared).await, pressure) {
            (false, _) => Pressure::ReadOnly,
            (true, Pressure::Normal) => Pressure::Normal,
            (true, Pressure::High | Pressure::ReadOnly) => Pressure::High,
        };
    }
    shared.set_pressure(pressure);
}

/// Whether the server takes a write.
async fn writes(shared: &Arc<Shared>) -> bool {
    let mut commands = Pipeline::new();
    commands
        .cmd("SET")
        .arg(key(Shard::Sys, Kind::Upload, b"probe"))
        .arg("")
        .arg("PX")
        .arg(1_000);
    match shared.query(&commands).await {
        Ok(answers) => match answers.first() {
            Some(Value::ServerError(error)) => {
                shared.refused(judge(error));
                false
            }
            _ => true,
        },
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_follows_memory() {
        let with = |bytes, capacity| pressure(Usage { bytes, capacity });
        assert_eq!(with(1 << 40, 0), Pressure::Normal);
        assert_eq!(with(84, 100), Pressure::Normal);
        assert_eq!(with(85, 100), Pressure::High);
        assert_eq!(with(100, 100), Pressure::ReadOnly);
    }
}
