//! The one place where problems become statuses: code, reason, details, and what callers read.
//!
//! Texts that are for logs are logged here and never sent.

use std::time::Duration;

use coretex_engine::{Error, Noun, Violation};
use coretex_proto::errors::ERROR_DOMAIN;
use coretex_proto::time::duration_from_std;
use coretex_proto::v1::ErrorReason;
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::problem::Problem;

/// The most bytes that field violations may take. Statuses travel in HTTP/2 trailers, and stock
/// clients refuse more than 8 KiB of them.
const MAX_VIOLATION_BYTES: usize = 4 * 1024;
/// The longest message, for the same reason.
const MAX_MESSAGE_BYTES: usize = 1024;

/// The versions of the session protocol that this server speaks.
pub(crate) const SUPPORTED_PROTOCOLS: &str = "1";

/// What becomes of a problem.
#[derive(Debug, PartialEq)]
struct Description {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: Vec<(&'static str, String)>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    /// For the log only.
    private: Option<String>,
}

impl Description {
    fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
            private: None,
        }
    }

    fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }

    fn violations(mut self, violations: Vec<Violation>) -> Self {
        self.violations = violations;
        self
    }

    fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    fn private(mut self, text: impl Into<String>) -> Self {
        self.private = Some(text.into());
        self
    }
}

/// The status of a problem. `request_id` is named where only the log can tell more.
pub(crate) fn of(problem: Problem, request_id: Option<&str>) -> Status {
    let status = rpc(problem, request_id);
    let details = status.encode_to_vec().into();
    Status::with_details(Code::from_i32(status.code), status.message, details)
}

/// The status of a problem as a message, for items of a batch.
pub(crate) fn rpc(problem: Problem, request_id: Option<&str>) -> pb::Status {
    let description = describe(problem);
    log(&description, request_id);
    encode(description, request_id)
}

fn describe(problem: Problem) -> Description {
    use ErrorReason as Reason;
    match problem {
        Problem::Engine(error) => describe_engine(error),
        Problem::NotAvailable { fields } => {
            let fields = fields.join(", ");
            let message = format!("not available on this server: {fields}");
            Description::new(Code::Unimplemented, Reason::FeatureNotAvailable, message)
                .with("field", fields)
        }
        Problem::UnknownMethod { path } => {
            let message = "no such rpc";
            Description::new(Code::Unimplemented, Reason::FeatureNotAvailable, message)
                .with("method", shorten(&path, 256))
        }
        Problem::Undecodable { description } => {
            let description = shorten(&description, 512).to_owned();
            invalid(vec![Violation::new("", description)])
        }
        Problem::PayloadTooLarge { field, limit_bytes } => {
            let violation = too_large(&field, limit_bytes);
            let message = format!("{field}: {}", violation.description);
            Description::new(Code::InvalidArgument, Reason::PayloadTooLarge, message)
                .with("limit_bytes", limit_bytes.to_string())
                .violations(vec![violation])
        }
        Problem::RequestTooLarge => Description::new(
            Code::ResourceExhausted,
            Reason::RequestTooLarge,
            "the message is larger than the server accepts",
        ),
        Problem::TooManyItems { field, limit } => {
            let rule = format!("must hold at most {limit} items");
            Description::new(
                Code::InvalidArgument,
                Reason::TooManyItems,
                format!("{field}: {rule}"),
            )
            .with("limit", limit.to_string())
            .violations(vec![Violation::new(field, rule)])
        }
        Problem::DeadlinePassed => Description::new(
            Code::DeadlineExceeded,
            Reason::DeadlinePassed,
            "the deadline of the call passed; nothing was changed",
        ),
        Problem::DeadlinePassedMidway => outcome_unknown(),
        Problem::HelloExpected => Description::new(
            Code::FailedPrecondition,
            Reason::HelloExpected,
            "a session begins with one hello, sent within 10 seconds",
        ),
        Problem::SessionMessage(violations) => session_message(violations),
        Problem::ProtocolVersion { version } => Description::new(
            Code::FailedPrecondition,
            Reason::ProtocolVersionUnsupported,
            format!("session protocol {version} is not supported"),
        )
        .with("supported", SUPPORTED_PROTOCOLS),
        Problem::HeartbeatMissed => Description::new(
            Code::Unavailable,
            Reason::HeartbeatMissed,
            "the worker gave no sign of life for too long",
        ),
        Problem::SessionSuperseded => Description::new(
            Code::Aborted,
            Reason::SessionSuperseded,
            "the worker goes on with its attempts on another connection",
        ),
        Problem::WorkerTooSlow => Description::new(
            Code::ResourceExhausted,
            Reason::WorkerTooSlow,
            "the worker does not read what it is sent",
        )
        .retry_after(Duration::from_secs(1)),
        Problem::NoPermissionDeclared { path } => {
            internal(format!("no permission is declared for {path}"))
        }
        Problem::LayersMissing => internal("a handler was reached without its layers".to_owned()),
    }
}

