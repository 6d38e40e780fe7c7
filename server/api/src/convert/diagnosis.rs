//! Why a job is not running.

use coretex_engine::{Cause, Diagnosis, PoolDiagnosis, WorkerDiagnosis};
use coretex_proto::v1;
use prost::Message;

use super::job::state;
use super::{count, time};
use crate::page::MAX_RESPONSE_BYTES;

/// The most pools that are named.
const MAX_POOLS: usize = 100;
/// The most workers that are named for each pool.
const MAX_WORKERS: usize = 100;
/// The most bytes of all workers that are named: each may lack a label with a long name and value.
const MAX_WORKER_BYTES: usize = MAX_RESPONSE_BYTES / 2;
/// The most that are named as being in the way.
const MAX_HOLDERS: usize = 10;

/// Writes a diagnosis.
pub(crate) fn write(diagnosis: Diagnosis) -> v1::DiagnoseJobResponse {
    let mut room = MAX_WORKER_BYTES;
    v1::DiagnoseJobResponse {
        state: state(diagnosis.state).into(),
        causes: diagnosis.causes.into_iter().map(cause).collect(),
        queue_position: count(diagnosis.queue_position),
        queue_position_capped: diagnosis.queue_position_capped,
        pools: diagnosis
            .pools
            .into_iter()
            .take(MAX_POOLS)
            .map(|diagnosed| pool(diagnosed, &mut room))
            .collect(),
    }
}

fn cause(cause: Cause) -> v1::JobCause {
    let mut holders = cause.holders;
    holders.truncate(MAX_HOLDERS);
    v1::JobCause {
        code: cause.code.into_owned(),
        message: cause.message,
        remedy: cause.remedy,
        until_time: cause.until_time.map(time),
        holders,
    }
}

fn pool(pool: PoolDiagnosis, room: &mut usize) -> v1::PoolDiagnosis {
    let fits = |worker: &v1::WorkerDiagnosis| {
        let left = room.checked_sub(worker.encoded_len());
        *room = left.unwrap_or(0);
        left.is_some()
    };
    v1::PoolDiagnosis {
        pool: pool.pool.to_string(),
        eligible: pool.eligible,
        reason: pool.reason.to_owned(),
        message: pool.message,
        workers: pool
            .workers
            .into_iter()
            .take(MAX_WORKERS)
            .map(worker)
            .take_while(fits)
            .collect(),
    }
}

fn worker(worker: WorkerDiagnosis) -> v1::WorkerDiagnosis {
    v1::WorkerDiagnosis {
        worker_id: worker.worker_id.to_string(),
        eligible: worker.eligible,
        reason: worker.reason.to_owned(),
        message: worker.message,
    }
}

#[cfg(test)]
mod tests {
    use coretex_core::id::{PoolName, WorkerId};
    use coretex_core::job::JobState;

    use super::*;

    #[test]
    fn a_diagnosis_fits_into_a_response_whatever_workers_are_called() {
        let worker = WorkerDiagnosis {
            worker_id: WorkerId::from_trusted(&"w".repeat(128)),
            eligible: false,
            reason: "label_mismatch",
            message: "x".repeat(2_500),
        };
        let pool = |n: usize| PoolDiagnosis {
            pool: PoolName::from_trusted(&format!("p{n}")),
            eligible: false,
            reason: "no_worker_matches",
            message: "x".repeat(5 * 2_500),
            workers: vec![worker.clone(); 100],
        };
        let diagnosis = Diagnosis {
            state: JobState::Pending,
            causes: Vec::new(),
            queue_position: 1,
            queue_position_capped: false,
            pools: (0..200).map(pool).collect(),
        };
        let written = write(diagnosis);
        assert!(written.encoded_len() <= MAX_RESPONSE_BYTES);
        assert_eq!(written.pools.len(), MAX_POOLS);
        let first = &written.pools[0];
        assert_eq!(first.reason, "no_worker_matches");
        assert!(first.message.starts_with('x'));
        assert_eq!(first.workers.len(), 100);
        assert_eq!(first.workers[0].reason, "label_mismatch");
        assert!(first.workers[0].message.starts_with('x'));
    }
}
