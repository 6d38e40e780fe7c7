//! Texts of strangers, mutated for as long as there is time: bundles, cases, expressions, and what
//! is searched for secrets. Nothing panics, nothing takes long, and memory stays bounded.
//!
//! Each target runs for `CORETEX_FUZZ_SECONDS` (5 unless said). A failure prints the text; the same
//! `CORETEX_FUZZ_SEED` (1 unless said) tries the same texts in the same order.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says with what"
)]

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coretex_core::document::{Document, MAX_PROBLEMS};
use coretex_core::expression::{Bindings, Budget, Expression, Scope};
use coretex_core::id::{TenantId, Topic};
use coretex_core::job::JobSpec;
use coretex_core::payload::Payload;
use coretex_core::policy::{Bundle, History, Snapshot, Subject, Undecided, cases, secrets};
use coretex_core::time::Timestamp;

/// No text may take longer than this. The hardest known ones take a hundredth on a slow machine.
const LONG: Duration = Duration::from_secs(10);
/// What all targets together may take of memory beyond what they began with.
const MEMORY_MIB: u64 = 512;
/// The longest text that mutation makes.
const LONGEST: usize = 64 * 1024;

const BUNDLES: [&str; 4] = [
    "version: 1\ndefault_decision: deny\ndefault_tenant: {deny: [job.x]}\ntenants:\n  acme:\n    allow: [job.db.*, job.web.>]\ncounters:\n  - id: c\n    key: principal + '/' + job.topic\n    window: 1h\nrules:\n  - id: r\n    priority: 3\n    match:\n      topics: [job.db.*]\n      labels: {env: 'p*'}\n      mcp: {tools: [\"drop_*\"]}\n    when: |\n      history.c > 3 &&\n        input.rows.exists(r, r.id == 'x')\n    decision: throttle\n    rate: {permits: 1, per: 1m, key: {cel: labels.env}}\n",
    "{\"version\": 1, \"rules\": [{\"id\": \"a\", \"decision\": \"allow_with_constraints\", \"constraints\": {\"budgets\": {\"max_runtime\": \"5m\"}, \"sandbox\": {\"isolated\": true}}}]}",
    "version: 1\nrules:\n- id: ask\n  decision: require_approval\n  approval: {roles: [admin], required: 2, expires_after: 1h, on_expire: escalate, escalate_to: [admin]}\n- id: no\n  match: {secrets_present: true, risk_tags: ['*pii*', \"\\u0041*\"]}\n  decision: deny\n  reason: >-\n    a folded\n    reason\n  remediations:\n  - {id: x, replacement_topic: job.y, add_labels: {a: b}}\n",
    "cases:\n  - name: x\n    subject: {topic: job.a, tenant: t, input: {a: [1, 2.5, null]}, metadata: {mcp: {tool: x}}}\n    history: {c: 3}\n    now: 2026-01-31T12:00:00Z\n    expect: {decision: deny, constraints: {redaction_level: full}}\n",
];

const EXPRESSIONS: [&str; 8] = [
    "input.items.filter(i, i.price > 10).size() + 0.5",
    "job.topic.startsWith('job.') && !(labels.env in ['prod', 'test'])",
    "input.a.map(x, input.b.exists(y, y == x)) == [true, false]",
    "timestamp('2026-01-01T00:00:00Z') + duration('1h30m') > now",
    "input.text.matches('^(a+)+$') ? {'k': [1, 2u, 0x1F]} : \"\\u00e9\"",
    "has(input.a.b) || input['odd-name'] == null && -1 < 2 % 3",
    "string(input.n) + 'x'.replace('x', 'yy') + [1, 2, 3].map(i, string(i)).join(',')",
    "input.n / 0 > 1 || input.`odd-name`[0].size() >= 9223372036854775807",
];

const SECRETS: [&str; 4] = [
    "{\"password\": \"tr0ub4dor\", \"u\": \"postgres://a:b@c\", \"t\": \"eyJhbGciOi.eyJzdWI.x\"}",
    "-----BEGIN RSA PRIVATE KE\\u0059----- secret:\\/\\/vault Bearer abcdefghijklmnopqrst",
    "api_key := 'x1x2x3x4x5' AKIA0123456789ABCDEF ghp_ xoxb- sk-proj- AIza npm_",
    "token token token=== ::::: \"\\\\\\\"secret\\\\\\\": \\\\\\\"aB3dE5fG7\\\\\\\"",
];

