//! Jobs and bundles for tests.

use std::sync::Arc;

use coretex_core::id::{TenantId, Topic};
use coretex_core::job::JobSpec;
use coretex_core::payload::Payload;
use coretex_core::policy::safety::Safety;
use coretex_core::policy::{Bundle, History, Outcome, Snapshot, Subject, Undecided};
use coretex_core::time::Timestamp;
use serde_json::Value;

/// 2026-01-31T12:00:00Z, a Saturday.
pub(crate) const NOON: Timestamp = Timestamp::from_micros(1_769_860_800_000_000);

/// A job and who asks for it, owned.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) tenant: TenantId,
    pub(crate) principal: String,
    pub(crate) spec: JobSpec,
    pub(crate) input: Option<Payload>,
    pub(crate) config: Option<Value>,
    pub(crate) safety: Option<Safety>,
    pub(crate) now: Timestamp,
    pub(crate) history: History,
}

pub(crate) fn job(topic: &str) -> Case {
    Case {
        tenant: TenantId::parse("acme").unwrap(),
        principal: "ann".to_owned(),
        spec: JobSpec::new(Topic::parse(topic).unwrap()),
        input: None,
        config: None,
        safety: None,
        now: NOON,
        history: History::new(),
    }
}

impl Case {
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn input(self, value: &Value) -> Self {
        let text = value.to_string();
        self.with(|case| case.input = Some(Payload::json(text.into())))
    }

    pub(crate) fn label(self, key: &str, value: &str) -> Self {
        self.with(|case| {
            case.spec.labels.insert(key.to_owned(), value.to_owned());
        })
    }

    pub(crate) fn safety(self, section: &Value) -> Self {
        let section = Safety::read(section).unwrap();
        self.with(|case| case.safety = Some(section))
    }

    pub(crate) fn counter(self, id: &str, value: u64) -> Self {
        self.with(|case| case.history.insert_id(id.to_owned(), value))
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject::new(&self.tenant, &self.principal, &self.spec, self.now)
            .with_input(self.input.as_ref())
            .with_config(self.config.as_ref())
            .with_safety(self.safety.as_ref())
    }

    pub(crate) fn ask(&self, snapshot: &Snapshot) -> Result<Outcome, Undecided> {
        snapshot.evaluate(&self.subject(), &self.history)
    }
}

/// A snapshot of bundles with the names `a`, `b`, ...
pub(crate) fn snapshot(bundles: &[&str]) -> Snapshot {
    let bundles = ('a'..).zip(bundles).map(|(name, text)| {
        let bundle = Bundle::parse(text).unwrap_or_else(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("{}\n{text}", lines.join("\n"))
        });
        (name.to_string(), Arc::new(bundle))
    });
    Snapshot::new("snapshot".to_owned(), bundles.collect()).unwrap()
}

/// A bundle of rules, each given as the lines of a mapping in one line.
pub(crate) fn rules(rules: &[&str]) -> String {
    let mut text = "version: 1\nrules:\n".to_owned();
    for rule in rules {
        text.push_str(&format!("  - {{{rule}}}\n"));
    }
    text
}

/// `decision rule` or `decision -`.
pub(crate) fn brief(outcome: &Outcome) -> String {
    let rule = if outcome.rule_id.is_empty() {
        "-".to_owned()
    } else {
        format!("{}/{}", outcome.bundle_id, outcome.rule_id)
    };
    format!("{} {rule}", outcome.decision.word())
}
