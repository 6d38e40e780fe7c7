//! A store that fails, forgets to answer and answers late: every job still ends once.
//!
//! One fault at each point of whole lives is for the simulation (`tests/simulation`). Here are many
//! jobs on a bad store, a store that is away, and faults at what is written beside: renewals,
//! adoptions, assignments that are given back. [`robot`] is who asks until it is answered.

mod robot;

use coretex_core::job::JobState;
use coretex_engine::{PageRequest, SubmitJob};
use coretex_store::CommitError;
use coretex_store::layers::{Fault, FaultRates};
use tokio::time::Instant;

use crate::support::{
    ADMIN, Bench, Setup, hello, id, keyed, millis, pass, request, secs, succeeded,
};
use robot::{Robot, submit_for_sure};

fn faults() -> Vec<Fault> {
    vec![
        Fault::Before(CommitError::Unavailable {
            reason: "test".to_owned(),
        }),
        Fault::Before(CommitError::Overloaded {
            retry_after: millis(20),
        }),
        Fault::Before(CommitError::Unknown {
            reason: "test".to_owned(),
        }),
        Fault::After,
        Fault::Late(millis(300)),
        Fault::Late(secs(14)),
        Fault::Delay(millis(300)),
        Fault::Delay(secs(9)),
        Fault::SlowAnswer(secs(9)),
    ]
}

