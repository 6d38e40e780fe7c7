//! How the values of an entry are read: each is in its bounds or refused, with its own span and its
//! path, and reading goes on.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use coretex_core::id::IdError;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Finding;
use super::keys::{Key, NOT_AVAILABLE};
use crate::config::nearest::nearest;
use crate::config::value::{Field, Input, quoted, show_duration};

/// The most entries of a list of texts, as in the requests of callers.
const MAX_TEXTS: usize = 64;
/// The most entries of a list of names.
const MAX_NAMES: usize = 1_000;
/// The longest text, as in the requests of callers.
const MAX_TEXT_BYTES: usize = 256;

/// The path of `key` in `table`, as TOML writes it.
pub(in crate::config) fn path(table: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(bare) {
        format!("{table}.{key}")
    } else {
        format!("{table}.{}", quoted(key))
    }
}

/// A table of a document whose keys are known.
pub(in crate::config) struct Entry<'a, 'f> {
    path: String,
    /// Its name in the document.
    span: Range<usize>,
    table: &'a DeTable<'a>,
    findings: &'f mut Vec<Finding>,
}

impl<'a, 'f> Entry<'a, 'f> {
    pub(in crate::config) const fn new(
        path: String,
        span: Range<usize>,
        table: &'a DeTable<'a>,
        findings: &'f mut Vec<Finding>,
    ) -> Self {
        Self {
            path,
            span,
            table,
            findings,
        }
    }

    /// Refuses the name of the entry.
    pub(in crate::config) fn refuse_name(&mut self, must: &str) {
        let message = format!("`{}`: the name {must}", self.path);
        self.findings.push(Finding::new(self.span.clone(), message));
    }

    /// Refuses a pattern whose dots were taken for those of the document.
    pub(in crate::config) fn refuse_unquoted(&mut self) {
        let message = format!("`{}` is no pattern of topics", self.path);
        let hint = "patterns stand in quotes: `[topics.\"job.a.*\"]`";
        self.findings
            .push(Finding::new(self.span.clone(), message).hint(hint));
    }

    /// Refuses the value of `key`.
    pub(in crate::config) fn refuse(&mut self, key: &str, must: impl Display) {
        let span = self
            .table
            .get(key)
            .map_or_else(|| self.span.clone(), Spanned::span);
        let message = format!("`{}` {must}", path(&self.path, key));
        self.findings.push(Finding::new(span, message));
    }

    /// Refuses an item of the list in `key`.
    pub(in crate::config) fn refuse_item(
        &mut self,
        key: &str,
        index: usize,
        span: Range<usize>,
        must: impl Display,
    ) {
        let message = format!("`{}[{index}]` {must}", path(&self.path, key));
        self.findings.push(Finding::new(span, message));
    }

    /// Complains of a key that must be there.
    pub(in crate::config) fn missing(&mut self, key: &str) {
        let message = format!("`{}` needs `{key}`", self.path);
        self.findings.push(Finding::new(self.span.clone(), message));
    }

    /// How much was found wrong so far.
    pub(in crate::config) const fn found(&self) -> usize {
        self.findings.len()
    }

    /// Whether the document has `key`.
    pub(in crate::config) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Refuses every key that is not one of `keys`.
    pub(in crate::config) fn knows_only(&mut self, keys: &'static [Key]) {
        for name in self.table.keys() {
            let span = name.span();
            let name: &str = name.get_ref();
            if keys.iter().any(|key| key.name == name) {
                continue;
            }
            let full = path(&self.path, name);
            let with_schemas = keys.iter().any(|key| key.name == "retry");
            if with_schemas && NOT_AVAILABLE.contains(&name) {
                let message = format!("`{full}`: schemas are not available in this version");
                self.findings.push(Finding::new(span, message));
                continue;
            }
            let inside = keys.iter().find_map(|outer| {
                let inner = outer.keys.iter().find(|inner| inner.name == name)?;
                Some(format!("{}.{}", outer.name, inner.name))
            });
            let near = nearest(name, keys.iter().map(|key| key.name));
            let meant = inside.or_else(|| near.map(ToOwned::to_owned));
            self.findings.push(match meant {
                Some(near) => Finding::new(
                    span,
                    format!("unknown key `{full}`; did you mean `{near}`?"),
                ),
                None => {
                    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
                    Finding::new(span, format!("unknown key `{full}`"))
                        .hint(format!("here are the keys {}", names.join(", ")))
                }
            });
        }
    }

    /// A value of any form that settings have.
    pub(in crate::config) fn read<T: Field>(&mut self, key: &str) -> Option<T> {
        let value = self.table.get(key)?;
        T::read(Input::Toml(value.get_ref()))
            .map_err(|must| self.refuse(key, must))
            .ok()
    }

