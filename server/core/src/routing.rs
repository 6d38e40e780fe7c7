//! Routing: which pools serve a topic, who may use them, and the rules that jobs of a topic, a pool
//! or a tenant get without asking.
//!
//! A [`Routing`] is one immutable snapshot of the tables `topics`, `pools` and `tenants`. Where it
//! comes from, and when another takes its place, is not decided here. How patterns match is in
//! [`pattern`].

pub mod pattern;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{PoolName, TenantId, Topic};
use crate::job::{Concurrency, ConcurrencyAction, JobSpec};
use crate::retry::RetryPolicy;
use pattern::{PatternMap, TopicPattern};

/// The most entries of each table.
pub const MAX_ENTRIES: usize = 1_000;
/// The largest weight.
pub const MAX_WEIGHT: u32 = 1_000;

/// What holds for the jobs of a topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicRule {
    /// Pools that serve it; empty = any.
    pub pools: Vec<PoolName>,
    /// Tenants that may use it; empty = all.
    pub tenants: Vec<TenantId>,
    /// What its jobs do, where the caller does not say.
    pub capability: String,
    /// Risk tags that its jobs have beside the caller's own.
    pub risk_tags: Vec<String>,
    /// How long an attempt may take, where the caller does not say.
    pub timeout: Option<Duration>,
    /// How failed attempts are repeated, where the caller does not say.
    pub retry: Option<RetryPolicy>,
    /// How many of its jobs run at once, for each tenant, where the caller names no limit.
    pub concurrency: Option<Concurrency>,
    /// How long a job may wait for a worker, where the caller does not say.
    pub schedule_to_start_timeout: Option<Duration>,
}

/// What holds for the workers of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRule {
    /// What all its workers can do, beside what each says of itself.
    pub capabilities: Vec<String>,
    /// Tenants that may use it; empty = all.
    pub tenants: Vec<TenantId>,
    /// How full its workers are made in relation to those of other pools; 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// Its workers get nothing while their CPU or GPU is at 90 % or more; otherwise they are a last
    /// choice then.
    pub skip_overloaded: bool,
}

impl Default for PoolRule {
    fn default() -> Self {
        Self {
            capabilities: Vec::new(),
            tenants: Vec::new(),
            weight: 1,
            skip_overloaded: false,
        }
    }
}

/// How often something may happen: `permits` every `per`, with room for `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Permits per period; at least 1.
    pub permits: u32,
    /// The period; more than zero.
    pub per: Duration,
    /// Permits available after a long pause; at least 1.
    pub burst: u32,
}

/// What holds for the jobs of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRule {
    /// Its share of the slots while several tenants wait; 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// The most of its jobs that workers have at once; `None` = no limit.
    pub max_running_jobs: Option<u64>,
    /// How often it may submit; `None` = no limit.
    pub submit_rate: Option<Rate>,
}

impl Default for TenantRule {
    fn default() -> Self {
        Self {
            weight: 1,
            max_running_jobs: None,
            submit_rate: None,
        }
    }
}

/// Where a job goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Route<'a> {
    /// No table of topics: whoever declares the topic serves it.
    Open,
    /// As the rule of this pattern says.
    Mapped(&'a TopicPattern, &'a TopicRule),
    /// The table has no place for it.
    Unmapped(Unmapped<'a>),
}

/// Why the table of topics has no place for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped<'a> {
    /// No pattern matches.
    #[error("no entry of the topic table matches `{0}`")]
    NoPattern(&'a Topic),
    /// The most specific pattern is not for this tenant.
    #[error("`{0}` of the topic table is not open to this tenant")]
    Tenant(&'a TopicPattern),
}

impl<'a> Route<'a> {
    /// The rule, if there is one.
    #[must_use]
    pub const fn rule(&self) -> Option<&'a TopicRule> {
        match self {
            Self::Mapped(_, rule) => Some(rule),
            Self::Open | Self::Unmapped(_) => None,
        }
    }

    /// Whether a pool may serve the job.
    #[must_use]
    pub fn allows(&self, pool: &PoolName) -> bool {
        match self {
            Self::Open => true,
            Self::Mapped(_, rule) => rule.pools.is_empty() || rule.pools.contains(pool),
            Self::Unmapped(_) => false,
        }
    }
}

/// Which fields of a job its submitter left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOpen {
    /// `timeout`.
    pub timeout: bool,
    /// `schedule_to_start_timeout`.
    pub schedule_to_start_timeout: bool,
    /// `retry`.
    pub retry: bool,
    /// `priority`.
    pub priority: bool,
}

/// One snapshot of the tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    topics: PatternMap<TopicRule>,
    pools: BTreeMap<PoolName, PoolRule>,
    tenants: BTreeMap<TenantId, TenantRule>,
    default_tenant: TenantRule,
}

/// Why tables do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// A topic is served by a pool that is not in the table of pools.
    #[error("topic `{topic}` names pool `{pool}`, which the table of pools does not have")]
    UnknownPool {
        /// The pattern.
        topic: TopicPattern,
        /// The pool.
        pool: PoolName,
    },
}

