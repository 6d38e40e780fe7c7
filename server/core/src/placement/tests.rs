//! Tables and properties of placement.
//!
//! Over 500 lines because every rule of placement has its line in one table.

use proptest::prelude::*;

use super::*;
use crate::routing::pattern::TopicPattern;
use crate::routing::{TenantRule, TopicRule};
use crate::time::Timestamp;

/// Owns what a [`WorkerView`] borrows.
#[derive(Clone, Debug)]
struct Worker {
    id: WorkerId,
    session: SessionId,
    pool: PoolName,
    topics: Vec<Topic>,
    any_topic: bool,
    capabilities: Vec<String>,
    labels: BTreeMap<String, String>,
    max: u32,
    active: u32,
    cpu: f32,
    gpu: f32,
    draining: bool,
    tenants: Option<Vec<TenantId>>,
    rule: Option<PoolRule>,
}

impl Worker {
    fn new(id: &str) -> Self {
        Self {
            id: WorkerId::from_trusted(id),
            session: SessionId::from_trusted(&format!("session-{id}")),
            pool: PoolName::from_trusted("pool"),
            topics: vec![Topic::from_trusted("job.a")],
            any_topic: false,
            capabilities: vec!["x".to_owned(), "y".to_owned()],
            labels: BTreeMap::from([("zone".to_owned(), "eu".to_owned())]),
            max: 4,
            active: 0,
            cpu: 0.0,
            gpu: 0.0,
            draining: false,
            tenants: None,
            rule: None,
        }
    }

    fn view(&self) -> WorkerView<'_> {
        WorkerView {
            worker_id: &self.id,
            session: &self.session,
            pool: &self.pool,
            topics: &self.topics,
            any_topic: self.any_topic,
            capabilities: &self.capabilities,
            labels: &self.labels,
            max_parallel: self.max,
            active: self.active,
            cpu_load: self.cpu,
            gpu_utilization: self.gpu,
            draining: self.draining,
            tenants_served: self.tenants.as_deref().map_or(Tenants::All, Tenants::List),
            rule: self.rule.as_ref(),
        }
    }
}

/// Owns what [`Needs`] borrows.
#[derive(Clone, Debug)]
struct Job {
    tenant: TenantId,
    topic: Topic,
    requires: Vec<String>,
    labels: BTreeMap<String, String>,
    pool: Option<PoolName>,
    worker: Option<WorkerId>,
    slots: u32,
    fairness_key: String,
    concurrency_key: String,
    routing: Routing,
    pauses: Pauses,
}

impl Job {
    fn new() -> Self {
        Self {
            tenant: TenantId::from_trusted("t"),
            topic: Topic::from_trusted("job.a"),
            requires: Vec::new(),
            labels: BTreeMap::new(),
            pool: None,
            worker: None,
            slots: 1,
            fairness_key: String::new(),
            concurrency_key: String::new(),
            routing: Routing::default(),
            pauses: Pauses::default(),
        }
    }

    fn needs(&self) -> Needs<'_> {
        Needs {
            tenant: &self.tenant,
            topic: &self.topic,
            requires: &self.requires,
            worker_labels: &self.labels,
            preferred_pool: self.pool.as_ref(),
            preferred_worker_id: self.worker.as_ref(),
            slots: Slots(self.slots),
            fairness_key: &self.fairness_key,
            concurrency_key: &self.concurrency_key,
            route: self.routing.route(&self.topic, &self.tenant),
            pauses: &self.pauses,
        }
    }
}

fn pick<'a>(job: &Job, workers: &'a [Worker], tie: u64) -> Option<&'a str> {
    choose(&job.needs(), workers.iter().map(Worker::view), tie).map(|at| workers[at].id.as_str())
}

