//! The tree of a document: values that know where they stand.

use serde_json::{Number, Value as Json};

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line, from 1; 0 for a value that does not come from a text.
    pub(super) line: usize,
    /// Column in characters, from 1; 0 for a value that does not come from a text.
    pub(super) column: usize,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String, Style),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// How a text was written, which says where its parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// As it is: its characters stand one after the other from this many columns on.
    Line(usize),
    /// In quotes with escapes: how many columns further on each of its characters stands.
    Escaped(Box<[usize]>),
    /// A block, all lines indented as the first: before that one, this many are blank.
    Block(usize),
    /// Folded, or in several lines: only its beginning is known.
    Folded,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) value: Node,
}

impl Node {
    /// The tree of a JSON value, whose parts have no lines and columns.
    #[must_use]
    pub fn from_json(json: &Json) -> Self {
        let kind = match json {
            Json::Null => Kind::Null,
            Json::Bool(value) => Kind::Bool(*value),
            Json::Number(number) => Kind::Number(number.clone()),
            Json::String(text) => Kind::Text(text.clone(), Style::Folded),
            Json::Array(items) => Kind::List(items.iter().map(Self::from_json).collect()),
            Json::Object(map) => Kind::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        line: 0,
                        column: 0,
                        value: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self {
            line: 0,
            column: 0,
            kind,
        }
    }

    /// The value as JSON.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match &self.kind {
            Kind::Null => Json::Null,
            Kind::Bool(value) => Json::Bool(*value),
            Kind::Number(number) => Json::Number(number.clone()),
            Kind::Text(text, _) => Json::String(text.clone()),
            Kind::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// What it is, with its article, for messages.
    pub(super) const fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "empty",
            Kind::Bool(_) => "a bool",
            Kind::Number(_) => "a number",
            Kind::Text(..) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// Where a part of its text is, given line and column inside of it (from 1).
    pub(super) fn inside(&self, line: usize, column: usize) -> (usize, usize) {
        let Kind::Text(_, style) = &self.kind else {
            return (self.line, self.column);
        };
        match style {
            Style::Line(before) if line == 1 => (self.line, self.column + before + column - 1),
            Style::Escaped(columns) if line == 1 => {
                let last = columns.last().map_or(1, |last| last + 1);
                let before = columns.get(column.saturating_sub(1)).copied();
                (self.line, self.column + before.unwrap_or(last))
            }
            Style::Block(blank) => (
                (self.line + line).saturating_sub(blank + 1),
                self.column + column - 1,
            ),
            Style::Line(_) | Style::Escaped(_) | Style::Folded => (self.line, self.column),
        }
    }
}
