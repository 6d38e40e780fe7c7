//! Constraints: how they are read, and how those of several rules become one that keeps them all.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::Constraints;
use crate::document::{Field, Object};

/// Stands alone in a list of constraints whose rules leave nothing: no host, path, tool or command
/// has this name. An empty list would allow everything.
pub const NOTHING: &str = "!";

/// The most entries of each list.
const MAX_LIST: usize = 100;
/// The most bytes of one entry.
const MAX_ENTRY: usize = 512;
/// The longest run time that can be said.
const MAX_RUNTIME: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What of two entries of a list is the wider one. Of any two entries one covers the other or they
/// have nothing in common, so that the order of merging makes no difference.
#[derive(Clone, Copy)]
enum Family {
    /// `*.example.com` covers every host that ends so; `*` covers all.
    Hosts,
    /// A path covers what is below it.
    Paths,
    /// A name that ends in `*` covers what begins so.
    Names,
}

impl Family {
    fn covers(self, wide: &str, narrow: &str) -> bool {
        if wide == narrow {
            return true;
        }
        match self {
            Self::Hosts if wide == "*" => true,
            Self::Hosts => wide
                .strip_prefix('*')
                .filter(|suffix| suffix.starts_with('.'))
                .is_some_and(|suffix| narrow.ends_with(suffix)),
            Self::Paths => narrow
                .strip_prefix(wide.strip_suffix('/').unwrap_or(wide))
                .is_some_and(|rest| rest.starts_with('/')),
            Self::Names => wide
                .strip_suffix('*')
                .is_some_and(|prefix| narrow.starts_with(prefix)),
        }
    }

    /// The list in its one form: sorted, without entries that another covers.
    fn normal(self, list: &[String]) -> Vec<String> {
        if list.iter().any(|entry| entry == NOTHING) {
            return vec![NOTHING.to_owned()];
        }
        let list: BTreeSet<&String> = list.iter().collect();
        let covered = |entry: &String| {
            let mut others = list.iter().filter(|other| **other != entry);
            others.any(|other| {
                // Two that cover each other, as `/a` and `/a/`: the first of them stays.
                self.covers(other, entry) && (!self.covers(entry, other) || *other < entry)
            })
        };
        list.iter()
            .filter(|entry| !covered(entry))
            .map(|entry| (*entry).clone())
            .collect()
    }

    /// What both lists allow, where an empty list allows everything.
    fn both(self, left: &[String], right: &[String]) -> Vec<String> {
        if left.is_empty() || right.is_empty() {
            return self.normal(if left.is_empty() { right } else { left });
        }
        let within = |list: &[String], other: &[String]| -> Vec<String> {
            list.iter()
                .filter(|entry| other.iter().any(|wide| self.covers(wide, entry)))
                .cloned()
                .collect()
        };
        let mut kept = within(left, right);
        kept.extend(within(right, left));
        if kept.is_empty() {
            return vec![NOTHING.to_owned()];
        }
        self.normal(&kept)
    }
}

fn least<T: Ord>(left: Option<T>, right: Option<T>) -> Option<T> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

/// How much a redaction level hides. The words are the installation's own: between `partial` and
/// `full` there is room for them, in the order of the alphabet.
fn redaction_rank(level: &str) -> (u8, &str) {
    match level {
        "" => (0, ""),
        "none" => (1, ""),
        "partial" => (2, ""),
        "full" => (4, ""),
        other => (3, other),
    }
}

impl Constraints {
    /// Constraints that keep these and `other`: the smallest numbers, what both lists allow, what
    /// either forbids. It makes no difference in which order or how often some are merged.
    #[must_use]
    pub fn tightest(&self, other: &Self) -> Self {
        let isolated = self.isolated || other.isolated;
        let mut network = Family::Hosts.both(&self.network(), &other.network());
        if isolated && network == [NOTHING] {
            network.clear();
        }
        let deny: BTreeSet<&String> = self
            .deny_path_globs
            .iter()
            .chain(&other.deny_path_globs)
            .collect();
        let redaction =
            if redaction_rank(&self.redaction_level) >= redaction_rank(&other.redaction_level) {
                &self.redaction_level
            } else {
                &other.redaction_level
            };
        Self {
            max_runtime: least(self.max_runtime, other.max_runtime),
            max_retries: least(self.max_retries, other.max_retries),
            max_artifact_bytes: least(self.max_artifact_bytes, other.max_artifact_bytes),
            max_concurrent_jobs: least(self.max_concurrent_jobs, other.max_concurrent_jobs),
            isolated,
            network_allowlist: network,
            fs_read_only: Family::Paths.both(&self.fs_read_only, &other.fs_read_only),
            fs_read_write: Family::Paths.both(&self.fs_read_write, &other.fs_read_write),
            allowed_tools: Family::Names.both(&self.allowed_tools, &other.allowed_tools),
            allowed_commands: Family::Names.both(&self.allowed_commands, &other.allowed_commands),
            max_files: least(self.max_files, other.max_files),
            max_lines: least(self.max_lines, other.max_lines),
            deny_path_globs: deny.into_iter().cloned().collect(),
            redaction_level: redaction.clone(),
        }
    }

