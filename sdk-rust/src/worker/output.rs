//! What a handler gives back: an output or a failure.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

use coretex_proto::v1::{JobError, Payload};
use serde::Serialize;

use crate::{Error, to_payload};

/// The longest failure message to send, in bytes. What is longer is cut: the rest belongs into the
/// worker's own log.
const MAX_MESSAGE: usize = 4_096;

/// The result of work that went well.
///
/// Made by `into()` from [`Json`], `serde_json::Value`, [`Payload`], texts, `()`, and options of
/// payloads.
///
/// ```
/// use coretex::{Json, Output};
///
/// let report: Output = Json(vec![1, 2, 3]).into();
/// let with_file = Output::from("done").artifact("art-1");
/// # let _ = (report, with_file);
/// ```
#[derive(Debug, Default)]
pub struct Output {
    pub(super) payload: Option<Payload>,
    pub(super) artifact_ids: Vec<String>,
    /// The output could not be written; told when the attempt is concluded.
    pub(super) invalid: Option<JobFailure>,
}

impl Output {
    /// Adds an artifact that belongs to the result.
    #[must_use]
    pub fn artifact(mut self, artifact_id: impl Into<String>) -> Self {
        self.artifact_ids.push(artifact_id.into());
        self
    }
}

/// Any serde type, sent as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(
    /// The data.
    pub T,
);

impl<T: Serialize> From<Json<T>> for Output {
    fn from(json: Json<T>) -> Self {
        match to_payload(&json.0) {
            Ok(payload) => payload.into(),
            Err(error) => Self {
                invalid: Some(JobFailure::new("output_invalid", error.message())),
                ..Self::default()
            },
        }
    }
}

impl From<Payload> for Output {
    fn from(payload: Payload) -> Self {
        Some(payload).into()
    }
}

impl From<Option<Payload>> for Output {
    fn from(payload: Option<Payload>) -> Self {
        Self {
            payload,
            ..Self::default()
        }
    }
}

impl From<serde_json::Value> for Output {
    fn from(json: serde_json::Value) -> Self {
        Payload::from_json(&json).into()
    }
}

impl From<()> for Output {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<String> for Output {
    /// A text, sent as `text/plain`.
    fn from(text: String) -> Self {
        Payload::from_bytes(text, "text/plain; charset=utf-8").into()
    }
}

impl From<&str> for Output {
    /// A text, sent as `text/plain`.
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Why work failed: a short stable word for programs, and a sentence for people.
///
/// Every error type becomes one by `?`, with the code `error` and its text and causes as message.
/// Errors of this crate keep more: input that is not what the handler expects has the code
/// `input_invalid`.
///
/// ```
/// use coretex::JobFailure;
///
/// fn read() -> Result<String, JobFailure> {
///     let text = std::fs::read_to_string("/does/not/exist")?;
///     if text.is_empty() {
///         return Err(JobFailure::new("empty", "the file is empty").with("path", "/does/not/exist"));
///     }
///     Ok(text)
/// }
/// # assert_eq!(read().err().map(|failure| failure.code().to_owned()).as_deref(), Some("error"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
// Not an `Error` itself: that would clash with the conversion from all errors below.
pub struct JobFailure {
    code: String,
    message: String,
    metadata: BTreeMap<String, String>,
}

impl JobFailure {
    /// Makes a failure. The code is what retry policies and programs look at.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE)
                .rev()
                .find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or_default());
        }
        Self {
            code: code.into(),
            message,
            metadata: BTreeMap::new(),
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The short stable word.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What a caught panic is reported as.
    pub(super) fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::new("panic", text.unwrap_or("the handler panicked"))
    }

    pub(super) fn into_error(self) -> JobError {
        JobError {
            code: self.code,
            message: self.message,
            metadata: self.metadata,
            ..JobError::default()
        }
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for JobFailure {
    fn from(error: E) -> Self {
        if let Some(error) = (&error as &dyn Any).downcast_ref::<Error>() {
            // Reading the input is what handlers do most with this crate's errors.
            let input = error.is_local() && error.code() == tonic::Code::InvalidArgument;
            let code = if input { "input_invalid" } else { "error" };
            return Self::new(code, error.to_string());
        }
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors already repeat their cause.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self::new("error", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PayloadExt;

    #[test]
    fn everything_useful_becomes_an_output() -> Result<(), Error> {
        let text = |output: Output| output.payload.map(|p| p.to_text().map(|t| t.into_owned()));
        assert_eq!(
            text(Json([1, 2]).into()).transpose()?.as_deref(),
            Some("[1,2]")
        );
        assert_eq!(text("hi".into()).transpose()?.as_deref(), Some("hi"));
        assert_eq!(text(().into()).transpose()?, None);
        let bad: Output = Json(std::collections::BTreeMap::from([((1, 2), 3)])).into();
        assert_eq!(
            bad.invalid.map(|f| f.code).as_deref(),
            Some("output_invalid")
        );
        Ok(())
    }

    #[test]
    fn errors_keep_their_causes_and_long_texts_are_cut() {
        let io = std::io::Error::other("disk on fire");
        assert_eq!(JobFailure::from(io).message(), "disk on fire");
        let input = Payload::from_bytes("x", "text/plain").parse::<u8>();
        let code = input.map_err(JobFailure::from).err().map(|f| f.code);
        assert_eq!(code.as_deref(), Some("input_invalid"));
        let long = JobFailure::new("x", "ä".repeat(MAX_MESSAGE));
        assert!(long.message().len() <= MAX_MESSAGE && long.message().ends_with('ä'));
        let panic: Box<dyn Any + Send> = Box::new(String::from("index out of range"));
        assert_eq!(
            JobFailure::from_panic(&*panic).message(),
            "index out of range"
        );
    }
}
