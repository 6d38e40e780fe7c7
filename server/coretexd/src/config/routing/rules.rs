//! The rules of a topic, of a pool and of a tenant, field by field.

use std::collections::BTreeSet;
use std::time::Duration;

use coretex_core::id::{PoolName, TenantId};
use coretex_core::job::{Concurrency, ConcurrencyAction};
use coretex_core::retry::{MAX_ATTEMPTS, MAX_BACKOFF, MAX_CODE_LEN, MAX_MULTIPLIER, RetryPolicy};
use coretex_core::routing::{MAX_WEIGHT, PoolRule, Rate, TenantRule, TopicRule};

use super::keys::{CONCURRENCY, POOLS, RETRY, TENANTS, TOPICS};
use super::reader::Entry;
use crate::config::nearest::nearest;
use crate::config::value::parse_rate;

/// The shortest and the longest clock that a topic may set; the longest is that of callers.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);
/// The most permits of a rate, and of a burst.
const MAX_PERMITS: u32 = 1_000_000;
/// Findings beyond which no nearest name is looked for.
const MAX_ADVICE: usize = 10;
/// The longest period of a rate.
const MAX_PERIOD: Duration = Duration::from_secs(24 * 3_600);

/// What happens at a limit, in the words of the command line.
pub(super) const ON_LIMIT: [(&str, ConcurrencyAction); 3] = [
    ("queue", ConcurrencyAction::Queue),
    ("reject", ConcurrencyAction::Reject),
    ("cancel-oldest", ConcurrencyAction::CancelOldest),
];

/// Reads the rule of a topic; `known` are the pools of the table, if there is one.
pub(super) fn topic(entry: &mut Entry<'_, '_>, known: &BTreeSet<&str>) -> TopicRule {
    entry.knows_only(TOPICS.keys);
    let pools = entry.names("pools", PoolName::parse);
    for (index, (pool, span)) in pools.iter().enumerate() {
        if known.is_empty() || known.contains(pool.as_str()) {
            continue;
        }
        // A file of mistakes needs no advice on each of them, which is a look at every name.
        let advised = known.iter().copied().filter(|_| entry.found() < MAX_ADVICE);
        let must = match nearest(pool.as_str(), advised) {
            Some(near) => {
                format!("is not in the table of pools; did you mean `{near}`?")
            }
            None => "is not in the table of pools".to_owned(),
        };
        entry.refuse_item("pools", index, span.clone(), must);
    }
    TopicRule {
        pools: pools.into_iter().map(|(pool, _)| pool).collect(),
        tenants: tenants(entry),
        capability: entry.text("capability").unwrap_or_default(),
        risk_tags: entry.texts("risk_tags"),
        timeout: entry.duration("timeout", SHORTEST..=LONGEST),
        retry: entry.within("retry", retry),
        concurrency: entry.within("concurrency", concurrency),
        schedule_to_start_timeout: entry.duration("schedule_to_start_timeout", SHORTEST..=LONGEST),
    }
}

/// Reads the rule of a pool.
pub(super) fn pool(entry: &mut Entry<'_, '_>) -> PoolRule {
    entry.knows_only(POOLS.keys);
    let default = PoolRule::default();
    PoolRule {
        capabilities: entry.texts("capabilities"),
        tenants: tenants(entry),
        weight: weight(entry).unwrap_or(default.weight),
        skip_overloaded: entry
            .read("skip_overloaded")
            .unwrap_or(default.skip_overloaded),
    }
}

/// Reads the rule of a tenant.
pub(super) fn tenant(entry: &mut Entry<'_, '_>) -> TenantRule {
    entry.knows_only(TENANTS.keys);
    TenantRule {
        weight: weight(entry).unwrap_or(TenantRule::default().weight),
        // Beyond, TOML has no numbers.
        max_running_jobs: entry.count("max_running_jobs", 1..=i64::MAX.unsigned_abs()),
        submit_rate: submit_rate(entry),
    }
}