fn describe_engine(error: Error) -> Description {
    use ErrorReason as Reason;
    // The text of what the engine says is written for callers, but for the last few.
    let text = error.to_string();
    let plain = |code, reason| Description::new(code, reason, text.clone());
    match error {
        Error::Invalid(violations) => invalid(violations),
        Error::NotFound { noun, id } => not_found(noun, &id),
        Error::AlreadyExists { id } => {
            plain(Code::AlreadyExists, Reason::JobAlreadyExists).with("job_id", id)
        }
        Error::IdempotencyKeyReused { job_id } => {
            let description = plain(Code::AlreadyExists, Reason::IdempotencyKeyReused);
            match job_id {
                Some(id) => description.with("job_id", id.as_str()),
                None => description,
            }
        }
        Error::PageTokenInvalid => plain(Code::InvalidArgument, Reason::PageTokenInvalid),
        Error::ResumeTokenInvalid => plain(Code::OutOfRange, Reason::ResumeTokenInvalid),
        Error::FeatureNotAvailable { field } => describe(Problem::NotAvailable {
            fields: vec![field],
        }),
        Error::CredentialMissing => plain(Code::Unauthenticated, Reason::CredentialMissing),
        Error::CredentialInvalid => plain(Code::Unauthenticated, Reason::CredentialInvalid),
        Error::PermissionMissing { permission } => {
            plain(Code::PermissionDenied, Reason::PermissionMissing).with("permission", permission)
        }
        Error::TenantNotAllowed => plain(Code::PermissionDenied, Reason::TenantNotAllowed),
        Error::TeamNotAllowed { team_id } => {
            plain(Code::PermissionDenied, Reason::TeamNotAllowed).with("team_id", team_id)
        }
        Error::RoleNotAllowed { role } => {
            plain(Code::PermissionDenied, Reason::RoleNotAllowed).with("role", role)
        }
        Error::BundleInForce { bundle_id } => {
            plain(Code::FailedPrecondition, Reason::BundleInForce).with("bundle_id", bundle_id)
        }
        Error::SignatureInvalid { bundle_id, .. } => {
            plain(Code::FailedPrecondition, Reason::SignatureInvalid).with("bundle_id", bundle_id)
        }
        Error::PolicyUnavailable { .. } => {
            plain(Code::Unavailable, Reason::PolicyUnavailable).retry_after(Duration::from_secs(1))
        }
        Error::TooManyBundles { limit } => {
            plain(Code::ResourceExhausted, Reason::TooManyBundles).with("limit", limit.to_string())
        }
        Error::ApprovalHashMismatch => {
            plain(Code::FailedPrecondition, Reason::ApprovalHashMismatch)
        }
        Error::ApprovalResolved { state } => {
            plain(Code::FailedPrecondition, Reason::ApprovalAlreadyResolved)
                .with("state", state.name())
        }
        Error::ApprovalOwnRequest => plain(Code::PermissionDenied, Reason::ApproverIsRequester),
        Error::ApprovalRoleMissing { roles } => {
            plain(Code::PermissionDenied, Reason::ApproverRoleMissing)
                .with("roles", roles.join(","))
        }
        Error::JobNotEnded => plain(Code::FailedPrecondition, Reason::JobNotEnded),
        Error::TooManyWaitingJobs { limit } => {
            plain(Code::ResourceExhausted, Reason::TooManyWaitingJobs)
                .with("limit", limit.to_string())
                .retry_after(Duration::from_secs(5))
        }
        Error::SubmitRateExceeded { retry_after } => {
            plain(Code::ResourceExhausted, Reason::SubmitRateExceeded).retry_after(retry_after)
        }
        Error::ConcurrencyLimitReached {
            key,
            limit,
            holders,
        } => {
            let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
            plain(Code::ResourceExhausted, Reason::ConcurrencyLimitReached)
                .with("key", key)
                .with("limit", limit.to_string())
                .with("holders", holders.join(","))
                .retry_after(Duration::from_secs(1))
        }
        Error::PoolNotAllowed { pool } => {
            plain(Code::PermissionDenied, Reason::PoolNotAllowed).with("pool", pool.to_string())
        }
        Error::TopicNotAllowed { topic, pool } => {
            plain(Code::PermissionDenied, Reason::TopicNotAllowed)
                .with("topic", topic.to_string())
                .with("pool", pool.to_string())
        }
        Error::TooManyPauses { limit } => {
            plain(Code::ResourceExhausted, Reason::TooManyPauses).with("limit", limit.to_string())
        }
        Error::EtagMismatch { current } => {
            let description = plain(Code::Aborted, Reason::EtagMismatch);
            match current {
                Some(etag) => description.with("etag", etag),
                None => description,
            }
        }
        Error::TooManyConfigs { documents, bytes } => {
            plain(Code::ResourceExhausted, Reason::TooManyConfigs)
                .with("limit", documents.to_string())
                .with("limit_bytes", bytes.to_string())
        }
        Error::TooManyStreams { limit } => plain(Code::ResourceExhausted, Reason::TooManyStreams)
            .with("limit", limit.to_string())
            .retry_after(Duration::from_secs(5)),
        Error::WatchTooSlow => plain(Code::ResourceExhausted, Reason::WatchTooSlow),
        Error::Overloaded { retry_after } => {
            plain(Code::ResourceExhausted, Reason::Overloaded).retry_after(retry_after)
        }
        Error::StoreFull => {
            plain(Code::ResourceExhausted, Reason::StoreFull).retry_after(Duration::from_secs(30))
        }
        Error::Contention => {
            plain(Code::Aborted, Reason::Contention).retry_after(Duration::from_millis(50))
        }
        Error::Unavailable { reason } => Description::new(
            Code::Unavailable,
            Reason::StoreUnavailable,
            "the store does not answer; nothing was changed",
        )
        .retry_after(Duration::from_secs(1))
        .private(reason),
        Error::OutcomeUnknown => outcome_unknown(),
        Error::DataLoss { what } => Description::new(
            Code::DataLoss,
            Reason::DataCorrupt,
            "a stored record is damaged and is not served",
        )
        .private(what),
        Error::Draining => {
            plain(Code::Unavailable, Reason::ServerDraining).retry_after(Duration::from_secs(1))
        }
        Error::Protocol { reason } => session_message(vec![Violation::new("", reason)]),
        Error::Internal { reason } => internal(reason),
    }
}

