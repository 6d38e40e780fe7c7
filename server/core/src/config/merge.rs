//! Makes one document of those of several scopes, and remembers which of them said what.
//!
//! Objects are merged key by key; a narrower scope replaces lists and single values of a wider one
//! and takes them back with `null`. Not so what may only be tightened, see [`Rule`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::{ConfigScope, Problem, below, visibility};
use crate::policy::safety::Safety;

/// What becomes of a value that a wider scope has set already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The narrower scope wins.
    Replace,
    /// The smaller number or the shorter duration wins.
    Lower,
    /// A list: what either has.
    Unite,
    /// A list of paths: what both allow.
    Restrict,
    /// Part of the safety section, which is merged as a whole.
    Safety,
}

/// The rule of the value at a path.
pub(super) fn rule(path: &[&str]) -> Rule {
    match path {
        ["safety", ..] => Rule::Safety,
        ["limits" | "retention", _, ..] | ["timeouts", "max_job"] => Rule::Lower,
        ["topics", _, "risk_tags"] => Rule::Unite,
        ["visibility", "workers"] => Rule::Restrict,
        _ => Rule::Replace,
    }
}

/// The result of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The one document, without nulls, keys sorted.
    pub data: Json,
    /// JSON pointers of the values that stand as each of the documents says, in their order. Of a
    /// value that several have made, the pointer stands with each of them. A list is one value.
    pub origins: Vec<Vec<String>>,
    /// The safety section, read. It also stands in `data`.
    pub safety: Option<Safety>,
}

/// A value on its way, and the documents that it comes from.
#[derive(Clone, Debug)]
enum Tree {
    Value(Json, BTreeSet<usize>),
    Object(BTreeMap<String, Tree>),
}

/// Merges documents that are each right by themselves, widest first.
///
/// # Errors
/// A safety section that cannot be read.
pub fn merge(documents: &[(ConfigScope, &Json)]) -> Result<Merged, Vec<Problem>> {
    let mut whole = BTreeMap::new();
    let mut safety: Option<Safety> = None;
    let mut origins: Vec<BTreeSet<String>> = vec![BTreeSet::new(); documents.len()];
    for (place, (scope, document)) in documents.iter().enumerate() {
        let Json::Object(sections) = document else {
            continue;
        };
        let mut sections = sections.clone();
        if let Some(section) = sections.remove("safety") {
            let read = Safety::read(&section).map_err(|problems| {
                let problems = problems.into_iter();
                problems
                    .map(|(pointer, message)| Problem::new(format!("/safety{pointer}"), message))
                    .collect::<Vec<_>>()
            })?;
            note_leaves(&section, "/safety", &mut origins[place]);
            safety = Some(safety.unwrap_or_default().merge(&read));
        }
        let from = From {
            place,
            scope: *scope,
        };
        from.merge_into(&mut whole, &sections, &mut Vec::new());
    }
    let mut data = finish(Tree::Object(whole), "", &mut origins);
    if let (Some(safety), Json::Object(sections)) = (&safety, &mut data) {
        sections.insert("safety".to_owned(), safety.to_json());
    }
    Ok(Merged {
        data: super::document::normal(&data),
        origins: origins
            .into_iter()
            .map(|keys| keys.into_iter().collect())
            .collect(),
        safety,
    })
}

/// The document that is being merged into those of wider scopes.
#[derive(Clone, Copy)]
struct From {
    place: usize,
    scope: ConfigScope,
}

impl From {
    fn merge_into<'d>(
        self,
        whole: &mut BTreeMap<String, Tree>,
        object: &'d Map<String, Json>,
        path: &mut Vec<&'d str>,
    ) {
        for (key, value) in object {
            path.push(key);
            match value {
                Json::Null => {
                    if let Some(old) = whole.remove(key)
                        && let Some(kept) = take_back(old, path)
                    {
                        whole.insert(key.clone(), kept);
                    }
                }
                Json::Object(inner) => {
                    let old = whole.entry(key.clone());
                    let tree = old.or_insert_with(|| Tree::Object(BTreeMap::new()));
                    if let Tree::Value(..) = tree {
                        *tree = Tree::Object(BTreeMap::new());
                    }
                    if let Tree::Object(entries) = tree {
                        self.merge_into(entries, inner, path);
                    }
                }
                value => {
                    let new = self.value(whole.remove(key), value, path);
                    whole.insert(key.clone(), new);
                }
            }
            path.pop();
        }
    }

    fn value(self, old: Option<Tree>, new: &Json, path: &[&str]) -> Tree {
        let own = || BTreeSet::from([self.place]);
        let old = match old {
            Some(Tree::Value(value, from)) => Some((value, from)),
            Some(Tree::Object(_)) | None => None,
        };
        let replaced = || Tree::Value(new.clone(), own());
        match (rule(path), old) {
            (Rule::Replace | Rule::Safety, _) | (Rule::Lower, None) => replaced(),
            (Rule::Unite, None) => Tree::Value(texts(new).into_iter().collect(), own()),
            (Rule::Lower, Some((old, from))) => {
                if amount(new) < amount(&old) {
                    replaced()
                } else {
                    Tree::Value(old, from)
                }
            }
            (Rule::Unite, Some((old, mut from))) => {
                let mut items = texts(&old);
                items.extend(texts(new));
                from.insert(self.place);
                Tree::Value(items.into_iter().collect(), from)
            }
            (Rule::Restrict, old) => {
                let new = texts(new);
                let (wider, mut from) = match old {
                    Some((old, from)) => (Some(texts(&old)), from),
                    None => (None, BTreeSet::new()),
                };
                from.insert(self.place);
                let both = visibility::restricted(wider, &new, self.scope);
                Tree::Value(both.into_iter().collect(), from)
            }
        }
    }
}

/// What is left of a value of wider scopes that a narrower one takes back: what may only tighten.
fn take_back(old: Tree, path: &[&str]) -> Option<Tree> {
    match old {
        Tree::Value(..) => (rule(path) != Rule::Replace).then_some(old),
        Tree::Object(entries) => {
            let kept: BTreeMap<String, Tree> = entries
                .into_iter()
                .filter_map(|(key, tree)| {
                    let path: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
                    let kept = take_back(tree, &path)?;
                    Some((key, kept))
                })
                .collect();
            (!kept.is_empty()).then_some(Tree::Object(kept))
        }
    }
}

fn finish(tree: Tree, pointer: &str, origins: &mut [BTreeSet<String>]) -> Json {
    match tree {
        Tree::Value(value, from) => {
            for place in from {
                origins[place].insert(pointer.to_owned());
            }
            value
        }
        Tree::Object(entries) => {
            let entries = entries.into_iter().map(|(key, tree)| {
                let value = finish(tree, &below(pointer, &key), origins);
                (key, value)
            });
            Json::Object(entries.collect())
        }
    }
}

fn note_leaves(value: &Json, pointer: &str, origins: &mut BTreeSet<String>) {
    match value {
        Json::Object(object) => {
            for (key, value) in object {
                note_leaves(value, &below(pointer, key), origins);
            }
        }
        _ => {
            origins.insert(pointer.to_owned());
        }
    }
}

/// A number or a duration, to be compared with others of its kind.
fn amount(value: &Json) -> Duration {
    match value {
        Json::String(text) => humantime::parse_duration(text).unwrap_or(Duration::ZERO),
        value => Duration::from_secs(value.as_u64().unwrap_or(0)),
    }
}

fn texts(value: &Json) -> BTreeSet<String> {
    let items = value.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}
