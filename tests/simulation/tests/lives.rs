//! One fault at each point of each life of a job, whatever can strike there.
//!
//! `cargo run -p coretex-simulation -- --lives` runs all of them, `-- --life NAME` tells one.

use coretex_simulation::{Case, cases, live};

/// Lives the lives of these cases with everything that can strike.
fn survive(which: impl Fn(&Case) -> bool) {
    let mut lives = 0;
    for case in cases().into_iter().filter(which) {
        let points = live(case, None).unwrap_or_else(|wrong| panic!("{case}: {wrong}"));
        for (at, strike) in case.strikes(&points) {
            let name = format!("{case}:{at}:{strike}");
            let told = live(case, Some((at, strike)));
            if let Err(wrong) = told {
                let point = points[at];
                panic!(
                    "{name} ({point:?}): {wrong}\nto see it again: cargo run -p coretex-simulation -- --life {name}"
                );
            }
            lives += 1;
        }
    }
    assert!(lives >= 200, "only {lives} lives with a fault");
}

// Three tests, so that they run beside one another.

#[test]
fn a_job_survives_everything_at_the_only_server() {
    survive(|case| case.servers == 1 && case.resend);
}

#[test]
fn a_job_survives_everything_at_one_of_two_servers() {
    survive(|case| case.servers == 2);
}

#[test]
fn a_job_survives_commits_in_doubt_that_nobody_sends_again() {
    survive(|case| !case.resend);
}
