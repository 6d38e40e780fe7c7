//! What changed between two sets of bundles, for people who review or look back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::bundle::Bundle;

/// What changed of one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleDiff {
    /// Its name.
    pub bundle_id: String,
    /// Whether it is new, gone or another.
    pub change: Change,
    /// Top-level keys other than `rules`, `tenants` and `counters` that changed:
    /// `default_decision`, `default_tenant`.
    pub keys: Vec<String>,
    /// Tenants whose lists changed, by name.
    pub tenants: Vec<(String, Change)>,
    /// Counters that changed, by id.
    pub counters: Vec<(String, Change)>,
    /// Rules that changed, by id.
    pub rules: Vec<RuleDiff>,
    /// Rules that are tried in another order, though nothing in them changed: their ids.
    pub moved: Vec<String>,
}

/// How something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

/// What changed of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDiff {
    /// Its id.
    pub rule_id: String,
    /// Whether it is new, gone or another.
    pub change: Change,
    /// For another: the keys that changed.
    pub keys: Vec<String>,
}

/// Compares two sets of bundles by name. Bundles in which nothing changed are left out; how they
/// were written makes no difference.
#[must_use]
pub fn diff(before: &[(&str, &Bundle)], after: &[(&str, &Bundle)]) -> Vec<BundleDiff> {
    let before: BTreeMap<&str, &Bundle> = before.iter().copied().collect();
    let after: BTreeMap<&str, &Bundle> = after.iter().copied().collect();
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (old, new) = (before.get(name), after.get(name));
            let change = change(old.map(|b| b.source()), new.map(|b| b.source()))?;
            Some(bundle_diff(name, change, old.copied(), new.copied()))
        })
        .collect()
}

fn change(before: Option<&Json>, after: Option<&Json>) -> Option<Change> {
    match (before, after) {
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (Some(before), Some(after)) if before != after => Some(Change::Changed),
        _ => None,
    }
}

fn bundle_diff(
    name: &str,
    change: Change,
    before: Option<&Bundle>,
    after: Option<&Bundle>,
) -> BundleDiff {
    let empty = Json::Null;
    let old = before.map_or(&empty, Bundle::source);
    let new = after.map_or(&empty, Bundle::source);
    let parts = ["rules", "tenants", "counters"];
    let keys = changed_keys(old, new)
        .into_iter()
        .filter(|key| !parts.contains(&key.as_str()))
        .collect();
    let named = |part| changes(&by_name(&old[part]), &by_name(&new[part]));
    let ided = |part| (by_id(&old[part]), by_id(&new[part]));
    let (old_counters, new_counters) = ided("counters");
    let (old_rules, new_rules) = ided("rules");
    let rules = changes(&old_rules, &new_rules)
        .into_iter()
        .map(|(rule_id, change)| {
            let rules = (
                old_rules.get(rule_id.as_str()),
                new_rules.get(rule_id.as_str()),
            );
            let keys = match (change, rules) {
                (Change::Changed, (Some(old), Some(new))) => changed_keys(old, new),
                _ => Vec::new(),
            };
            RuleDiff {
                rule_id,
                change,
                keys,
            }
        })
        .collect();
    BundleDiff {
        bundle_id: name.to_owned(),
        change,
        keys,
        tenants: named("tenants"),
        counters: changes(&old_counters, &new_counters),
        rules,
        moved: moved(before, after, &old_rules, &new_rules),
    }
}

/// The keys whose values differ.
fn changed_keys(before: &Json, after: &Json) -> Vec<String> {
    let (before, after) = (by_name(before), by_name(after));
    changes(&before, &after)
        .into_iter()
        .map(|(key, _)| key)
        .collect()
}

fn changes(before: &BTreeMap<&str, &Json>, after: &BTreeMap<&str, &Json>) -> Vec<(String, Change)> {
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    names
        .into_iter()
        .filter_map(|name| {
            let change = change(before.get(name).copied(), after.get(name).copied())?;
            Some((name.to_owned(), change))
        })
        .collect()
}

fn by_name(object: &Json) -> BTreeMap<&str, &Json> {
    let entries = object.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.as_str(), value)).collect()
}

fn by_id(list: &Json) -> BTreeMap<&str, &Json> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| Some((item["id"].as_str()?, item)))
        .collect()
}

/// Rules that are the same in themselves, and that others which are the same stand before now and
/// did not before, or the other way round: those outside of the longest run that kept its order.
fn moved(
    before: Option<&Bundle>,
    after: Option<&Bundle>,
    old: &BTreeMap<&str, &Json>,
    new: &BTreeMap<&str, &Json>,
) -> Vec<String> {
    let (Some(before), Some(after)) = (before, after) else {
        return Vec::new();
    };
    let same = |id: &str| old.contains_key(id) && old.get(id) == new.get(id);
    let order = |bundle: &Bundle| -> Vec<String> {
        let rules = bundle.in_order().into_iter();
        rules
            .filter(|rule| same(&rule.id))
            .map(|rule| rule.id.clone())
            .collect()
    };
    let places: BTreeMap<String, usize> = order(before)
        .into_iter()
        .enumerate()
        .map(|(place, id)| (id, place))
        .collect();
    let ids = order(after);
    let sequence: Vec<usize> = ids
        .iter()
        .filter_map(|id| places.get(id).copied())
        .collect();
    let kept = longest_increasing(&sequence);
    ids.into_iter()
        .zip(&sequence)
        .filter(|(_, place)| !kept.contains(place))
        .map(|(id, _)| id)
        .collect()
}

/// The numbers of a longest increasing run, not necessarily next to each other.
fn longest_increasing(numbers: &[usize]) -> BTreeSet<usize> {
    // `ends[length]`: the place of the smallest number that a run of that length ends with.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(numbers.len());
    for (place, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers.get(*end) < Some(number));
        before.push(
            length
                .checked_sub(1)
                .and_then(|last| ends.get(last))
                .copied(),
        );
        if length == ends.len() {
            ends.push(place);
        } else if let Some(end) = ends.get_mut(length) {
            *end = place;
        }
    }
    let mut run = BTreeSet::new();
    let mut place = ends.last().copied();
    while let Some(at) = place {
        run.extend(numbers.get(at));
        place = before.get(at).copied().flatten();
    }
    run
}
