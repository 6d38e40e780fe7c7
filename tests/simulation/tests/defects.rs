//! What the simulation is worth: every promise of the store that is broken shows within a few seeds.

use coretex_simulation::{Defect, Plan, tell};

/// A broken promise has to show within so many seeds.
const SEEDS: u64 = 30;

#[test]
fn every_broken_promise_is_noticed() {
    let noticed = |defect: Defect| {
        (0..SEEDS).any(|seed| {
            let plan = Plan {
                defect: Some(defect),
                ..Plan::of(seed)
            };
            tell(plan).is_err()
        })
    };
    let missed: Vec<Defect> = Defect::ALL
        .into_iter()
        .filter(|defect| !noticed(*defect))
        .collect();
    assert_eq!(missed, [], "nothing broke without these promises");
}
