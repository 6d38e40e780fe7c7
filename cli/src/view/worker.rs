//! Workers and pools.

use coretex::proto::{
    GetWorkerResponse, ListPoolsResponse, ListWorkersResponse, Worker, WorkerState,
};

use super::{Fields, Grid, Paint, Tint, age, at_least, documents, pairs, short, time};

documents! {
    Worker => details;
    GetWorkerResponse => with_jobs;
    ListWorkersResponse => list;
    ListPoolsResponse => pools;
}

fn state(worker: &Worker) -> (Tint, String) {
    let name = short(worker.state().as_str_name(), "WORKER_STATE_").to_owned();
    let tint = match worker.state() {
        WorkerState::Ready => Tint::Good,
        WorkerState::Draining => Tint::Waiting,
        WorkerState::Disconnected => Tint::Bad,
        WorkerState::Unspecified => Tint::Plain,
    };
    (tint, name)
}

fn active(worker: &Worker) -> String {
    format!("{}/{}", worker.active_jobs, worker.max_parallel_jobs)
}

fn fields(worker: &Worker, paint: Paint) -> Fields {
    let mut fields = Fields::new(paint);
    fields.add("worker", worker.worker_id.as_str());
    fields.add("pool", worker.pool.as_str());
    let (tint, state) = state(worker);
    fields.tinted("state", tint, state);
    fields.add("topics", worker.topics.join(", "));
    fields.add("capabilities", worker.capabilities.join(", "));
    fields.add("labels", pairs(&worker.labels));
    fields.add("jobs", active(worker));
    fields.add("cpu", format!("{:.0} %", worker.cpu_load));
    if worker.gpu_utilization > 0.0 {
        fields.add("gpu", format!("{:.0} %", worker.gpu_utilization));
    }
    fields.add("tenant", worker.tenant_id.as_str());
    fields.add("serves tenants", worker.tenants_served.join(", "));
    fields.add("principal", worker.principal_id.as_str());
    if let Some(sdk) = &worker.sdk {
        fields.add(
            "library",
            format!("{} {} ({})", sdk.name, sdk.version, sdk.language),
        );
    }
    fields.add("session", worker.session_id.as_str());
    fields.add("server", worker.replica_id.as_str());
    fields.add("connected", time(worker.connect_time.as_ref()));
    fields.add("last seen", time(worker.last_heartbeat_time.as_ref()));
    fields
}

fn details(worker: &Worker, paint: Paint) -> String {
    fields(worker, paint).finish()
}

fn with_jobs(answer: &GetWorkerResponse, paint: Paint) -> String {
    let worker = answer.worker.clone().unwrap_or_default();
    let mut fields = fields(&worker, paint);
    for running in &answer.running {
        fields.add(
            "runs",
            format!("{} (attempt {})", running.job_id, running.attempt),
        );
    }
    fields.finish()
}

fn list(page: &ListWorkersResponse, paint: Paint) -> String {
    let head = [
        "WORKER",
        "POOL",
        "STATE",
        "JOBS",
        "CPU",
        "TOPICS",
        "CONNECTED",
        "SEEN",
    ];
    let mut grid = Grid::new(paint, &head);
    for worker in &page.workers {
        grid.tinted([
            (Tint::Plain, worker.worker_id.clone()),
            (Tint::Plain, worker.pool.clone()),
            state(worker),
            (Tint::Plain, active(worker)),
            (Tint::Plain, format!("{:.0}%", worker.cpu_load)),
            (Tint::Plain, worker.topics.join(",")),
            (Tint::Plain, age(worker.connect_time.as_ref())),
            (Tint::Plain, age(worker.last_heartbeat_time.as_ref())),
        ]);
    }
    grid.finish()
}

fn pools(page: &ListPoolsResponse, paint: Paint) -> String {
    let head = [
        "POOL",
        "WORKERS",
        "ACTIVE",
        "WAITING",
        "SATURATION",
        "PAUSED",
        "TOPICS",
    ];
    let mut grid = Grid::new(paint, &head);
    for pool in &page.pools {
        // A pool without workers is known by its patterns alone.
        let names = match pool.topics.as_slice() {
            [] => &pool.topic_patterns,
            _ => &pool.topics,
        };
        grid.row([
            pool.pool.clone(),
            pool.workers.to_string(),
            format!("{}/{}", pool.active, pool.capacity),
            at_least(pool.waiting, pool.waiting_capped),
            format!("{:.0}%", pool.saturation * 100.0),
            if pool.paused { "yes" } else { "no" }.to_owned(),
            names.join(","),
        ]);
    }
    grid.finish()
}
