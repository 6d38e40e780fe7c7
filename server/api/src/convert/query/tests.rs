//! Every field of a filter that can be wrong, and who sees what.

use std::collections::BTreeMap;

use coretex_engine::{Error, Role};
use prost_types::Timestamp as Time;

use super::*;
use crate::problem::{Problem, Result};
use crate::validate::check;

/// The fields that are refused, in order.
fn refused<T>(result: Result<T>) -> Vec<String> {
    let violations = match result {
        Err(Problem::Engine(Error::Invalid(violations))) => violations,
        Ok(_) | Err(_) => Vec::new(),
    };
    violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

#[test]
fn wrong_filters_are_named() {
    let time = |seconds| Some(Time { seconds, nanos: 0 });
    let read = |filter| {
        refused(check(|fields| {
            super::filter(fields, "filter", Some(filter))
        }))
    };
    for (field, filter) in [
        (
            "filter.states[0]",
            v1::JobFilter {
                states: vec![0],
                ..Default::default()
            },
        ),
        (
            "filter.states[1]",
            v1::JobFilter {
                states: vec![1, 99],
                ..Default::default()
            },
        ),
        (
            "filter.topics[0]",
            v1::JobFilter {
                topics: vec!["x".to_owned()],
                ..Default::default()
            },
        ),
        (
            "filter.topics",
            v1::JobFilter {
                topics: vec!["job.x".to_owned(); 65],
                ..Default::default()
            },
        ),
        (
            "filter.labels[]",
            v1::JobFilter {
                labels: labels("", ""),
                ..Default::default()
            },
        ),
        (
            "filter.principal_id",
            v1::JobFilter {
                principal_id: long(129),
                ..Default::default()
            },
        ),
        (
            "filter.team_id",
            v1::JobFilter {
                team_id: "/".to_owned(),
                ..Default::default()
            },
        ),
        (
            "filter.trace_id",
            v1::JobFilter {
                trace_id: long(257),
                ..Default::default()
            },
        ),
        (
            "filter.worker_id",
            v1::JobFilter {
                worker_id: "/".to_owned(),
                ..Default::default()
            },
        ),
        (
            "filter.parent_job_id",
            v1::JobFilter {
                parent_job_id: "/".to_owned(),
                ..Default::default()
            },
        ),
        (
            "filter.created_after",
            v1::JobFilter {
                created_after: time(-1),
                ..Default::default()
            },
        ),
        (
            "filter.created_before",
            v1::JobFilter {
                created_after: time(2),
                created_before: time(1),
                ..Default::default()
            },
        ),
    ] {
        assert_eq!(read(filter), [field]);
    }
    assert!(read(v1::JobFilter::default()).is_empty());
}

#[test]
fn payloads_are_shown_to_those_who_may_see_them() {
    let caller = |role| Caller {
        principal_id: "key:1".to_owned(),
        tenant: coretex_core::id::TenantId::from_trusted("acme"),
        team_ids: Default::default(),
        roles: [role].into(),
        tenants_served: Default::default(),
        system: false,
    };
    let read = |number, default, role| check(|fields| view(fields, number, default, &caller(role)));
    for (number, default, role, shown) in [
        (0, View::Full, Role::Submitter, View::Full),
        (0, View::Basic, Role::Submitter, View::Basic),
        (1, View::Full, Role::Submitter, View::Basic),
        (2, View::Basic, Role::Submitter, View::Full),
        (2, View::Full, Role::Viewer, View::Basic),
        (2, View::Full, Role::Auditor, View::Basic),
    ] {
        assert_eq!(read(number, default, role), Ok(shown));
    }
    assert_eq!(refused(read(3, View::Full, Role::Admin)), ["view"]);
}