/// Pieces that break parsers.
const PIECES: [&str; 40] = [
    "&a ",
    "*a",
    "!!str ",
    "<<: ",
    "? ",
    "- ",
    ": ",
    "|2-\n",
    ">+\n",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\t",
    "\u{feff}",
    "\u{0}",
    "\u{2028}",
    "\u{1F600}",
    "\"",
    "'",
    "\\",
    "\\u",
    "\\x",
    "{",
    "}",
    "[",
    "]",
    "#",
    "@",
    "`",
    "1e999",
    "-",
    "~",
    "0x",
    "99999999999999999999",
    "(((((",
    ".map(x, x)",
    "&&",
    "||",
    "? :",
    "history.c",
];

/// Numbers that look random, from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        (number % sides.max(1) as u64) as usize
    }

    /// A place in a text, between two characters.
    fn place(&mut self, text: &str) -> usize {
        let mut place = self.roll(text.len() + 1);
        while !text.is_char_boundary(place) {
            place -= 1;
        }
        place
    }

    fn range(&mut self, text: &str) -> (usize, usize) {
        let (a, b) = (self.place(text), self.place(text));
        (a.min(b), a.max(b))
    }

    /// A text of the corpus with a few things done to it.
    fn mutated(&mut self, corpus: &[&str]) -> String {
        let mut text = corpus[self.roll(corpus.len())].to_owned();
        for _ in 0..=self.roll(6) {
            let (from, to) = self.range(&text);
            match self.roll(9) {
                0 => text.replace_range(from..to, ""),
                1 => text.insert_str(from, PIECES[self.roll(PIECES.len())]),
                2 => {
                    let piece = text[from..to].to_owned();
                    let times = 1 + self.roll(40);
                    text.insert_str(to, &piece.repeat(times));
                }
                3 => {
                    let other = corpus[self.roll(corpus.len())];
                    let (start, end) = self.range(other);
                    text.replace_range(from..to, &other[start..end]);
                }
                4 => {
                    let byte = char::from(u8::try_from(self.roll(128)).unwrap());
                    text.insert(from, byte);
                }
                5 => {
                    let times = 1 + self.roll(2_000);
                    let piece = PIECES[self.roll(PIECES.len())];
                    text.insert_str(from, &piece.repeat(times));
                }
                6 => {
                    // A line is indented further.
                    let start = text[..from].rfind('\n').map_or(0, |at| at + 1);
                    let spaces = 1 + self.roll(8);
                    text.insert_str(start, &" ".repeat(spaces));
                }
                7 => {
                    let token = text[from..]
                        .split([' ', ',', '}'])
                        .next()
                        .unwrap()
                        .to_owned();
                    let piece = PIECES[self.roll(PIECES.len())];
                    text = text.replacen(&token, piece, 1);
                }
                _ => text.truncate(to),
            }
            if text.len() > LONGEST {
                let mut end = LONGEST;
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
            }
        }
        text
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// Tries mutated texts until the time is over; gives back how many of them `target` found good.
fn fuzz(corpus: &[&str], mut target: impl FnMut(&str) -> bool) -> u64 {
    let seconds = number("CORETEX_FUZZ_SECONDS", 5);
    let mut dice = Dice(number("CORETEX_FUZZ_SEED", 1) | 1 << 40);
    let (mut tried, mut good) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        let text = dice.mutated(corpus);
        let begun = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| target(&text))) {
            Ok(was_good) => good += u64::from(was_good),
            Err(panic) => {
                eprintln!("text {tried}: {text:?}");
                resume_unwind(panic);
            }
        }
        let took = begun.elapsed();
        assert!(took < LONG, "{took:?} for {text:?}");
        tried += 1;
    }
    eprintln!("{tried} texts, {good} of them good");
    assert!(tried > 100, "only {tried} texts");
    good
}

/// Memory of this process at its peak, where the system tells.
fn peak_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

fn with_memory(run: impl FnOnce()) {
    let before = peak_mib();
    run();
    if let (Some(before), Some(after)) = (before, peak_mib()) {
        assert!(
            after - before < MEMORY_MIB,
            "{before} MiB grew to {after} MiB"
        );
    }
}

