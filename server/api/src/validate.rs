//! The rules of fields. Reading a request collects every violation, each with the full path of its
//! field, and gives a value only when there is none.
//!
//! What needs state (does the job exist, may the team be named) is the engine's business.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use coretex_core::id::{IdError, JobId, MAX_ID_LEN, Topic, check_id};
use coretex_core::time::Timestamp;
use coretex_engine::{Error, MAX_LABELS, Violation};
use coretex_proto::time::{duration_to_std, timestamp_to_micros};

use crate::problem::{Problem, Result};
use crate::status::{shorten, too_large};

/// How long the parts of labels may be.
pub(crate) const MAX_LABEL_KEY: usize = 128;
pub(crate) const MAX_LABEL_VALUE: usize = 1024;
/// Labels of jobs that only the server sets start with this.
pub(crate) const RESERVED_LABELS: &str = "coretex.";
/// The most entries of a list of short texts.
pub(crate) const MAX_LIST: usize = 64;
/// The longest short text: names of others, keys, titles.
pub(crate) const MAX_NAME: usize = 256;
/// The longest text for people.
pub(crate) const MAX_TEXT: usize = 4096;
/// The longest id of a job that the server made: run, step, index and try.
pub(crate) const MAX_REFERENCE: usize = 320;
/// The longest any job may take, wait or be retained for by its own wish.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3_600);
/// The longest page and resume tokens.
pub(crate) const MAX_TOKEN: usize = 1024;
/// How much of a key of a map the path of a violation shows.
const SHOWN_KEY: usize = 64;

/// Reads a request with `read`; its value counts only when no field was refused.
///
/// # Errors
/// All violations at once; else a payload over the limit; else fields that ask for what is not
/// built.
pub(crate) fn check<T>(read: impl FnOnce(&mut Fields) -> T) -> Result<T> {
    let mut fields = Fields::default();
    let value = read(&mut fields);
    fields.verdict().map(|()| value)
}

/// What was found wrong so far, and where in the message the reader is.
///
/// After a violation the methods give a stand-in, so that reading goes on; [`check`] never lets it
/// out.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    path: String,
    violations: Vec<Violation>,
    not_available: Vec<String>,
    too_large: Option<(String, usize)>,
}

impl Fields {
    fn verdict(self) -> Result<()> {
        let Self {
            mut violations,
            not_available,
            too_large: large,
            ..
        } = self;
        match large {
            Some((field, limit_bytes)) if violations.is_empty() => {
                return Err(Problem::PayloadTooLarge { field, limit_bytes });
            }
            Some((field, limit_bytes)) => violations.push(too_large(&field, limit_bytes)),
            None => {}
        }
        if !violations.is_empty() {
            return Err(Error::Invalid(violations).into());
        }
        if !not_available.is_empty() {
            let fields = not_available;
            return Err(Problem::NotAvailable { fields });
        }
        Ok(())
    }

    /// The full path of `field`.
    fn full(&self, field: &str) -> String {
        match (self.path.as_str(), field) {
            ("", field) => field.to_owned(),
            (path, "") => path.to_owned(),
            (path, field) if field.starts_with('[') => format!("{path}{field}"),
            (path, field) => format!("{path}.{field}"),
        }
    }

    /// Reads the message in `field`.
    pub(crate) fn within<T>(&mut self, field: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let inner = self.full(field);
        let outer = std::mem::replace(&mut self.path, inner);
        let value = read(self);
        self.path = outer;
        value
    }

    /// Refuses a field.
    pub(crate) fn refuse(&mut self, field: &str, rule: impl Into<String>) {
        let violation = Violation::new(self.full(field), rule);
        self.violations.push(violation);
    }

    /// Refuses a field unless it was refused already.
    pub(crate) fn refuse_once(&mut self, field: &str, rule: impl Into<String>) {
        let path = self.full(field);
        if !self.violations.iter().any(|known| known.field == path) {
            self.violations.push(Violation::new(path, rule));
        }
    }

    /// Refuses a field for what it asks for, which is not built.
    pub(crate) fn not_available(&mut self, field: &str) {
        let path = self.full(field);
        self.not_available.push(path);
    }