/// What is wrong with a worker for a job, after `spoil` changed either.
fn complaint(spoil: impl FnOnce(&mut Job, &mut Worker)) -> Option<(&'static str, String)> {
    let (mut job, mut worker) = (Job::new(), Worker::new("w"));
    spoil(&mut job, &mut worker);
    let found = check(&job.needs(), &worker.view()).err();
    found.map(|mismatch| (mismatch.code(), mismatch.to_string()))
}

#[test]
fn every_mismatch_has_a_code_and_a_text() {
    let row = |spoil: fn(&mut Job, &mut Worker), code: &'static str, text: &str| {
        assert_eq!(complaint(spoil), Some((code, text.to_owned())));
    };
    assert_eq!(complaint(|_, _| {}), None);
    row(
        |_, worker| worker.tenants = Some(vec![TenantId::from_trusted("other")]),
        "tenant_not_served",
        "does not serve this tenant",
    );
    row(
        |job, _| job.topic = Topic::from_trusted("job.b"),
        "topic_not_served",
        "does not serve topic `job.b`",
    );
    row(
        |job, _| job.requires = vec!["x".to_owned(), "gpu".to_owned()],
        "capability_missing",
        "lacks capability `gpu`",
    );
    row(
        |job, _| job.labels = BTreeMap::from([("zone".to_owned(), "us".to_owned())]),
        "label_mismatch",
        "label `zone` is `eu`, not `us`",
    );
    row(
        |job, _| job.labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        "label_mismatch",
        "has no label `disk` (`ssd` is asked for)",
    );
    row(
        |_, worker| worker.draining = true,
        "draining",
        "is draining",
    );
    row(
        |_, worker| worker.active = 4,
        "full",
        "all slots are in use (4 of 4)",
    );
    row(
        |_, worker| worker.max = 0,
        "full",
        "all slots are in use (0 of 0)",
    );
    row(
        |job, worker| (job.slots, worker.active) = (3, 2),
        "full",
        "all slots are in use (2 of 4)",
    );
    row(
        |job, _| job.slots = 5,
        "too_small",
        "has 4 slot(s), and the job takes 5",
    );
    row(
        |_, worker| {
            worker.rule = Some(PoolRule {
                tenants: vec![TenantId::from_trusted("other")],
                ..PoolRule::default()
            });
        },
        "tenant_not_served",
        "does not serve this tenant",
    );
    row(
        |job, _| job.routing = mapped_to("elsewhere"),
        "pool_not_mapped",
        "is of a pool that does not serve this topic",
    );
    row(
        |job, _| job.pauses = paused_pool("pool"),
        "paused",
        "is held up by a pause of pool `pool`",
    );
    row(
        |_, worker| {
            worker.gpu = 90.0;
            worker.rule = Some(PoolRule {
                skip_overloaded: true,
                ..PoolRule::default()
            });
        },
        "overloaded",
        "is overloaded",
    );
}

/// A table that gives `job.a` to one pool.
fn mapped_to(pool: &str) -> Routing {
    let rule = TopicRule {
        pools: vec![PoolName::from_trusted(pool)],
        ..TopicRule::default()
    };
    let topics = BTreeMap::from([(TopicPattern::parse("job.a").unwrap(), rule)]);
    Routing::new(
        topics,
        BTreeMap::new(),
        BTreeMap::new(),
        TenantRule::default(),
    )
    .unwrap()
}

fn paused_pool(pool: &str) -> Pauses {
    Pauses::new(vec![Pause {
        scope: PauseScope {
            pool: Some(PoolName::from_trusted(pool)),
            ..PauseScope::default()
        },
        reason: String::new(),
        principal_id: String::new(),
        time: Timestamp::from_micros(1),
    }])
}

#[test]
fn what_a_pool_says_of_its_workers_adds_to_what_they_say_of_themselves() {
    let found = complaint(|job, worker| {
        job.requires = vec!["x".to_owned(), "gpu".to_owned()];
        job.routing = mapped_to("pool");
        worker.rule = Some(PoolRule {
            capabilities: vec!["gpu".to_owned()],
            tenants: vec![TenantId::from_trusted("t")],
            skip_overloaded: true,
            ..PoolRule::default()
        });
    });
    assert_eq!(found, None);
    // Another pool's pause holds nothing up here.
    assert_eq!(complaint(|job, _| job.pauses = paused_pool("other")), None);
}

