#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use coretex_core::id::{JobId, PoolName, Topic};
use coretex_engine::Violation;
use tonic_types::StatusExt;

use super::*;
use crate::methods::code_name;

/// Reasons that nothing gives yet: what they are about is not built.
const RESERVED: [ErrorReason; 1] = [ErrorReason::ServerNotReady];

const SECRET: &str = "postgres://user:hunter2@10.0.0.1";

/// One of each.
fn problems() -> Vec<Problem> {
    let violations = || vec![Violation::new("topic", "must not be empty")];
    let text = || SECRET.to_owned();
    let id = || "j-1".to_owned();
    let pause = Duration::from_millis(20);
    let engine = [
        Error::Invalid(violations()),
        Error::no_job("j-1"),
        Error::NotFound {
            noun: Noun::Worker,
            id: id(),
        },
        Error::NotFound {
            noun: Noun::ApiKey,
            id: id(),
        },
        Error::no_dlq_entry("j-1"),
        Error::NotFound {
            noun: Noun::Config,
            id: id(),
        },
        Error::EtagMismatch {
            current: Some(id()),
        },
        Error::EtagMismatch { current: None },
        Error::NotFound {
            noun: Noun::Bundle,
            id: id(),
        },
        Error::NotFound {
            noun: Noun::Snapshot,
            id: id(),
        },
        Error::BundleInForce { bundle_id: id() },
        Error::SignatureInvalid {
            bundle_id: id(),
            reason: "has no signature".to_owned(),
        },
        Error::PolicyUnavailable {
            reason: "the policy has not been loaded".to_owned(),
        },
        Error::TooManyBundles { limit: 100 },
        Error::TooManyConfigs {
            documents: 7,
            bytes: 8,
        },
        Error::AlreadyExists { id: id() },
        Error::IdempotencyKeyReused {
            job_id: Some(JobId::from_trusted("j-1")),
        },
        Error::IdempotencyKeyReused { job_id: None },
        Error::PageTokenInvalid,
        Error::ResumeTokenInvalid,
        Error::FeatureNotAvailable { field: id() },
        Error::CredentialMissing,
        Error::CredentialInvalid,
        Error::PermissionMissing {
            permission: "jobs.read".to_owned(),
        },
        Error::TenantNotAllowed,
        Error::TeamNotAllowed { team_id: id() },
        Error::RoleNotAllowed { role: id() },
        Error::JobNotEnded,
        Error::no_approval("a-1"),
        Error::ApprovalHashMismatch,
        Error::ApprovalResolved {
            state: coretex_core::approval::ApprovalState::Expired,
        },
        Error::ApprovalOwnRequest,
        Error::ApprovalRoleMissing { roles: vec![id()] },
        Error::TooManyWaitingJobs { limit: 7 },
        Error::SubmitRateExceeded { retry_after: pause },
        Error::ConcurrencyLimitReached {
            key: id(),
            limit: 1,
            holders: vec![JobId::from_trusted("j-1")],
        },
        Error::PoolNotAllowed {
            pool: PoolName::from_trusted("pool"),
        },
        Error::TopicNotAllowed {
            topic: Topic::from_trusted("job.a"),
            pool: PoolName::from_trusted("pool"),
        },
        Error::TooManyPauses { limit: 7 },
        Error::TooManyStreams { limit: 7 },
        Error::WatchTooSlow,
        Error::Overloaded { retry_after: pause },
        Error::StoreFull,
        Error::Contention,
        Error::Unavailable { reason: text() },
        Error::OutcomeUnknown,
        Error::DataLoss { what: text() },
        Error::Draining,
        Error::Protocol { reason: id() },
        Error::Internal { reason: text() },
    ];
    let own = [
        Problem::NotAvailable { fields: vec![id()] },
        Problem::UnknownMethod { path: id() },
        Problem::Undecodable { description: id() },
        Problem::PayloadTooLarge {
            field: "input".to_owned(),
            limit_bytes: 7,
        },
        Problem::RequestTooLarge,
        Problem::TooManyItems {
            field: "requests",
            limit: 7,
        },
        Problem::DeadlinePassed,
        Problem::DeadlinePassedMidway,
        Problem::HelloExpected,
        Problem::SessionMessage(violations()),
        Problem::ProtocolVersion { version: 9 },
        Problem::HeartbeatMissed,
        Problem::WorkerTooSlow,
        Problem::SessionSuperseded,
        Problem::NoPermissionDeclared { path: text() },
        Problem::LayersMissing,
    ];
    engine.into_iter().map(Problem::Engine).chain(own).collect()
}

/// What the contract says of each reason: the name of its code begins its comment.
fn documented() -> BTreeMap<String, String> {
    let source = include_str!("../../../../proto/coretex/v1/error.proto");
    let mut codes = BTreeMap::new();
    let mut comment = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            comment.push_str(text);
            continue;
        }
        let comment = std::mem::take(&mut comment);
        if let Some(rest) = line.strip_prefix("ERROR_REASON_") {
            let reason = rest.split_whitespace().next().unwrap();
            let code = comment.trim().split('.').next().unwrap();
            codes.insert(reason.to_owned(), code.to_owned());
        }
    }
    codes
}

