//! Which call of the Model Context Protocol a job stands for.
//!
//! Two places say so: `metadata.mcp`, and the labels `mcp.server`, `mcp.tool`, `mcp.resource` and
//! `mcp.action` that older clients set. A part that one of them leaves open is taken from the other.
//! Where they differ nobody knows which one the worker believes, so the part has both values.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::job::{JobSpec, McpCall};

/// The parts of a call, in the order of [`McpCall`].
pub(super) const PARTS: [&str; 4] = ["server", "tool", "resource", "action"];
/// The labels that say the same.
const LABELS: [&str; 4] = ["mcp.server", "mcp.tool", "mcp.resource", "mcp.action"];

/// The values of each part: none, one, or two that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct McpFacts<'a> {
    parts: [(Option<&'a str>, Option<&'a str>); 4],
}

impl<'a> McpFacts<'a> {
    pub(super) fn of(spec: &'a JobSpec) -> Self {
        let said = spec.metadata.mcp.as_ref().map_or([""; 4], |mcp| {
            [&mcp.server, &mcp.tool, &mcp.resource, &mcp.action].map(String::as_str)
        });
        let mut parts = [(None, None); 4];
        for ((part, said), label) in parts.iter_mut().zip(said).zip(LABELS) {
            let label = spec.labels.get(label).map(String::as_str);
            let mut values = [Some(said), label]
                .into_iter()
                .flatten()
                .filter(|value| !value.is_empty());
            let first = values.next();
            *part = (first, values.next().filter(|second| Some(*second) != first));
        }
        Self { parts }
    }

    /// The values of a part.
    pub(super) fn values(&self, part: usize) -> impl Iterator<Item = &'a str> {
        let (first, second) = self.parts.get(part).copied().unwrap_or_default();
        first.into_iter().chain(second)
    }

    /// How many calls it may be: more than one where label and metadata differ.
    pub(super) fn variants(&self) -> usize {
        let differ = self.parts.iter().filter(|part| part.1.is_some()).count();
        1 << differ
    }

    /// One of the calls that it may be, for conditions; from 0.
    pub(super) fn variant(&self, variant: usize) -> Json {
        let mut bits = variant;
        let mut object = serde_json::Map::new();
        for (name, (first, second)) in PARTS.iter().zip(self.parts) {
            let value = if second.is_some() {
                let chosen = if bits & 1 == 0 { first } else { second };
                bits >>= 1;
                chosen
            } else {
                first
            };
            object.insert((*name).to_owned(), json!(value.unwrap_or_default()));
        }
        Json::Object(object)
    }
}

/// Writes what the labels say into `metadata.mcp` where that says nothing, so that workers and
/// records show what policy has seen. Nothing that was said is changed.
pub fn fold_labels(spec: &mut JobSpec) {
    let label = |labels: &BTreeMap<String, String>, name: &str| {
        labels.get(name).filter(|value| !value.is_empty()).cloned()
    };
    let found = LABELS.map(|name| label(&spec.labels, name));
    if found.iter().all(Option::is_none) {
        return;
    }
    let mcp = spec.metadata.mcp.get_or_insert_with(McpCall::default);
    let parts = [
        &mut mcp.server,
        &mut mcp.tool,
        &mut mcp.resource,
        &mut mcp.action,
    ];
    for (part, found) in parts.into_iter().zip(found) {
        if let (true, Some(found)) = (part.is_empty(), found) {
            *part = found;
        }
    }
}
