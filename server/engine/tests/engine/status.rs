//! What the server says of itself, also while things are broken.

use coretex_core::routing::Routing;
use coretex_engine::{Caller, Role, SystemStatus};
use coretex_store::Pressure;

use crate::support::{ADMIN, Bench, Setup, Worker, admin, caller, hello, pass, request, secs};

async fn status(bench: &Bench, caller: &Caller) -> SystemStatus {
    bench.engine.status(caller).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn queues_are_topics_and_those_of_others_do_not_hide_them() {
    let bench = Bench::new().await;
    let other = caller("other", "key:o", &[Role::Admin]);
    for number in 0..210 {
        let request = request(&format!("job.a{number:03}"));
        bench.engine.submit_job(&other, request).await.unwrap();
    }
    for _ in 0..2 {
        bench.submit(request("job.z")).await;
    }
    let own = status(&bench, &ADMIN).await.queues;
    assert!(!own.capped);
    assert_eq!(own.depths.len(), 1);
    assert_eq!(own.depths[0].topic.as_str(), "job.z");
    assert_eq!((own.depths[0].waiting, own.depths[0].capped), (2, false));
    let theirs = status(&bench, &other).await.queues;
    assert_eq!((theirs.depths.len(), theirs.capped), (200, true));
    assert!(theirs.depths.is_sorted_by_key(|queue| queue.topic.as_str()));
    let nobody = caller("third", "key:t", &[Role::Admin]);
    let nothing = status(&bench, &nobody).await.queues;
    assert_eq!((nothing.depths.len(), nothing.capped), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_part_of_the_answer() {
    let bench = Bench::new().await;
    bench.submit(request("job.a")).await;
    bench.tap.pretend(Pressure::High);
    let full = status(&bench, &ADMIN).await;
    assert_eq!(full.store_problem, None, "it works");
    assert!(full.store_note.unwrap().contains("nearly full"));
    assert_eq!(full.queues.depths.len(), 1);
    bench.tap.pretend(Pressure::ReadOnly);
    let stuck = status(&bench, &ADMIN).await;
    assert!(stuck.store_problem.is_some());
    assert_eq!(stuck.queues.depths.len(), 1, "what can be read is shown");
    bench.tap.pretend(Pressure::Normal);
    bench.faulty.take_down();
    let down = status(&bench, &ADMIN).await;
    assert!(down.store_problem.is_some());
    assert_eq!(down.queues.depths, []);
    assert_eq!(down.replicas.len(), 1);
    bench.faulty.restore();
    let well = status(&bench, &ADMIN).await;
    assert_eq!((well.store_problem, well.store_note), (None, None));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_routing_tables_is_for_system_admins() {
    let bench = Bench::new().await;
    let system = Caller {
        system: true,
        ..admin()
    };
    assert_eq!(status(&bench, &system).await.routing_problem, None);
    let problem = "c.toml:1:9: `tenants.other.weight` must be a whole number";
    bench.engine.keep_routing(problem.to_owned());
    let told = status(&bench, &system).await.routing_problem;
    assert_eq!(told.as_deref(), Some(problem));
    let told = status(&bench, &ADMIN).await.routing_problem.unwrap();
    assert!(!told.contains("other"), "{told}");
    bench.engine.set_routing(Routing::default());
    assert_eq!(status(&bench, &ADMIN).await.routing_problem, None);
}

#[tokio::test(start_paused = true)]
async fn workers_are_those_of_the_installation() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, _tap) = bench.another().await.unwrap();
    let here = bench.connect(hello("w1", &["job.a"], 1)).await;
    let there = Worker::connect(&other, hello("w2", &["job.a"], 1)).await;
    // This one is known at once, the other when it has renewed its lease.
    let now = status(&bench, &ADMIN).await;
    assert_eq!((now.replicas[0].workers, now.workers), (1, 1));
    for _ in 0..8 {
        here.beat().await;
        there.beat().await;
        pass(secs(1)).await;
    }
    let later = status(&bench, &ADMIN).await;
    assert_eq!((later.replicas.len(), later.workers), (2, 2));
    assert_eq!(later.replicas[0].replica_id, later.replica_id);
    other.drain(secs(0)).await;
}
