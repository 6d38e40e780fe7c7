//! A bundle of rules, as people write it, checked.
//!
//! [`Bundle::parse`] refuses what it does not know, at every level, and tells everything that is
//! wrong at once. What the rules mean together is in [`evaluate`](super::evaluate).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value as Json;

use super::Decision;
use super::rule::{Rule, Scopes};
use super::subject::VARIABLES;
use crate::document::{Document, Field, Problem, Reader};
use crate::expression::{Expression, Scope};
use crate::id::TenantId;
use crate::routing::pattern::TopicPattern;

/// The most rules of one bundle.
pub const MAX_RULES: usize = 10_000;
/// The most regular expressions that the rules of one bundle keep compiled.
pub const MAX_PATTERNS: usize = 1_000;
/// The most counters of one bundle.
pub const MAX_COUNTERS: usize = 20;
/// The most tenants that one bundle names.
pub const MAX_TENANTS: usize = 1_000;
/// The most entries of a tenant's list.
const MAX_TOPICS: usize = 1_000;
/// The shortest and the longest window of a counter.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(31_557_600));

/// Which topics a tenant may use, whatever rules say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicLists {
    /// Jobs of other topics are denied; `None` = no such limit.
    pub allow: Option<Vec<TopicPattern>>,
    /// Jobs of these topics are denied.
    pub deny: Vec<TopicPattern>,
}

/// Counts accepted jobs, for conditions that look back.
#[derive(Debug)]
pub struct Counter {
    /// Its id: conditions read it as `history.<id>`.
    pub id: String,
    /// Jobs are counted apart by the value of this, within their tenant.
    pub key: Expression,
    /// How far it looks back.
    pub window: Duration,
}

/// A bundle of rules.
#[derive(Debug)]
pub struct Bundle {
    /// What holds for jobs that no rule of any bundle decides; `None` = the bundle says nothing.
    pub default_decision: Option<Decision>,
    /// Lists of tenants that are not named.
    pub default_tenant: Option<TopicLists>,
    /// Lists of tenants.
    pub tenants: BTreeMap<TenantId, TopicLists>,
    /// Counters, in file order.
    pub counters: Vec<Counter>,
    /// Rules, in file order.
    pub rules: Vec<Rule>,
    /// The bundle as JSON, for comparisons.
    source: Json,
}

