//! `coretexctl worker ...` but for `exec`.

use coretex::proto::{
    DrainWorkerRequest, GetWorkerRequest, ListWorkersRequest, ListWorkersResponse,
};

use super::Cx;
use crate::args::worker::Verb;
use crate::failure::Failure;

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::List { pool, topic } => {
            let workers = cx.client.all_workers(ListWorkersRequest {
                pool: pool.clone().unwrap_or_default(),
                topic: topic.clone().unwrap_or_default(),
                ..ListWorkersRequest::default()
            });
            cx.ui.show(&ListWorkersResponse {
                workers: workers.take(usize::MAX).await?,
                ..ListWorkersResponse::default()
            })
        }
        Verb::Get { id } => {
            let worker_id = id.worker_id.clone();
            let answer = cx.client.get_worker(GetWorkerRequest { worker_id }).await?;
            cx.ui.show(&answer)
        }
        Verb::Drain { id } => drain(cx, &id.worker_id, false).await,
        Verb::Undrain { id } => drain(cx, &id.worker_id, true).await,
        // Has a module of its own.
        Verb::Exec(_) => Ok(()),
    }
}

async fn drain(cx: &Cx<'_>, worker_id: &str, undo: bool) -> Result<(), Failure> {
    let request = DrainWorkerRequest {
        worker_id: worker_id.to_owned(),
        undo,
    };
    let answer = cx.client.drain_worker(request).await?;
    let worker = answer.worker.ok_or_else(|| Failure::incomplete("worker"))?;
    cx.ui.show(&worker)
}