/// Hands out jobs one after the other, and says how many each worker has.
fn hand_out(workers: &mut [Worker], jobs: u64) -> Vec<u32> {
    for tie in 0..jobs {
        let needs = Job::new();
        let chosen = choose(&needs.needs(), workers.iter().map(Worker::view), tie).unwrap();
        workers[chosen].active += 1;
    }
    workers.iter().map(|worker| worker.active).collect()
}

fn fleet(slots: impl IntoIterator<Item = u32>) -> Vec<Worker> {
    let named = slots.into_iter().enumerate();
    named
        .map(|(n, max)| Worker {
            max,
            ..Worker::new(&format!("w{n}"))
        })
        .collect()
}

#[test]
fn equal_workers_get_equal_shares() {
    let counts = hand_out(&mut fleet([200; 10]), 1_000);
    assert_eq!(counts, [100; 10]);
    // What does not go up evenly differs by one.
    let counts = hand_out(&mut fleet([200; 10]), 1_005);
    assert!(counts.iter().all(|count| (100..=101).contains(count)));
}

#[test]
fn unequal_workers_get_shares_in_proportion_to_their_slots() {
    let slots = [10, 20, 50, 100, 220];
    let counts = hand_out(&mut fleet(slots), 200);
    for (count, slots) in counts.iter().zip(slots) {
        assert!(count.abs_diff(slots / 2) <= 1, "{counts:?}");
    }
}

#[test]
fn the_weight_of_a_pool_is_how_full_its_workers_are_made() {
    let mut workers = fleet([100, 100]);
    workers[1].rule = Some(PoolRule {
        weight: 3,
        ..PoolRule::default()
    });
    let counts = hand_out(&mut workers, 100);
    assert!(counts[0].abs_diff(25) <= 1, "{counts:?}");
}

#[test]
fn another_tenant_learns_nothing_else_about_a_worker() {
    let found = complaint(|job, worker| {
        worker.tenants = Some(Vec::new());
        worker.draining = true;
        job.requires = vec!["gpu".to_owned()];
    });
    assert_eq!(found.map(|(code, _)| code), Some("tenant_not_served"));
}

#[test]
fn a_worker_for_any_topic_serves_any() {
    let found = complaint(|job, worker| {
        worker.any_topic = true;
        job.topic = Topic::from_trusted("job.never.heard");
    });
    assert_eq!(found, None);
}

#[test]
fn the_least_loaded_wins_then_the_fewest_slots_in_use() {
    let mut workers = vec![Worker::new("a"), Worker::new("b"), Worker::new("c")];
    workers[0].active = 1;
    workers[1].cpu = 20.0;
    workers[2].gpu = 30.0;
    assert_eq!(pick(&Job::new(), &workers, 0), Some("b"));
    // Equal scores: 1/4 and 2/8.
    let mut workers = vec![Worker::new("a"), Worker::new("b")];
    (workers[0].active, workers[0].max) = (2, 8);
    workers[1].active = 1;
    assert_eq!(pick(&Job::new(), &workers, 0), Some("b"));
}

#[test]
fn a_hot_worker_is_a_last_choice_but_a_choice() {
    let mut workers = vec![Worker::new("hot"), Worker::new("busy")];
    workers[0].cpu = 90.0;
    workers[1].active = 3;
    workers[1].cpu = 89.9;
    assert_eq!(pick(&Job::new(), &workers, 0), Some("busy"));
    workers[1].active = 4;
    assert_eq!(pick(&Job::new(), &workers, 0), Some("hot"));
    (workers[0].cpu, workers[0].gpu, workers[1].active) = (0.0, 99.0, 3);
    assert_eq!(pick(&Job::new(), &workers, 0), Some("busy"));
}

