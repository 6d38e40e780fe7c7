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
}

paged! {
    /// All workers that match, by name.
    all_workers = list_workers(ListWorkersRequest) -> workers: Worker;
    /// All pools, by name.
    all_pools = list_pools(ListPoolsRequest) -> pools: Pool;
}
