//! The row on decisions of the safety kernel: one core, no server, no store.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coretex_core::id::{TenantId, Topic};
use coretex_core::job::JobSpec;
use coretex_core::payload::Payload;
use coretex_core::policy::{Bundle, Decision, History, Snapshot, Subject, secrets};
use coretex_core::time::Timestamp;

use crate::Result;
use crate::report::{Figure, Row};
use crate::rows::Bench;

/// Bundles that share the rules.
const BUNDLES: usize = 10;
/// The input of the jobs, in bytes.
const INPUT: usize = 4 * 1024;
/// The condition of the rule that matches in each bundle.
const CONDITION: &str =
    ", when: \"input.rows > 10 && job.topic.startsWith('job.team') && labels.env != 'test'\"";

/// What one kind of decision costs.
struct Cost {
    per_second: f64,
    mean: f64,
    p99: f64,
}

impl Bench {
    /// Decisions with few and many rules, with and without conditions, and the search for secrets.
    pub(crate) fn policy(&mut self) -> Result<()> {
        let lasting = Duration::from_secs(5) / u32::try_from(self.scale)?;
        let tenant = TenantId::parse("tenant7")?;
        let mut spec = JobSpec::new(Topic::parse("job.team7.db.query")?);
        spec.metadata.capability = "cap7".to_owned();
        spec.metadata.risk_tags = vec!["other".to_owned()];
        spec.labels.insert("env".to_owned(), "prod".to_owned());
        let words = "the quick brown fox jumps over the lazy dog and reads some rows of a table ";
        let filler: String = words.chars().cycle().take(INPUT - 30).collect();
        let input = format!("{{\"rows\": 12, \"text\": \"{filler}\"}}");
        let input = Payload::json(input.into());
        let now = Timestamp::from_micros(1_769_860_800_000_000);
        let history = History::new();
        for (title, when, goal) in [
            ("decisions without an expression", "", 20.0),
            (
                "decisions with a condition on each matching rule",
                CONDITION,
                50.0,
            ),
        ] {
            let mut figures = Vec::new();
            for (rules, names) in [
                (10, ["10 rules", "10 rules, mean", "10 rules, p99"]),
                (
                    1_000,
                    ["1,000 rules", "1,000 rules, mean", "1,000 rules, p99"],
                ),
                (
                    10_000,
                    ["10,000 rules", "10,000 rules, mean", "10,000 rules, p99"],
                ),
            ] {
                let snapshot = snapshot(rules, when)?;
                let cost = measure(lasting, || {
                    let subject = Subject::new(&tenant, "ann", &spec, now).with_input(Some(&input));
                    let outcome = black_box(snapshot.evaluate(&subject, &history)?);
                    if outcome.decision != Decision::Allow {
                        return Err(format!("unexpected: {}", outcome.reason).into());
                    }
                    Ok(())
                })?;
                figures.push(Figure::new(names[0], cost.per_second, "decisions/s"));
                let mean = Figure::new(names[1], cost.mean, "us");
                figures.push(if rules == 10_000 {
                    mean.at_most(goal)
                } else {
                    mean
                });
                figures.push(Figure::new(names[2], cost.p99, "us"));
            }
            self.push_row(row(title, figures));
        }
        let cost = measure(lasting, || {
            black_box(secrets::in_job(&spec, Some(&input)));
            Ok(())
        })?;
        let figures = vec![
            Figure::new("searches", cost.per_second, "searches/s"),
            Figure::new("mean", cost.mean, "us"),
            Figure::new("p99", cost.p99, "us"),
        ];
        self.push_row(row("search for secrets in an input of 4 KiB", figures));
        Ok(())
    }
}

fn row(title: &str, figures: Vec<Figure>) -> Row {
    Row {
        letter: "r",
        title: title.to_owned(),
        durability: "in memory",
        figures,
    }
}

/// Rules as an organisation with many teams has them: by topic, tenant, tag, label, capability and
/// tool, and one for everybody at the end of each bundle.
fn snapshot(rules: usize, when: &str) -> Result<Snapshot> {
    let mut bundles = Vec::new();
    for bundle in 0..BUNDLES {
        let mut text = "version: 1\ndefault_decision: deny\nrules:\n".to_owned();
        // The last rule counts as well.
        for rule in 1..rules / BUNDLES {
            let n = bundle * rules / BUNDLES + rule;
            let matches = match n % 4 {
                0 => format!(
                    "topics: [job.team{}.*.run], tenants: [tenant{}]",
                    n % 200,
                    n % 50
                ),
                1 => format!("tenants: [tenant{}], risk_tags: [tag{}]", n % 50, n % 20),
                2 => format!(
                    "topics: ['job.team{}.>'], labels: {{env: 'e{}*'}}",
                    n % 200,
                    n % 9
                ),
                _ => format!(
                    "capabilities: [cap{}], mcp: {{tools: ['t{}_*']}}",
                    n % 300,
                    n % 40
                ),
            };
            let priority = n % 3;
            text.push_str(&format!(
                "  - {{id: r{rule}, priority: {priority}, match: {{{matches}}}, decision: require_approval}}\n"
            ));
        }
        text.push_str(&format!(
            "  - {{id: rest, priority: -1, decision: allow{when}}}\n"
        ));
        let bundle_of = |problems: Vec<_>| format!("the bundle is wrong: {problems:?}");
        let parsed = Bundle::parse(&text).map_err(bundle_of)?;
        bundles.push((format!("b{bundle}"), Arc::new(parsed)));
    }
    Ok(Snapshot::new("bench".to_owned(), bundles)?)
}

fn measure(lasting: Duration, mut step: impl FnMut() -> Result<()>) -> Result<Cost> {
    for _ in 0..1_000 {
        step()?;
    }
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < lasting {
        let begun = Instant::now();
        step()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
    times.sort_unstable_by(f64::total_cmp);
    let p99 = times.get(times.len() * 99 / 100).copied();
    Ok(Cost {
        per_second: 1e6 / mean,
        mean,
        p99: p99.unwrap_or_default(),
    })
}
