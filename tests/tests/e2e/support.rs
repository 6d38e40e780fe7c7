//! What the tests of this program share.

use coretex::proto::{
    EngineStatus, GetJobRequest, GetStatusRequest, JobAttempt, JobEvent, ListJobAttemptsRequest,
};
use coretex::proto::{JobState, ListJobEventsRequest, SubmitJobRequest};
use coretex::{Client, Job, Submit};
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;

/// Makes two tests of each scenario, which is a function of the pair of engines that it runs on.
macro_rules! on_both_pairs {
    ($($scenario:ident),+ $(,)?) => {
        mod embedded_and_inproc {
            use coretex_tests::cluster::backends::Pair;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $scenario() {
                    Box::pin(super::$scenario(&Pair::Embedded)).await;
                }
            )+
        }

        mod redis_and_nats {
            use coretex_tests::cluster::backends::Pair;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $scenario() {
                    if let Some(pair) = Pair::redis_and_nats().await {
                        Box::pin(super::$scenario(&pair)).await;
                    }
                }
            )+
        }
    };
}

/// Starts the servers; skips the test, and says so, where they are not installed.
macro_rules! servers {
    ($fsync:literal) => {
        match Pair::durable($fsync).await {
            Some(Pair::Servers(servers)) => (Pair::Servers(Arc::clone(&servers)), servers),
            _ => return,
        }
    };
}

/// Submits a job and waits for its end.
pub(crate) async fn result(submit: Submit) -> Job {
    in_time("the end of a job", Box::pin(submit.result()))
        .await
        .unwrap()
}

/// Submits a job as a client does that does not give up.
pub(crate) async fn submit_for_sure(client: &Client, request: &SubmitJobRequest) -> coretex::Job {
    let submitted = poll::until_async("a job to be accepted", PATIENCE, async || {
        match client.submit_job(request.clone()).await {
            Ok(answer) => Ok(answer.job.unwrap()),
            Err(error) if error.is_retryable() => Err(error.to_string()),
            Err(error) => panic!("refused: {error}"),
        }
    });
    submitted.await
}

/// The job as it stands.
pub(crate) async fn get(client: &Client, job_id: &str) -> Job {
    let request = GetJobRequest {
        job_id: job_id.to_owned(),
        ..GetJobRequest::default()
    };
    client.get_job(request).await.unwrap().job.unwrap()
}

/// Waits until a job is as it should be.
pub(crate) async fn until(
    client: &Client,
    job_id: &str,
    what: &str,
    is: impl Fn(&Job) -> bool,
) -> Job {
    poll::until_async(what, PATIENCE, async || {
        let job = get(client, job_id).await;
        if is(&job) {
            Ok(job)
        } else {
            Err(format!("{job:?}"))
        }
    })
    .await
}

/// Waits until a job is in a state.
pub(crate) async fn until_state(client: &Client, job_id: &str, state: JobState) -> Job {
    let what = format!("job {job_id} to be {}", state.as_str_name());
    until(client, job_id, &what, |job| job.state() == state).await
}

/// All kept events of a job.
pub(crate) async fn events(client: &Client, job_id: &str) -> Vec<JobEvent> {
    let request = ListJobEventsRequest {
        job_id: job_id.to_owned(),
        ..ListJobEventsRequest::default()
    };
    client.list_job_events(request).await.unwrap().events
}

/// All kept attempts of a job.
pub(crate) async fn attempts(client: &Client, job_id: &str) -> Vec<JobAttempt> {
    let request = ListJobAttemptsRequest {
        job_id: job_id.to_owned(),
        ..ListJobAttemptsRequest::default()
    };
    client.list_job_attempts(request).await.unwrap().attempts
}

/// How many of the events say that a job has ended.
pub(crate) fn endings(events: &[JobEvent]) -> usize {
    let is_end = |event: &&JobEvent| coretex::is_final(event.to_state());
    let was_open = |event: &&JobEvent| !coretex::is_final(event.from_state());
    events.iter().filter(is_end).filter(was_open).count()
}

/// What the server says of its store and its bus.
pub(crate) async fn engines(client: &Client) -> [EngineStatus; 2] {
    let status = client.get_status(GetStatusRequest {}).await.unwrap();
    status.engines.try_into().unwrap()
}

/// Waits until a line stands among the metrics.
pub(crate) async fn until_metric_is(server: &Server, line: &str) {
    poll::until_async(line, PATIENCE, async || {
        let (_, page) = server.page("/metrics").await;
        let found = page.lines().any(|found| found == line);
        found.then_some(()).ok_or(page)
    })
    .await;
}