    /// Which hosts it allows, as a list where empty means all.
    fn network(&self) -> Vec<String> {
        if self.isolated && self.network_allowlist.is_empty() {
            return vec![NOTHING.to_owned()];
        }
        self.network_allowlist.clone()
    }

    /// Reads constraints, in the form that the API has: `budgets`, `sandbox`, `toolchain`, `diff`
    /// and `redaction_level`. What is wrong goes to the reader of the field.
    #[must_use]
    pub fn read(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let mut read = Self::default();
        if let Some(mut budgets) = object.get("budgets").and_then(|field| field.object()) {
            read.budgets(&mut budgets);
            budgets.finish();
        }
        if let Some(mut sandbox) = object.get("sandbox").and_then(|field| field.object()) {
            read.isolated = sandbox
                .get("isolated")
                .and_then(|field| field.bool())
                .unwrap_or_default();
            read.network_allowlist = entries(&mut sandbox, "network_allowlist");
            read.fs_read_only = entries(&mut sandbox, "fs_read_only");
            read.fs_read_write = entries(&mut sandbox, "fs_read_write");
            sandbox.finish();
        }
        if let Some(mut toolchain) = object.get("toolchain").and_then(|field| field.object()) {
            read.allowed_tools = entries(&mut toolchain, "allowed_tools");
            read.allowed_commands = entries(&mut toolchain, "allowed_commands");
            toolchain.finish();
        }
        if let Some(mut diff) = object.get("diff").and_then(|field| field.object()) {
            read.max_files = count(&mut diff, "max_files", 0);
            read.max_lines = count(&mut diff, "max_lines", 0);
            read.deny_path_globs = entries(&mut diff, "deny_path_globs");
            diff.finish();
        }
        if let Some(level) = object.get("redaction_level") {
            read.redaction_level = level.line(64).unwrap_or_default();
        }
        object.finish();
        if read == Self::default() && field.is_clean() {
            field.problem("limits nothing");
        }
        // In its one form.
        Some(read.tightest(&Self::default()))
    }

    fn budgets(&mut self, budgets: &mut Object<'_>) {
        self.max_runtime = budgets
            .get("max_runtime")
            .and_then(|field| field.duration(Duration::from_millis(1), MAX_RUNTIME));
        self.max_retries = count(budgets, "max_retries", 0);
        self.max_artifact_bytes = budgets
            .get("max_artifact_bytes")
            .and_then(|field| field.whole(0, i64::MAX))
            .and_then(|bytes| u64::try_from(bytes).ok());
        self.max_concurrent_jobs = count(budgets, "max_concurrent_jobs", 1);
    }

    /// The constraints in the form that [`Constraints::read`] takes.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let duration = |value: Duration| humantime::format_duration(value).to_string();
        let parts = [
            (
                "budgets",
                json!({
                    "max_runtime": self.max_runtime.map(duration),
                    "max_retries": self.max_retries,
                    "max_artifact_bytes": self.max_artifact_bytes,
                    "max_concurrent_jobs": self.max_concurrent_jobs,
                }),
            ),
            (
                "sandbox",
                json!({
                    "isolated": self.isolated.then_some(true),
                    "network_allowlist": self.network_allowlist,
                    "fs_read_only": self.fs_read_only,
                    "fs_read_write": self.fs_read_write,
                }),
            ),
            (
                "toolchain",
                json!({
                    "allowed_tools": self.allowed_tools,
                    "allowed_commands": self.allowed_commands,
                }),
            ),
            (
                "diff",
                json!({
                    "max_files": self.max_files,
                    "max_lines": self.max_lines,
                    "deny_path_globs": self.deny_path_globs,
                }),
            ),
            ("redaction_level", Json::from(self.redaction_level.clone())),
        ];
        let mut whole = serde_json::Map::new();
        for (key, part) in parts {
            if let Some(part) = said(part) {
                whole.insert(key.to_owned(), part);
            }
        }
        Json::Object(whole)
    }
}

/// A value without the parts that say nothing.
fn said(value: Json) -> Option<Json> {
    match value {
        Json::Null => None,
        Json::String(text) if text.is_empty() => None,
        Json::Array(items) if items.is_empty() => None,
        Json::Object(map) => {
            let map: serde_json::Map<String, Json> = map
                .into_iter()
                .filter_map(|(key, value)| Some((key, said(value)?)))
                .collect();
            (!map.is_empty()).then_some(Json::Object(map))
        }
        other => Some(other),
    }
}

fn entries(object: &mut Object<'_>, key: &'static str) -> Vec<String> {
    let Some(field) = object.get(key) else {
        return Vec::new();
    };
    if field.is_empty_list() {
        field.problem(format_args!(
            "must not be empty: leave it out to allow everything, or write [\"{NOTHING}\"] to \
             allow nothing"
        ));
    }
    field.list(MAX_LIST, |item| item.line(MAX_ENTRY))
}

fn count(object: &mut Object<'_>, key: &'static str, least: u32) -> Option<u32> {
    object
        .get(key)
        .and_then(|field| field.count(least, i32::MAX.unsigned_abs()))
}