    /// A whole number.
    pub(in crate::config) fn count(
        &mut self,
        key: &str,
        bounds: RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.table.get(key)?;
        let number = u64::read(Input::Toml(value.get_ref())).ok();
        let found = number.filter(|number| bounds.contains(number));
        if found.is_none() {
            let (least, most) = bounds.into_inner();
            self.refuse(
                key,
                format_args!("must be a whole number from {least} to {most}"),
            );
        }
        found
    }

    /// The same, where it is small.
    pub(in crate::config) fn small(
        &mut self,
        key: &str,
        bounds: RangeInclusive<u32>,
    ) -> Option<u32> {
        let (least, most) = bounds.into_inner();
        let number = self.count(key, least.into()..=most.into())?;
        u32::try_from(number).ok()
    }

    /// A number with or without a point.
    pub(in crate::config) fn number(
        &mut self,
        key: &str,
        bounds: RangeInclusive<f64>,
    ) -> Option<f64> {
        let number = match self.table.get(key)?.get_ref() {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        };
        let found = number.filter(|number| bounds.contains(number));
        if found.is_none() {
            let (least, most) = bounds.into_inner();
            self.refuse(key, format_args!("must be a number from {least} to {most}"));
        }
        found
    }

    /// A duration.
    pub(in crate::config) fn duration(
        &mut self,
        key: &str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let found: Duration = self.read(key)?;
        if bounds.contains(&found) {
            return Some(found);
        }
        let (least, most) = bounds.into_inner();
        let (least, most) = (show_duration(least), show_duration(most));
        self.refuse(key, format_args!("must be from {least} to {most}"));
        None
    }

    /// A short text, not empty.
    pub(in crate::config) fn text(&mut self, key: &str) -> Option<String> {
        let text: String = self.read(key)?;
        match text_rule(&text) {
            Ok(()) => Some(text),
            Err(must) => {
                self.refuse(key, must);
                None
            }
        }
    }

    /// One of some words.
    pub(in crate::config) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let found = match self.table.get(key)?.get_ref() {
            DeValue::String(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            self.refuse(
                key,
                format_args!("must be one of {}, in quotes", words.join(", ")),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// A list of short texts. The empty one is as good as none.
    pub(in crate::config) fn texts(&mut self, key: &str) -> Vec<String> {
        let must = format!("must be a list of up to {MAX_TEXTS} texts");
        let texts = self.items(key, MAX_TEXTS, &must, |text| {
            text_rule(text).map(|()| text.to_owned())
        });
        texts.into_iter().map(|(text, _)| text).collect()
    }

    /// A list of names and their spans. The empty one is refused: it would mean none to the reader
    /// and all to the server.
    pub(in crate::config) fn names<T: Ord + Clone>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, IdError>,
    ) -> Vec<(T, Range<usize>)> {
        let must = format!("must be a list of up to {MAX_NAMES} names");
        let names = self.items(key, MAX_NAMES, &must, |text| {
            parse(text).map_err(|error| error.to_string())
        });
        if let Some(DeValue::Array(items)) = self.table.get(key).map(Spanned::get_ref)
            && items.is_empty()
        {
            self.refuse(key, "must name at least one; leave it out for all");
        }
        names
    }

    fn items<T: Ord + Clone>(
        &mut self,
        key: &str,
        most: usize,
        must: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<(T, Range<usize>)> {
        let items = match self.table.get(key).map(Spanned::get_ref) {
            None => return Vec::new(),
            Some(DeValue::Array(items)) if items.len() <= most => items,
            Some(_) => {
                self.refuse(key, must);
                return Vec::new();
            }
        };
        let mut seen = BTreeSet::new();
        let mut kept = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let read = match item.get_ref() {
                DeValue::String(text) => parse(text),
                _ => Err("must be a text, in quotes".to_owned()),
            };
            match read {
                Ok(value) if seen.insert(value.clone()) => kept.push((value, item.span())),
                Ok(_) => self.refuse_item(key, index, item.span(), "stands there twice"),
                Err(must) => self.refuse_item(key, index, item.span(), must),
            }
        }
        kept
    }

    /// The table in `key`, inline or a section of its own.
    pub(in crate::config) fn within<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Entry<'a, '_>) -> T,
    ) -> Option<T> {
        let (name, value) = self.table.get_key_value(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            let full = path(&self.path, key);
            self.refuse(
                key,
                format_args!("must be a table: `{key} = {{ .. }}` or a section `[{full}]`"),
            );
            return None;
        };
        let path = path(&self.path, key);
        let mut inner = Entry::new(path, name.span(), table, self.findings);
        Some(read(&mut inner))
    }
}

fn text_rule(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!("must be at most {MAX_TEXT_BYTES} bytes long"));
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}
