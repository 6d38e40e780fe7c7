//! Every field that can be wrong, and every way in which it can be.
#![allow(clippy::unwrap_used)]

use coretex_engine::Limits;
use coretex_proto::v1;
use coretex_proto::v1::payload::Data;
use prost_types::{Duration as Span, Timestamp as Time};

use super::*;
use crate::convert::{query, submit};

fn good() -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        topic: "job.x".to_owned(),
        ..v1::SubmitJobRequest::default()
    }
}

fn submit(request: v1::SubmitJobRequest) -> Result<coretex_engine::SubmitJob> {
    check(|fields| submit::read(fields, request, &Limits::default(), ""))
}

/// The fields that are refused, in order.
fn refused<T>(result: Result<T>) -> Vec<String> {
    match result {
        Ok(_) => Vec::new(),
        Err(Problem::Engine(Error::Invalid(violations))) => violations
            .into_iter()
            .map(|violation| violation.field)
            .collect(),
        Err(problem) => vec![format!("{problem:?}")],
    }
}

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

fn many_labels(count: usize) -> BTreeMap<String, String> {
    (0..count)
        .map(|n| (format!("k{n}"), String::new()))
        .collect()
}

const fn span(seconds: i64) -> Option<Span> {
    Some(Span { seconds, nanos: 0 })
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

/// What makes a request wrong, and the field that is then named.
type Case = (&'static str, fn(&mut v1::SubmitJobRequest));

const SUBMIT: &[Case] = &[
    ("job_id", |r| r.job_id = "a:b".to_owned()),
    ("job_id", |r| r.job_id = long(129)),
    ("team_id", |r| r.team_id = "a b".to_owned()),
    ("topic", |r| r.topic = String::new()),
    ("topic", |r| r.topic = "sys.x".to_owned()),
    ("topic", |r| r.topic = format!("job.{}", long(300))),
    ("priority", |r| r.priority = 9),
    ("on_worker_loss", |r| r.on_worker_loss = -1),
    ("idempotency_key", |r| r.idempotency_key = long(257)),
    ("idempotency_key", |r| r.idempotency_key = "a\nb".to_owned()),
    ("memory_id", |r| r.memory_id = long(257)),
    ("parent_job_id", |r| r.parent_job_id = "a/b".to_owned()),
    ("parent_job_id", |r| r.parent_job_id = long(321)),
    ("labels", |r| r.labels = many_labels(65)),
    ("labels[]", |r| r.labels = labels("", "v")),
    ("labels[a\\n]", |r| r.labels = labels("a\n", "v")),
    ("labels[k]", |r| r.labels = labels("k", &long(1025))),
    ("labels[coretex.x]", |r| r.labels = labels("coretex.x", "v")),
    ("estimated_cost", |r| r.estimated_cost = Some(-1.0)),
    ("estimated_cost", |r| r.estimated_cost = Some(f64::NAN)),
    ("max_redispatch", |r| r.max_redispatch = Some(-1)),
    ("max_redispatch", |r| r.max_redispatch = Some(1_001)),
    ("wait", |r| r.wait = span(61)),
    ("wait", |r| r.wait = span(-1)),
    ("timeout", |r| r.timeout = span(0)),
    ("timeout", |r| r.timeout = span(-1)),
    ("timeout", |r| r.timeout = span(400 * 24 * 3_600)),
    ("timeout", |r| {
        r.timeout = Some(Span {
            seconds: 1,
            nanos: -1,
        })
    }),
    ("schedule_to_start_timeout", |r| {
        r.schedule_to_start_timeout = span(0)
    }),
    ("deadline_after", |r| r.deadline_after = span(0)),
    ("not_before", |r| {
        r.not_before = Some(Time {
            seconds: -1,
            nanos: 0,
        })
    }),
    ("not_before", |r| {
        r.not_before = Some(Time {
            seconds: i64::MAX,
            nanos: 0,
        })
    }),
    ("not_before", |r| {
        r.not_before = Some(Time {
            seconds: 0,
            nanos: -1,
        })
    }),
    ("input", |r| {
        r.input = Some(v1::Payload::from_bytes("{", "application/json"))
    }),
    ("input.content_type", |r| {
        r.input = Some(v1::Payload::from_bytes("", "a\r\nb"))
    }),
    ("budget.max_input_tokens", |r| {
        r.budget = Some(v1::Budget {
            max_input_tokens: -1,
            ..v1::Budget::default()
        });
    }),
    ("budget.max_output_tokens", |r| {
        r.budget = Some(v1::Budget {
            max_output_tokens: -1,
            ..v1::Budget::default()
        });
    }),
    ("budget.max_total_tokens", |r| {
        r.budget = Some(v1::Budget {
            max_total_tokens: -1,
            ..v1::Budget::default()
        });
    }),
];

fn metadata(change: impl FnOnce(&mut v1::JobMetadata)) -> v1::SubmitJobRequest {
    let mut metadata = v1::JobMetadata::default();
    change(&mut metadata);
    v1::SubmitJobRequest {
        metadata: Some(metadata),
        ..good()
    }
}

fn retry(change: impl FnOnce(&mut v1::RetryPolicy)) -> v1::SubmitJobRequest {
    let mut retry = v1::RetryPolicy::default();
    change(&mut retry);
    v1::SubmitJobRequest {
        retry: Some(retry),
        ..good()
    }
}

fn cap(change: impl FnOnce(&mut v1::CapAttributes)) -> v1::SubmitJobRequest {
    let mut cap = v1::CapAttributes::default();
    change(&mut cap);
    v1::SubmitJobRequest {
        cap: Some(cap),
        ..good()
    }
}

fn placement(change: impl FnOnce(&mut v1::JobPlacement)) -> v1::SubmitJobRequest {
    let mut placement = v1::JobPlacement::default();
    change(&mut placement);
    v1::SubmitJobRequest {
        placement: Some(placement),
        ..good()
    }
}

#[test]
fn a_plain_request_is_good_and_has_the_defaults() {
    let read = submit(good()).unwrap();
    assert_eq!(
        read.spec,
        coretex_core::job::JobSpec::new(Topic::parse("job.x").unwrap())
    );
    assert_eq!((read.job_id, read.input, read.wait), (None, None, None));
}

#[test]
fn every_wrong_field_is_named() {
    for (field, spoil) in SUBMIT {
        let mut request = good();
        spoil(&mut request);
        assert_eq!(refused(submit(request)), [*field]);
    }
}

#[test]
fn every_wrong_field_of_a_message_inside_is_named_by_its_path() {
    let mcp = |change: fn(&mut v1::McpCall)| metadata(|m| change(m.mcp.get_or_insert_default()));
    let hints = |change: fn(&mut v1::CapContextHints)| {
        cap(|c| change(c.context_hints.get_or_insert_default()))
    };
    for (field, request) in [
        (
            "metadata.capability",
            metadata(|m| m.capability = long(257)),
        ),
        (
            "metadata.risk_tags",
            metadata(|m| m.risk_tags = vec!["x".to_owned(); 65]),
        ),
        (
            "metadata.risk_tags[0]",
            metadata(|m| m.risk_tags = vec![String::new()]),
        ),
        (
            "metadata.requires[1]",
            metadata(|m| m.requires = vec!["a".to_owned(), long(257)]),
        ),
        ("metadata.pack_id", metadata(|m| m.pack_id = long(257))),
        (
            "metadata.actor_id",
            metadata(|m| m.actor_id = "a\0".to_owned()),
        ),
        ("metadata.actor_type", metadata(|m| m.actor_type = 7)),
        ("metadata.mcp.server", mcp(|c| c.server = long(257))),
        ("metadata.mcp.tool", mcp(|c| c.tool = long(257))),
        ("metadata.mcp.resource", mcp(|c| c.resource = long(1025))),
        ("metadata.mcp.action", mcp(|c| c.action = long(257))),
        ("retry.max_attempts", retry(|r| r.max_attempts = Some(-1))),
        (
            "retry.max_attempts",
            retry(|r| r.max_attempts = Some(1_001)),
        ),
        (
            "retry.initial_backoff",
            retry(|r| r.initial_backoff = span(-1)),
        ),
        (
            "retry.initial_backoff",
            retry(|r| r.initial_backoff = span(100_000)),
        ),
        (
            "retry.max_backoff",
            retry(|r| r.max_backoff = span(100_000)),
        ),
        (
            "retry.max_backoff",
            retry(|r| {
                r.initial_backoff = span(9);
                r.max_backoff = span(8);
            }),
        ),
        ("retry.multiplier", retry(|r| r.multiplier = 0.5)),
        ("retry.multiplier", retry(|r| r.multiplier = f64::NAN)),
        ("retry.jitter", retry(|r| r.jitter = Some(1.5))),
        (
            "retry.non_retryable_codes",
            retry(|r| r.non_retryable_codes = vec![long(9); 65]),
        ),
        (
            "retry.non_retryable_codes",
            retry(|r| r.non_retryable_codes = vec![String::new()]),
        ),
        (
            "placement.preferred_pool",
            placement(|p| p.preferred_pool = "a b".to_owned()),
        ),
        (
            "placement.preferred_worker_id",
            placement(|p| p.preferred_worker_id = long(129)),
        ),
        (
            "placement.worker_labels[k]",
            placement(|p| p.worker_labels = labels("k", &long(1025))),
        ),
        ("cap.env", cap(|c| c.env = many_labels(65))),
        ("cap.adapter_id", cap(|c| c.adapter_id = long(257))),
        ("cap.step_index", cap(|c| c.step_index = -1)),
        (
            "cap.context_hints.max_input_tokens",
            hints(|h| h.max_input_tokens = -1),
        ),
        (
            "cap.context_hints.max_input_tokens",
            hints(|h| h.max_input_tokens = 1 << 31),
        ),
        (
            "cap.context_hints.tags[0]",
            hints(|h| h.tags = vec![String::new()]),
        ),
    ] {
        assert_eq!(refused(submit(request)), [field]);
    }
}

#[test]
fn all_wrong_fields_are_named_at_once() {
    let mut request = metadata(|m| m.requires = vec![String::new()]);
    request.topic = "x".to_owned();
    request.timeout = span(-1);
    request.retry = Some(v1::RetryPolicy {
        multiplier: 0.1,
        jitter: Some(-1.0),
        ..v1::RetryPolicy::default()
    });
    assert_eq!(
        refused(submit(request)),
        [
            "topic",
            "metadata.requires[0]",
            "retry.multiplier",
            "retry.jitter",
            "timeout"
        ]
    );
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let not_available = |fields: &[&str]| Problem::NotAvailable {
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
    };
    let artifact = v1::SubmitJobRequest {
        input: Some(v1::Payload {
            data: Some(Data::ArtifactId("a".to_owned())),
            content_type: String::new(),
        }),
        ..good()
    };
    assert_eq!(
        submit(artifact).err(),
        Some(not_available(&["input.artifact_id"]))
    );
    let runs = v1::JobFilter {
        run_id: "r".to_owned(),
        ..v1::JobFilter::default()
    };
    let read = check(|fields| query::filter(fields, "filter", Some(runs)));
    assert_eq!(read.err(), Some(not_available(&["filter.run_id"])));
}

#[test]
fn a_large_payload_has_its_own_reason_unless_more_is_wrong() {
    let mut request = good();
    request.input = Some(v1::Payload::from_bytes(vec![0; 1024 * 1024 + 1], ""));
    let alone = submit(request.clone()).err();
    assert_eq!(
        alone,
        Some(Problem::PayloadTooLarge {
            field: "input".to_owned(),
            limit_bytes: 1024 * 1024
        })
    );
    request.topic.clear();
    assert_eq!(refused(submit(request)), ["topic", "input"]);
}

#[test]
fn confirm_start_is_built() {
    let request = v1::SubmitJobRequest {
        confirm_start: true,
        ..good()
    };
    assert!(submit(request).unwrap().spec.confirm_start);
}

#[test]
fn wrong_edits_are_named() {
    let read = |edits| {
        refused(check(|fields| {
            submit::edits(fields, Some(edits), &Limits::default())
        }))
    };
    let edits = v1::JobEdits {
        input: Some(v1::Payload::from_bytes("{", "application/json")),
        topic: Some(String::new()),
        priority: 9,
        placement: Some(v1::JobPlacement {
            preferred_pool: "/".to_owned(),
            ..Default::default()
        }),
        add_labels: labels("coretex.x", ""),
        remove_labels: vec![String::new()],
        retry: Some(v1::RetryPolicy {
            multiplier: -1.0,
            ..Default::default()
        }),
        timeout: span(0),
    };
    assert_eq!(
        read(edits),
        [
            "edits.input",
            "edits.topic",
            "edits.priority",
            "edits.placement.preferred_pool",
            "edits.add_labels[coretex.x]",
            "edits.remove_labels[0]",
            "edits.retry.multiplier",
            "edits.timeout"
        ]
    );
    assert!(read(v1::JobEdits::default()).is_empty());
}

#[test]
fn jobs_of_workflow_steps_can_be_named_but_not_made() {
    let id = "run-1:step[3]@2";
    assert!(check(|fields| fields.job("job_id", id)).is_ok());
    assert_eq!(
        refused(check(|fields| fields.job("job_id", ""))),
        ["job_id"]
    );
    let request = v1::SubmitJobRequest {
        job_id: id.to_owned(),
        ..good()
    };
    assert_eq!(refused(submit(request)), ["job_id"]);
}

#[test]
fn long_keys_are_cut_in_paths() {
    let request = v1::SubmitJobRequest {
        labels: labels(&long(5_000), ""),
        ..good()
    };
    assert_eq!(refused(submit(request)), [format!("labels[{}]", long(64))]);
}
