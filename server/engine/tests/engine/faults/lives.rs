//! Whole lives of jobs: one fault at each commit of each way that a job can go, and many jobs on a
//! store that is bad all the time.

use coretex_core::job::JobState;
use coretex_store::layers::{Fault, FaultRates};

use super::robot::{Robot, cancel_for_sure, stored, submit_for_sure};
use super::{faults, slots_agree};
use crate::support::{ADMIN, Bench, Setup, keyed, millis, pass, secs};

/// One life with one fault at one of its commits.
async fn life(resend: bool, position: usize, fault: &Fault, way: &str) {
    let what = format!("{way}, resend {resend}, commit {position}, {fault:?}");
    let bench = Bench::with(Setup {
        resend,
        ..Setup::default()
    })
    .await;
    let mut robot = Robot::new(&bench).await;
    pass(secs(2)).await;
    let mut script = vec![Fault::None; position];
    script.push(fault.clone());
    bench.faulty.script(script);
    let mut job = keyed("job.a", "k");
    robot.fail_first = way == "retry";
    if way == "retry" {
        job.spec.retry.max_attempts = 2;
    }
    if way == "queued" {
        job.spec.not_before = Some(bench.now() + secs(3));
    }
    let engine_side = async {
        let id = submit_for_sure(&bench, &job).await;
        if way == "cancel" {
            pass(millis(700)).await;
            cancel_for_sure(&bench, &id).await;
        }
        id
    };
    let id = {
        let found = std::cell::RefCell::new(None);
        let submit = async {
            *found.borrow_mut() = Some(engine_side.await);
        };
        let work = robot.work(&bench, secs(90), async || {
            let id = found.borrow().clone();
            match id {
                Some(id) => {
                    let job = stored(&bench, &id).await;
                    job.is_some_and(|job| job.state.is_terminal() && job.unreleased.is_empty())
                }
                None => false,
            }
        });
        tokio::join!(submit, work);
        found.into_inner().expect("accepted")
    };
    let ended = stored(&bench, &id).await.expect("the job");
    let should: &[JobState] = match way {
        "cancel" => &[JobState::Cancelled, JobState::Succeeded],
        _ => &[JobState::Succeeded],
    };
    assert!(should.contains(&ended.state), "{what}: {:?}", ended.events);
    assert_eq!(
        ended.redispatches, 0,
        "{what}: nobody was lost: {:?}",
        ended.events
    );
    let failures = u32::from(way == "retry");
    assert_eq!(ended.failures, failures, "{what}");
    // Everything that was delayed arrives, and the worker gets its last answers.
    robot.work(&bench, secs(25), async || false).await;
    assert!(
        robot.unacknowledged.is_empty(),
        "{what}: {:?}",
        robot.unacknowledged
    );
    assert!(robot.running.is_empty(), "{what}");
    assert_eq!(
        stored(&bench, &id).await.unwrap().state,
        ended.state,
        "{what}"
    );
    let again = bench.engine.submit_job(&ADMIN, job).await.unwrap();
    assert!(again.replayed && again.answer.job.id == id, "{what}");
    slots_agree(&bench).await;
    assert!(bench.audit().await.held.is_empty(), "{what}");
}

async fn lives(way: &str, commits: usize) {
    for resend in [true, false] {
        for fault in faults() {
            for position in 0..commits {
                life(resend, position, &fault, way).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fast_job_survives_a_fault_at_each_commit() {
    lives("fast", 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_queued_job_survives_a_fault_at_each_commit() {
    lives("queued", 6).await;
}

#[tokio::test(start_paused = true)]
async fn a_retried_job_survives_a_fault_at_each_commit() {
    lives("retry", 8).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_survives_a_fault_at_each_commit() {
    lives("cancel", 6).await;
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
