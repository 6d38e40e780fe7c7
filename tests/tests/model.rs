//! How jobs are claimed, leased, adopted and lost, under the seeded simulator.
//!
//! `CORETEX_MODEL_SEEDS=n` runs that many seeds instead of a thousand. `CORETEX_MODEL_SEED=n` runs
//! one seed and fails with what happened in it, broken or not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use coretex_tests::model::{self, Defect, Report};

/// Seeds of an ordinary run.
const SEEDS: u64 = 1_000;
/// A missing guard has to show within so many seeds.
const SEEDS_FOR_A_DEFECT: u64 = 150;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Works through `0..count` on every core, until a call says that it has seen enough.
fn on_all_cores<T: Send>(count: u64, work: impl Fn(u64) -> Option<T> + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let worker = || {
        let mut found = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return found;
            }
            found.extend(work(at));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_default())
            .collect()
    })
}

fn story(seed: u64, report: &Report) -> String {
    format!(
        "seed {seed} ({:?}): {}\n{}",
        report.stats,
        report.broken.as_deref().unwrap_or("nothing broke"),
        report.trace.join("\n"),
    )
}

#[test]
fn no_invariant_breaks_in_a_thousand_runs() {
    if let Some(seed) = number_from("CORETEX_MODEL_SEED") {
        panic!("{}", story(seed, &model::trace(seed, None)));
    }
    let seeds = number_from("CORETEX_MODEL_SEEDS").unwrap_or(SEEDS);
    let reports = on_all_cores(seeds, |seed| Some((seed, model::run(seed, None))));
    let broken = reports.iter().filter(|(_, report)| report.broken.is_some());
    if let Some(seed) = broken.map(|(seed, _)| *seed).min() {
        panic!(
            "{}\nrun it again with CORETEX_MODEL_SEED={seed}",
            story(seed, &model::trace(seed, None))
        );
    }
    assert_eq!(reports.len() as u64, seeds, "a run panicked");
    // Runs in which nothing happens hold every invariant.
    let sum = |count: fn(&Report) -> u64| reports.iter().map(|(_, r)| count(r)).sum::<u64>();
    assert!(sum(|report| report.stats.accepted) > seeds * 20);
    assert!(sum(|report| report.stats.fast) > seeds);
    assert!(sum(|report| report.stats.claimed) > seeds);
    assert!(sum(|report| report.stats.lost) > seeds / 10);
    assert!(sum(|report| report.stats.rewound) > seeds / 10);
}

#[test]
fn every_missing_guard_is_noticed() {
    let missed = on_all_cores(Defect::ALL.len() as u64, |at| {
        let defect = *Defect::ALL.get(usize::try_from(at).ok()?)?;
        let noticed =
            (0..SEEDS_FOR_A_DEFECT).any(|seed| model::run(seed, Some(defect)).broken.is_some());
        (!noticed).then_some(defect)
    });
    assert_eq!(missed, [], "nothing broke without these guards");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let (first, again) = (model::run(seed, None), model::run(seed, None));
        assert_eq!(first, again, "seed {seed}");
        // Watching a run does not change it.
        assert_eq!(model::trace(seed, None).stats, first.stats, "seed {seed}");
    }
}
