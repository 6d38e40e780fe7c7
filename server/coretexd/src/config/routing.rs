//! The routing tables as they are written: the sections `topics`, `pools` and `tenants` of a TOML
//! document, read into a [`Routing`].
//!
//! Knows the document and its spans, not where it comes from: a file today. What each key means is
//! in [`keys`], how values are read and refused in `reader`.

pub mod keys;
pub(super) mod reader;
pub mod reference;
mod rules;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use coretex_core::id::{PoolName, TenantId};
use coretex_core::routing::pattern::TopicPattern;
use coretex_core::routing::{MAX_ENTRIES, PoolRule, Routing, TenantRule, TopicRule};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use keys::{ALL_OTHERS, POOLS, TENANTS, TOPICS, Table};
use reader::{Entry, path};

pub(super) use show::show;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Which bytes of the document.
    pub(super) span: Range<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// What would be right.
    pub(super) hint: Option<String>,
}

impl Finding {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The section of that name, if it is one of the tables.
pub(super) fn table_named(name: &str) -> Option<&'static Table> {
    keys::TABLES.into_iter().find(|table| table.name == name)
}

/// Reads the tables of a document and leaves its other sections alone. The tables count only if
/// nothing was found.
pub(super) fn read(document: &DeTable<'_>) -> (Routing, Vec<Finding>) {
    let mut findings = Vec::new();
    // Also one with a mistake inside is a pool that topics may name.
    let known: BTreeSet<&str> = entries(document, &POOLS)
        .map(|entries| entries.keys().map(|name| name.get_ref().as_ref()).collect())
        .unwrap_or_default();
    let topics: BTreeMap<TopicPattern, TopicRule> =
        section(document, &TOPICS, &mut findings, |name, entry| {
            let pattern = pattern(name, entry)?;
            Some((pattern, rules::topic(entry, &known)))
        });
    let pools: BTreeMap<PoolName, PoolRule> =
        section(document, &POOLS, &mut findings, |name, entry| {
            let pool = PoolName::parse(name);
            let pool = pool.map_err(|error| entry.refuse_name(&error.to_string()));
            let rule = rules::pool(entry);
            Some((pool.ok()?, rule))
        });
    let mut default_tenant = TenantRule::default();
    let tenants: BTreeMap<TenantId, TenantRule> =
        section(document, &TENANTS, &mut findings, |name, entry| {
            if name == ALL_OTHERS {
                default_tenant = rules::tenant(entry);
                return None;
            }
            let tenant = TenantId::parse(name);
            let tenant = tenant.map_err(|error| entry.refuse_name(&error.to_string()));
            let rule = rules::tenant(entry);
            Some((tenant.ok()?, rule))
        });
    let routing = Routing::new(topics, pools, tenants, default_tenant);
    let routing = routing.unwrap_or_else(|error| {
        if findings.is_empty() {
            findings.push(Finding::new(0..0, error.to_string()));
        }
        Routing::default()
    });
    (routing, findings)
}

fn entries<'a>(document: &'a DeTable<'a>, table: &Table) -> Option<&'a DeTable<'a>> {
    match document.get(table.name)?.get_ref() {
        DeValue::Table(entries) => Some(entries),
        _ => None,
    }
}

/// Reads every entry of a section.
fn section<K: Ord, V>(
    document: &DeTable<'_>,
    table: &'static Table,
    findings: &mut Vec<Finding>,
    mut read: impl FnMut(&str, &mut Entry<'_, '_>) -> Option<(K, V)>,
) -> BTreeMap<K, V> {
    let Some((name, value)) = document.get_key_value(table.name) else {
        return BTreeMap::new();
    };
    let DeValue::Table(entries) = value.get_ref() else {
        findings.push(not_a_section(name, table));
        return BTreeMap::new();
    };
    if entries.len() > MAX_ENTRIES {
        let message = format!("`{}` must have at most {MAX_ENTRIES} entries", table.name);
        findings.push(Finding::new(name.span(), message));
        return BTreeMap::new();
    }
    let mut rules = BTreeMap::new();
    for (name, value) in entries {
        let path = path(table.name, name.get_ref());
        let DeValue::Table(keys) = value.get_ref() else {
            let near = nearest(name.get_ref(), table.keys.iter().map(|key| key.name));
            let message = format!("`{path}` must be a section: write `[{path}]`");
            let finding = Finding::new(name.span(), message);
            findings.push(match near {
                Some(near) => finding.hint(format!(
                    "`{near}` stands inside of an entry such as `[{}]`",
                    table.example
                )),
                None => finding,
            });
            continue;
        };
        let mut entry = Entry::new(path, name.span(), keys, findings);
        if let Some((key, rule)) = read(name.get_ref(), &mut entry) {
            rules.insert(key, rule);
        }
    }
    rules
}

fn not_a_section(name: &Spanned<std::borrow::Cow<'_, str>>, table: &Table) -> Finding {
    let message = format!(
        "`{}` is a section of entries: write `[{}]`",
        table.name, table.example
    );
    Finding::new(name.span(), message)
}

fn pattern(name: &str, entry: &mut Entry<'_, '_>) -> Option<TopicPattern> {
    match TopicPattern::parse(name) {
        Ok(pattern) => Some(pattern),
        // `[topics.job.a]` is an entry `job` that holds `a`; what is in it says nothing.
        Err(_) if name == "job" => {
            entry.refuse_unquoted();
            None
        }
        Err(error) => {
            entry.refuse_name(&error.to_string());
            // What else is wrong with it is said at once.
            let _unused = rules::topic(entry, &BTreeSet::new());
            None
        }
    }
}
