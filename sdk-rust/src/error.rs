//! The one error of this crate: what a failed call says, decoded.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use coretex_proto::v1::ErrorReason;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

/// Why a call failed.
///
/// [`code`](Self::code) says what kind of failure it is, [`reason`](Self::reason) which one. Errors
/// that arose in this process, before or instead of an answer, have no reason and are
/// [local](Self::is_local).
///
/// ```
/// use coretex::{Error, ErrorReason};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.reason() {
///         Some(ErrorReason::IdempotencyKeyReused) => "use another key",
///         _ if error.is_retryable() => "try again",
///         _ => "give up",
///     }
/// }
/// # assert_eq!(advice(&Error::local(coretex::Code::Unavailable, "away")), "try again");
/// ```
#[derive(Clone)]
pub struct Error {
    // Boxed: a result should not pay for its error on the good path.
    inner: Box<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    code: i32,
    reason: String,
    message: String,
    violations: Vec<FieldViolation>,
    retry_after: Option<Duration>,
    metadata: BTreeMap<String, String>,
    hint: Option<String>,
    local: bool,
    unreachable: bool,
}

/// One field that breaks its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field, for example `retry.max_attempts`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Error {
    /// Makes an error of this process, not of a server.
    #[must_use]
    pub fn local(code: Code, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                code: code.into(),
                message: message.into(),
                local: true,
                ..Inner::default()
            }),
        }
    }

    /// Adds what the reader may do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// Decodes the status of one item of many, as in the answer of `SubmitJobs`.
    #[must_use]
    pub fn from_item(status: &tonic_types::pb::Status) -> Self {
        let details = status.get_error_details();
        Self::decode(status.code.into(), &status.message, &details)
    }

    fn decode(code: Code, message: &str, details: &ErrorDetails) -> Self {
        let mut inner = Inner {
            code: code.into(),
            message: message.to_owned(),
            ..Inner::default()
        };
        if let Some(info) = details.error_info() {
            inner.reason.clone_from(&info.reason);
            inner.metadata = info.metadata.clone().into_iter().collect();
        }
        if let Some(bad) = details.bad_request() {
            let violations = bad.field_violations.iter();
            inner.violations = violations
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect();
        }
        inner.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        let help = details.help().and_then(|help| help.links.first());
        inner.hint = help.map(|link| link.description.clone());
        Self {
            inner: Box::new(inner),
        }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::from(self.inner.code)
    }

    /// Which failure it is. `None` for local errors, for errors of proxies, and for reasons newer
    /// than this library (see [`reason_text`](Self::reason_text)).
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        ErrorReason::from_reason(&self.inner.reason)
    }

    /// The reason as it was sent, for example `ETAG_MISMATCH`. Empty when there is none.
    #[must_use]
    pub fn reason_text(&self) -> &str {
        &self.inner.reason
    }

    /// What happened, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// All fields that break their rules, in the order of the server.
    #[must_use]
    pub fn violations(&self) -> &[FieldViolation] {
        &self.inner.violations
    }

    /// How long the server asks to wait before trying again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Facts about the failure; the documentation of the reason names the keys.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.metadata
    }

    /// What the reader may do about it, for people.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }

    /// Whether the error arose in this process instead of in a server.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.inner.local
    }

    /// Whether no server could be connected to at all.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.inner.unreachable
    }

    /// Whether the same call may succeed later without anything else being changed. Says nothing
    /// about whether repeating it is safe; that is a property of the call.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.code() {
            Code::Unavailable => true,
            // Without a time to come back there is no reason to believe that waiting helps: the
            // message may be too large.
            Code::ResourceExhausted => self.retry_after().is_some(),
            Code::Aborted => self.reason() == Some(ErrorReason::Contention),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => false,
        }
    }

    /// Whether a change that was asked for may have been made nevertheless.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self.code() {
            Code::Unavailable => {
                // Other reasons of the server promise that nothing was changed.
                self.reason() == Some(ErrorReason::OutcomeUnknown)
                    || (self.inner.local && !self.inner.unreachable)
            }
            Code::DeadlineExceeded => self.reason() != Some(ErrorReason::DeadlinePassed),
            Code::Cancelled | Code::Unknown | Code::Internal => true,
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated => false,
        }
    }

    /// Names the server in an error that says that none was reached.
    pub(crate) fn at_server(mut self, server: &str) -> Self {
        if self.inner.unreachable {
            let cause = std::mem::take(&mut self.inner.message);
            self.inner.message = format!("cannot reach {server}: {cause}");
            self.inner.hint = Some(format!(
                "is a server running at {server}? start one with `coretexd --dev`, or give another address"
            ));
        }
        self
    }

    /// What a missing field of an answer is reported as.
    pub(crate) fn incomplete(what: &str) -> Self {
        Self::local(
            Code::Internal,
            format!("the answer of the server lacks {what}"),
        )
    }

    pub(crate) fn deadline(limit: Duration) -> Self {
        Self::local(
            Code::DeadlineExceeded,
            format!("no answer within {limit:?}"),
        )
    }
}