    /// Refuses a payload for its size.
    pub(crate) fn too_large(&mut self, field: &str, limit_bytes: usize) {
        let path = self.full(field);
        self.too_large.get_or_insert((path, limit_bytes));
    }

    /// A required id or name.
    pub(crate) fn id<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, IdError>,
        stand_in: impl FnOnce(&str) -> T,
    ) -> T {
        parse(text).unwrap_or_else(|error| {
            self.refuse(field, error.to_string());
            stand_in("")
        })
    }

    /// An id or name that may be empty.
    pub(crate) fn optional_id<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, IdError>,
    ) -> Option<T> {
        if text.is_empty() {
            return None;
        }
        parse(text)
            .map_err(|error| self.refuse(field, error.to_string()))
            .ok()
    }

    /// A required name that is kept as text.
    pub(crate) fn name(&mut self, field: &str, text: &str) -> String {
        let parse = |text: &str| check_id(text).map(|()| text.to_owned());
        self.id(field, text, parse, str::to_owned)
    }

    /// A required topic.
    pub(crate) fn topic(&mut self, field: &str, text: &str) -> Topic {
        self.id(field, text, Topic::parse, Topic::from_trusted)
    }

    /// The id of an existing job, which the server may have made.
    pub(crate) fn job(&mut self, field: &str, text: &str) -> JobId {
        self.id(field, text, reference, JobId::from_trusted)
    }

    /// A text for people: bounded, otherwise free.
    pub(crate) fn text(&mut self, field: &str, text: String, max: usize) -> String {
        if text.len() > max {
            self.refuse(field, format!("must be at most {max} bytes long"));
        }
        text
    }

    /// A short text of one line.
    pub(crate) fn line(&mut self, field: &str, text: String, max: usize) -> String {
        if text.chars().any(char::is_control) {
            self.refuse(field, "must not hold control characters");
        }
        self.text(field, text, max)
    }

    /// A bounded list of short texts, none of them empty.
    pub(crate) fn lines(&mut self, field: &str, list: Vec<String>) -> Vec<String> {
        if !self.at_most(field, list.len(), MAX_LIST) {
            return Vec::new();
        }
        let mut kept = Vec::with_capacity(list.len());
        for (index, text) in list.into_iter().enumerate() {
            let field = format!("{field}[{index}]");
            if text.is_empty() {
                self.refuse(&field, "must not be empty");
            }
            kept.push(self.line(&field, text, MAX_NAME));
        }
        kept
    }

    /// A bounded list of ids or names.
    pub(crate) fn ids<T>(
        &mut self,
        field: &str,
        list: &[String],
        max: usize,
        parse: impl Fn(&str) -> std::result::Result<T, IdError>,
    ) -> Vec<T> {
        if !self.at_most(field, list.len(), max) {
            return Vec::new();
        }
        let mut kept = Vec::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            match parse(text) {
                Ok(id) => kept.push(id),
                Err(error) => self.refuse(&format!("{field}[{index}]"), error.to_string()),
            }
        }
        kept
    }

    /// Whether a list or map is not too long.
    pub(crate) fn at_most(&mut self, field: &str, length: usize, max: usize) -> bool {
        if length > max {
            self.refuse(field, format!("must hold at most {max} entries"));
        }
        length <= max
    }

    /// Labels of jobs or workers, or any other bounded map of texts.
    pub(crate) fn labels(
        &mut self,
        field: &str,
        labels: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        if !self.at_most(field, labels.len(), MAX_LABELS) {
            return BTreeMap::new();
        }
        for (key, value) in &labels {
            if let Some(rule) = label_rule(key, value) {
                let key = shorten(key, SHOWN_KEY).escape_debug();
                self.refuse(&format!("{field}[{key}]"), rule);
            }
        }
        labels
    }

    /// Labels that a caller gives to a job.
    pub(crate) fn job_labels(
        &mut self,
        field: &str,
        labels: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let labels = self.labels(field, labels);
        for key in labels.keys().filter(|key| key.starts_with(RESERVED_LABELS)) {
            let shown = shorten(key, SHOWN_KEY).escape_debug();
            let rule = format!("labels that start with `{RESERVED_LABELS}` are reserved");
            self.refuse(&format!("{field}[{shown}]"), rule);
        }
        labels
    }

    /// A duration, if it is set.
    pub(crate) fn duration(
        &mut self,
        field: &str,
        duration: Option<prost_types::Duration>,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let duration = duration_to_std(&duration?)
            .map_err(|error| self.refuse(field, error.to_string()))
            .ok()?;
        if duration < *range.start() {
            self.refuse(field, "must be longer than zero");
            return None;
        }
        if duration > *range.end() {
            let max = range.end().as_secs();
            self.refuse(field, format!("must be at most {max}s"));
            return None;
        }
        Some(duration)
    }

    /// A point in time, if it is set.
    pub(crate) fn time(
        &mut self,
        field: &str,
        time: Option<prost_types::Timestamp>,
    ) -> Option<Timestamp> {
        timestamp_to_micros(&time?)
            .map(Timestamp::from_micros)
            .map_err(|error| self.refuse(field, error.to_string()))
            .ok()
    }

    /// A value of an enum; `None` when it is unspecified.
    pub(crate) fn value<E: TryFrom<i32>>(&mut self, field: &str, number: i32) -> Option<E> {
        if number == 0 {
            return None;
        }
        let value = E::try_from(number).ok();
        if value.is_none() {
            self.refuse(field, format!("has no value {number}"));
        }
        value
    }

    /// A list of values of an enum, none of them unspecified.
    pub(crate) fn values<E: TryFrom<i32>>(&mut self, field: &str, numbers: &[i32]) -> Vec<E> {
        if !self.at_most(field, numbers.len(), MAX_LIST) {
            return Vec::new();
        }
        let mut values = Vec::with_capacity(numbers.len());
        for (index, number) in numbers.iter().enumerate() {
            let field = format!("{field}[{index}]");
            match self.value(&field, *number) {
                Some(value) => values.push(value),
                None if *number == 0 => self.refuse(&field, "must not be unspecified"),
                None => {}
            }
        }
        values
    }

    /// A number of things.
    pub(crate) fn count(&mut self, field: &str, number: i32, max: u32) -> u32 {
        match u32::try_from(number) {
            Err(_) => self.refuse(field, "must not be negative"),
            Ok(count) if count > max => self.refuse(field, format!("must be at most {max}")),
            Ok(count) => return count,
        }
        0
    }

    /// A number of tokens or bytes.
    pub(crate) fn amount(&mut self, field: &str, number: i64) -> i64 {
        if number < 0 {
            self.refuse(field, "must not be negative");
        }
        number
    }

    /// A token that the server gave out; what it means is checked where it is used.
    pub(crate) fn token(&mut self, field: &str, token: String) -> String {
        self.line(field, token, MAX_TOKEN)
    }
}

