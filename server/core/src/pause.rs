//! Pauses: what operators have stopped from being handed out. What runs goes on, and jobs are
//! accepted and wait.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{PoolName, TenantId, Topic};
use crate::routing::pattern::TopicPattern;
use crate::time::Timestamp;

/// The most pauses at once.
pub const MAX_PAUSES: usize = 1_000;

/// What is paused: the jobs that every part which is given applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct PauseScope {
    /// The jobs of this tenant; `None` = of all.
    pub tenant: Option<TenantId>,
    /// Jobs on their way to workers of this pool; `None` = of any.
    pub pool: Option<PoolName>,
    /// Jobs of these topics; `None` = of any.
    pub topic: Option<TopicPattern>,
}

impl PauseScope {
    /// Whether it holds up a job of `tenant` about `topic`, at workers of `pool` or, with `None`,
    /// wherever it goes.
    #[must_use]
    pub fn covers(&self, tenant: &TenantId, topic: &Topic, pool: Option<&PoolName>) -> bool {
        self.tenant.as_ref().is_none_or(|one| one == tenant)
            && self.topic.as_ref().is_none_or(|one| one.matches(topic))
            && self.pool.as_ref().is_none_or(|one| Some(one) == pool)
    }

    /// Which kind of pause it is: a stable name for machines.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match (&self.pool, &self.topic, &self.tenant) {
            (Some(_), ..) => "pool_paused",
            (None, Some(_), _) => "topic_paused",
            (None, None, _) => "tenant_paused",
        }
    }
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(pool) = &self.pool {
            parts.push(format!("pool `{pool}`"));
        }
        if let Some(topic) = &self.topic {
            parts.push(format!("topic `{topic}`"));
        }
        if let Some(tenant) = &self.tenant {
            parts.push(format!("tenant `{tenant}`"));
        }
        if parts.is_empty() {
            parts.push("everything".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

/// A pause, and who made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What is paused.
    pub scope: PauseScope,
    /// Why, in the words of who paused it.
    pub reason: String,
    /// Who.
    pub principal_id: String,
    /// When.
    pub time: Timestamp,
}

/// All pauses in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(Vec<Pause>);

impl Pauses {
    /// Those that are given.
    #[must_use]
    pub const fn new(pauses: Vec<Pause>) -> Self {
        Self(pauses)
    }

    /// None at all.
    #[must_use]
    pub const fn none() -> &'static Self {
        const NONE: &Pauses = &Pauses(Vec::new());
        NONE
    }

    /// The first that holds up a job at workers of a pool.
    #[must_use]
    pub fn at(&self, tenant: &TenantId, topic: &Topic, pool: &PoolName) -> Option<&Pause> {
        let mut pauses = self.0.iter();
        pauses.find(|pause| pause.scope.covers(tenant, topic, Some(pool)))
    }

    /// The first that holds up a job wherever it goes.
    #[must_use]
    pub fn everywhere(&self, tenant: &TenantId, topic: &Topic) -> Option<&Pause> {
        let mut pauses = self.0.iter();
        pauses.find(|pause| pause.scope.covers(tenant, topic, None))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Pause> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(tenant: &str, pool: &str, topic: &str) -> PauseScope {
        PauseScope {
            tenant: TenantId::parse(tenant).ok(),
            pool: PoolName::parse(pool).ok(),
            topic: TopicPattern::parse(topic).ok(),
        }
    }

    #[test]
    fn a_pause_holds_up_what_all_its_parts_are_about() {
        let tenant = TenantId::from_trusted("acme");
        let topic = Topic::from_trusted("job.a.b");
        let pool = PoolName::from_trusted("fast");
        for (scope, covered, everywhere, code) in [
            (scope("", "", ""), true, true, "tenant_paused"),
            (scope("acme", "", ""), true, true, "tenant_paused"),
            (scope("beta", "", ""), false, false, "tenant_paused"),
            (scope("", "fast", ""), true, false, "pool_paused"),
            (scope("", "slow", ""), false, false, "pool_paused"),
            (scope("", "", "job.a.*"), true, true, "topic_paused"),
            (scope("", "", "job.b.>"), false, false, "topic_paused"),
            (scope("acme", "fast", "job.>"), true, false, "pool_paused"),
            (scope("acme", "fast", "job.*"), false, false, "pool_paused"),
            (scope("beta", "fast", ""), false, false, "pool_paused"),
        ] {
            assert_eq!(
                scope.covers(&tenant, &topic, Some(&pool)),
                covered,
                "{scope}"
            );
            assert_eq!(scope.covers(&tenant, &topic, None), everywhere, "{scope}");
            assert_eq!(scope.code(), code, "{scope}");
        }
    }
}
