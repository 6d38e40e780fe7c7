//! What a decision is made about: a job and who asks for it, with facts worked out when a rule asks.

use std::cell::{Cell, OnceCell};

use serde_json::{Value as Json, json};

use super::mcp::McpFacts;
use super::safety::Safety;
use super::secrets::{self, Secrets};
use crate::expression::{Source, Variables};
use crate::id::TenantId;
use crate::job::{ActorType, JobSpec, Priority};
use crate::payload::{Content, Payload};
use crate::time::Timestamp;

/// A job and who asks for it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Whose job.
    pub tenant: &'a TenantId,
    /// Who asks, from the credential.
    pub principal_id: &'a str,
    /// What is asked for, with what the topic's rule adds.
    pub spec: &'a JobSpec,
    /// The input; `None` = the job has none.
    pub input: Option<&'a Payload>,
    /// The effective configuration; `None` = empty.
    pub config: Option<&'a Json>,
    /// The effective safety section.
    pub safety: Option<&'a Safety>,
    /// Store time.
    pub now: Timestamp,
    lazy: Lazy<'a>,
}

/// Facts that are worked out once, when they are first asked for.
#[derive(Debug, Default)]
struct Lazy<'a> {
    mcp: OnceCell<McpFacts<'a>>,
    jobs: [OnceCell<Json>; 2],
    labels: OnceCell<Json>,
    secrets: OnceCell<Secrets>,
    /// The input, once more than one condition has read of it.
    input: OnceCell<Option<Json>>,
    input_reads: Cell<u32>,
}

/// A fact needs the input, which stands apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InputApart;

/// `null`, for jobs without input.
static NULL: Json = Json::Null;

impl<'a> Subject<'a> {
    /// A job without input, configuration and safety section.
    #[must_use]
    pub fn new(
        tenant: &'a TenantId,
        principal_id: &'a str,
        spec: &'a JobSpec,
        now: Timestamp,
    ) -> Self {
        Self {
            tenant,
            principal_id,
            spec,
            input: None,
            config: None,
            safety: None,
            now,
            lazy: Lazy::default(),
        }
    }

    /// With an input.
    #[must_use]
    pub const fn with_input(mut self, input: Option<&'a Payload>) -> Self {
        self.input = input;
        self
    }

    /// With an effective configuration.
    #[must_use]
    pub const fn with_config(mut self, config: Option<&'a Json>) -> Self {
        self.config = config;
        self
    }

    /// With an effective safety section.
    #[must_use]
    pub const fn with_safety(mut self, safety: Option<&'a Safety>) -> Self {
        self.safety = safety;
        self
    }

    pub(super) fn input_is_apart(&self) -> bool {
        self.input.is_some_and(Payload::is_apart)
    }

    /// Which secrets the job carries.
    pub(super) fn secrets(&self) -> Result<Secrets, InputApart> {
        let found = *self
            .lazy
            .secrets
            .get_or_init(|| secrets::in_job(self.spec, self.input));
        if found == Secrets::Unknown && self.input_is_apart() {
            return Err(InputApart);
        }
        Ok(found)
    }