#[test]
fn hints_win_while_they_have_a_free_slot_and_never_exclude() {
    let mut workers = vec![Worker::new("a"), Worker::new("b"), Worker::new("c")];
    workers[1].active = 3;
    workers[2].active = 2;
    workers[2].pool = PoolName::from_trusted("special");
    let mut job = Job::new();
    assert_eq!(pick(&job, &workers, 0), Some("a"));
    job.pool = Some(PoolName::from_trusted("special"));
    assert_eq!(pick(&job, &workers, 0), Some("c"));
    job.worker = Some(WorkerId::from_trusted("b"));
    assert_eq!(pick(&job, &workers, 0), Some("b"));
    workers[1].active = 4;
    assert_eq!(pick(&job, &workers, 0), Some("c"));
    workers[2].draining = true;
    assert_eq!(pick(&job, &workers, 0), Some("a"));
}

#[test]
fn loads_that_are_no_percentages_are_clamped() {
    let mut worker = Worker::new("w");
    for (load, expected) in [
        (f32::NAN, 0.0),
        (-5.0, 0.0),
        (f32::NEG_INFINITY, 0.0),
        (50.0, 0.5),
        (1e9, 1.0),
        (f32::INFINITY, 1.0),
    ] {
        worker.cpu = load;
        assert!((score(&worker.view()) - expected).abs() < 1e-9, "{load}");
    }
    worker.cpu = f32::NAN;
    assert!(!is_last_choice(&worker.view()));
    (worker.max, worker.active) = (2, 7);
    assert!((score(&worker.view()) - 1.0).abs() < 1e-9);
}