impl Bundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text; at least one problem.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let document = Document::parse(text)?;
        let reader = Reader::new();
        let bundle = Self::read(&reader.root(document.root()));
        match (reader.into_problems(), bundle) {
            (problems, Some(bundle)) if problems.is_empty() => Ok(bundle),
            (problems, _) => Err(problems),
        }
    }

    /// The bundle as JSON, as it was written.
    #[must_use]
    pub const fn source(&self) -> &Json {
        &self.source
    }

    /// The lists that apply to a tenant, and whether it is named.
    #[must_use]
    pub fn lists(&self, tenant: &TenantId) -> Option<&TopicLists> {
        self.tenants.get(tenant).or(self.default_tenant.as_ref())
    }

    /// Rules in the order in which they are tried: by priority, then as they stand in the file.
    #[must_use]
    pub fn in_order(&self) -> Vec<&Rule> {
        let places = self.order().into_iter();
        places
            .filter_map(|place| self.rules.get(place as usize))
            .collect()
    }

    /// The places of rules in the file, in the order in which they are tried.
    pub(super) fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0_u32..).take(self.rules.len()).collect();
        // Stable: rules of one priority stay in file order.
        order.sort_by_key(|place| {
            let rule = self.rules.get(*place as usize);
            std::cmp::Reverse(rule.map(|rule| rule.priority))
        });
        order
    }

    /// Rules that are never reached, because one before them matches every job.
    #[must_use]
    pub fn unreachable(&self) -> Vec<&Rule> {
        let mut rules = self.in_order();
        let all = rules
            .iter()
            .position(|rule| rule.when.is_none() && rule.matches.asked().next().is_none());
        rules.split_off(all.map_or(rules.len(), |place| place + 1))
    }

    /// How many regular expressions its rules keep compiled.
    pub(super) fn patterns(&self) -> usize {
        self.rules.iter().map(Rule::patterns).sum()
    }

    fn read(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        if let Some(version) = object.require("version")
            && !matches!(version.node().to_json(), Json::String(text) if text == "1")
        {
            let _ = version.count(1, 1);
        }
        let default_decision = object.get("default_decision").and_then(|field| {
            let words = [Decision::Allow, Decision::Deny, Decision::RequireApproval];
            field.word(&words.map(|decision| (decision.word(), decision)))
        });
        let tenants: BTreeMap<TenantId, TopicLists> = object
            .get("tenants")
            .map_or_else(Vec::new, |field| field.entries(MAX_TENANTS))
            .into_iter()
            .filter_map(|(name, field)| {
                let tenant = TenantId::parse(name);
                if let Err(error) = &tenant {
                    field.problem(format_args!("the name of a tenant {error}"));
                }
                Some((tenant.ok()?, read_lists(&field)?))
            })
            .collect();
        let default_tenant = object.get("default_tenant").and_then(|field| {
            if !field.is_text() {
                return read_lists(&field);
            }
            let name = field.text()?;
            let lists = TenantId::parse(name)
                .ok()
                .and_then(|name| tenants.get(&name));
            if lists.is_none() {
                field.problem(format_args!("`tenants` has no entry `{name}`"));
            }
            lists.cloned()
        });
        let counters = object
            .get("counters")
            .map_or_else(Vec::new, |field| field.items(MAX_COUNTERS));
        // A counter that is wrong elsewhere is there all the same for conditions.
        let (counter_ids, counters) = read_counters(&counters);
        let keys = Scope::new().variables(VARIABLES);
        let scopes = Scopes {
            conditions: keys
                .clone()
                .record("history", counter_ids.iter().map(String::as_str)),
            keys,
        };
        let items = object
            .get("rules")
            .map_or_else(Vec::new, |field| field.items(MAX_RULES));
        let mut ids = BTreeSet::new();
        let mut rules = Vec::with_capacity(items.len());
        let mut patterns = 0;
        for item in &items {
            let Some(rule) = Rule::read(item, &scopes) else {
                continue;
            };
            if !rule.id.is_empty() && !ids.insert(rule.id.clone()) {
                let message = format!("the rule id `{}` stands here twice", rule.id);
                item.problem_at("id", message);
            }
            patterns += rule.patterns();
            rules.push(rule);
            if patterns > MAX_PATTERNS {
                // What follows is not even compiled: each may take half a MiB.
                item.problem(format_args!(
                    "more than {MAX_PATTERNS} regular expressions up to here"
                ));
                break;
            }
        }
        object.finish();
        Some(Self {
            default_decision,
            default_tenant,
            tenants,
            counters,
            rules,
            source: field.node().to_json(),
        })
    }
}

fn read_lists(field: &Field<'_>) -> Option<TopicLists> {
    let mut object = field.object()?;
    let mut list = |key| {
        object
            .get(key)
            .map(|field| field.list(MAX_TOPICS, |item| item.parsed(TopicPattern::parse)))
    };
    let lists = TopicLists {
        allow: list("allow"),
        deny: list("deny").unwrap_or_default(),
    };
    object.finish();
    Some(lists)
}

fn read_counters(items: &[Field<'_>]) -> (BTreeSet<String>, Vec<Counter>) {
    // A job is counted when it is accepted: by what is known of it then without its input.
    let names = VARIABLES.into_iter().filter(|name| *name != "input");
    let scope = Scope::new().variables(names);
    let mut ids = BTreeSet::new();
    let mut counters = Vec::with_capacity(items.len());
    for item in items {
        let Some(mut object) = item.object() else {
            continue;
        };
        let id = object
            .require("id")
            .and_then(|field| field.parsed(check_counter_id));
        let key = object
            .require("key")
            .and_then(|field| field.expression(&scope));
        let window = object
            .require("window")
            .and_then(|field| field.duration(WINDOW.0, WINDOW.1));
        object.finish();
        if let Some(id) = &id
            && !ids.insert(id.clone())
        {
            item.problem_at("id", format!("the counter id `{id}` stands here twice"));
        }
        if let (Some(id), Some(key), Some(window)) = (id, key, window) {
            counters.push(Counter { id, key, window });
        }
    }
    (ids, counters)
}

/// Counters are named in expressions, so their ids are names there.
fn check_counter_id(text: &str) -> Result<String, &'static str> {
    let mut bytes = text.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if first && text.len() <= 64 && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(text.to_owned());
    }
    Err("must be a letter or `_`, followed by letters, digits and `_`, at most 64 in all")
}
