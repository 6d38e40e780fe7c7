//! Workers and pools as callers see them.

use coretex_engine::{PoolInfo, WorkerInfo};
use coretex_proto::v1;

use super::{count, time};
use crate::validate::{Fields, MAX_NAME};

/// Counting of waiting jobs stops here.
const WAITING_CAP: u64 = 10_000;

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

/// Writes a worker.
pub(crate) fn write(worker: WorkerInfo) -> v1::Worker {
    let state = if worker.draining {
        v1::WorkerState::Draining
    } else {
        v1::WorkerState::Ready
    };
    v1::Worker {
        worker_id: worker.worker_id.to_string(),
        tenant_id: worker.tenant.to_string(),
        pool: worker.pool.to_string(),
        state: state.into(),
        topics: worker.topics.iter().map(ToString::to_string).collect(),
        capabilities: worker.capabilities.into_iter().collect(),
        labels: worker.labels,
        tenants_served: Vec::new(),
        max_parallel_jobs: count(worker.max_parallel_jobs),
        active_jobs: count(worker.active_jobs),
        cpu_load: worker.cpu_load,
        gpu_utilization: worker.gpu_utilization,
        session_id: worker.session_id.to_string(),
        replica_id: worker.replica_id.to_string(),
        principal_id: String::new(),
        sdk: write_sdk(&worker.sdk),
        protocol_version: 1,
        connect_time: Some(time(worker.connect_time)),
        last_heartbeat_time: Some(time(worker.heartbeat_time)),
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
        workers: count(pool.workers),
        capacity: count(pool.capacity),
        active: count(pool.active),
        waiting: count(pool.waiting),
        waiting_capped: pool.waiting >= WAITING_CAP,
        saturation: saturation.min(1.0),
        paused: false,
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
