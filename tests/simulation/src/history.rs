//! Random histories: clients, workers, crashes and a bad store, from a seed. Whatever happens, the
//! store is consistent, no lease is handed out twice, and in the end every job has ended or its
//! diagnosis says why not.
//!
//! Here is what runs the seeds. [`world`] throws the dice, [`clients`] and [`process`] act,
//! [`checks`] says what must be true in the end.

mod checks;
mod clients;
mod process;
mod world;

use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::time::Duration;

use futures::FutureExt;

use world::World;

const STEPS: u32 = 200;
const TOPICS: [&str; 3] = ["job.a", "job.b", "job.c"];
const TENANTS: [&str; 2] = ["acme", "beta"];

/// `CORETEX_SIMULATION_SEED=n` runs one history only, and tells it.
static ONLY: LazyLock<Option<u64>> =
    LazyLock::new(|| std::env::var("CORETEX_SIMULATION_SEED").ok()?.parse().ok());

fn run(seed: u64) {
    if ONLY.is_some() {
        // A second test of this process finds it set already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter("debug")
            .without_time()
            .with_writer(std::io::stderr)
            .try_init();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        let history = async {
            let mut world = World::new(seed).await;
            for _ in 0..STEPS {
                world.step().await;
            }
            world.settle().await;
            world.check().await;
        };
        // Whatever hangs for an hour of its own time hangs for ever.
        let bounded = tokio::time::timeout(Duration::from_secs(3_600), history);
        AssertUnwindSafe(bounded).catch_unwind().await
    });
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(_)) => panic!("seed {seed} hangs"),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            panic!("seed {seed}: {}", text.unwrap_or_default());
        }
    }
}

fn seeds(range: std::ops::Range<u64>) {
    for seed in range.filter(|seed| ONLY.is_none_or(|only| only == *seed)) {
        run(seed);
    }
}

// Four tests, so that they run beside one another.

#[test]
fn histories_of_the_first_seeds() {
    seeds(0..300);
}

#[test]
fn histories_of_the_second_seeds() {
    seeds(300..600);
}

#[test]
fn histories_of_the_third_seeds() {
    seeds(600..900);
}

#[test]
fn histories_of_the_last_seeds() {
    seeds(900..1_200);
}