/// What is wrong with a payload that is too large.
pub(crate) fn too_large(field: &str, limit_bytes: usize) -> Violation {
    let rule = format!("must be at most {limit_bytes} bytes");
    Violation::new(field, rule)
}

fn invalid(violations: Vec<Violation>) -> Description {
    let message = summary("invalid request", &violations);
    Description::new(Code::InvalidArgument, ErrorReason::InvalidField, message)
        .violations(violations)
}

fn session_message(violations: Vec<Violation>) -> Description {
    let message = summary("invalid session message", &violations);
    let field = violations.first().map(|first| first.field.clone());
    Description::new(
        Code::InvalidArgument,
        ErrorReason::SessionProtocolViolation,
        message,
    )
    .with("field", field.unwrap_or_default())
    .violations(violations)
}

fn not_found(noun: Noun, id: &str) -> Description {
    let (reason, key, what) = match noun {
        Noun::Job => (ErrorReason::JobNotFound, "job_id", "job"),
        Noun::Worker => (ErrorReason::WorkerNotFound, "worker_id", "worker"),
        Noun::ApiKey => (ErrorReason::ApiKeyNotFound, "key_id", "api key"),
        Noun::Approval => (ErrorReason::ApprovalNotFound, "approval_id", "approval"),
        Noun::DlqEntry => (ErrorReason::DlqEntryNotFound, "entry_id", "dead letter"),
        Noun::Bundle => (ErrorReason::BundleNotFound, "bundle_id", "bundle"),
        Noun::Snapshot => (ErrorReason::SnapshotNotFound, "snapshot_id", "snapshot"),
        Noun::Config => (
            ErrorReason::ConfigNotFound,
            "config",
            "document of configuration",
        ),
    };
    let id = shorten(id, 320);
    Description::new(Code::NotFound, reason, format!("no such {what}: {id}")).with(key, id)
}

