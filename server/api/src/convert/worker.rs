//! Workers and pools as callers see them.

use coretex_core::id::TenantId;
use coretex_engine::{PoolInfo, RunningAttempt, WorkerInfo};
use coretex_proto::v1;

use super::{count, time};
use crate::validate::{Fields, MAX_NAME};

/// Reads the library of a worker as one text: `name/version (language)`.
pub(crate) fn sdk(fields: &mut Fields, sdk: Option<v1::WorkerSdk>) -> String {
    let Some(sdk) = sdk else {
        return String::new();
    };
    fields.within("sdk", |fields| {
        let name = fields.line("name", sdk.name, MAX_NAME);
        let version = fields.line("version", sdk.version, MAX_NAME);
        let language = fields.line("language", sdk.language, MAX_NAME);
        format!("{name}/{version} ({language})")
    })
}

/// Writes the library of a worker.
fn write_sdk(text: &str) -> Option<v1::WorkerSdk> {
    if text.is_empty() {
        return None;
    }
    let (program, language) = text.rsplit_once(" (").unwrap_or((text, ""));
    // A name may hold a slash of its own, as Go modules do.
    let (name, version) = program.rsplit_once('/').unwrap_or((program, ""));
    Some(v1::WorkerSdk {
        name: name.to_owned(),
        version: version.to_owned(),
        language: language.trim_end_matches(')').to_owned(),
    })
}

/// What the connection of a worker is good for.
pub(crate) const fn state(worker: &WorkerInfo) -> v1::WorkerState {
    match (worker.connected, worker.draining) {
        (false, _) => v1::WorkerState::Disconnected,
        (true, true) => v1::WorkerState::Draining,
        (true, false) => v1::WorkerState::Ready,
    }
}

/// Writes a worker.
pub(crate) fn write(worker: WorkerInfo) -> v1::Worker {
    let served = worker.tenants_served.iter();
    v1::Worker {
        state: state(&worker).into(),
        worker_id: worker.worker_id.to_string(),
        tenant_id: worker.tenant.to_string(),
        pool: worker.pool.to_string(),
        topics: worker.topics.iter().map(ToString::to_string).collect(),
        capabilities: worker.capabilities,
        labels: worker.labels,
        tenants_served: served.map(ToString::to_string).collect(),
        max_parallel_jobs: count(worker.max_parallel_jobs),
        active_jobs: count(worker.active_jobs),
        cpu_load: worker.cpu_load,
        gpu_utilization: worker.gpu_utilization,
        session_id: worker.session_id.to_string(),
        replica_id: worker.replica_id.to_string(),
        principal_id: worker.principal_id,
        sdk: write_sdk(&worker.sdk),
        protocol_version: count(worker.protocol_version),
        connect_time: Some(time(worker.connect_time)),
        last_heartbeat_time: Some(time(worker.heard_time)),
    }
}

/// Writes an attempt that a worker has of a job of `tenant`.
pub(crate) fn running(running: &RunningAttempt, tenant: &TenantId) -> v1::AttemptRef {
    v1::AttemptRef {
        tenant_id: tenant.to_string(),
        job_id: running.job_id.to_string(),
        attempt: count(running.attempt),
        lease_id: String::new(),
    }
}

/// Writes a pool.
pub(crate) fn pool(pool: &PoolInfo) -> v1::Pool {
    let saturation = match pool.capacity {
        0 => 0.0,
        capacity => f64::from(pool.active) / f64::from(capacity),
    };
    v1::Pool {
        pool: pool.pool.to_string(),
        topics: pool.topics.iter().map(ToString::to_string).collect(),
        topic_patterns: pool
            .topic_patterns
            .iter()
            .map(ToString::to_string)
            .collect(),
        workers: count(pool.workers),
        capacity: count(pool.capacity),
        active: count(pool.active),
        waiting: count(pool.waiting),
        waiting_capped: pool.waiting_capped,
        saturation: saturation.min(1.0),
        paused: pool.paused,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::validate::check;

    #[test]
    fn the_library_survives_the_way_through_one_text() {
        for (name, version, language) in [
            ("coretex", "0.1.0", "rust"),
            ("github.com/x/coretex", "v1.2.3-rc1", "go"),
            ("bare", "", ""),
        ] {
            let sdk = v1::WorkerSdk {
                name: name.to_owned(),
                version: version.to_owned(),
                language: language.to_owned(),
            };
            let text = check(|fields| super::sdk(fields, Some(sdk.clone()))).unwrap();
            assert_eq!(write_sdk(&text), Some(sdk));
        }
        assert_eq!(write_sdk(""), None);
    }
}
