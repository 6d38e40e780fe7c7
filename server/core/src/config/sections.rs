//! The typed form of a configuration: the keys that have an effect, and what they may be.

use std::time::Duration;

use crate::document::{Field, Object};
use crate::id::PoolName;
use crate::job::Priority;
use crate::policy::safety::Safety;
use crate::retry::{MAX_ATTEMPTS, MAX_BACKOFF, MAX_CODE_LEN, MAX_MULTIPLIER};
use crate::retry::{MAX_NON_RETRYABLE_CODES, RetryPolicy};
use crate::routing::MAX_ENTRIES;
use crate::routing::pattern::{PatternMap, TopicPattern};

use super::{ConfigScope, visibility};

/// The longest any clock of a job may be.
const MAX_CLOCK: Duration = Duration::from_secs(366 * 24 * 3_600);
/// The shortest clock: less would end everything at once.
const MIN_CLOCK: Duration = Duration::from_millis(1);
/// The shortest time for which ended jobs are kept, so that whoever waits for one still finds it.
const MIN_KEPT: Duration = Duration::from_secs(60);
/// The most entries of a short list, and the most bytes of each.
const MAX_LIST: usize = 64;
const MAX_NAME: usize = 256;

/// What the server allows at most: a document may only ask for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// Of `limits.max_payload_bytes`.
    pub payload_bytes: u64,
    /// Of `limits.max_waiting_jobs`.
    pub waiting_jobs: u64,
    /// Of `limits.max_labels`.
    pub labels: u32,
    /// Of `retention.jobs`.
    pub kept_jobs: Duration,
    /// Of `retention.dead_letters`.
    pub kept_dead_letters: Duration,
    /// How many documents there may be in what is read: lists are as much longer.
    pub documents: usize,
}

impl Ceilings {
    /// Of the merged documents of all scopes: as high as numbers go, because each was checked when it
    /// was written.
    pub const MERGED: Self = Self {
        payload_bytes: i64::MAX.unsigned_abs(),
        waiting_jobs: i64::MAX.unsigned_abs(),
        labels: u32::MAX,
        kept_jobs: Duration::MAX,
        kept_dead_letters: Duration::MAX,
        documents: ConfigScope::ALL.len(),
    };
}

/// A configuration, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sections {
    /// What jobs of a topic get where their submitter says nothing.
    pub topics: PatternMap<TopicDefaults>,
    /// The pool that jobs of a topic prefer where their submitter names none.
    pub preferred_pools: PatternMap<PoolName>,
    /// Clocks of all jobs.
    pub timeouts: Timeouts,
    /// Limits below those of the server.
    pub limits: Limits,
    /// How long ended jobs are kept.
    pub retention: Retention,
    /// What policy may not allow.
    pub safety: Option<Safety>,
    /// The paths that workers see; `None` = the default ones.
    pub worker_paths: Option<Vec<String>>,
}

/// What jobs of a topic get where their submitter says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicDefaults {
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// How long a job may wait for a worker.
    pub schedule_to_start_timeout: Option<Duration>,
    /// How failed attempts are repeated.
    pub retry: Option<RetryPolicy>,
    /// What the jobs do.
    pub capability: Option<String>,
    /// Risk tags beside the job's own.
    pub risk_tags: Vec<String>,
    /// Serving order.
    pub priority: Option<Priority>,
}

/// Clocks of all jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// How long one attempt may take, where nobody says.
    pub job: Option<Duration>,
    /// How long a job may wait for a worker, where nobody says.
    pub schedule_to_start: Option<Duration>,
    /// How long one attempt may take, whatever anybody says.
    pub max_job: Option<Duration>,
}

/// Limits below those of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an input.
    pub max_payload_bytes: Option<u64>,
    /// Attempts of a job, the first included.
    pub max_attempts: Option<u32>,
    /// Labels of a job.
    pub max_labels: Option<u32>,
    /// Jobs of the tenant that wait at once.
    pub max_waiting_jobs: Option<u64>,
}

/// How long ended jobs are kept; `None` = as long as the server keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// All of them.
    pub jobs: Option<Duration>,
    /// Those with a dead letter, if that is longer.
    pub dead_letters: Option<Duration>,
}