fn tenants(entry: &mut Entry<'_, '_>) -> Vec<TenantId> {
    let tenants = entry.names("tenants", TenantId::parse);
    tenants.into_iter().map(|(tenant, _)| tenant).collect()
}

fn weight(entry: &mut Entry<'_, '_>) -> Option<u32> {
    entry.small("weight", 1..=MAX_WEIGHT)
}

/// As a policy that comes with a job, but that the number of attempts must be said: a policy
/// without it retries nothing.
fn retry(entry: &mut Entry<'_, '_>) -> RetryPolicy {
    entry.knows_only(RETRY);
    if !entry.has("max_attempts") {
        entry.missing("max_attempts");
    }
    let pause = Duration::ZERO..=MAX_BACKOFF;
    let initial_backoff = entry.duration("initial_backoff", pause.clone());
    let max_backoff = entry.duration("max_backoff", pause);
    let first = initial_backoff.unwrap_or(RetryPolicy::DEFAULT_INITIAL_BACKOFF);
    if max_backoff.is_some_and(|most| most < first) {
        entry.refuse("max_backoff", "must not be shorter than `initial_backoff`");
    }
    let codes = entry.texts("non_retryable_codes");
    if codes.iter().any(|code| code.len() > MAX_CODE_LEN) {
        let must = format!("must hold codes of at most {MAX_CODE_LEN} bytes");
        entry.refuse("non_retryable_codes", must);
    }
    RetryPolicy {
        max_attempts: entry.small("max_attempts", 1..=MAX_ATTEMPTS).unwrap_or(1),
        initial_backoff: first,
        multiplier: entry
            .number("multiplier", 1.0..=MAX_MULTIPLIER)
            .unwrap_or(RetryPolicy::DEFAULT_MULTIPLIER),
        max_backoff: max_backoff.unwrap_or(RetryPolicy::DEFAULT_MAX_BACKOFF.max(first)),
        jitter: entry
            .number("jitter", 0.0..=1.0)
            .unwrap_or(RetryPolicy::DEFAULT_JITTER),
        non_retryable_codes: codes,
    }
}

fn concurrency(entry: &mut Entry<'_, '_>) -> Concurrency {
    entry.knows_only(CONCURRENCY);
    if !entry.has("limit") {
        entry.missing("limit");
    }
    Concurrency {
        key: entry.text("key").unwrap_or_default(),
        limit: entry
            .small("limit", 1..=i32::MAX.unsigned_abs())
            .unwrap_or(1),
        on_limit: entry.word("on_limit", &ON_LIMIT).unwrap_or_default(),
    }
}

fn submit_rate(entry: &mut Entry<'_, '_>) -> Option<Rate> {
    let burst = entry.small("submit_burst", 1..=MAX_PERMITS);
    if !entry.has("submit_rate") {
        if entry.has("submit_burst") {
            entry.refuse("submit_burst", "needs `submit_rate`");
        }
        return None;
    }
    let text: Option<String> = entry.read("submit_rate");
    let (permits, per) = match text.as_deref().map(parse_rate)? {
        Some(rate) => rate,
        None => {
            let must = "must be a number and a time such as `100/s`, `5000/h` or `1/10s`";
            entry.refuse("submit_rate", must);
            return None;
        }
    };
    if !(1..=MAX_PERMITS).contains(&permits) || !(SHORTEST..=MAX_PERIOD).contains(&per) {
        let must = format!("must be from 1 to {MAX_PERMITS} in a time from 1ms to 1d");
        entry.refuse("submit_rate", must);
        return None;
    }
    let burst = burst.unwrap_or(permits);
    // Stores count the time until a bucket is full in microseconds, and one of them in doubles.
    if per * burst / permits > LONGEST {
        entry.refuse("submit_burst", "must come together again within 366d");
    }
    Some(Rate {
        permits,
        per,
        burst,
    })
}
