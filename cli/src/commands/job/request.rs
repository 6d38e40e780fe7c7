//! Requests made of flags.

use std::collections::BTreeMap;

use coretex::proto::{
    Budget, JobConcurrency, JobEdits, JobMetadata, JobPlacement, RerunJobRequest, RetryPolicy,
    SubmitJobRequest,
};
use coretex::proto_time::duration_from_std;

use super::input;
use crate::args::job::{Edits, Placement, Policy, Rerun, Retry, Submit};
use crate::args::value;
use crate::failure::Failure;

fn text(text: Option<&String>) -> String {
    text.cloned().unwrap_or_default()
}

fn map(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// What the flags say about a job, input and topic included if they are given.
pub(super) fn submit(args: &Submit) -> Result<SubmitJobRequest, Failure> {
    let Submit {
        identity,
        time,
        placement,
        policy,
        ..
    } = args;
    let delay = time.delay.map(|delay| value::from_now(delay, true));
    let mut request = SubmitJobRequest {
        job_id: text(identity.job_id.as_ref()),
        team_id: text(identity.team.as_ref()),
        topic: text(args.topic.as_ref().or(args.topic_flag.as_ref())),
        input: input::payload(&args.input)?,
        idempotency_key: text(identity.idempotency_key.as_ref()),
        labels: map(&identity.labels),
        metadata: metadata(policy, placement),
        placement: wishes(placement),
        memory_id: text(identity.memory.as_ref()),
        parent_job_id: text(identity.parent.as_ref()),
        budget: policy.max_total_tokens.map(|max_total_tokens| Budget {
            max_total_tokens,
            ..Budget::default()
        }),
        estimated_cost: policy.estimated_cost,
        retry: retry(&args.retry),
        max_redispatch: args.retry.max_redispatch,
        timeout: time.attempt_timeout.map(duration_from_std),
        schedule_to_start_timeout: time.schedule_to_start_timeout.map(duration_from_std),
        deadline_after: time.deadline_after.map(duration_from_std),
        not_before: time.not_before.or(delay),
        confirm_start: args.retry.confirm_start,
        fairness_key: text(placement.fairness_key.as_ref()),
        concurrency: concurrency(placement),
        ..SubmitJobRequest::default()
    };
    if let Some(priority) = identity.priority {
        request.set_priority(priority.into());
    }
    if let Some(policy) = args.retry.on_worker_loss {
        request.set_on_worker_loss(policy.into());
    }
    Ok(request)
}

fn metadata(policy: &Policy, placement: &Placement) -> Option<JobMetadata> {
    let metadata = JobMetadata {
        capability: text(policy.capability.as_ref()),
        risk_tags: policy.risk_tags.clone(),
        requires: placement.requires.clone(),
        pack_id: text(policy.pack.as_ref()),
        actor_id: text(policy.actor.as_ref()),
        ..JobMetadata::default()
    };
    (metadata != JobMetadata::default()).then_some(metadata)
}

fn wishes(placement: &Placement) -> Option<JobPlacement> {
    let wishes = JobPlacement {
        preferred_pool: text(placement.prefer_pool.as_ref()),
        preferred_worker_id: text(placement.prefer_worker.as_ref()),
        worker_labels: map(&placement.worker_labels),
        slots: placement.slots.unwrap_or_default(),
    };
    (wishes != JobPlacement::default()).then_some(wishes)
}

fn retry(args: &Retry) -> Option<RetryPolicy> {
    let retry = RetryPolicy {
        max_attempts: args.retry_max_attempts,
        initial_backoff: args.backoff.map(duration_from_std),
        multiplier: args.backoff_multiplier.unwrap_or_default(),
        max_backoff: args.max_backoff.map(duration_from_std),
        jitter: args.backoff_jitter,
        non_retryable_codes: args.non_retryable.clone(),
    };
    (retry != RetryPolicy::default()).then_some(retry)
}

fn concurrency(placement: &Placement) -> Option<JobConcurrency> {
    let mut concurrency = JobConcurrency {
        key: placement.concurrency_key.clone()?,
        limit: placement.concurrency_limit?,
        ..JobConcurrency::default()
    };
    if let Some(action) = placement.on_limit {
        concurrency.set_on_limit(action.into());
    }
    Some(concurrency)
}

/// Fills in what a request leaves out with what the flags say. Labels are merged.
pub(super) fn fill(request: &mut SubmitJobRequest, flags: &SubmitJobRequest) {
    fn text(field: &mut String, flag: &String) {
        if field.is_empty() {
            field.clone_from(flag);
        }
    }
    fn option<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
        if field.is_none() {
            field.clone_from(flag);
        }
    }
    text(&mut request.topic, &flags.topic);
    text(&mut request.team_id, &flags.team_id);
    text(&mut request.memory_id, &flags.memory_id);
    text(&mut request.parent_job_id, &flags.parent_job_id);
    text(&mut request.fairness_key, &flags.fairness_key);
    option(&mut request.metadata, &flags.metadata);
    option(&mut request.placement, &flags.placement);
    option(&mut request.budget, &flags.budget);
    option(&mut request.estimated_cost, &flags.estimated_cost);
    option(&mut request.retry, &flags.retry);
    option(&mut request.max_redispatch, &flags.max_redispatch);
    option(&mut request.timeout, &flags.timeout);
    option(
        &mut request.schedule_to_start_timeout,
        &flags.schedule_to_start_timeout,
    );
    option(&mut request.deadline_after, &flags.deadline_after);
    option(&mut request.not_before, &flags.not_before);
    option(&mut request.concurrency, &flags.concurrency);
    request.confirm_start |= flags.confirm_start;
    if request.priority == 0 {
        request.priority = flags.priority;
    }
    if request.on_worker_loss == 0 {
        request.on_worker_loss = flags.on_worker_loss;
    }
    for (key, value) in &flags.labels {
        request
            .labels
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
}

/// How a new job differs from the one that it repeats; `None` = not at all.
pub(in crate::commands) fn edits(args: &Edits) -> Result<Option<JobEdits>, Failure> {
    let mut edits = JobEdits {
        input: input::payload(&args.input)?,
        topic: args.topic.clone(),
        add_labels: map(&args.labels),
        remove_labels: args.remove_labels.clone(),
        timeout: args.attempt_timeout.map(duration_from_std),
        ..JobEdits::default()
    };
    if let Some(priority) = args.priority {
        edits.set_priority(priority.into());
    }
    Ok((edits != JobEdits::default()).then_some(edits))
}

pub(super) fn rerun(args: &Rerun, job_id: &str) -> Result<RerunJobRequest, Failure> {
    Ok(RerunJobRequest {
        job_id: job_id.to_owned(),
        edits: edits(&args.edits)?,
        idempotency_key: text(args.idempotency_key.as_ref()),
    })
}