impl Sections {
    /// Reads a document without nulls. What is wrong goes to the reader of the field.
    pub(super) fn read(field: &Field<'_>, ceilings: &Ceilings) -> Self {
        let mut read = Self::default();
        let Some(mut sections) = field.object() else {
            return read;
        };
        let documents = ceilings.documents;
        if let Some(field) = sections.get("topics") {
            let most_tags = MAX_LIST * documents;
            let rule = |field: &Field<'_>| TopicDefaults::read(field, most_tags);
            read.topics = by_pattern(&field, MAX_ENTRIES * documents, rule);
        }
        if let Some(mut pools) = object(&mut sections, "pools") {
            if let Some(field) = pools.get("preferred") {
                let pool = |field: &Field<'_>| field.parsed(PoolName::parse);
                read.preferred_pools = by_pattern(&field, MAX_ENTRIES * documents, pool);
            }
            pools.finish();
        }
        if let Some(timeouts) = object(&mut sections, "timeouts") {
            read.timeouts = Timeouts::read(timeouts);
        }
        if let Some(limits) = object(&mut sections, "limits") {
            read.limits = Limits::read(limits, ceilings);
        }
        if let Some(retention) = object(&mut sections, "retention") {
            read.retention = Retention::read(retention, ceilings);
        }
        read.safety = sections
            .get("safety")
            .map(|field| Safety::read_field(&field));
        if let Some(mut visibility) = object(&mut sections, "visibility") {
            let workers = visibility.get("workers");
            read.worker_paths = workers.map(|field| field.list(MAX_LIST * documents, worker_path));
            visibility.finish();
        }
        for free in ["models", "budgets"] {
            // Whatever is in them is for workers and policy to understand.
            let _ = object(&mut sections, free);
        }
        sections.finish();
        read
    }

    /// The paths that workers see.
    #[must_use]
    pub fn worker_paths(&self) -> Vec<String> {
        self.worker_paths
            .clone()
            .unwrap_or_else(|| visibility::DEFAULT.map(str::to_owned).to_vec())
    }
}

fn object<'a>(sections: &mut Object<'a>, key: &'static str) -> Option<Object<'a>> {
    sections.get(key).and_then(|field| field.object())
}

