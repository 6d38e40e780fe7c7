//! The calls of `WorkerService` that look at workers. Being one is in [`crate::worker`].

use coretex_proto::v1::worker_service_client::WorkerServiceClient;

use super::call::unary;
use super::items::paged;

unary! {
    /// Shows a page of workers, by name. See also [`all_workers`](Self::all_workers).
    WorkerServiceClient::list_workers("/coretex.v1.WorkerService/ListWorkers", ListWorkersRequest)
        -> ListWorkersResponse;
    /// Shows one worker and what it runs.
    WorkerServiceClient::get_worker("/coretex.v1.WorkerService/GetWorker", GetWorkerRequest)
        -> GetWorkerResponse;
    /// Stops handing jobs to a worker, or starts again.
    WorkerServiceClient::drain_worker("/coretex.v1.WorkerService/DrainWorker", DrainWorkerRequest)
        -> DrainWorkerResponse;
    /// Shows a page of pools, by name. See also [`all_pools`](Self::all_pools).
    WorkerServiceClient::list_pools("/coretex.v1.WorkerService/ListPools", ListPoolsRequest)
        -> ListPoolsResponse;
    /// Stops handing out the jobs of a pool, a topic or a tenant.
    WorkerServiceClient::pause_pool("/coretex.v1.WorkerService/PausePool", PausePoolRequest)
        -> PausePoolResponse;
    /// Hands them out again.
    WorkerServiceClient::resume_pool("/coretex.v1.WorkerService/ResumePool", ResumePoolRequest)
        -> ResumePoolResponse;
    /// Shows a page of what is paused. See also [`all_pauses`](Self::all_pauses).
    WorkerServiceClient::list_pauses("/coretex.v1.WorkerService/ListPauses", ListPausesRequest)
        -> ListPausesResponse;
}

paged! {
    /// All workers that match, by name.
    all_workers = list_workers(ListWorkersRequest) -> workers: Worker;
    /// All pools, by name.
    all_pools = list_pools(ListPoolsRequest) -> pools: Pool;
    /// All pauses.
    all_pauses = list_pauses(ListPausesRequest) -> pauses: Pause;
}
