//! Submitting: idempotency, names, waiting, payloads, limits, refusals.

use std::time::Duration;

use bytes::Bytes;
use coretex_core::id::JobId;
use coretex_core::job::JobState;
use coretex_core::payload::{Content, Payload};
use coretex_engine::{Error, JobFilter, Limits, Retention, Role, SubmitJob, ToWorker};
use coretex_store::Pressure;
use coretex_store::layers::FaultRates;
use tokio::time::Instant;

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, admin, caller, hello, is_no_job, jump, keyed, millis,
    named, pass, request, secs, with,
};

fn waiting(wait: Duration) -> SubmitJob {
    SubmitJob {
        wait: Some(wait),
        ..request("job.a")
    }
}

async fn count(bench: &Bench) -> u64 {
    let (admin, filter) = (admin(), JobFilter::default());
    let count = bench.engine.count_jobs(&admin, &filter).await;
    count.unwrap().count
}

#[tokio::test(start_paused = true)]
async fn the_same_key_and_content_answer_with_the_same_job() {
    let bench = Bench::new().await;
    let first = bench.submit(keyed("job.a", "k")).await;
    assert!(!first.replayed);
    let again = bench.submit(keyed("job.a", "k")).await;
    assert!(again.replayed);
    assert_eq!(again.answer.job.id, first.answer.job.id);
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    let ended = bench.submit(keyed("job.a", "k")).await;
    assert!(ended.replayed);
    assert_eq!(ended.answer.job.state, JobState::Succeeded);
    assert!(ended.answer.job.output.is_some());
    worker.quiet(secs(3)).await;
    bench.audit().await;
}

fn reused(job: Option<&JobId>) -> Error {
    let job_id = job.cloned();
    Error::IdempotencyKeyReused { job_id }
}

