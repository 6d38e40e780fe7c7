//! Why a job is not running.

use coretex_engine::{Cause, Diagnosis, PoolDiagnosis, WorkerDiagnosis};
use coretex_proto::v1;

use super::job::state;
use super::{count, time};

/// The most pools that are named; with all their workers they fit into one message.
const MAX_POOLS: usize = 100;
/// The most workers that are named for each pool.
const MAX_WORKERS: usize = 100;
/// The most that are named as being in the way.
const MAX_HOLDERS: usize = 10;

/// Writes a diagnosis.
pub(crate) fn write(diagnosis: Diagnosis) -> v1::DiagnoseJobResponse {
    v1::DiagnoseJobResponse {
        state: state(diagnosis.state).into(),
        causes: diagnosis.causes.into_iter().map(cause).collect(),
        queue_position: count(diagnosis.queue_position),
        queue_position_capped: diagnosis.queue_position_capped,
        pools: diagnosis
            .pools
            .into_iter()
            .take(MAX_POOLS)
            .map(pool)
            .collect(),
    }
}

fn cause(cause: Cause) -> v1::JobCause {
    let mut holders = cause.holders;
    holders.truncate(MAX_HOLDERS);
    v1::JobCause {
        code: cause.code.to_owned(),
        message: cause.message,
        remedy: cause.remedy,
        until_time: cause.until_time.map(time),
        holders,
    }
}

fn pool(pool: PoolDiagnosis) -> v1::PoolDiagnosis {
    v1::PoolDiagnosis {
        pool: pool.pool.to_string(),
        eligible: pool.eligible,
        reason: pool.reason,
        workers: pool
            .workers
            .into_iter()
            .take(MAX_WORKERS)
            .map(worker)
            .collect(),
    }
}

fn worker(worker: WorkerDiagnosis) -> v1::WorkerDiagnosis {
    v1::WorkerDiagnosis {
        worker_id: worker.worker_id.to_string(),
        eligible: worker.eligible,
        message: worker.reason.clone(),
        reason: worker.reason,
    }
}
