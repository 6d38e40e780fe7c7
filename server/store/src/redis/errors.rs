//! What an answer of the server, or none, means for the question.

use redis::{RedisError, ServerError};

use crate::{CommitError, StoreError};

/// What a refusal by the server says beside "no".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The script is not loaded; nothing was applied.
    NoScript,
    /// Nothing was applied, and writes will fail until something changes at the server.
    NoWrites,
    /// Nothing was applied, and another server is in charge now.
    NotMaster,
    /// Nothing was applied.
    NotNow,
    /// Nothing was applied: the login or its rights.
    NotAllowed,
    /// Nobody knows how far it came.
    Unclear,
}

/// Judges an error answer by its code.
///
/// Scripts declare what they do, so that the server refuses them as a whole before they run; only
/// an error raised inside a script leaves open what it had done.
pub(super) fn judge(error: &ServerError) -> Refusal {
    match error.code() {
        "NOSCRIPT" => Refusal::NoScript,
        "OOM" | "MISCONF" | "NOREPLICAS" => Refusal::NoWrites,
        "READONLY" => Refusal::NotMaster,
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK"
        | "CROSSSLOT" | "EXECABORT" => Refusal::NotNow,
        "NOAUTH" | "WRONGPASS" => Refusal::NotAllowed,
        "NOPERM" if !in_script(error) => Refusal::NotAllowed,
        _ => Refusal::Unclear,
    }
}

/// Whether the error was raised by a command of a script that ran.
fn in_script(error: &ServerError) -> bool {
    error.details().is_some_and(|text| text.contains("script:"))
}

/// The words for an error answer: what it means, and what the server said.
pub(super) fn reason(error: &ServerError) -> String {
    let meaning = match error.code() {
        "OOM" => "redis is out of memory (maxmemory)",
        "MISCONF" => "redis cannot write to its disk",
        "NOREPLICAS" => "redis has too few replicas to take writes",
        "READONLY" => "this redis is a replica",
        "LOADING" => "redis is loading its data",
        "BUSY" => "redis is busy with a script",
        "MASTERDOWN" => "this redis has lost its master",
        "CLUSTERDOWN" => "the redis cluster is down",
        "MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" => "the redis cluster is being changed",
        "NOAUTH" | "WRONGPASS" => "redis refuses the login",
        "NOPERM" => "the redis user may not do this",
        _ => "redis answered with an error",
    };
    format!(
        "{meaning}: {} {}",
        error.code(),
        error.details().unwrap_or_default()
    )
}

/// The words for an error of the client: never the address, which may carry a password.
pub(super) fn text(error: &RedisError) -> String {
    if error.is_timeout() {
        return "redis does not answer in time".to_owned();
    }
    if error.is_connection_refusal() {
        return "redis refuses connections".to_owned();
    }
    let detail = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (None, Some(detail)) => detail.to_owned(),
        (_, None) => error.to_string(),
    };
    if error.is_connection_dropped() {
        format!("the connection to redis is lost: {detail}")
    } else {
        format!("redis: {detail}")
    }
}

pub(super) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        reason: reason.into(),
    }
}

pub(super) fn not_applied(reason: impl Into<String>) -> CommitError {
    CommitError::Unavailable {
        reason: reason.into(),
    }
}

pub(super) fn unknown(reason: impl Into<String>) -> CommitError {
    CommitError::Unknown {
        reason: reason.into(),
    }
}