#[test]
fn equal_workers_are_chosen_evenly_by_a_changing_tie() {
    let workers: Vec<Worker> = (0..4).map(|n| Worker::new(&format!("w{n}"))).collect();
    let mut counts = BTreeMap::new();
    for tie in 0..4_000 {
        *counts.entry(pick(&Job::new(), &workers, tie)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 4);
    assert!(
        counts.values().all(|count| (800..1_200).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn explanations_say_what_the_choice_did() {
    let mut workers = vec![Worker::new("a"), Worker::new("b"), Worker::new("c")];
    workers[0].active = 4;
    workers[1].capabilities.clear();
    let mut job = Job::new();
    job.requires = vec!["x".to_owned()];
    let needs = job.needs();
    let said = explain(&needs, workers.iter().map(Worker::view));
    let codes: Vec<_> = said
        .iter()
        .map(|(at, result)| (*at, result.err().map(|m| (m.code(), m.is_busy()))))
        .collect();
    let expected = [
        (0, Some(("full", true))),
        (1, Some(("capability_missing", false))),
        (2, None),
    ];
    assert_eq!(codes, expected);
    assert_eq!(pick(&job, &workers, 0), Some("c"));
}

#[test]
fn the_shape_is_fixed_for_ever() {
    // Stored index members hold shapes: these numbers may never change.
    let mut job = Job::new();
    assert_eq!(shape(&job.needs()).to_string(), "66687aadf862bd77");
    job.requires = vec!["b".to_owned(), "a".to_owned(), "b".to_owned()];
    job.labels = BTreeMap::from([("zone".to_owned(), "eu".to_owned())]);
    job.pool = Some(PoolName::from_trusted("p"));
    job.worker = Some(WorkerId::from_trusted("w"));
    assert_eq!(shape(&job.needs()).to_string(), "829afbdcc9c12263");
}

#[test]
fn the_shape_ignores_tenant_topic_and_order_and_nothing_else() {
    let mut base = Job::new();
    base.requires = vec!["a".to_owned(), "b".to_owned()];
    let same = |change: fn(&mut Job)| {
        let mut other = base.clone();
        change(&mut other);
        shape(&other.needs()) == shape(&base.needs())
    };
    assert!(same(|job| job.tenant = TenantId::from_trusted("u")));
    assert!(same(|job| job.topic = Topic::from_trusted("job.b")));
    assert!(same(|job| job.requires.reverse()));
    assert!(!same(|job| job.requires = vec!["ab".to_owned()]));
    assert!(!same(|job| job.requires.push("c".to_owned())));
    assert!(!same(|job| {
        job.labels.insert("a".to_owned(), "b".to_owned());
    }));
    assert!(!same(|job| job.pool = Some(PoolName::from_trusted("p"))));
    assert!(!same(|job| job.worker = Some(WorkerId::from_trusted("p"))));
    assert!(!same(|job| job.slots = 2));
    assert!(!same(|job| job.fairness_key = "a".to_owned()));
    assert!(!same(|job| job.concurrency_key = "a".to_owned()));
    let key = |change: fn(&mut Job)| {
        let mut other = base.clone();
        change(&mut other);
        shape(&other.needs())
    };
    let (fair, limited) = (
        key(|job| job.fairness_key = "a".to_owned()),
        key(|job| job.concurrency_key = "a".to_owned()),
    );
    assert_ne!(fair, limited);
}

fn any_worker() -> impl Strategy<Value = Worker> {
    let load = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), -10.0_f32..120.0];
    (
        0_u8..3,
        0_u32..4,
        0_u32..5,
        load.clone(),
        load,
        any::<bool>(),
        0_u8..4,
    )
        .prop_map(|(pool, max, active, cpu, gpu, draining, odd)| {
            let mut worker = Worker::new("w");
            worker.pool = PoolName::from_trusted(["p", "q", "r"][usize::from(pool)]);
            (worker.max, worker.active, worker.cpu, worker.gpu) = (max, active, cpu, gpu);
            worker.draining = draining && odd == 0;
            match odd {
                1 => worker.topics.clear(),
                2 => worker.capabilities.clear(),
                3 => worker.labels.clear(),
                _ => {}
            }
            worker
        })
}

proptest! {
    #[test]
    fn the_choice_suits_is_found_when_there_is_one_and_ignores_the_order(
        workers in proptest::collection::vec(any_worker(), 0..8),
        requires: bool, label: bool, pool: bool, preferred in 0_usize..8, tie: u64,
    ) {
        let mut workers = workers;
        for (n, worker) in workers.iter_mut().enumerate() {
            worker.id = WorkerId::from_trusted(&format!("w{n}"));
            worker.session = SessionId::from_trusted(&format!("s{n}"));
        }
        let mut job = Job::new();
        if requires { job.requires.push("x".to_owned()); }
        if label { job.labels.insert("zone".to_owned(), "eu".to_owned()); }
        if pool { job.pool = Some(PoolName::from_trusted("q")); }
        job.worker = Some(WorkerId::from_trusted(&format!("w{preferred}")));
        let needs = job.needs();
        let able: Vec<&Worker> =
            workers.iter().filter(|worker| check(&needs, &worker.view()).is_ok()).collect();
        let chosen = choose(&needs, workers.iter().map(Worker::view), tie);
        prop_assert_eq!(chosen.is_some(), !able.is_empty());
        if let Some(at) = chosen {
            let winner = &workers[at];
            prop_assert!(check(&needs, &winner.view()).is_ok());
            prop_assert!(winner.active < winner.max);
            if able.iter().any(|worker| job.worker.as_ref() == Some(&worker.id)) {
                prop_assert_eq!(Some(&winner.id), job.worker.as_ref());
            } else if pool && able.iter().any(|worker| job.pool.as_ref() == Some(&worker.pool)) {
                prop_assert_eq!(Some(&winner.pool), job.pool.as_ref());
            }
            let mut turned = workers.clone();
            turned.reverse();
            let again = choose(&needs, turned.iter().map(Worker::view), tie);
            prop_assert_eq!(again.map(|at| &turned[at].id), Some(&winner.id));
        }
    }
}
