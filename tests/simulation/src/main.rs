//! `coretex-simulation`: tells histories by their seeds.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use clap::Parser;
use coretex_simulation::{Plan, Tale, tell};

#[derive(Parser, Debug)]
#[command(about = "Runs random histories of Coretex in virtual time, each from a seed")]
struct Options {
    /// Run one history and tell it on stderr.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the histories of many seeds, the last one excluded.
    #[arg(long, value_name = "A..B", value_parser = range, default_value = "0..1000")]
    seeds: (u64, u64),
    /// Run as many histories instead, from the first of `--seeds` on.
    #[arg(long)]
    count: Option<u64>,
    /// Servers in each history, instead of 1 to 3 as the seed says.
    #[arg(long)]
    replicas: Option<usize>,
    /// Steps of each history.
    #[arg(long, default_value_t = 200)]
    steps: u32,
    /// What to tell of one history: filters as in `RUST_LOG`.
    #[arg(long, default_value = "story=info,coretex_engine=debug")]
    log: String,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").ok_or("not A..B")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is not a number"));
    Ok((number(first)?, number(last)?))
}

impl Options {
    fn plan(&self, seed: u64) -> Plan {
        Plan {
            servers: self.replicas,
            steps: self.steps,
            ..Plan::of(seed)
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let told = match options.seed {
        Some(seed) => one(&options, seed),
        None => many(&options),
    };
    // Who closes the pipe does not want to know.
    let _ = match &told {
        Ok(text) => writeln!(std::io::stdout(), "{text}"),
        Err(text) => writeln!(std::io::stderr(), "error: {text}"),
    };
    if told.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(options: &Options, seed: u64) -> Result<String, String> {
    tracing_subscriber::fmt()
        .with_env_filter(&options.log)
        .without_time()
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    let tale = tell(options.plan(seed)).map_err(|wrong| format!("seed {seed}: {wrong}"))?;
    Ok(format!("seed {seed}: {tale:?}"))
}

/// Runs seeds on all cores until one goes wrong.
fn many(options: &Options) -> Result<String, String> {
    let first = options.seeds.0;
    let end = options.count.map_or(options.seeds.1, |count| first + count);
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let wrong: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let run = || {
        let mut sum: Option<Tale> = None;
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            match tell(options.plan(seed)) {
                Ok(tale) => match &mut sum {
                    Some(sum) => sum.tally += tale.tally,
                    None => sum = Some(tale),
                },
                Err(text) => {
                    stop.store(true, Ordering::Relaxed);
                    if let Ok(mut wrong) = wrong.lock()
                        && wrong.as_ref().is_none_or(|(other, _)| seed < *other)
                    {
                        *wrong = Some((seed, text));
                    }
                }
            }
        }
        sum
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let sums: Vec<Tale> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(run)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().ok());
        joined.flatten().flatten().collect()
    });
    if let Ok(Some((seed, text))) = wrong.into_inner() {
        let again = format!("cargo run -p coretex-simulation -- --seed {seed}");
        return Err(format!("seed {seed}: {text}\nto see it again: {again}"));
    }
    let mut tally = sums.first().map(|tale| tale.tally).unwrap_or_default();
    for tale in sums.iter().skip(1) {
        tally += tale.tally;
    }
    Ok(format!("seeds {first}..{end} went well: {tally:?}"))
}
