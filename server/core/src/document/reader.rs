//! Reads a tree into values of the program and collects everything that is wrong on the way.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use super::node::{Entry, Kind, Node};
use super::problem::{Path, Problem, shortened};
use crate::expression::{CompileErrors, Expression, Position, Scope};

/// The most problems that are told of one document.
pub const MAX_PROBLEMS: usize = 100;
/// As much of a text as a message quotes, in characters.
const QUOTED: usize = 60;

/// Collects the problems of a document while it is read.
#[derive(Debug, Default)]
pub struct Reader {
    problems: RefCell<Vec<Problem>>,
    dropped: Cell<usize>,
}

impl Reader {
    /// Nothing has been found yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The root of a document.
    #[must_use]
    pub fn root<'a>(&'a self, node: &'a Node) -> Field<'a> {
        Field {
            node,
            path: Path::default(),
            reader: self,
        }
    }

    /// What was found, in the order of the text; the last one says how many more there are.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        let dropped = self.dropped.get();
        if let (Some(last), true) = (problems.last(), dropped > 0) {
            problems.push(Problem {
                line: last.line,
                column: last.column,
                path: Path::default(),
                message: format!("and {dropped} more problems"),
            });
        }
        problems
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    fn add(&self, place: (usize, usize), path: Path, message: &str) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() == MAX_PROBLEMS {
            drop(problems);
            self.drop_one();
            return;
        }
        problems.push(Problem::new(place, path, message));
    }

    fn is_full(&self) -> bool {
        self.problems.borrow().len() == MAX_PROBLEMS
    }

    fn drop_one(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }
}

/// A value of a document that is being read.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    node: &'a Node,
    path: Path,
    reader: &'a Reader,
}

impl<'a> Field<'a> {
    /// The value itself.
    #[must_use]
    pub const fn node(&self) -> &'a Node {
        self.node
    }

    /// Where it begins: line and column, from 1.
    #[must_use]
    pub const fn position(&self) -> (usize, usize) {
        (self.node.line, self.node.column)
    }

    /// The way to it.
    #[must_use]
    pub const fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing was found wrong with the document so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.reader.is_clean()
    }

    /// Whether it is a list.
    #[must_use]
    pub const fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::List(_))
    }

    /// Whether it is a text.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        matches!(self.node.kind, Kind::Text(..))
    }

    /// Whether it is a list without items.
    #[must_use]
    pub fn is_empty_list(&self) -> bool {
        matches!(&self.node.kind, Kind::List(items) if items.is_empty())
    }

    /// Adds a problem about this value.
    pub fn problem(&self, message: impl Display) {
        self.reader
            .add(self.position(), self.path.clone(), &message.to_string());
    }

    /// Adds a problem about the value of a key, or about this value where the key is missing.
    pub fn problem_at(&self, key: &str, message: impl Display) {
        let entries = match &self.node.kind {
            Kind::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        match entries.iter().find(|entry| entry.key == key) {
            Some(entry) => self.child(entry).problem(message),
            None => self.problem(message),
        }
    }

    fn wrong_type(&self, wanted: &str) {
        let hint = match self.node.kind {
            Kind::Bool(_) | Kind::Number(_) if wanted == "a text" => "; put it in quotes",
            _ => "",
        };
        let found = self.node.type_name();
        self.problem(format_args!("must be {wanted}, is {found}{hint}"));
    }

    /// A mapping.
    #[must_use]
    pub fn object(&self) -> Option<Object<'a>> {
        match &self.node.kind {
            Kind::Map(entries) => Some(Object {
                field: self.clone(),
                entries,
                known: Vec::new(),
            }),
            _ => {
                self.wrong_type("a mapping");
                None
            }
        }
    }

    /// The items of a list of at most `most`; the first of them if it is longer.
    #[must_use]
    pub fn items(&self, most: usize) -> Vec<Self> {
        let Kind::List(items) = &self.node.kind else {
            self.wrong_type("a list");
            return Vec::new();
        };
        if items.len() > most {
            self.problem(format_args!(
                "must have at most {most} items, has {}",
                items.len()
            ));
        }
        let items = items.iter().take(most).enumerate();
        items
            .map(|(index, node)| Self {
                node,
                path: self.path.index(index),
                reader: self.reader,
            })
            .collect()
    }

    /// The keys and values of a mapping of at most `most` entries whose keys are free; the first of
    /// them if it has more.
    #[must_use]
    pub fn entries(&self, most: usize) -> Vec<(&'a str, Self)> {
        let Kind::Map(entries) = &self.node.kind else {
            self.wrong_type("a mapping");
            return Vec::new();
        };
        if entries.len() > most {
            self.problem(format_args!(
                "must have at most {most} entries, has {}",
                entries.len()
            ));
        }
        let entries = entries.iter().take(most);
        entries
            .map(|entry| (entry.key.as_str(), self.child(entry)))
            .collect()
    }

    fn child(&self, entry: &'a Entry) -> Self {
        Self {
            node: &entry.value,
            path: self.path.key(&entry.key),
            reader: self.reader,
        }
    }

    /// A text.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text, _) => Some(text),
            _ => {
                self.wrong_type("a text");
                None
            }
        }
    }

    /// A text of at most `most` bytes that is not empty.
    #[must_use]
    pub fn line(&self, most: usize) -> Option<String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.problem("must not be empty");
            return None;
        }
        if text.len() > most {
            self.problem(format_args!("must be at most {most} bytes long"));
            return None;
        }
        Some(text.to_owned())
    }

    /// A text that `parse` takes.
    #[must_use]
    pub fn parsed<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(error);
                None
            }
        }
    }

    /// One of several words, each with what it stands for.
    #[must_use]
    pub fn word<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = nearest(text, &names)
            .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        self.problem(format_args!(
            "must be one of {}, is `{}`{hint}",
            names.join(", "),
            shortened(text, QUOTED)
        ));
        None
    }

    /// True or false.
    #[must_use]
    pub fn bool(&self) -> Option<bool> {
        match self.node.kind {
            Kind::Bool(value) => Some(value),
            _ => {
                self.wrong_type("true or false");
                None
            }
        }
    }

    /// A whole number within bounds.
    #[must_use]
    pub fn whole(&self, least: i64, most: i64) -> Option<i64> {
        let Kind::Number(number) = &self.node.kind else {
            self.wrong_type("a whole number");
            return None;
        };
        // JSON that comes through protobuf has doubles only.
        let exact = |value: f64| {
            let whole = value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
            whole.then_some(value as i64)
        };
        let value = number
            .as_i64()
            .or_else(|| number.as_f64().and_then(exact))
            .filter(|value| (least..=most).contains(value));
        if value.is_none() {
            self.problem(format_args!(
                "must be a whole number from {least} to {most}, is {number}"
            ));
        }
        value
    }

    /// A number.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match &self.node.kind {
            Kind::Number(number) => number.as_f64(),
            _ => {
                self.wrong_type("a number");
                None
            }
        }
    }

    /// A whole number within bounds that fits 32 bits.
    #[must_use]
    pub fn count(&self, least: u32, most: u32) -> Option<u32> {
        let value = self.whole(i64::from(least), i64::from(most))?;
        u32::try_from(value).ok()
    }

    /// A duration such as `90s`, `5m` or `1h30m`, within bounds.
    #[must_use]
    pub fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        let Kind::Text(text, _) = &self.node.kind else {
            self.wrong_type("a duration such as `90s`, `5m` or `1h30m`");
            return None;
        };
        let Ok(value) = humantime::parse_duration(text) else {
            self.problem(format_args!(
                "must be a duration such as `90s`, `5m` or `1h30m`, is `{}`",
                shortened(text, QUOTED)
            ));
            return None;
        };
        if value < least || value > most {
            self.problem(format_args!(
                "must be from {} to {}",
                humantime::format_duration(least),
                humantime::format_duration(most)
            ));
            return None;
        }
        Some(value)
    }

    /// A list of at most `most` texts, each read by `read`; items that are wrong or stand there
    /// twice are told and left out.
    #[must_use]
    pub fn list<T: Ord + Clone>(&self, most: usize, read: impl Fn(&Self) -> Option<T>) -> Vec<T> {
        let mut seen = BTreeSet::new();
        let mut values = Vec::new();
        for item in self.items(most) {
            let Some(value) = read(&item) else { continue };
            if seen.insert(value.clone()) {
                values.push(value);
            } else {
                item.problem("stands here twice");
            }
        }
        values
    }

    /// An expression over the names of a scope.
    #[must_use]
    pub fn expression(&self, scope: &Scope) -> Option<Expression> {
        match Expression::compile(self.text()?, scope) {
            Ok(expression) => Some(expression),
            Err(errors) => {
                self.compile_errors(&errors);
                None
            }
        }
    }

    /// Adds the errors of an expression, each where it is in this text.
    pub fn compile_errors(&self, errors: &CompileErrors) {
        let text = match &self.node.kind {
            Kind::Text(text, _) => text.as_str(),
            _ => "",
        };
        // A block ends with a line end, behind which there may be nothing to point at.
        let end = Position::of(text, text.trim_end().len());
        for error in errors.errors() {
            let position = error.position.min(end);
            self.problem_inside(position.line, position.column, &error.message);
        }
    }

    /// Adds a problem about a part of this text, given its line and column inside of it (from 1).
    pub fn problem_inside(&self, line: usize, column: usize, message: impl Display) {
        let place = self.node.inside(line, column);
        self.reader
            .add(place, self.path.clone(), &message.to_string());
    }
}