    pub(super) fn mcp(&self) -> &McpFacts<'a> {
        self.lazy.mcp.get_or_init(|| McpFacts::of(self.spec))
    }

    /// The variable `job`, with one of the MCP calls that it may stand for.
    fn job(&self, variant: usize) -> Source<'_> {
        match self.lazy.jobs.get(variant) {
            Some(cell) => Source::Json(cell.get_or_init(|| self.job_json(variant))),
            None => Source::Owned(self.job_json(variant)),
        }
    }

    fn job_json(&self, variant: usize) -> Json {
        let spec = self.spec;
        let metadata = &spec.metadata;
        let mut job = json!({
            "topic": spec.topic.as_str(),
            "team_id": spec.team_id,
            "priority": match spec.priority {
                Priority::Critical => "critical",
                Priority::Interactive => "interactive",
                Priority::Batch => "batch",
            },
            "capability": metadata.capability,
            "risk_tags": metadata.risk_tags,
            "requires": metadata.requires,
            "pack_id": metadata.pack_id,
            "actor_id": metadata.actor_id,
            "actor_type": match metadata.actor_type {
                Some(ActorType::Human) => "human",
                Some(ActorType::Service) => "service",
                None => "",
            },
            "mcp": self.mcp().variant(variant),
            "labels": spec.labels,
            "timeout_seconds": spec.timeout.as_secs_f64(),
            "max_attempts": spec.retry.max_attempts,
            "fairness_key": spec.fairness_key,
            "parent_job_id": spec.parent_job_id.as_ref().map_or("", |id| id.as_str()),
        });
        let mut add = |key: &str, value: Json| {
            if let Some(map) = job.as_object_mut() {
                map.insert(key.to_owned(), value);
            }
        };
        // What was not said is missing: nothing compares with a number that nobody gave.
        if let Some(cost) = spec.estimated_cost {
            add("estimated_cost", json!(cost));
        }
        if let Some(budget) = &spec.budget {
            let budget = json!({
                "max_input_tokens": budget.max_input_tokens,
                "max_output_tokens": budget.max_output_tokens,
                "max_total_tokens": budget.max_total_tokens,
            });
            add("budget", budget);
        }
        job
    }

    /// The variable `input`; `None` when there is no JSON to read.
    fn input(&self) -> Option<Source<'_>> {
        let Some(payload) = self.input else {
            return Some(Source::Json(&NULL));
        };
        let bytes = match &payload.content {
            Content::Json(bytes) => bytes,
            Content::Raw(bytes) if is_json(&payload.content_type) => bytes,
            Content::Raw(_) | Content::Artifact(_) | Content::Apart { .. } => return None,
        };
        let text = std::str::from_utf8(bytes).ok()?;
        // One condition reads only the parts that it names; for many it pays to keep the whole.
        let reads = self.lazy.input_reads.get() + 1;
        self.lazy.input_reads.set(reads);
        if reads == 1 {
            return Some(Source::Text(text));
        }
        let parsed = self
            .lazy
            .input
            .get_or_init(|| serde_json::from_str(text).ok());
        Some(parsed.as_ref().map_or(Source::Text(text), Source::Json))
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || essence.to_ascii_lowercase().ends_with("+json")
}

/// The variables of conditions, for one subject.
pub(super) struct Facts<'s, 'a> {
    subject: &'s Subject<'a>,
    /// Values of the bundle's counters, by their ids.
    history: Json,
    /// Which of the MCP calls that it may stand for.
    variant: usize,
    /// Whether the input was asked for while it stands apart.
    missed_input: Cell<bool>,
}

impl<'s, 'a> Facts<'s, 'a> {
    pub(super) const fn new(subject: &'s Subject<'a>, history: Json, variant: usize) -> Self {
        Self {
            subject,
            history,
            variant,
            missed_input: Cell::new(false),
        }
    }

    /// Turns to another of the MCP calls.
    pub(super) fn choose(&mut self, variant: usize) {
        self.variant = variant;
        self.missed_input.set(false);
    }

    pub(super) const fn missed_input(&self) -> bool {
        self.missed_input.get()
    }
}

/// The names that conditions may use beside `history`.
pub(super) const VARIABLES: [&str; 8] = [
    "job",
    "input",
    "tenant",
    "team",
    "principal",
    "labels",
    "config",
    "now",
];

impl Variables for Facts<'_, '_> {
    fn get(&self, name: &str) -> Option<Source<'_>> {
        let subject = self.subject;
        Some(match name {
            "job" => subject.job(self.variant),
            "input" if subject.input_is_apart() => {
                self.missed_input.set(true);
                return None;
            }
            "input" => return subject.input(),
            "tenant" => Source::Owned(json!(subject.tenant.as_str())),
            "team" => Source::Owned(json!(subject.spec.team_id)),
            "principal" => Source::Owned(json!(subject.principal_id)),
            "labels" => {
                let labels = &subject.lazy.labels;
                Source::Json(labels.get_or_init(|| json!(subject.spec.labels)))
            }
            "config" => match subject.config {
                Some(config) => Source::Json(config),
                None => Source::Owned(json!({})),
            },
            "now" => Source::Time(subject.now),
            "history" => Source::Json(&self.history),
            _ => return None,
        })
    }
}
