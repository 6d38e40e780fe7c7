//! The safety section of configuration: what an organisation, a team, a workflow or a step takes
//! away from what policy allows. It never gives anything.
//!
//! Sections of several scopes become one by [`Safety::merge`], which can only tighten. How it votes
//! is decided in `evaluate`.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::Constraints;
use super::glob::TextGlob;
use crate::document::{Field, Node, Object, Reader};
use crate::routing::pattern::TopicPattern;

/// The most entries of each list of one section.
pub const MAX_LIST: usize = 100;
/// The most patterns that merged lists of allowed topics keep. What is beyond is not allowed.
pub const MAX_ALLOWED: usize = 1_000;

/// A safety section, or several of them merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Safety {
    /// Jobs of other topics are denied; `None` = no such limit.
    pub allowed_topics: Option<Vec<TopicPattern>>,
    /// Jobs of these topics are denied.
    pub denied_topics: Vec<TopicPattern>,
    /// Jobs of these topics need an approval.
    pub approval_topics: Vec<TopicPattern>,
    /// Jobs that do or require one of these capabilities are denied.
    pub denied_capabilities: Vec<TextGlob>,
    /// Jobs with one of these risk tags are denied.
    pub denied_risk_tags: Vec<TextGlob>,
    /// Jobs with secrets in their input, labels or metadata are denied.
    pub deny_secrets: bool,
    /// What every job has to keep.
    pub constraints: Option<Constraints>,
}

impl Safety {
    /// Reads a section. Everything that is wrong is told at once, with its JSON pointer.
    ///
    /// # Errors
    /// Pairs of pointer and message; at least one.
    pub fn read(value: &Json) -> Result<Self, Vec<(String, String)>> {
        let node = Node::from_json(value);
        let reader = Reader::new();
        let section = Self::read_field(&reader.root(&node));
        let problems = reader.into_problems();
        if !problems.is_empty() {
            return Err(problems
                .into_iter()
                .map(|problem| (problem.path.pointer(), problem.message))
                .collect());
        }
        Ok(section)
    }

    /// Reads a section of a document; what is wrong goes to the reader of the field.
    #[must_use]
    pub fn read_field(field: &Field<'_>) -> Self {
        let Some(mut object) = field.object() else {
            return Self::default();
        };
        let section = Self {
            allowed_topics: object.get("allowed_topics").map(|field| topics(&field)),
            denied_topics: topics_of(&mut object, "denied_topics"),
            approval_topics: topics_of(&mut object, "approval_topics"),
            denied_capabilities: globs_of(&mut object, "denied_capabilities"),
            denied_risk_tags: globs_of(&mut object, "denied_risk_tags"),
            deny_secrets: object
                .get("deny_secrets")
                .and_then(|field| field.bool())
                .unwrap_or_default(),
            constraints: object
                .get("constraints")
                .and_then(|field| Constraints::read(&field)),
        };
        object.finish();
        section
    }

    /// The section in the form that [`Safety::read`] takes.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut map = serde_json::Map::new();
        let mut add = |key: &str, value: Json, said: bool| {
            if said {
                map.insert(key.to_owned(), value);
            }
        };
        let allowed = &self.allowed_topics;
        add("allowed_topics", json!(allowed), allowed.is_some());
        let lists = [
            ("denied_topics", json!(self.denied_topics)),
            ("approval_topics", json!(self.approval_topics)),
            ("denied_capabilities", json!(self.denied_capabilities)),
            ("denied_risk_tags", json!(self.denied_risk_tags)),
        ];
        for (key, list) in lists {
            let said = list.as_array().is_some_and(|list| !list.is_empty());
            add(key, list, said);
        }
        add("deny_secrets", json!(true), self.deny_secrets);
        if let Some(constraints) = &self.constraints {
            add("constraints", constraints.to_json(), true);
        }
        Json::Object(map)
    }

    /// A section that takes away what this one or `other` does: allowed topics are those of both,
    /// all else is of either, constraints are the tightest. It makes no difference in which order or
    /// how often sections are merged.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        Self {
            allowed_topics: match (&self.allowed_topics, &other.allowed_topics) {
                (Some(left), Some(right)) => Some(topics_of_both(left, right)),
                (left, right) => left.as_ref().or(right.as_ref()).map(|list| widest(list)),
            },
            denied_topics: either(&self.denied_topics, &other.denied_topics),
            approval_topics: either(&self.approval_topics, &other.approval_topics),
            denied_capabilities: either(&self.denied_capabilities, &other.denied_capabilities),
            denied_risk_tags: either(&self.denied_risk_tags, &other.denied_risk_tags),
            deny_secrets: self.deny_secrets || other.deny_secrets,
            constraints: match (&self.constraints, &other.constraints) {
                (Some(left), Some(right)) => Some(left.tightest(right)),
                (left, right) => left.as_ref().or(right.as_ref()).cloned(),
            },
        }
    }
}

fn topics(field: &Field<'_>) -> Vec<TopicPattern> {
    field.list(MAX_ALLOWED, |item| item.parsed(TopicPattern::parse))
}

fn topics_of(object: &mut Object<'_>, key: &'static str) -> Vec<TopicPattern> {
    object.get(key).map_or_else(Vec::new, |field| {
        field.list(MAX_LIST, |item| item.parsed(TopicPattern::parse))
    })
}

fn globs_of(object: &mut Object<'_>, key: &'static str) -> Vec<TextGlob> {
    object.get(key).map_or_else(Vec::new, |field| {
        field.list(MAX_LIST, |item| item.parsed(TextGlob::parse))
    })
}

fn either<T: Ord + Clone>(left: &[T], right: &[T]) -> Vec<T> {
    let all: BTreeSet<&T> = left.iter().chain(right).collect();
    all.into_iter().cloned().collect()
}

/// The patterns without those that another one covers, sorted.
fn widest(patterns: &[TopicPattern]) -> Vec<TopicPattern> {
    let all: BTreeSet<&TopicPattern> = patterns.iter().take(MAX_ALLOWED).collect();
    let covered = |pattern: &TopicPattern| all.iter().any(|o| *o != pattern && o.covers(pattern));
    all.iter()
        .filter(|pattern| !covered(pattern))
        .map(|pattern| (*pattern).clone())
        .collect()
}

/// Patterns of the topics that both lists allow.
fn topics_of_both(left: &[TopicPattern], right: &[TopicPattern]) -> Vec<TopicPattern> {
    let mut both = BTreeSet::new();
    for one in left {
        both.extend(right.iter().filter_map(|other| one.and(other)));
    }
    // Those that a wider one covers go before too many are cut off.
    let both: Vec<TopicPattern> = both.into_iter().collect();
    widest(&both)
}
