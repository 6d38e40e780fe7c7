//! What is wrong with votes and filters.
#![allow(clippy::unwrap_used)]

use coretex_engine::Error;
use prost_types::Value;
use prost_types::value::Kind;

use super::*;
use crate::problem::{Problem, Result};
use crate::validate::check;

fn good() -> v1::ResolveApprovalRequest {
    v1::ResolveApprovalRequest {
        approval_id: "a-1".to_owned(),
        verdict: v1::ApprovalVerdict::Approve.into(),
        expected_hash: "0123456789abcdef".repeat(4),
        reason: "fine".to_owned(),
        answer: None,
        idempotency_key: "key".to_owned(),
    }
}

fn read(request: v1::ResolveApprovalRequest) -> Result<ResolveApproval> {
    check(|fields| vote(fields, request))
}

fn refused<T: std::fmt::Debug>(outcome: Result<T>) -> Vec<String> {
    match outcome {
        Err(Problem::Engine(Error::Invalid(violations))) => violations
            .into_iter()
            .map(|violation| violation.field)
            .collect(),
        other => panic!("not refused: {other:?}"),
    }
}

fn value(kind: Kind) -> Option<Value> {
    Some(Value { kind: Some(kind) })
}

#[test]
fn a_vote_is_read() {
    let read = read(good()).unwrap();
    assert_eq!(read.verdict, ApprovalVerdict::Approve);
    assert_eq!(hex(&read.expected_hash), good().expected_hash);
    let upper = v1::ResolveApprovalRequest {
        expected_hash: good().expected_hash.to_uppercase(),
        verdict: v1::ApprovalVerdict::Reject.into(),
        answer: value(Kind::NumberValue(3.0)),
        ..good()
    };
    let upper = super::tests::read(upper).unwrap();
    assert_eq!(upper.expected_hash, read.expected_hash);
    assert_eq!(upper.verdict, ApprovalVerdict::Reject);
    assert_eq!(upper.answer.as_deref(), Some("3"));
}

#[test]
fn everything_that_is_wrong_is_named() {
    type Change = fn(&mut v1::ResolveApprovalRequest);
    let cases: [(&str, Change); 12] = [
        ("approval_id", |request| request.approval_id.clear()),
        ("approval_id", |request| {
            request.approval_id = "a b".to_owned()
        }),
        ("verdict", |request| request.verdict = 0),
        ("verdict", |request| request.verdict = 9),
        ("expected_hash", |request| request.expected_hash.clear()),
        ("expected_hash", |request| {
            request.expected_hash = "12".to_owned()
        }),
        ("expected_hash", |request| {
            request.expected_hash = "g".repeat(64)
        }),
        ("expected_hash", |request| {
            request.expected_hash = "ä".repeat(32)
        }),
        ("reason", |request| request.reason = "x".repeat(5_000)),
        ("answer", |request| {
            request.answer = value(Kind::NumberValue(f64::NAN))
        }),
        ("answer", |request| {
            request.answer = value(Kind::StringValue("x".repeat(5_000)))
        }),
        ("idempotency_key", |request| {
            request.idempotency_key = "x".repeat(300)
        }),
    ];
    for (field, change) in cases {
        let mut request = good();
        change(&mut request);
        assert_eq!(refused(read(request)), [field]);
    }
    let nothing = refused(read(v1::ResolveApprovalRequest::default()));
    assert_eq!(nothing, ["verdict", "expected_hash", "approval_id"]);
}

#[test]
fn filters_are_checked() {
    let bad = v1::ApprovalFilter {
        states: vec![1, 9, 0],
        job_id: "a b".to_owned(),
        topics: vec!["job.a".to_owned(), "nonsense".to_owned()],
        requested_by: "a\nb".to_owned(),
        rule_id: "a\nb".to_owned(),
    };
    let refused = refused(check(|fields| filter(fields, Some(bad))));
    let should = [
        "filter.states[1]",
        "filter.states[2]",
        "filter.job_id",
        "filter.topics[1]",
        "filter.requested_by",
        "filter.rule_id",
    ];
    assert_eq!(refused, should);
    for (wire, state) in [
        (v1::ApprovalState::Pending, ApprovalState::Pending),
        (v1::ApprovalState::Approved, ApprovalState::Approved),
        (v1::ApprovalState::Rejected, ApprovalState::Rejected),
        (v1::ApprovalState::Expired, ApprovalState::Expired),
        (v1::ApprovalState::Withdrawn, ApprovalState::Withdrawn),
    ] {
        assert_eq!(read_state(wire), Some(state));
        assert_eq!(super::state(state), wire);
        assert_eq!(wire as i32, state as i32);
    }
}
