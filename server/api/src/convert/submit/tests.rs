//! What is asked for is what the job then shows.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use coretex_core::id::TenantId;
use coretex_core::job::transition::{NewJob, Verdict, accept};
use coretex_core::policy::{Decision, JobDecision};
use coretex_core::time::Timestamp;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::convert::job::{View, write};
use crate::validate::check;

fn span() -> impl Strategy<Value = prost_types::Duration> {
    (1_i64..1_000_000, 0_i32..1_000_000_000)
        .prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos })
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-zäß ]{1,9}", 0..4)
}

prop_compose! {
    fn retries()(
        max_attempts in option::of(0_i32..1_000),
        initial in 0_i64..100,
        more in 0_i64..100,
        multiplier in 1.0_f64..100.0,
        jitter in 0.0_f64..=1.0,
        non_retryable_codes in texts(),
    ) -> v1::RetryPolicy {
        v1::RetryPolicy {
            max_attempts: max_attempts.or(Some(1)),
            initial_backoff: Some(prost_types::Duration { seconds: initial, nanos: 5 }),
            multiplier,
            max_backoff: Some(prost_types::Duration { seconds: initial + more, nanos: 5 }),
            jitter: Some(jitter),
            non_retryable_codes,
        }
    }
}

prop_compose! {
    fn metadata()(
        capability in "[a-z.]{0,9}",
        risk_tags in texts(),
        requires in texts(),
        actor_type in 0_i32..3,
        tool in option::of("[a-z]{0,9}"),
    ) -> Option<v1::JobMetadata> {
        let metadata = v1::JobMetadata {
            capability,
            risk_tags,
            requires,
            pack_id: "p".to_owned(),
            actor_id: "a".to_owned(),
            actor_type,
            mcp: tool.map(|tool| v1::McpCall { tool, ..v1::McpCall::default() }),
            verified: false,
        };
        Some(metadata)
    }
}

prop_compose! {
    fn requests()(
        job_id in "[A-Za-z0-9_-]{1,128}",
        team_id in "[a-z]{0,9}",
        topic in "job(\\.[a-z0-9_-]{1,9}){1,4}",
        priority in 1_i32..=3,
        on_worker_loss in 1_i32..=2,
        labels in prop::collection::btree_map("[a-bd-z]{1,9}", "\\PC{0,9}", 0..5),
        metadata in option::of(metadata()),
        retry in option::of(retries()),
        timeout in span(),
        schedule_to_start_timeout in span(),
        max_redispatch in 0_i32..1_000,
    )(
        not_before in option::of((0_i64..4_000_000_000, 0_i32..1_000_000)),
        confirm_start in any::<bool>(),
        cost in option::of(0.0_f64..1e9),
        tokens in option::of(1_i64..),
        worker in "[a-z]{1,9}",
        input in option::of("\\PC{0,40}"),
        memory_id in "[a-z/:]{0,20}",
        step_index in option::of(0_i32..),
        job_id in Just(job_id), team_id in Just(team_id), topic in Just(topic),
        priority in Just(priority), on_worker_loss in Just(on_worker_loss),
        labels in Just(labels), metadata in Just(metadata.flatten()), retry in Just(retry),
        timeout in Just(timeout),
        schedule_to_start_timeout in Just(schedule_to_start_timeout),
        max_redispatch in Just(max_redispatch),
    ) -> v1::SubmitJobRequest {
        v1::SubmitJobRequest {
            job_id,
            team_id,
            topic,
            input: input.map(|text| v1::Payload::from_json(&serde_json::json!({ "text": text }))),
            priority,
            idempotency_key: "key".to_owned(),
            wait: None,
            labels,
            metadata,
            placement: Some(v1::JobPlacement {
                preferred_pool: "pool".to_owned(),
                preferred_worker_id: worker,
                worker_labels: Default::default(),
                slots: 0,
            }),
            memory_id,
            parent_job_id: "run:step@1".to_owned(),
            cap: step_index.map(|step_index| v1::CapAttributes {
                step_index,
                context_hints: Some(v1::CapContextHints {
                    max_input_tokens: 7,
                    ..v1::CapContextHints::default()
                }),
                ..v1::CapAttributes::default()
            }),
            budget: tokens.map(|max_total_tokens| v1::Budget {
                max_total_tokens,
                ..v1::Budget::default()
            }),
            estimated_cost: cost,
            retry,
            on_worker_loss,
            max_redispatch: Some(max_redispatch),
            timeout: Some(timeout),
            schedule_to_start_timeout: Some(schedule_to_start_timeout),
            deadline_after: None,
            not_before: not_before.map(|(seconds, micros)| prost_types::Timestamp {
                seconds,
                nanos: micros * 1_000,
            }),
            confirm_start,
            fairness_key: String::new(),
            concurrency: None,
        }
    }
}