fn outcome_unknown() -> Description {
    Description::new(
        Code::Unavailable,
        ErrorReason::OutcomeUnknown,
        "the change may or may not have been made; repeat the call with the same idempotency_key",
    )
}

fn internal(reason: String) -> Description {
    Description::new(Code::Internal, ErrorReason::Internal, "internal error").private(reason)
}

/// The first violation, and how many more there are: what tools that do not read details show.
fn summary(what: &str, violations: &[Violation]) -> String {
    let Some(first) = violations.first() else {
        return what.to_owned();
    };
    let more = match violations.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let colon = if first.field.is_empty() { "" } else { ": " };
    format!("{what}: {}{colon}{}{more}", first.field, first.description)
}

fn log(description: &Description, request_id: Option<&str>) {
    let Some(private) = &description.private else {
        return;
    };
    let reason = description.reason.reason();
    match description.code {
        Code::Unavailable => tracing::warn!(request_id, reason, private, "call failed"),
        _ => tracing::error!(request_id, reason, private, "call failed"),
    }
}

fn encode(mut description: Description, request_id: Option<&str>) -> pb::Status {
    if let (Code::Internal, Some(id)) = (description.code, request_id) {
        description.metadata.push(("request_id", id.to_owned()));
    }
    let info = pb::ErrorInfo {
        reason: description.reason.reason().to_owned(),
        domain: ERROR_DOMAIN.to_owned(),
        metadata: description
            .metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    };
    let mut details = vec![any("ErrorInfo", &info)];
    if !description.violations.is_empty() {
        details.push(any("BadRequest", &bad_request(description.violations)));
    }
    if let Some(pause) = description.retry_after {
        let retry = pb::RetryInfo {
            retry_delay: Some(duration_from_std(pause)),
        };
        details.push(any("RetryInfo", &retry));
    }
    pb::Status {
        code: description.code as i32,
        message: shorten(&description.message, MAX_MESSAGE_BYTES).to_owned(),
        details,
    }
}

/// A status cut to the least: code, message, and the first detail, which says why.
pub(crate) fn slim(mut status: pb::Status) -> pb::Status {
    status.details.truncate(1);
    status
        .message
        .truncate(status.message.floor_char_boundary(256));
    status
}

/// All violations, as far as a status can carry them; the last one says how many are left out.
fn bad_request(violations: Vec<Violation>) -> pb::BadRequest {
    let count = violations.len();
    let mut bytes = 0;
    let mut kept = Vec::with_capacity(count);
    for violation in violations {
        bytes += violation.field.len() + violation.description.len() + 8;
        if bytes > MAX_VIOLATION_BYTES && !kept.is_empty() {
            let left_out = format!("{} more fields are invalid", count - kept.len());
            kept.push(field_violation(Violation::new("", left_out)));
            break;
        }
        kept.push(field_violation(violation));
    }
    pb::BadRequest {
        field_violations: kept,
    }
}

fn field_violation(violation: Violation) -> pb::bad_request::FieldViolation {
    pb::bad_request::FieldViolation {
        field: violation.field,
        description: violation.description,
        ..Default::default()
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value: message.encode_to_vec(),
    }
}

/// The start of `text`, at most `max` bytes.
pub(crate) fn shorten(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests;