/// A mapping whose keys are known. Every key that is asked for is one of them.
#[derive(Debug)]
pub struct Object<'a> {
    field: Field<'a>,
    entries: &'a [Entry],
    known: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// The value of a key, if it is there.
    pub fn get(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.field.child(entry))
    }

    /// The value of a key that has to be there.
    pub fn require(&mut self, key: &'static str) -> Option<Field<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.field.problem(format_args!("`{key}` is missing"));
        }
        found
    }

    /// The mapping itself.
    #[must_use]
    pub const fn field(&self) -> &Field<'a> {
        &self.field
    }

    /// Tells of every key that was not asked for.
    pub fn finish(self) {
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) {
                continue;
            }
            if self.field.reader.is_full() {
                // Looking for likely names takes time; nobody reads more of them.
                self.field.reader.drop_one();
                continue;
            }
            let hint = nearest(key, &self.known).map_or_else(
                || format!("known are {}", self.known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            let path = self.field.path.key(key);
            let message = format!("unknown key `{}`; {hint}", shortened(key, QUOTED));
            let place = (entry.line, entry.column);
            self.field.reader.add(place, path, &message);
        }
    }
}

/// The known name that is most like another, if one is like it at all: few letters differ, or it
/// begins alike.
fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    if name.len() > 64 {
        return None;
    }
    let scored = known.iter().map(|candidate| {
        let swaps = strsim::damerau_levenshtein(name, candidate);
        let close = swaps <= 1 + name.len().min(candidate.len()) / 4;
        let likeness = strsim::jaro_winkler(name, candidate);
        (if close { 1.0 + likeness } else { likeness }, *candidate)
    });
    let best = scored.max_by(|left, right| left.0.total_cmp(&right.0))?;
    (best.0 > 0.8).then_some(best.1)
}