impl Routing {
    /// Puts the tables together. With a table of pools, topics may name only those.
    ///
    /// # Errors
    /// [`RoutingError`], the first in the order of the patterns.
    pub fn new(
        topics: BTreeMap<TopicPattern, TopicRule>,
        pools: BTreeMap<PoolName, PoolRule>,
        tenants: BTreeMap<TenantId, TenantRule>,
        default_tenant: TenantRule,
    ) -> Result<Self, RoutingError> {
        for (topic, rule) in &topics {
            let unknown = |pool: &&PoolName| !pools.is_empty() && !pools.contains_key(*pool);
            if let Some(pool) = rule.pools.iter().find(unknown) {
                return Err(RoutingError::UnknownPool {
                    topic: topic.clone(),
                    pool: pool.clone(),
                });
            }
        }
        Ok(Self {
            topics: topics.into_iter().collect(),
            pools,
            tenants,
            default_tenant,
        })
    }

    /// Whether topics are only those of the table.
    #[must_use]
    pub fn closes_topics(&self) -> bool {
        !self.topics.is_empty()
    }

    /// Where a job goes.
    #[must_use]
    pub fn route<'a>(&'a self, topic: &'a Topic, tenant: &TenantId) -> Route<'a> {
        if self.topics.is_empty() {
            return Route::Open;
        }
        match self.topics.find(topic) {
            None => Route::Unmapped(Unmapped::NoPattern(topic)),
            Some((pattern, rule)) => {
                if rule.tenants.is_empty() || rule.tenants.contains(tenant) {
                    Route::Mapped(pattern, rule)
                } else {
                    Route::Unmapped(Unmapped::Tenant(pattern))
                }
            }
        }
    }

    /// The rule of a topic, for whichever tenant.
    #[must_use]
    pub fn topic(&self, topic: &Topic) -> Option<(&TopicPattern, &TopicRule)> {
        self.topics.find(topic)
    }

    /// The patterns and rules of topics, in the order of the patterns.
    pub fn topics(&self) -> impl Iterator<Item = (&TopicPattern, &TopicRule)> {
        self.topics.iter()
    }

    /// Whether a worker may belong to this pool.
    #[must_use]
    pub fn knows_pool(&self, pool: &PoolName) -> bool {
        self.pools.is_empty() || self.pools.contains_key(pool)
    }

    /// The rule of a pool, if the table has it.
    #[must_use]
    pub fn pool(&self, pool: &PoolName) -> Option<&PoolRule> {
        self.pools.get(pool)
    }

    /// The pools of the table.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolName, &PoolRule)> {
        self.pools.iter()
    }

    /// The rule of a tenant.
    #[must_use]
    pub fn tenant(&self, tenant: &TenantId) -> &TenantRule {
        self.tenants.get(tenant).unwrap_or(&self.default_tenant)
    }

    /// The tenants of the table.
    pub fn tenants(&self) -> impl Iterator<Item = (&TenantId, &TenantRule)> {
        self.tenants.iter()
    }

    /// The rule of the tenants that the table does not name.
    #[must_use]
    pub const fn default_tenant(&self) -> &TenantRule {
        &self.default_tenant
    }

    /// Fills in what a topic says about its jobs where their submitter said nothing. The limit on
    /// how many run at once is not among it: it counts as it is when a job is handed out. Gives what
    /// is still open then.
    pub fn fill_in(&self, spec: &mut JobSpec, tenant: &TenantId, mut open: LeftOpen) -> LeftOpen {
        let topic = spec.topic.clone();
        let Some(rule) = self.route(&topic, tenant).rule() else {
            return open;
        };
        if let Some(timeout) = rule.timeout.filter(|_| open.timeout) {
            spec.timeout = timeout;
            open.timeout = false;
        }
        if let Some(timeout) = rule
            .schedule_to_start_timeout
            .filter(|_| open.schedule_to_start_timeout)
        {
            spec.schedule_to_start_timeout = timeout;
            open.schedule_to_start_timeout = false;
        }
        if let Some(retry) = rule.retry.as_ref().filter(|_| open.retry) {
            spec.retry = retry.clone();
            open.retry = false;
        }
        if spec.metadata.capability.is_empty() {
            spec.metadata.capability.clone_from(&rule.capability);
        }
        for tag in &rule.risk_tags {
            if !spec.metadata.risk_tags.contains(tag) {
                spec.metadata.risk_tags.push(tag.clone());
            }
        }
        open
    }

    /// The limit on how many such jobs run at once: the job's own, else that of its topic, whose
    /// key is the pattern unless the rule names another.
    #[must_use]
    pub fn concurrency<'a>(&'a self, spec: &'a JobSpec, tenant: &TenantId) -> Option<Running<'a>> {
        if let Some(own) = &spec.concurrency {
            return Some(Running::of(&own.key, own));
        }
        let Route::Mapped(pattern, rule) = self.route(&spec.topic, tenant) else {
            return None;
        };
        let concurrency = rule.concurrency.as_ref()?;
        let key = if concurrency.key.is_empty() {
            pattern.as_str()
        } else {
            &concurrency.key
        };
        Some(Running::of(key, concurrency))
    }
}

/// A limit on how many jobs with one key run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running<'a> {
    /// The key, within the tenant.
    pub key: &'a str,
    /// The most at once.
    pub limit: u32,
    /// What happens to a job that finds them running.
    pub on_limit: ConcurrencyAction,
}

impl<'a> Running<'a> {
    const fn of(key: &'a str, concurrency: &Concurrency) -> Self {
        Self {
            key,
            limit: concurrency.limit,
            on_limit: concurrency.on_limit,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