fn by_pattern<T>(
    field: &Field<'_>,
    most: usize,
    read: impl Fn(&Field<'_>) -> Option<T>,
) -> PatternMap<T> {
    let mut entries = Vec::new();
    for (key, field) in field.entries(most) {
        match TopicPattern::parse(key) {
            Ok(pattern) => entries.extend(read(&field).map(|value| (pattern, value))),
            Err(error) => field.problem(format_args!("the key {error}")),
        }
    }
    entries.into_iter().collect()
}

/// A section or a path of keys in it; never the safety section.
fn worker_path(field: &Field<'_>) -> Option<String> {
    const SECTIONS: [&str; 7] = [
        "topics",
        "pools",
        "timeouts",
        "limits",
        "retention",
        "models",
        "budgets",
    ];
    let path = field.line(MAX_NAME)?;
    let section = path.split('.').next().unwrap_or_default();
    if section == "safety" {
        field.problem("must not name `safety`, which workers never see");
        return None;
    }
    if !SECTIONS.contains(&section) || path.split('.').any(str::is_empty) {
        let known = SECTIONS.join(", ");
        field.problem(format_args!(
            "must be one of {known}, or a path in one of them such as `models.default`"
        ));
        return None;
    }
    Some(path)
}

fn clock(object: &mut Object<'_>, key: &'static str) -> Option<Duration> {
    object
        .get(key)
        .and_then(|field| field.duration(MIN_CLOCK, MAX_CLOCK))
}

fn number(object: &mut Object<'_>, key: &'static str, least: u64, most: u64) -> Option<u64> {
    let (least, most) = (as_signed(least), as_signed(most));
    let value = object.get(key)?.whole(least, most)?;
    u64::try_from(value).ok()
}

/// A number within bounds that need not be whole.
fn part(field: &Field<'_>, least: f64, most: f64) -> Option<f64> {
    let value = field.node().to_json().as_f64();
    let value = value.filter(|value| (least..=most).contains(value));
    if value.is_none() {
        field.problem(format_args!("must be a number from {least} to {most}"));
    }
    value
}

fn as_signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl TopicDefaults {
    fn read(field: &Field<'_>, most_tags: usize) -> Option<Self> {
        let mut object = field.object()?;
        let read = Self {
            timeout: clock(&mut object, "timeout"),
            schedule_to_start_timeout: clock(&mut object, "schedule_to_start_timeout"),
            retry: object.get("retry").and_then(|field| retry(&field)),
            capability: object
                .get("capability")
                .and_then(|field| field.line(MAX_NAME)),
            risk_tags: object
                .get("risk_tags")
                .map(|field| field.list(most_tags, |item| item.line(MAX_NAME)))
                .unwrap_or_default(),
            priority: object.get("priority").and_then(|field| {
                field.word(&[
                    ("critical", Priority::Critical),
                    ("interactive", Priority::Interactive),
                    ("batch", Priority::Batch),
                ])
            }),
        };
        object.finish();
        Some(read)
    }
}

/// A retry policy, of which each key may come from another scope: what does not fit together is made
/// to fit.
fn retry(field: &Field<'_>) -> Option<RetryPolicy> {
    let mut object = field.object()?;
    let pause = |field: Field<'_>| field.duration(Duration::ZERO, MAX_BACKOFF);
    let max_attempts = object
        .get("max_attempts")
        .and_then(|field| field.count(1, MAX_ATTEMPTS));
    let initial = object.get("initial_backoff").and_then(pause);
    let multiplier = object
        .get("multiplier")
        .and_then(|field| part(&field, 1.0, MAX_MULTIPLIER));
    let longest = object.get("max_backoff").and_then(pause);
    let jitter = object
        .get("jitter")
        .and_then(|field| part(&field, 0.0, 1.0));
    let codes = object
        .get("non_retryable_codes")
        .map(|field| field.list(MAX_NON_RETRYABLE_CODES, |item| item.line(MAX_CODE_LEN)));
    object.finish();
    let initial_backoff = initial
        .or(longest.map(|most| most.min(RetryPolicy::DEFAULT_INITIAL_BACKOFF)))
        .unwrap_or(RetryPolicy::DEFAULT_INITIAL_BACKOFF);
    Some(RetryPolicy {
        max_attempts: max_attempts.unwrap_or(1),
        initial_backoff,
        multiplier: multiplier.unwrap_or(RetryPolicy::DEFAULT_MULTIPLIER),
        max_backoff: longest
            .unwrap_or(RetryPolicy::DEFAULT_MAX_BACKOFF)
            .max(initial_backoff),
        jitter: jitter.unwrap_or(RetryPolicy::DEFAULT_JITTER),
        non_retryable_codes: codes.unwrap_or_default(),
    })
}

impl Timeouts {
    fn read(mut object: Object<'_>) -> Self {
        let read = Self {
            job: clock(&mut object, "job"),
            schedule_to_start: clock(&mut object, "schedule_to_start"),
            max_job: clock(&mut object, "max_job"),
        };
        object.finish();
        read
    }
}

impl Limits {
    fn read(mut object: Object<'_>, ceilings: &Ceilings) -> Self {
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (attempts, labels) = (u64::from(MAX_ATTEMPTS), u64::from(ceilings.labels));
        let read = Self {
            max_payload_bytes: number(&mut object, "max_payload_bytes", 0, ceilings.payload_bytes),
            max_attempts: number(&mut object, "max_attempts", 1, attempts).map(count),
            max_labels: number(&mut object, "max_labels", 0, labels).map(count),
            max_waiting_jobs: number(&mut object, "max_waiting_jobs", 1, ceilings.waiting_jobs),
        };
        object.finish();
        read
    }
}

impl Retention {
    fn read(mut object: Object<'_>, ceilings: &Ceilings) -> Self {
        let kept = |field: Field<'_>, most: Duration| field.duration(MIN_KEPT.min(most), most);
        let read = Self {
            jobs: object
                .get("jobs")
                .and_then(|field| kept(field, ceilings.kept_jobs)),
            dead_letters: object
                .get("dead_letters")
                .and_then(|field| kept(field, ceilings.kept_dead_letters)),
        };
        object.finish();
        read
    }
}