fn accepted(submit: SubmitJob) -> coretex_core::job::Job {
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let new = NewJob {
        id: submit.job_id.unwrap(),
        tenant: TenantId::from_trusted("acme"),
        spec: Arc::new(submit.spec),
        principal_id: "key:1".to_owned(),
        trace_id: submit.trace_id,
        fingerprint: Vec::new(),
        idempotency_key: submit.idempotency_key,
        rerun_of: None,
        input: submit.input,
        unmapped: None,
        keep: None,
    };
    let decision = JobDecision {
        time: now,
        attempt: 0,
        decision: Decision::Allow,
        reason: String::new(),
        rule_id: String::new(),
        policy_snapshot: "s".to_owned(),
        constraints: None,
        approval_id: String::new(),
        terms: None,
        remediations: Vec::new(),
        retry_at: None,
        bucket: String::new(),
        taken: Vec::new(),
        config_hash: String::new(),
    };
    accept(new, Verdict::Decided(Box::new(decision)), now)
}

proptest! {
    #[test]
    fn a_job_shows_what_was_asked_for(asked in requests()) {
        let limits = Limits::default();
        let read = check(|fields| read(fields, asked.clone(), &limits, "trace")).unwrap();
        let shown = write(&accepted(read), View::Full);
        prop_assert_eq!(&shown.trace_id, "trace");
        prop_assert_eq!(shown.max_attempts, asked.retry.as_ref()
            .and_then(|retry| retry.max_attempts).unwrap_or(1).max(1));
        let again = v1::SubmitJobRequest {
            job_id: shown.job_id,
            team_id: shown.team_id,
            topic: shown.topic,
            input: shown.input,
            priority: shown.priority,
            idempotency_key: shown.idempotency_key,
            wait: None,
            labels: shown.labels,
            metadata: shown.metadata,
            placement: shown.placement,
            memory_id: shown.memory_id,
            parent_job_id: shown.parent_job_id,
            cap: shown.cap,
            budget: shown.budget,
            estimated_cost: shown.estimated_cost,
            retry: shown.retry,
            on_worker_loss: shown.on_worker_loss,
            max_redispatch: Some(shown.max_redispatch),
            timeout: shown.timeout,
            schedule_to_start_timeout: shown.schedule_to_start_timeout,
            deadline_after: None,
            not_before: shown.not_before,
            confirm_start: shown.confirm_start,
            fairness_key: shown.fairness_key,
            concurrency: shown.concurrency,
        };
        prop_assert_eq!(again, asked);
    }

    #[test]
    fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        use prost::Message;
        if let Ok(request) = v1::SubmitJobRequest::decode(bytes.as_slice()) {
            let limits = Limits::default();
            let read = check(|fields| read(fields, request, &limits, ""));
            prop_assert!(read.is_err() || read.is_ok_and(|read| !read.spec.topic.as_str().is_empty()));
        }
    }
}

#[test]
fn a_longer_first_pause_needs_no_longer_maximum() {
    let request = v1::SubmitJobRequest {
        topic: "job.x".to_owned(),
        retry: Some(v1::RetryPolicy {
            initial_backoff: Some(prost_types::Duration {
                seconds: 3_600,
                nanos: 0,
            }),
            ..v1::RetryPolicy::default()
        }),
        ..v1::SubmitJobRequest::default()
    };
    let read = check(|fields| read(fields, request, &Limits::default(), "")).unwrap();
    assert_eq!(read.spec.retry.max_backoff, Duration::from_secs(3_600));
    assert_eq!(read.spec.retry.multiplier, 2.0);
    assert_eq!(read.spec.retry.jitter, 0.2);
}
