//! Attempts that are lost with their worker or server, and those that only seem to be. Who comes
//! back in time is in `adoption`.

use coretex_core::job::{JobState, WorkerLossPolicy};
use coretex_store::layers::Fault;

use crate::support::{
    Bench, Setup, Worker, admin, again, hello, id, named, pass, request, secs, succeeded, with,
    with_attempt,
};

#[tokio::test(start_paused = true)]
async fn after_the_window_the_job_is_queued_again_and_counted() {
    let bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    pass(secs(1)).await;
    let cut = bench.now();
    worker.cut().await;
    pass(secs(14)).await;
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.state, job.redispatches), (JobState::Running, 0));
    assert_eq!(bench.cause(&attempt.job_id).await, "worker_disconnected");
    pass(secs(2)).await;
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(
        (job.state, job.redispatches, job.failures),
        (JobState::Pending, 1, 0)
    );
    let waited = job.events.last().unwrap().time.since(cut);
    assert!(waited >= secs(15) && waited <= secs(16), "{waited:?}");
    // Who comes back now has to stop.
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(
        worker.session.welcome.revoked,
        std::slice::from_ref(&attempt)
    );
    let second = worker.assignment().await;
    assert_eq!(second.attempt, 2);
    assert!(
        !worker.succeed(&attempt).await,
        "a result of the old attempt"
    );
    assert!(worker.succeed(&second).await);
    let job = bench.job(&attempt.job_id).await;
    assert!(job.attempts.iter().next().unwrap().late_result);
    bench.audit().await;
}

async fn lose(bench: &Bench, times: usize) {
    for _ in 0..times {
        let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
        worker.assignment().await;
        worker.cut().await;
        pass(secs(17)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn losses_have_a_budget_of_their_own() {
    let bench = Bench::new().await;
    let job = bench
        .job_of(with("job.a", |spec| {
            spec.max_redispatch = 2;
            spec.retry.max_attempts = 2;
        }))
        .await;
    lose(&bench, 2).await;
    assert_eq!(bench.state(&job).await, JobState::Pending);
    lose(&bench, 1).await;
    let job = bench.job(&job).await;
    assert_eq!(
        (job.state, job.redispatches, job.failures),
        (JobState::Failed, 2, 0)
    );
    assert_eq!(job.error.as_ref().unwrap().code, "worker_lost");
    let never = with("job.a", |spec| spec.max_redispatch = 0);
    let never = bench.job_of(never).await;
    lose(&bench, 1).await;
    assert_eq!(bench.state(&never).await, JobState::Failed);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn at_most_once_means_at_most_once() {
    let bench = Bench::new().await;
    let job = bench
        .job_of(with("job.a", |spec| {
            spec.on_worker_loss = WorkerLossPolicy::Fail;
        }))
        .await;
    lose(&bench, 1).await;
    let job = bench.job(&job).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    assert_eq!(job.error.as_ref().unwrap().code, "worker_lost");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_never_sent_is_no_loss() {
    // The outcome of the commit stays unknown for longer than anybody resends it.
    let bench = Bench::with(Setup {
        resend: false,
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    bench.faulty.script([Fault::After]);
    let mut job = named("job.a", "j");
    job.spec.on_worker_loss = WorkerLossPolicy::Fail;
    let answer = bench.engine.submit_job(&admin(), job).await;
    assert_eq!(answer.err(), Some(coretex_engine::Error::OutcomeUnknown));
    assert_eq!(bench.state(&id("j")).await, JobState::Dispatched);
    worker.beat_for(secs(15)).await;
    let second = worker.assignment().await;
    assert_eq!(second.attempt, 2);
    let job = bench.job(&id("j")).await;
    assert_eq!((job.redispatches, job.failures), (0, 0));
    assert!(worker.succeed(&second).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_stops_nobody_else() {
    let bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    let healthy = bench.job_of(request("job.a")).await;
    pass(secs(1)).await;
    // Somebody scribbles over the record.
    let key = bytes::Bytes::from(format!("job/acme\0{}", attempt.job_id).into_bytes());
    let nonsense = bytes::Bytes::from_static(b"\x01nonsense");
    bench.overwrite(key, nonsense).await;
    worker.cut().await;
    pass(secs(20)).await;
    // The other attempt of the lost session was given up, and silent sessions still end.
    let job = bench.job(&healthy).await;
    assert_eq!(job.redispatches, 1, "{:?}", job.events);
    let mut silent = bench.connect(hello("x", &["job.other"], 1)).await;
    assert!(silent.is_closed(secs(32)).await);
}

#[tokio::test(start_paused = true)]
async fn the_attempts_of_a_dead_server_are_given_up_by_another() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, _tap) = bench.another().await.unwrap();
    pass(secs(20)).await;
    let (_worker, attempt) = with_attempt(&bench).await;
    bench.tap.kill();
    let mut worker = Worker::connect(&other, hello("x", &["job.a"], 1)).await;
    worker.beat_for(secs(45)).await;
    let second = worker.assignment().await;
    assert_eq!((second.attempt, &second.job_id), (2, &attempt.job_id));
    worker.finish(&second, succeeded()).await;
    assert!(worker.ack().await);
    let audit = bench.audit().await;
    assert!(audit.held.is_empty());
}
