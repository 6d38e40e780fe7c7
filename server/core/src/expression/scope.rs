//! Which names an expression may use, and where their values come from.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::time::Timestamp;

/// The names an expression may use.
///
/// Every function is allowed unless [`Scope::only_functions`] says otherwise; no variable is
/// allowed until it is named.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    variables: BTreeSet<String>,
    records: BTreeMap<String, BTreeSet<String>>,
    functions: Option<BTreeSet<String>>,
}

impl Scope {
    /// A scope without variables and with all functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows a variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>) -> Self {
        self.variables.insert(name.into());
        self
    }

    /// Allows several variables.
    #[must_use]
    pub fn variables<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.variables.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Allows a variable that may only be used by its fields `name.field`, and has these.
    #[must_use]
    pub fn record<'n>(
        mut self,
        name: impl Into<String>,
        fields: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let fields = fields.into_iter().map(str::to_owned).collect();
        self.records.insert(name.into(), fields);
        self
    }

    /// Allows these functions and macros and no others.
    #[must_use]
    pub fn only_functions<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.functions = Some(names.into_iter().map(str::to_owned).collect());
        self
    }

    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.variables.contains(name)
    }

    pub(super) fn fields(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.records.get(name)
    }

    pub(super) fn variable_names(&self) -> impl Iterator<Item = &str> {
        self.variables
            .iter()
            .chain(self.records.keys())
            .map(String::as_str)
    }

    pub(super) fn has_function(&self, name: &str) -> bool {
        self.functions
            .as_ref()
            .is_none_or(|functions| functions.contains(name))
    }
}

/// The value of a variable, as its owner happens to have it.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// A parsed value, read in place.
    Json(&'a Json),
    /// JSON text; only the parts that the expression names are built in memory.
    Text(&'a str),
    /// A value made for this evaluation.
    Owned(Json),
    /// A point in time.
    Time(Timestamp),
}

/// Where the values of variables come from.
///
/// An evaluation asks for a variable when it first needs it, and at most once, so an
/// implementation may load on demand.
pub trait Variables {
    /// The value of a variable of the scope; `None` when it has none at this point.
    fn get(&self, name: &str) -> Option<Source<'_>>;
}

/// Variables from a list of names and sources.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a> {
    sources: BTreeMap<&'a str, Source<'a>>,
}

impl<'a> Bindings<'a> {
    /// No variable has a value.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a variable a parsed value.
    #[must_use]
    pub fn json(mut self, name: &'a str, value: &'a Json) -> Self {
        self.sources.insert(name, Source::Json(value));
        self
    }

    /// Gives a variable the value of a JSON text.
    #[must_use]
    pub fn text(mut self, name: &'a str, text: &'a str) -> Self {
        self.sources.insert(name, Source::Text(text));
        self
    }

    /// Gives a variable a value made for it.
    #[must_use]
    pub fn owned(mut self, name: &'a str, value: Json) -> Self {
        self.sources.insert(name, Source::Owned(value));
        self
    }
}

impl Variables for Bindings<'_> {
    fn get(&self, name: &str) -> Option<Source<'_>> {
        Some(match self.sources.get(name)? {
            Source::Json(value) => Source::Json(value),
            Source::Text(text) => Source::Text(text),
            Source::Owned(value) => Source::Json(value),
            Source::Time(time) => Source::Time(*time),
        })
    }
}