/// Decides about some jobs under a bundle, if the text is one.
fn decide(text: &str) -> bool {
    let problems = match Bundle::parse(text) {
        Ok(bundle) => return decide_under(bundle),
        Err(problems) => problems,
    };
    assert!(!problems.is_empty() && problems.len() <= MAX_PROBLEMS + 1);
    // YAML ends lines with carriage returns alone, too.
    let lines = 1 + text.matches(['\n', '\r']).count();
    for problem in &problems {
        assert!(
            (1..=lines).contains(&problem.line),
            "{problem} in {lines} lines"
        );
        assert!(
            problem.column >= 1 && problem.message.len() < 4_096,
            "{problem}"
        );
    }
    false
}

fn decide_under(bundle: Bundle) -> bool {
    // What was read once is read again from its own JSON.
    let again = Bundle::parse(&bundle.source().to_string()).unwrap();
    assert_eq!(again.rules.len(), bundle.rules.len());
    let snapshot = Snapshot::new("s".to_owned(), vec![("b".to_owned(), Arc::new(bundle))]).unwrap();
    let tenant = TenantId::parse("acme").unwrap();
    for (topic, input) in [
        ("job.db.query", "{\"rows\": [{\"id\": \"x\"}]}"),
        ("job.x", "{}"),
    ] {
        let mut spec = JobSpec::new(Topic::parse(topic).unwrap());
        spec.labels.insert("env".to_owned(), "prod".to_owned());
        spec.labels
            .insert("mcp.tool".to_owned(), "drop_table".to_owned());
        let input = Payload::json(input.into());
        let now = Timestamp::from_micros(1_769_860_800_000_000);
        let subject = Subject::new(&tenant, "ann", &spec, now).with_input(Some(&input));
        let mut history = History::new();
        let mut outcome = snapshot.evaluate(&subject, &history);
        if let Err(Undecided::NeedsHistory(needs)) = &outcome {
            assert!(!needs.is_empty());
            for need in needs {
                history.insert(need, 5);
            }
            outcome = snapshot.evaluate(&subject, &history);
        }
        let explained = snapshot
            .explain(&subject, &history)
            .map(|explained| explained.outcome);
        assert_eq!(outcome, explained);
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    true
}

#[test]
fn bundles() {
    with_memory(|| {
        let good = fuzz(&BUNDLES, |text| {
            let _ = cases::parse(text);
            decide(text)
        });
        assert!(good > 10, "mutation leaves nothing to decide");
    });
}

#[test]
fn documents_and_bytes() {
    let corpus = [BUNDLES.as_slice(), &PIECES].concat();
    with_memory(|| {
        fuzz(&corpus, |text| Document::parse(text).is_ok());
    });
}

#[test]
fn expressions() {
    let scope = Scope::new()
        .variables(["input", "job", "labels", "now"])
        .record("history", ["c"]);
    let input = r#"{"items": [{"price": 12.5}], "a": [1, 2], "b": [2], "text": "aaaaaaaaaaaaaaaaaaaaaaaaab", "n": 7, "odd-name": [null]}"#;
    let budget = Budget {
        steps: 10_000,
        visits: 100_000,
        result_bytes: 100_000,
    };
    with_memory(|| {
        let good = fuzz(&EXPRESSIONS, |text| {
            let Ok(expression) = Expression::compile(text, &scope) else {
                return false;
            };
            let variables = Bindings::new()
                .text("input", input)
                .text("job", "{\"topic\": \"job.x\"}")
                .text("labels", "{\"env\": \"prod\"}")
                .text("history", "{\"c\": 3}")
                .text("now", "\"2026-01-01T00:00:00Z\"");
            let (first, usage) = expression.evaluate_within(&variables, budget);
            assert_eq!(
                (first, usage),
                expression.evaluate_within(&variables, budget)
            );
            true
        });
        assert!(good > 10, "mutation leaves nothing to evaluate");
    });
}

#[test]
fn searches_for_secrets() {
    with_memory(|| {
        let found = fuzz(&SECRETS, |text| secrets::find(text.as_bytes()).is_some());
        assert!(found > 10, "nothing is found any more");
    });
}