#[tokio::test(start_paused = true)]
async fn another_content_under_the_same_key_is_refused() {
    let bench = Bench::new().await;
    let made = bench.job_of(keyed("job.a", "k")).await;
    let mut others = Vec::new();
    others.push(keyed("job.b", "k"));
    others.push(SubmitJob {
        input: None,
        ..keyed("job.a", "k")
    });
    others.push(SubmitJob {
        job_id: Some(crate::support::id("mine")),
        ..keyed("job.a", "k")
    });
    let mut late = keyed("job.a", "k");
    late.spec.timeout = secs(7);
    others.push(late);
    for other in others {
        let refused = bench.engine.submit_job(&admin(), other).await;
        assert_eq!(refused.err(), Some(reused(Some(&made))));
    }
    // How long the caller waits is no content, and keys belong to tenants.
    let waits = SubmitJob {
        wait: Some(millis(1)),
        ..keyed("job.a", "k")
    };
    assert!(bench.submit(waits).await.replayed);
    let foreign = caller("other", "key:o", &[Role::Admin]);
    let other = bench.engine.submit_job(&foreign, keyed("job.a", "k")).await;
    assert!(!other.unwrap().replayed);
    assert_eq!(count(&bench).await, 1);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_outlives_its_job_for_a_day_and_nothing_runs_twice() {
    let bench = Bench::with(Setup {
        retention: Retention {
            jobs: secs(60),
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let first = bench.job_of(keyed("job.a", "k")).await;
    let attempt = worker.assignment().await;
    assert!(worker.succeed(&attempt).await);
    worker.cut().await;
    jump(secs(120)).await;
    assert!(is_no_job(
        &bench.engine.get_job(&admin(), &first, false).await
    ));
    for hours in [1_u64, 20] {
        jump(secs(hours * 3_600)).await;
        let mut worker = bench.connect(hello("w", &["job.a", "job.b"], 2)).await;
        let again = bench.engine.submit_job(&admin(), keyed("job.a", "k")).await;
        assert!(is_no_job(&again), "{again:?}");
        let other = bench.engine.submit_job(&admin(), keyed("job.b", "k")).await;
        assert_eq!(other.err(), Some(reused(Some(&first))));
        assert_eq!(count(&bench).await, 0);
        worker.quiet(secs(3)).await;
    }
    jump(secs(4 * 3_600)).await;
    let anew = bench.submit(keyed("job.a", "k")).await;
    assert!(!anew.replayed);
    assert_ne!(anew.answer.job.id, first);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_job_id_is_the_same_job_or_refused() {
    let bench = Bench::new().await;
    bench.submit(named("job.a", "one")).await;
    assert!(bench.submit(named("job.a", "one")).await.replayed);
    let mut other = named("job.a", "one");
    other.spec.timeout = secs(5);
    let refused = bench.engine.submit_job(&admin(), other).await;
    assert_eq!(
        refused.err(),
        Some(Error::AlreadyExists {
            id: "one".to_owned()
        })
    );
    let foreign = caller("other", "key:o", &[Role::Admin]);
    let other = bench.engine.submit_job(&foreign, named("job.a", "one"));
    assert!(!other.await.unwrap().replayed);
    // With key and id: the same again, and without the key.
    let both = SubmitJob {
        idempotency_key: "k".to_owned(),
        ..named("job.a", "two")
    };
    assert!(!bench.submit(both.clone()).await.replayed);
    assert!(bench.submit(both.clone()).await.replayed);
    assert!(bench.submit(named("job.a", "two")).await.replayed);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_shows_nobody_the_job_of_another_submitter() {
    let bench = Bench::new().await;
    let (one, two) = (
        caller("acme", "key:one", &[Role::Submitter]),
        caller("acme", "key:two", &[Role::Submitter]),
    );
    let keyed_job = bench.engine.submit_job(&one, keyed("job.a", "k")).await;
    let keyed_job = keyed_job.unwrap().answer.job.id.clone();
    let named_job = bench.engine.submit_job(&one, named("job.a", "j")).await;
    named_job.unwrap();
    let by_key = bench.engine.submit_job(&two, keyed("job.a", "k")).await;
    assert_eq!(by_key.err(), Some(reused(None)));
    // With other content, only who may see the job learns of it.
    for (caller, job) in [(&one, Some(&keyed_job)), (&two, None)] {
        let other = bench.engine.submit_job(caller, keyed("job.b", "k")).await;
        assert_eq!(other.err(), Some(reused(job)), "{caller:?}");
    }
    let by_id = bench.engine.submit_job(&two, named("job.a", "j")).await;
    assert!(matches!(by_id, Err(Error::AlreadyExists { .. })));
    // Who may see all jobs of the tenant may have the replay.
    assert!(bench.submit(keyed("job.a", "k")).await.replayed);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn sixty_four_identical_submits_make_one_job() {
    for make in [keyed("job.a", "k"), named("job.a", "n")] {
        let bench = Bench::new().await;
        bench.faulty.rates(FaultRates {
            delay: 1.0,
            longest_delay: millis(50),
            ..FaultRates::default()
        });
        let submits = (0..64).map(|_| bench.engine.submit_job(&ADMIN, make.clone()));
        let answers = futures::future::join_all(submits).await;
        let mut ids = std::collections::BTreeSet::new();
        let mut made = 0;
        for answer in answers {
            let answer = answer.unwrap();
            made += u32::from(!answer.replayed);
            ids.insert(answer.answer.job.id.clone());
        }
        assert_eq!((made, ids.len()), (1, 1));
        assert_eq!(count(&bench).await, 1);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_submit_that_waits_answers_with_the_finished_job() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let work = async {
        let attempt = worker.assignment().await;
        pass(secs(3)).await;
        assert!(worker.succeed(&attempt).await);
    };
    let started = Instant::now();
    let (answer, ()) = tokio::join!(bench.submit(waiting(secs(30))), work);
    assert_eq!(answer.answer.job.state, JobState::Succeeded);
    assert!(answer.answer.job.output.is_some());
    assert!(started.elapsed() <= secs(3) + millis(20));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_runs_out_answers_with_the_job_as_it_is() {
    let bench = Bench::new().await;
    let started = Instant::now();
    let answer = bench.submit(waiting(secs(5))).await;
    assert_eq!(answer.answer.job.state, JobState::Pending);
    assert_eq!(answer.answer.waiting_reason, "no_workers");
    let took = started.elapsed();
    assert!(took >= secs(5) && took <= secs(5) + millis(20), "{took:?}");
    // Longer than a minute is a minute.
    let started = Instant::now();
    let (id, admin) = (answer.answer.job.id.clone(), admin());
    let waited = bench.engine.wait_job(&admin, &id, secs(3_600), true).await;
    assert_eq!(waited.unwrap().job.state, JobState::Pending);
    assert!(started.elapsed() <= secs(60) + millis(20));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_waits_does_not_miss_the_end() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    // Large, so that the replay has to read a second record before it waits.
    let large = Payload::json(Bytes::from(vec![b'1'; 20 * 1024]));
    let make = SubmitJob {
        input: Some(large),
        ..keyed("job.a", "k")
    };
    bench.submit(make.clone()).await;
    let attempt = worker.assignment().await;
    bench.tap.slow_reads(millis(100));
    let started = Instant::now();
    let again = SubmitJob {
        wait: Some(secs(30)),
        ..make
    };
    let work = async {
        // After the replay has read the job, before it knows that the job still runs.
        pass(millis(250)).await;
        worker.finish(&attempt, crate::support::succeeded()).await;
    };
    let (answer, ()) = tokio::join!(bench.submit(again), work);
    assert!(answer.replayed);
    assert_eq!(answer.answer.job.state, JobState::Succeeded);
    assert!(started.elapsed() < secs(2), "{:?}", started.elapsed());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn large_payloads_stand_apart_and_come_back_whole() {
    let bench = Bench::new().await;
    let input = Payload::json(Bytes::from(vec![b'7'; 20 * 1024]));
    let output = Payload {
        content: Content::Raw(Bytes::from(vec![7; 600 * 1024])),
        content_type: "application/x-seven".to_owned(),
    };
    // Handed out at once, and after waiting.
    for fast in [true, false] {
        let mut worker = None;
        if fast {
            worker = Some(bench.connect(hello("w", &["job.a"], 1)).await);
            pass(secs(1)).await;
        }
        let job = SubmitJob {
            input: Some(input.clone()),
            ..request("job.a")
        };
        let submitted = bench.submit(job).await.answer.job;
        assert_eq!(submitted.lease.is_some(), fast);
        assert_eq!(submitted.input.as_ref(), Some(&input));
        let mut worker = match worker {
            Some(worker) => worker,
            None => bench.connect(hello("w", &["job.a"], 1)).await,
        };
        let ToWorker::Assignment { job, attempt, .. } = worker.next().await else {
            panic!("not an assignment");
        };
        assert_eq!(job.input.as_ref(), Some(&input));
        let done = coretex_core::job::transition::Outcome::Succeeded {
            output: Some(output.clone()),
        };
        worker.finish(&attempt, done).await;
        assert!(worker.ack().await);
        let whole = bench.job(&attempt.job_id).await;
        assert_eq!(whole.input.as_ref(), Some(&input));
        assert_eq!(whole.output.as_ref(), Some(&output));
        let basic = bench.engine.get_job(&admin(), &attempt.job_id, false).await;
        assert!(basic.unwrap().job.output.as_ref().unwrap().is_apart());
        worker.cut().await;
    }
    let audit = bench.audit().await;
    assert_eq!((audit.records["in"], audit.records["out"]), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_team_that_the_credential_does_not_list_is_refused() {
    let bench = Bench::new().await;
    let job = with("job.a", |spec| spec.team_id = "red".to_owned());
    let mut caller = admin();
    let refused = bench.engine.submit_job(&caller, job.clone()).await;
    assert_eq!(
        refused.err(),
        Some(Error::TeamNotAllowed {
            team_id: "red".to_owned()
        })
    );
    caller.team_ids.insert("red".to_owned());
    bench.engine.submit_job(&caller, job).await.unwrap();
    assert_eq!(count(&bench).await, 1);
    bench.audit().await;
}

fn at_most(waiting: u64) -> Setup {
    Setup {
        limits: Limits {
            max_waiting_jobs: waiting,
            ..Limits::default()
        },
        ..Setup::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_waiting_jobs_is_exact() {
    let bench = Bench::with(at_most(10)).await;
    bench.faulty.rates(FaultRates {
        delay: 1.0,
        longest_delay: millis(20),
        ..FaultRates::default()
    });
    let later = bench.now() + secs(3_600);
    let submits = (0..64).map(|n| {
        // Scheduled jobs count too.
        let job = with("job.a", |spec| {
            spec.not_before = (n % 2 == 0).then_some(later);
        });
        bench.engine.submit_job(&ADMIN, job)
    });
    let answers = futures::future::join_all(submits).await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, 10);
    let refused = Error::TooManyWaitingJobs { limit: 10 };
    assert!(
        answers
            .iter()
            .flat_map(|answer| answer.as_ref().err())
            .all(|error| *error == refused)
    );
    // Another tenant has its own.
    let foreign = caller("other", "key:o", &[Role::Admin]);
    bench
        .engine
        .submit_job(&foreign, request("job.a"))
        .await
        .unwrap();
    // Room again as soon as one leaves, and only for one.
    let first = answers
        .into_iter()
        .flatten()
        .next()
        .unwrap()
        .answer
        .job
        .id
        .clone();
    let cancelled = bench
        .engine
        .cancel_job(&admin(), &first, String::new(), None, false)
        .await;
    cancelled.unwrap();
    bench.submit(request("job.a")).await;
    let over = bench.engine.submit_job(&admin(), request("job.a")).await;
    assert_eq!(over.err(), Some(refused));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_answered_at_the_limit_too() {
    let bench = Bench::with(at_most(2)).await;
    let made = bench.job_of(keyed("job.a", "k")).await;
    bench.submit(named("job.a", "n")).await;
    assert!(bench.submit(keyed("job.a", "k")).await.replayed);
    assert!(bench.submit(named("job.a", "n")).await.replayed);
    let other = bench.engine.submit_job(&admin(), keyed("job.b", "k")).await;
    assert_eq!(other.err(), Some(reused(Some(&made))));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_wait_needs_no_room() {
    let bench = Bench::with(at_most(1)).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    bench.submit(request("job.other")).await;
    pass(secs(1)).await;
    let job = bench.submit(request("job.a")).await;
    assert_eq!(job.answer.job.state, JobState::Dispatched);
    worker.assignment().await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_or_failing_store_takes_no_jobs_but_results() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    bench.submit(request("job.a")).await;
    let attempt = worker.assignment().await;
    bench.tap.pretend(Pressure::High);
    let refused = bench.engine.submit_job(&admin(), request("job.a")).await;
    assert_eq!(refused.err(), Some(Error::StoreFull));
    assert!(worker.succeed(&attempt).await);
    bench.tap.pretend(Pressure::ReadOnly);
    let refused = bench.engine.submit_job(&admin(), request("job.a")).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
    assert!(bench.engine.not_ready().is_some());
    assert_eq!(count(&bench).await, 1);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_refuses_and_says_so() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let id = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    let engine = bench.engine.clone();
    let drain = tokio::spawn(async move { engine.drain(secs(5)).await });
    assert!(matches!(worker.next().await, ToWorker::Drain { .. }));
    let refused = bench.engine.submit_job(&admin(), request("job.a")).await;
    assert_eq!(refused.err(), Some(Error::Draining));
    let other = bench.engine.open_session(&ADMIN, hello("x", &["job.a"], 1));
    assert_eq!(other.await.err(), Some(Error::Draining));
    assert_eq!(bench.engine.not_ready().as_deref(), Some("draining"));
    // What is out is still taken.
    assert!(worker.succeed(&attempt).await);
    drain.await.unwrap();
    assert_eq!(bench.state(&id).await, JobState::Succeeded);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_job_is_an_accepted_one() {
    let kernel = Script::new(Answer::Deny);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    let job = bench.submit(keyed("job.a", "k")).await.answer.job;
    assert_eq!(job.state, JobState::Denied);
    assert_eq!(job.decision.as_ref().unwrap().reason, "the script says so");
    kernel.say(Answer::Allow);
    // A replay is no new judgement.
    let again = bench.submit(keyed("job.a", "k")).await;
    assert!(again.replayed);
    assert_eq!(again.answer.job.state, JobState::Denied);
    bench.audit().await;
}
