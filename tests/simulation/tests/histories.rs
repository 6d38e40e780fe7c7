//! A thousand random histories, and that a seed tells the same one each time.
//!
//! `cargo run -p coretex-simulation -- --seeds A..B` runs others, `-- --seed N` tells one.

use coretex_simulation::{Plan, Tally, tell};

/// Runs seeds; their tallies added up.
fn seeds(range: std::ops::Range<u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in range {
        match tell(Plan::of(seed)) {
            Ok(tale) => tally += tale.tally,
            Err(wrong) => panic!(
                "seed {seed}: {wrong}\nto see it again: cargo run -p coretex-simulation -- --seed {seed}"
            ),
        }
    }
    tally
}

/// Histories in which nothing happens hold every invariant.
fn is_eventful(tally: Tally, histories: u64) {
    assert!(tally.accepted > histories * 20, "{tally:?}");
    assert!(tally.handed_out > histories * 15, "{tally:?}");
    assert!(tally.deaths > histories, "{tally:?}");
    for rare in [
        tally.kept,
        tally.moved,
        tally.refused,
        tally.met,
        tally.streamed,
        tally.pauses,
        tally.retried,
        tally.lost,
        tally.standstills,
        tally.checks,
    ] {
        assert!(rare > histories / 2, "{tally:?}");
    }
}

// Four tests, so that they run beside one another.

#[test]
fn the_first_seeds() {
    is_eventful(seeds(0..250), 250);
}

#[test]
fn the_second_seeds() {
    is_eventful(seeds(250..500), 250);
}

#[test]
fn the_third_seeds() {
    is_eventful(seeds(500..750), 250);
}

#[test]
fn the_last_seeds() {
    is_eventful(seeds(750..1_000), 250);
}

#[test]
fn the_same_seed_tells_the_same_history() {
    for seed in 0..12 {
        let (first, again) = (tell(Plan::of(seed)), tell(Plan::of(seed)));
        assert!(first.is_ok(), "{first:?}");
        assert_eq!(first, again, "seed {seed}");
    }
}