/// Slots in the store and slots in memory are the same, once all is quiet.
async fn slots_agree(bench: &Bench) {
    let everyone = PageRequest {
        size: 100,
        token: String::new(),
    };
    let (workers, _) = bench.engine.list_workers(&ADMIN, everyone).await.unwrap();
    let audit = bench.audit().await;
    for worker in workers {
        let held = audit
            .held
            .get(worker.session_id.as_str())
            .copied()
            .unwrap_or(0);
        assert_eq!(
            worker.active_jobs as usize, held,
            "slots of {}",
            worker.worker_id
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_stops_no_clock_for_good_and_loses_no_job() {
    let bench = Bench::new().await;
    let mut robot = Robot::new(&bench).await;
    let mut jobs = Vec::new();
    for number in 0..10 {
        let mut job = keyed("job.a", &format!("k{number}"));
        if number % 2 == 0 {
            job.spec.not_before = Some(bench.now() + millis(700 * number));
        }
        jobs.push(bench.job_of(job).await);
    }
    robot.work(&bench, secs(2), async || false).await;
    bench.faulty.take_down();
    pass(secs(3)).await;
    assert!(bench.engine.not_ready().is_some());
    robot.work(&bench, secs(40), async || false).await;
    bench.faulty.restore();
    robot.work(&bench, secs(20), async || false).await;
    for id in &jobs {
        let job = bench.job(id).await;
        assert_eq!(
            (job.state, job.redispatches),
            (JobState::Succeeded, 0),
            "{id}"
        );
    }
    slots_agree(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn the_adoption_window_does_not_run_while_the_store_is_away() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let job = bench.job_of(request("job.a")).await;
    let attempt = worker.assignment().await;
    bench.faulty.take_down();
    worker.cut().await;
    pass(secs(60)).await;
    let back = || coretex_engine::Hello {
        running: vec![attempt.clone()],
        ..hello("w", &["job.a"], 1)
    };
    let refused = bench.engine.open_session(&ADMIN, back()).await;
    assert!(refused.is_err(), "nobody can say whose it is");
    bench.faulty.restore();
    // The worker tries again every now and then.
    pass(secs(10)).await;
    let mut worker = bench.connect(back()).await;
    assert_eq!(worker.session.welcome.kept.len(), 1);
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&job).await.redispatches, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_renewal_of_unknown_outcome_is_got_over() {
    // What the process before left is given up all the same.
    for resend in [true, false] {
        let mut bench = Bench::with(Setup {
            resend,
            ..Setup::default()
        })
        .await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let job = bench.job_of(request("job.a")).await;
        worker.assignment().await;
        bench.crash().await;
        // The first commits of the new process are renewals of its leases.
        bench.faulty.script([Fault::After, Fault::After]);
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        worker.beat_for(secs(20)).await;
        let attempt = worker.assignment().await;
        assert_eq!(
            (&attempt.job_id, attempt.attempt),
            (&job, 2),
            "resend {resend}"
        );
        assert!(worker.succeed(&attempt).await);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_adoption_of_unknown_outcome_leaves_nothing_behind() {
    for resend in [true, false] {
        for fault in faults() {
            let bench = Bench::with(Setup {
                resend,
                ..Setup::default()
            })
            .await;
            let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
            let job = bench.job_of(request("job.a")).await;
            let attempt = worker.assignment().await;
            worker.started(&attempt).await;
            pass(secs(1)).await;
            worker.cut().await;
            bench.faulty.script([fault.clone()]);
            let back = coretex_engine::Hello {
                running: vec![attempt.clone()],
                ..hello("w", &["job.a"], 1)
            };
            // The worker gives up after five seconds and does not come back.
            let opening = bench.engine.open_session(&ADMIN, back);
            drop(tokio::time::timeout(secs(5), opening).await);
            let mut other = bench.connect(hello("x", &["job.a"], 1)).await;
            other.beat_for(secs(60)).await;
            let second = other.assignment().await;
            assert_eq!(
                (&second.job_id, second.attempt),
                (&job, 2),
                "resend {resend}, {fault:?}"
            );
            assert!(other.succeed(&second).await);
            let ended = bench.job(&job).await;
            assert_eq!((ended.state, ended.redispatches), (JobState::Succeeded, 1));
            slots_agree(&bench).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_assignment_that_cannot_be_given_back_at_once_is_given_back_later() {
    let bench = Bench::new().await;
    let worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    // The session ends while the commit is under way, and giving it back fails.
    bench.faulty.script([
        Fault::SlowAnswer(millis(500)),
        Fault::Before(CommitError::Unavailable {
            reason: "test".to_owned(),
        }),
    ]);
    let mut job = keyed("job.a", "k");
    job.spec.on_worker_loss = coretex_core::job::WorkerLossPolicy::Fail;
    let engine = bench.engine.clone();
    let submit = tokio::spawn(async move { engine.submit_job(&ADMIN, job).await });
    pass(millis(100)).await;
    worker.cut().await;
    let job = submit.await.unwrap().unwrap().answer.job.id.clone();
    let mut other = bench.connect(hello("x", &["job.a"], 1)).await;
    other.beat_for(secs(20)).await;
    let second = other.assignment().await;
    assert_eq!((&second.job_id, second.attempt), (&job, 2));
    assert_eq!(bench.job(&job).await.redispatches, 0);
    assert!(other.succeed(&second).await);
    slots_agree(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_even_when_the_last_commit_was_in_doubt() {
    for fault in [
        Fault::After,
        Fault::Late(millis(500)),
        Fault::SlowAnswer(secs(2)),
    ] {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
        let job = bench.job_of(request("job.a")).await;
        let attempt = worker.assignment().await;
        bench.faulty.script([fault.clone()]);
        let started = Instant::now();
        let waits = bench.engine.wait_job(&ADMIN, &job, secs(30), false);
        let (answer, ()) = tokio::join!(waits, worker.finish(&attempt, succeeded()));
        assert_eq!(answer.unwrap().job.state, JobState::Succeeded);
        assert!(
            started.elapsed() <= secs(4),
            "{fault:?}: {:?}",
            started.elapsed()
        );
        assert!(worker.ack().await);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_a_job_that_runs() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    bench.faulty.script([Fault::Delay(secs(1))]);
    let job = SubmitJob {
        job_id: Some(id("j")),
        ..request("job.a")
    };
    let submit = bench.engine.submit_job(&ADMIN, job);
    assert!(tokio::time::timeout(millis(100), submit).await.is_err());
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, id("j"));
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_jobs_on_a_bad_store_all_end_once() {
    for seed in 0..6 {
        let bench = Bench::with(Setup {
            seed,
            resend: seed % 2 == 0,
            ..Setup::default()
        })
        .await;
        let mut robot = Robot::new(&bench).await;
        bench.faulty.rates(FaultRates {
            before: 0.05,
            after: 0.05,
            late: 0.05,
            delay: 0.2,
            longest_delay: millis(400),
        });
        let submits = async {
            let mut ids = Vec::new();
            for number in 0..100 {
                let job = keyed("job.a", &format!("k{number}"));
                ids.push(submit_for_sure(&bench, &job).await);
            }
            ids
        };
        let found = std::cell::RefCell::new(None);
        let submit = async {
            *found.borrow_mut() = Some(submits.await);
        };
        let work = robot.work(&bench, secs(600), async || {
            let accepted = found.borrow().is_some();
            let open = coretex_engine::JobFilter {
                states: JobState::ALL
                    .into_iter()
                    .filter(|state| !state.is_terminal())
                    .collect(),
                ..coretex_engine::JobFilter::default()
            };
            accepted && bench.engine.count_jobs(&ADMIN, &open).await.unwrap().count == 0
        });
        tokio::join!(submit, work);
        bench.faulty.rates(FaultRates::default());
        robot.work(&bench, secs(30), async || false).await;
        let audit = bench.audit().await;
        assert_eq!(audit.jobs.len(), 100, "seed {seed}");
        for job in &audit.jobs {
            assert_eq!(
                job.state,
                JobState::Succeeded,
                "seed {seed}: {:?}",
                job.events
            );
            assert_eq!(
                (job.failures, job.redispatches),
                (0, 0),
                "seed {seed}: {:?}",
                job.events
            );
        }
        assert!(audit.held.is_empty(), "seed {seed}");
        slots_agree(&bench).await;
    }
}