#[test]
fn every_reason_is_given_with_its_documented_code_or_reserved() {
    let mut documented = documented();
    assert_eq!(
        documented.remove("UNSPECIFIED").as_deref(),
        Some("Means nothing; never sent by the server")
    );
    let mut given = BTreeMap::new();
    for problem in problems() {
        let description = describe(problem.clone());
        let reason = description.reason.reason();
        let code = code_name(description.code);
        assert_eq!(
            documented.get(reason).map(String::as_str),
            Some(code),
            "{problem:?}"
        );
        given.insert(reason, code);
    }
    for reason in RESERVED {
        assert!(!given.contains_key(reason.reason()), "{reason:?} is given");
        given.insert(reason.reason(), "");
    }
    let missing: Vec<_> = documented
        .keys()
        .filter(|reason| !given.contains_key(reason.as_str()))
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn every_status_has_a_reason_and_none_leaks() {
    for problem in problems() {
        let status = of(problem.clone(), Some("r-1"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, "coretex.dev");
        assert!(
            ErrorReason::from_reason(&info.reason).is_some(),
            "{problem:?}"
        );
        assert!(!status.message().is_empty());
        let lower = status.message().chars().next().unwrap();
        assert!(
            !lower.is_uppercase() || info.reason == "PAYLOAD_TOO_LARGE",
            "{status:?}"
        );
        let everything = format!("{status:?} {details:?}");
        assert!(!everything.contains("hunter2"), "{everything}");
        let traced = info.metadata.get("request_id").map(String::as_str);
        let internal = status.code() == Code::Internal;
        assert_eq!(traced, internal.then_some("r-1"), "{problem:?}");
    }
}

#[test]
fn what_a_program_needs_to_go_on_is_in_the_metadata() {
    let reused = |id: Option<&str>| Error::IdempotencyKeyReused {
        job_id: id.map(JobId::from_trusted),
    };
    let full = Error::ConcurrencyLimitReached {
        key: "k".to_owned(),
        limit: 1,
        holders: ["j-1", "j-2"].map(JobId::from_trusted).into(),
    };
    for (error, key, value) in [
        (reused(Some("j-1")), "job_id", Some("j-1")),
        (reused(None), "job_id", None),
        (Error::TooManyStreams { limit: 7 }, "limit", Some("7")),
        (
            Error::EtagMismatch {
                current: Some("8".to_owned()),
            },
            "etag",
            Some("8"),
        ),
        (Error::EtagMismatch { current: None }, "etag", None),
        (Error::TooManyWaitingJobs { limit: 8 }, "limit", Some("8")),
        (full.clone(), "holders", Some("j-1,j-2")),
        (full, "key", Some("k")),
    ] {
        let details = of(error.clone().into(), None).get_error_details();
        let found = details.error_info().unwrap().metadata.get(key).cloned();
        assert_eq!(found.as_deref(), value, "{error:?}");
    }
}

#[test]
fn waiting_is_advised_where_it_helps() {
    let pause = |problem| {
        let details = of(problem, None).get_error_details();
        details.retry_info().and_then(|retry| retry.retry_delay)
    };
    let overloaded = Error::Overloaded {
        retry_after: Duration::from_millis(20),
    };
    assert_eq!(pause(overloaded.into()), Some(Duration::from_millis(20)));
    let unavailable = Error::Unavailable {
        reason: String::new(),
    };
    for helps in [
        unavailable,
        Error::StoreFull,
        Error::Contention,
        Error::Draining,
    ] {
        assert!(pause(helps.clone().into()).is_some(), "{helps:?}");
    }
    for useless in [
        Error::CredentialInvalid,
        Error::JobNotEnded,
        Error::OutcomeUnknown,
    ] {
        assert_eq!(pause(useless.into()), None);
    }
}

#[test]
fn all_violations_are_listed() {
    let violations: Vec<_> = (0..20)
        .map(|n| Violation::new(format!("labels[{n}]"), "must not be empty"))
        .collect();
    let status = of(Error::Invalid(violations.clone()).into(), None);
    assert_eq!(
        status.message(),
        "invalid request: labels[0]: must not be empty (and 19 more)"
    );
    let details = status.get_error_details();
    let listed = &details.bad_request().unwrap().field_violations;
    let listed: Vec<_> = listed
        .iter()
        .map(|listed| Violation::new(listed.field.clone(), listed.description.clone()))
        .collect();
    assert_eq!(listed, violations);
}

#[test]
fn a_status_fits_into_trailers_however_wrong_the_request_is() {
    let long = "x".repeat(500);
    let violations: Vec<_> = (0..1_000)
        .map(|n| Violation::new(format!("{long}[{n}]"), long.clone()))
        .collect();
    let status = of(Error::Invalid(violations).into(), None);
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    assert!(bytes < 8 * 1024, "{bytes}");
    let details = status.get_error_details();
    let listed = &details.bad_request().unwrap().field_violations;
    let last = listed.last().unwrap();
    let left_out = 1_000 - (listed.len() - 1);
    assert_eq!(
        last.description,
        format!("{left_out} more fields are invalid")
    );
}

#[test]
fn texts_are_cut_at_characters() {
    assert_eq!(shorten("äöü", 3), "ä");
    assert_eq!(shorten("äöü", 100), "äöü");
    let status = rpc(
        Error::Invalid(vec![Violation::new("x", "ä".repeat(2_000))]).into(),
        None,
    );
    assert!(slim(status).message.len() <= 256);
}
