//! The tables as a TOML document that reads back equal.

use coretex_core::job::Concurrency;
use coretex_core::retry::RetryPolicy;
use coretex_core::routing::{PoolRule, Routing, TenantRule, TopicRule};

use super::keys::ALL_OTHERS;
use super::reader::path;
use super::rules::ON_LIMIT;
use crate::config::value::{Field, quoted, show_list, show_rate};

/// Prints every entry, with `origin` behind its name.
pub(in crate::config) fn show(routing: &Routing, origin: &str) -> String {
    let mut text = String::new();
    let mut entry = |table: &str, name: &str, lines: Vec<(&str, String)>| {
        text.push_str(&format!("\n[{}] # {origin}\n", path(table, name)));
        for (key, value) in lines {
            text.push_str(&format!("{key} = {value}\n"));
        }
    };
    for (pattern, rule) in routing.topics() {
        entry("topics", pattern.as_str(), topic(rule));
    }
    for (name, rule) in routing.pools() {
        entry("pools", name.as_str(), pool(rule));
    }
    if *routing.default_tenant() != TenantRule::default() {
        entry("tenants", ALL_OTHERS, tenant(routing.default_tenant()));
    }
    for (name, rule) in routing.tenants() {
        entry("tenants", name.as_str(), tenant(rule));
    }
    text
}

type Lines = Vec<(&'static str, String)>;

/// An empty list and a text that is empty say nothing.
fn add(lines: &mut Lines, key: &'static str, value: Option<String>) {
    if let Some(value) = value.filter(|value| value != "[]" && value != "\"\"") {
        lines.push((key, value));
    }
}

fn topic(rule: &TopicRule) -> Lines {
    let TopicRule {
        pools,
        tenants,
        capability,
        risk_tags,
        timeout,
        retry: retries,
        concurrency: limit,
        schedule_to_start_timeout,
    } = rule;
    let mut lines = Lines::new();
    let pools = show_list(pools.iter().map(|pool| pool.as_str()));
    let tenants = show_list(tenants.iter().map(|tenant| tenant.as_str()));
    add(&mut lines, "pools", Some(pools));
    add(&mut lines, "tenants", Some(tenants));
    add(&mut lines, "capability", capability.toml());
    add(&mut lines, "risk_tags", risk_tags.toml());
    add(&mut lines, "timeout", timeout.toml());
    add(
        &mut lines,
        "schedule_to_start_timeout",
        schedule_to_start_timeout.toml(),
    );
    add(&mut lines, "retry", retries.as_ref().map(retry));
    add(&mut lines, "concurrency", limit.as_ref().map(concurrency));
    lines
}

fn retry(policy: &RetryPolicy) -> String {
    let RetryPolicy {
        max_attempts,
        initial_backoff,
        multiplier,
        max_backoff,
        jitter,
        non_retryable_codes,
    } = policy;
    let mut lines = Lines::new();
    add(&mut lines, "max_attempts", max_attempts.toml());
    add(&mut lines, "initial_backoff", initial_backoff.toml());
    add(&mut lines, "multiplier", multiplier.toml());
    add(&mut lines, "max_backoff", max_backoff.toml());
    add(&mut lines, "jitter", jitter.toml());
    add(
        &mut lines,
        "non_retryable_codes",
        non_retryable_codes.toml(),
    );
    inline(&lines)
}

fn concurrency(concurrency: &Concurrency) -> String {
    let Concurrency {
        key,
        limit,
        on_limit,
    } = concurrency;
    let mut lines = Lines::new();
    add(&mut lines, "key", key.toml());
    add(&mut lines, "limit", limit.toml());
    let word = ON_LIMIT.iter().find(|(_, action)| action == on_limit);
    add(&mut lines, "on_limit", word.map(|(word, _)| quoted(word)));
    inline(&lines)
}

fn inline(lines: &Lines) -> String {
    let pairs: Vec<String> = lines
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

fn pool(rule: &PoolRule) -> Lines {
    let PoolRule {
        capabilities,
        tenants,
        weight,
        skip_overloaded,
    } = rule;
    let mut lines = Lines::new();
    add(&mut lines, "capabilities", capabilities.toml());
    let tenants = show_list(tenants.iter().map(|tenant| tenant.as_str()));
    add(&mut lines, "tenants", Some(tenants));
    add(&mut lines, "weight", weight.toml());
    add(&mut lines, "skip_overloaded", skip_overloaded.toml());
    lines
}

fn tenant(rule: &TenantRule) -> Lines {
    let TenantRule {
        weight,
        max_running_jobs,
        submit_rate,
    } = rule;
    let mut lines = Lines::new();
    add(&mut lines, "weight", weight.toml());
    add(&mut lines, "max_running_jobs", max_running_jobs.toml());
    if let Some(rate) = submit_rate {
        let shown = quoted(&show_rate(rate.permits, rate.per));
        add(&mut lines, "submit_rate", Some(shown));
        add(&mut lines, "submit_burst", rate.burst.toml());
    }
    lines
}
