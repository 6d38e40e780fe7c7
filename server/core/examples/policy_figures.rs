//! What decisions cost: `cargo run --release -p coretex-core --example policy_figures`.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coretex_core::id::{TenantId, Topic};
use coretex_core::job::JobSpec;
use coretex_core::payload::Payload;
use coretex_core::policy::secrets;
use coretex_core::policy::{Bundle, Decision, History, Snapshot, Subject};
use coretex_core::time::Timestamp;

/// Bundles of together `rules` rules, as an organisation with many teams has them: by topic, by
/// tenant, by capability and tag, and some for everybody at the end.
fn snapshot(rules: usize, when: &str) -> Snapshot {
    let bundles = (0..10).map(|bundle| {
        let mut text = "version: 1\ndefault_decision: deny\nrules:\n".to_owned();
        for rule in 0..rules / 10 {
            let n = bundle * rules / 10 + rule;
            let matches = match n % 4 {
                0 => format!("topics: [job.team{}.*.run], tenants: [tenant{}]", n % 200, n % 50),
                1 => format!("tenants: [tenant{}], risk_tags: [tag{}]", n % 50, n % 20),
                2 => format!("topics: ['job.team{}.>'], labels: {{env: 'e{}*'}}", n % 200, n % 9),
                _ => format!("capabilities: [cap{}], mcp: {{tools: ['t{}_*']}}", n % 300, n % 40),
            };
            text.push_str(&format!(
                "  - {{id: r{rule}, priority: {}, match: {{{matches}}}, decision: require_approval}}\n",
                n % 3
            ));
        }
        text.push_str(&format!("  - {{id: rest, priority: -9, decision: allow{when}}}\n"));
        (format!("b{bundle}"), Arc::new(Bundle::parse(&text).unwrap()))
    });
    Snapshot::new("s".to_owned(), bundles.collect()).unwrap()
}

fn measure(name: &str, mut step: impl FnMut()) {
    for _ in 0..2_000 {
        step();
    }
    let mut times = Vec::with_capacity(100_000);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let before = Instant::now();
        step();
        times.push(before.elapsed());
    }
    let total: Duration = times.iter().sum();
    times.sort_unstable();
    let mean = total / u32::try_from(times.len()).unwrap();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{name:50} {:9.0}/s  mean {mean:9.2?}  p50 {:9.2?}  p99 {:9.2?}",
        1.0 / mean.as_secs_f64(),
        at(0.5),
        at(0.99)
    );
}

fn main() {
    let tenant = TenantId::parse("tenant7").unwrap();
    let mut spec = JobSpec::new(Topic::parse("job.team7.db.query").unwrap());
    spec.metadata.capability = "cap7".to_owned();
    spec.metadata.risk_tags = vec!["other".to_owned()];
    spec.labels.insert("env".to_owned(), "prod".to_owned());
    let words = "the quick brown fox jumps over the lazy dog and reads rows of a table ";
    let filler: String = words.chars().cycle().take(4_000).collect();
    let input = Payload::json(format!(r#"{{"rows": 12, "text": "{filler}"}}"#).into());
    let now = Timestamp::from_micros(1_769_860_800_000_000);
    let history = History::new();
    for (what, when) in [
        ("no expression", ""),
        (
            "condition",
            ", when: \"input.rows > 10 && job.topic.startsWith('job.team') && labels.env != 'test'\"",
        ),
    ] {
        for rules in [10, 1_000, 10_000] {
            let snapshot = snapshot(rules, when);
            measure(&format!("{what}, {rules} rules"), || {
                let subject = Subject::new(&tenant, "ann", &spec, now).with_input(Some(&input));
                let outcome = snapshot.evaluate(&subject, &history).unwrap();
                assert_eq!(outcome.decision, Decision::Allow);
                black_box(outcome);
            });
        }
    }
    measure("secret scan, 4 KiB", || {
        black_box(secrets::in_job(&spec, Some(&input)));
    });
}
