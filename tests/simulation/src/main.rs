//! `coretex-simulation`: tells histories by their seeds.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use coretex_simulation::{Plan, STEPS, Strike, Tally, cases, live, on_all_cores, strikes, tell};

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
    /// Let every fault strike at every point of every life of a job instead.
    #[arg(long)]
    lives: bool,
    /// Run one life and tell it on stderr: `LIFE:SERVERS:resend|once[:POINT:STRIKE]`.
    #[arg(long)]
    life: Option<String>,
    /// Servers in each history, instead of 1 to 3 as the seed says.
    #[arg(long)]
    replicas: Option<usize>,
    /// Steps of each history.
    #[arg(long, default_value_t = STEPS)]
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
    /// Tells on stderr from here on.
    fn listen(&self) {
        tracing_subscriber::fmt()
            .with_env_filter(&self.log)
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .with_writer(std::io::stderr)
            .init();
    }

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
    let told = match (&options.life, options.seed) {
        (Some(name), _) => one_life(&options, name),
        (None, Some(seed)) => one(&options, seed),
        (None, None) if options.lives => all_lives(),
        (None, None) => many(&options),
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
    options.listen();
    let tale = tell(options.plan(seed)).map_err(|wrong| format!("seed {seed}: {wrong}"))?;
    Ok(format!("seed {seed}: {tale:?}"))
}

/// Runs seeds until one goes wrong.
fn many(options: &Options) -> Result<String, String> {
    let first = options.seeds.0;
    let end = options.count.map_or(options.seeds.1, |count| first + count);
    let tales = on_all_cores(end.saturating_sub(first), |at| {
        let seed = first + at;
        tell(options.plan(seed)).map_err(|wrong| {
            let again = format!("cargo run -p coretex-simulation -- --seed {seed}");
            format!("seed {seed}: {wrong}\nto see it again: {again}")
        })
    })?;
    let mut tally = Tally::default();
    for tale in &tales {
        tally += tale.tally;
    }
    Ok(format!("seeds {first}..{end} went well: {tally:?}"))
}

/// Lets everything strike at every point of every life; tells of all that go wrong.
fn all_lives() -> Result<String, String> {
    let strikes = strikes()?;
    let wrong = on_all_cores(strikes.len() as u64, |at| {
        let (case, at, strike) = strikes[at as usize];
        let name = format!("{case}:{at}:{strike}");
        Ok(live(case, Some((at, strike)))
            .err()
            .map(|wrong| format!("{name}: {wrong}")))
    })?;
    let mut wrong: Vec<String> = wrong.into_iter().flatten().collect();
    if wrong.is_empty() {
        return Ok(format!("{} lives with a fault went well", strikes.len()));
    }
    wrong.sort();
    let again = "to see one again: cargo run -p coretex-simulation -- --life NAME";
    let (count, all) = (wrong.len(), wrong.join("\n"));
    Err(format!(
        "{count} of {} lives went wrong:\n{all}\n{again}",
        strikes.len()
    ))
}

/// One life, told on stderr; without a fault when the name has none.
fn one_life(options: &Options, name: &str) -> Result<String, String> {
    let found = cases()
        .into_iter()
        .find(|case| name.starts_with(&format!("{case}:")) || name == case.to_string());
    let case = found.ok_or_else(|| format!("{name}: no such life"))?;
    let mut parts = name.split(':').skip(3);
    let strike = match (parts.next(), parts.next()) {
        (Some(at), Some(strike)) => {
            let at = at.parse().map_err(|_| format!("{at} is not a number"))?;
            let known = Strike::ALL
                .into_iter()
                .find(|one| one.to_string() == strike);
            Some((at, known.ok_or_else(|| format!("{strike} is no strike"))?))
        }
        _ => None,
    };
    options.listen();
    let points = live(case, strike).map_err(|wrong| format!("{name}: {wrong}"))?;
    Ok(format!("{name}: {points:?}"))
}