/// The innermost cause, which names the actual trouble ("connection refused").
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn find<T: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<T>() {
            return true;
        }
        next = error.source();
    }
    false
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // Only a status made in this process has a source: the connection failed.
        let Some(source) = status.source() else {
            let details = status.get_error_details();
            return Self::decode(status.code(), status.message(), &details);
        };
        if find::<TimeoutExpired>(source) {
            return Self::local(Code::DeadlineExceeded, "no answer within the deadline");
        }
        let unreachable = find::<ConnectError>(source);
        let mut error = Self::local(Code::Unavailable, root_cause(source));
        error.inner.unreachable = unreachable;
        if !unreachable {
            error.inner.message = format!("the connection broke: {}", error.inner.message);
        }
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        for violation in &self.inner.violations {
            write!(f, "; {}: {}", violation.field, violation.description)?;
        }
        if !self.inner.reason.is_empty() {
            write!(f, " ({})", self.inner.reason)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.code())
            .field("reason", &self.inner.reason)
            .field("message", &self.inner.message)
            .field("violations", &self.inner.violations)
            .field("retry_after", &self.inner.retry_after)
            .field("metadata", &self.inner.metadata)
            .field("hint", &self.inner.hint)
            .field("local", &self.inner.local)
            .finish()
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn all_details_are_decoded() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info(
                "INVALID_FIELD",
                "coretex.dev",
                HashMap::from([("k".to_owned(), "v".to_owned())]),
            )
            .add_bad_request_violation("topic", "must not be empty")
            .add_bad_request_violation("retry.jitter", "must be at most 1")
            .set_retry_info(Some(Duration::from_millis(250)))
            .add_help_link("leave it out", "");
        let status = Status::with_error_details(Code::InvalidArgument, "bad request", details);
        let error = Error::from(status);
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.reason(), Some(ErrorReason::InvalidField));
        assert_eq!(error.metadata().get("k").map(String::as_str), Some("v"));
        assert_eq!(error.violations().len(), 2);
        assert_eq!(error.violations()[1].field, "retry.jitter");
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        assert_eq!(error.hint(), Some("leave it out"));
        assert!(!error.is_local() && !error.is_retryable() && !error.outcome_unknown());
        let text = error.to_string();
        assert!(text.contains("topic: must not be empty") && text.contains("INVALID_FIELD"));
    }

    #[test]
    fn unknown_reasons_keep_their_text() {
        let mut details = ErrorDetails::new();
        details.set_error_info("NEWER_THAN_US", "coretex.dev", HashMap::new());
        let status = Status::with_error_details(Code::Aborted, "no", details);
        let error = Error::from(status);
        assert_eq!(error.reason(), None);
        assert_eq!(error.reason_text(), "NEWER_THAN_US");
    }

    #[test]
    fn only_some_failures_are_worth_another_try() {
        let with = |code, reason: &str, retry| {
            let mut details = ErrorDetails::new();
            details.set_error_info(reason, "coretex.dev", HashMap::new());
            if retry {
                details.set_retry_info(Some(Duration::from_secs(1)));
            }
            Error::from(Status::with_error_details(code, "x", details))
        };
        assert!(with(Code::Unavailable, "STORE_UNAVAILABLE", false).is_retryable());
        assert!(!with(Code::Unavailable, "STORE_UNAVAILABLE", false).outcome_unknown());
        assert!(with(Code::Unavailable, "OUTCOME_UNKNOWN", false).outcome_unknown());
        assert!(with(Code::ResourceExhausted, "OVERLOADED", true).is_retryable());
        assert!(!with(Code::ResourceExhausted, "REQUEST_TOO_LARGE", false).is_retryable());
        assert!(with(Code::Aborted, "CONTENTION", false).is_retryable());
        assert!(!with(Code::Aborted, "ETAG_MISMATCH", false).is_retryable());
        assert!(!with(Code::Internal, "INTERNAL", true).is_retryable());
    }
}
