//! `WorkerService`: sessions of workers, and looking at workers and pools.

mod session;

use coretex_core::id::WorkerId;
use coretex_engine::{Caller, Engine, WorkerInfo};
use coretex_proto::v1;
use coretex_proto::v1::worker_service_server::WorkerService;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::call::answer;
use crate::problem::Result as Outcome;
use crate::validate::{Fields, MAX_TEXT, check};
use crate::{convert, page};
use convert::pause::Named;
use session::Outbox;

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    engine: Engine,
}

impl Workers {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

/// Reads the id of a worker.
fn worker_id(id: &str) -> Outcome<WorkerId> {
    check(|fields| fields.id("worker_id", id, WorkerId::parse, WorkerId::from_trusted))
}

/// Which workers a list shows.
struct Shown {
    pool: String,
    topic: String,
    states: Vec<v1::WorkerState>,
}

impl Shown {
    fn read(fields: &mut Fields, request: &v1::ListWorkersRequest) -> Self {
        if !request.pool.is_empty() {
            fields.name("pool", &request.pool);
        }
        if !request.topic.is_empty() {
            fields.topic("topic", &request.topic);
        }
        Self {
            pool: request.pool.clone(),
            topic: request.topic.clone(),
            states: fields.values("states", &request.states),
        }
    }

    fn matches(&self, worker: &WorkerInfo) -> bool {
        let state = convert::worker::state(worker);
        let topic = |topic: &coretex_core::id::Topic| topic.as_str() == self.topic;
        (self.pool.is_empty() || self.pool == worker.pool.as_str())
            && (self.topic.is_empty() || worker.topics.iter().any(topic))
            && (self.states.is_empty() || self.states.contains(&state))
    }

    fn list_name(&self, caller: &Caller) -> u64 {
        let states = format!("{:?}", self.states);
        let tenant = caller.tenant.as_str();
        page::list_name(["workers", tenant, &self.pool, &self.topic, &states])
    }
}

#[async_trait]
impl WorkerService for Workers {
    type OpenSessionStream = Outbox;

    async fn open_session(
        &self,
        request: Request<Streaming<v1::OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        answer(request, |call, inbound| async move {
            Ok(session::open(self.engine.clone(), call, inbound))
        })
        .await
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        answer(request, |call, request| async move {
            let (shown, page) = check(|fields| {
                let shown = Shown::read(fields, &request);
                let page = page::read(fields, request.page_size, request.page_token);
                (shown, page)
            })?;
            let list = shown.list_name(&call.caller);
            let page = page::unseal(page, list)?;
            let (mut workers, next) = self.engine.list_workers(&call.caller, page).await?;
            workers.retain(|worker| shown.matches(worker));
            Ok(v1::ListWorkersResponse {
                workers: workers.into_iter().map(convert::worker::write).collect(),
                next_page_token: page::seal(&next, list),
            })
        })
        .await
    }

    async fn get_worker(
        &self,
        request: Request<v1::GetWorkerRequest>,
    ) -> Result<Response<v1::GetWorkerResponse>, Status> {
        answer(request, |call, request| async move {
            let id = worker_id(&request.worker_id)?;
            let worker = self.engine.get_worker(&call.caller, &id).await?;
            let running = self
                .engine
                .running_on(&call.caller, &worker)
                .await?
                .into_iter();
            let tenant = &call.caller.tenant;
            Ok(v1::GetWorkerResponse {
                worker: Some(convert::worker::write(worker)),
                running: running
                    .map(|running| convert::worker::running(&running, tenant))
                    .collect(),
            })
        })
        .await
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        answer(request, |call, request| async move {
            let id = worker_id(&request.worker_id)?;
            let drained = self.engine.drain_worker(&call.caller, &id, request.undo);
            Ok(v1::DrainWorkerResponse {
                worker: Some(convert::worker::write(drained.await?)),
            })
        })
        .await
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        answer(request, |call, request| async move {
            let list = page::list_name(["pools", call.caller.tenant.as_str()]);
            let page = check(|fields| page::read(fields, request.page_size, request.page_token))?;
            let page = page::unseal(page, list)?;
            let (pools, next) = self.engine.list_pools(&call.caller, page).await?;
            Ok(v1::ListPoolsResponse {
                pools: pools.iter().map(convert::worker::pool).collect(),
                next_page_token: page::seal(&next, list),
            })
        })
        .await
    }

    async fn pause_pool(
        &self,
        request: Request<v1::PausePoolRequest>,
    ) -> Result<Response<v1::PausePoolResponse>, Status> {
        answer(request, |call, request| async move {
            let named = Named {
                pool: request.pool,
                topic: request.topic,
                tenant_id: request.tenant_id,
                all_tenants: request.all_tenants,
            };
            let (scope, reason) = check(|fields| {
                let scope = convert::pause::scope(fields, &named, &call.caller);
                (scope, fields.text("reason", request.reason, MAX_TEXT))
            })?;
            let pause = self.engine.pause_jobs(&call.caller, scope, reason).await?;
            Ok(v1::PausePoolResponse {
                pause: Some(convert::pause::write(&pause)),
            })
        })
        .await
    }

    async fn resume_pool(
        &self,
        request: Request<v1::ResumePoolRequest>,
    ) -> Result<Response<v1::ResumePoolResponse>, Status> {
        answer(request, |call, request| async move {
            let named = Named {
                pool: request.pool,
                topic: request.topic,
                tenant_id: request.tenant_id,
                all_tenants: request.all_tenants,
            };
            let scope = check(|fields| convert::pause::scope(fields, &named, &call.caller))?;
            let pause = self.engine.resume_jobs(&call.caller, scope).await?;
            Ok(v1::ResumePoolResponse {
                pause: pause.as_ref().map(convert::pause::write),
            })
        })
        .await
    }

    async fn list_pauses(
        &self,
        request: Request<v1::ListPausesRequest>,
    ) -> Result<Response<v1::ListPausesResponse>, Status> {
        answer(request, |call, request| async move {
            let list = page::list_name(["pauses", call.caller.tenant.as_str()]);
            let page = check(|fields| page::read(fields, request.page_size, request.page_token))?;
            let page = page::unseal(page, list)?;
            let (pauses, next) = self.engine.list_pauses(&call.caller, page).await?;
            Ok(v1::ListPausesResponse {
                pauses: pauses.iter().map(convert::pause::write).collect(),
                next_page_token: page::seal(&next, list),
            })
        })
        .await
    }
}