/// What is wrong with a label, if anything is.
fn label_rule(key: &str, value: &str) -> Option<String> {
    if key.is_empty() {
        Some("the key must not be empty".to_owned())
    } else if key.len() > MAX_LABEL_KEY {
        Some(format!(
            "the key must be at most {MAX_LABEL_KEY} bytes long"
        ))
    } else if key.chars().any(char::is_control) {
        Some("the key must not hold control characters".to_owned())
    } else if value.len() > MAX_LABEL_VALUE {
        Some(format!("must be at most {MAX_LABEL_VALUE} bytes long"))
    } else {
        None
    }
}

/// Parses the id of an existing job. Jobs of workflow steps have more characters than callers may
/// use for their own.
fn reference(text: &str) -> std::result::Result<JobId, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_REFERENCE {
        return Err(IdError::TooLong { max: MAX_REFERENCE });
    }
    let good = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':' | b'@' | b'[' | b']')
    };
    if !text.bytes().all(good) {
        return Err(IdError::Alphabet);
    }
    Ok(JobId::from_trusted(text))
}

/// Parses a name that is only compared, never part of a key: a principal such as `key:abc`.
pub(crate) fn principal(text: &str) -> std::result::Result<String, IdError> {
    if text.len() > MAX_ID_LEN {
        return Err(IdError::TooLong { max: MAX_ID_LEN });
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Alphabet);
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
