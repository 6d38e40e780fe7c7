//! What callers ask for: jobs, and how their repetitions differ.

use std::time::Duration;

use coretex_core::id::{JobId, PoolName, Topic, WorkerId};
use coretex_core::job::{
    ActorType, Budget, CapFields, Concurrency, ConcurrencyAction, JobMetadata, JobSpec, McpCall,
    Placement, Priority, Slots, WorkerLossPolicy,
};
use coretex_core::retry::{MAX_ATTEMPTS, MAX_BACKOFF, RetryPolicy};
use coretex_core::routing::LeftOpen;
use coretex_engine::{JobEdits, Limits, SubmitJob};
use coretex_proto::v1;

use super::payload;
use super::query::team;
use crate::validate::{Fields, MAX_LIST, MAX_NAME, MAX_TIMEOUT};

/// The most often a job may be handed out again after losses.
const MAX_REDISPATCH: u32 = 1_000;
/// The shortest clock that makes sense; zero would end everything at once.
const SHORTEST: Duration = Duration::from_nanos(1);

/// Reads a job to submit.
pub(crate) fn read(
    fields: &mut Fields,
    request: v1::SubmitJobRequest,
    limits: &Limits,
    trace_id: &str,
) -> SubmitJob {
    let left_open = LeftOpen {
        timeout: request.timeout.is_none(),
        schedule_to_start_timeout: request.schedule_to_start_timeout.is_none(),
        retry: request.retry.is_none(),
        priority: request.priority == 0,
    };
    let clock = SHORTEST..=MAX_TIMEOUT;
    let spec = JobSpec {
        topic: fields.topic("topic", &request.topic),
        team_id: fields
            .optional_id("team_id", &request.team_id, team)
            .unwrap_or_default(),
        priority: priority(fields, request.priority).unwrap_or_default(),
        labels: fields.job_labels("labels", request.labels),
        metadata: metadata(fields, request.metadata),
        placement: placement(fields, request.placement, limits).unwrap_or_default(),
        budget: budget(fields, request.budget),
        estimated_cost: cost(fields, request.estimated_cost),
        retry: retry(fields, request.retry).unwrap_or_default(),
        on_worker_loss: worker_loss(fields, request.on_worker_loss),
        timeout: fields
            .duration("timeout", request.timeout, &clock)
            .unwrap_or(JobSpec::DEFAULT_TIMEOUT),
        schedule_to_start_timeout: fields
            .duration(
                "schedule_to_start_timeout",
                request.schedule_to_start_timeout,
                &clock,
            )
            .unwrap_or(JobSpec::DEFAULT_SCHEDULE_TO_START),
        deadline_after: fields.duration("deadline_after", request.deadline_after, &clock),
        not_before: fields.time("not_before", request.not_before),
        max_redispatch: request
            .max_redispatch
            .map_or(JobSpec::DEFAULT_MAX_REDISPATCH, |most| {
                fields.count("max_redispatch", most, MAX_REDISPATCH)
            }),
        confirm_start: request.confirm_start,
        fairness_key: fields.line("fairness_key", request.fairness_key, MAX_NAME),
        concurrency: concurrency(fields, request.concurrency),
        memory_id: fields.line("memory_id", request.memory_id, MAX_NAME),
        parent_job_id: (!request.parent_job_id.is_empty())
            .then(|| fields.job("parent_job_id", &request.parent_job_id)),
        cap: cap(fields, request.cap),
    };
    let wait = fields.duration("wait", request.wait, &(Duration::ZERO..=limits.max_wait));
    SubmitJob {
        job_id: fields.optional_id("job_id", &request.job_id, JobId::parse),
        input: payload::read(fields, "input", request.input, limits.max_payload_bytes),
        idempotency_key: idempotency_key(fields, request.idempotency_key),
        trace_id: trace_id.to_owned(),
        wait: wait.filter(|wait| !wait.is_zero()),
        left_open,
        spec,
    }
}

/// Reads an idempotency key.
pub(crate) fn idempotency_key(fields: &mut Fields, key: String) -> String {
    fields.line("idempotency_key", key, MAX_NAME)
}

/// Reads what a repetition changes.
pub(crate) fn edits(fields: &mut Fields, edits: Option<v1::JobEdits>, limits: &Limits) -> JobEdits {
    edits.map_or_else(JobEdits::default, |edits| {
        fields.within("edits", |fields| JobEdits {
            input: payload::read(fields, "input", edits.input, limits.max_payload_bytes),
            topic: edits.topic.map(|topic| fields.topic("topic", &topic)),
            priority: priority(fields, edits.priority),
            placement: placement(fields, edits.placement, limits),
            add_labels: fields.job_labels("add_labels", edits.add_labels),
            remove_labels: fields.lines("remove_labels", edits.remove_labels),
            retry: retry(fields, edits.retry),
            timeout: fields.duration("timeout", edits.timeout, &(SHORTEST..=MAX_TIMEOUT)),
        })
    })
}

fn priority(fields: &mut Fields, number: i32) -> Option<Priority> {
    match fields.value::<v1::JobPriority>("priority", number)? {
        v1::JobPriority::Unspecified => None,
        v1::JobPriority::Interactive => Some(Priority::Interactive),
        v1::JobPriority::Batch => Some(Priority::Batch),
        v1::JobPriority::Critical => Some(Priority::Critical),
    }
}

fn worker_loss(fields: &mut Fields, number: i32) -> WorkerLossPolicy {
    match fields.value::<v1::WorkerLossPolicy>("on_worker_loss", number) {
        Some(v1::WorkerLossPolicy::Fail) => WorkerLossPolicy::Fail,
        Some(v1::WorkerLossPolicy::Retry | v1::WorkerLossPolicy::Unspecified) | None => {
            WorkerLossPolicy::Retry
        }
    }
}

fn cost(fields: &mut Fields, cost: Option<f64>) -> Option<f64> {
    if cost.is_some_and(|cost| !cost.is_finite() || cost < 0.0) {
        fields.refuse("estimated_cost", "must be a number from 0");
    }
    cost
}

fn metadata(fields: &mut Fields, from: Option<v1::JobMetadata>) -> JobMetadata {
    from.map_or_else(JobMetadata::default, |from| {
        fields.within("metadata", |fields| {
            let actor_type = fields.value::<v1::ActorType>("actor_type", from.actor_type);
            JobMetadata {
                capability: fields.line("capability", from.capability, MAX_NAME),
                risk_tags: fields.lines("risk_tags", from.risk_tags),
                requires: fields.lines("requires", from.requires),
                pack_id: fields.line("pack_id", from.pack_id, MAX_NAME),
                actor_id: fields.line("actor_id", from.actor_id, MAX_NAME),
                actor_type: actor_type.and_then(|actor_type| match actor_type {
                    v1::ActorType::Unspecified => None,
                    v1::ActorType::Human => Some(ActorType::Human),
                    v1::ActorType::Service => Some(ActorType::Service),
                }),
                mcp: from
                    .mcp
                    .map(|call| fields.within("mcp", |fields| mcp(fields, call))),
            }
        })
    })
}

fn mcp(fields: &mut Fields, call: v1::McpCall) -> McpCall {
    McpCall {
        server: fields.line("server", call.server, MAX_NAME),
        tool: fields.line("tool", call.tool, MAX_NAME),
        // A resource is a URI and may be long.
        resource: fields.line("resource", call.resource, 4 * MAX_NAME),
        action: fields.line("action", call.action, MAX_NAME),
    }
}

fn placement(
    fields: &mut Fields,
    from: Option<v1::JobPlacement>,
    limits: &Limits,
) -> Option<Placement> {
    let from = from?;
    Some(fields.within("placement", |fields| Placement {
        preferred_pool: fields.optional_id("preferred_pool", &from.preferred_pool, PoolName::parse),
        preferred_worker_id: fields.optional_id(
            "preferred_worker_id",
            &from.preferred_worker_id,
            WorkerId::parse,
        ),
        worker_labels: fields.labels("worker_labels", from.worker_labels),
        // 0 is not said.
        slots: match fields.count("slots", from.slots, limits.max_parallel_jobs) {
            0 => Slots::ONE,
            slots => Slots(slots),
        },
    }))
}

fn concurrency(fields: &mut Fields, from: Option<v1::JobConcurrency>) -> Option<Concurrency> {
    use v1::ConcurrencyLimitAction as Action;
    let from = from?;
    Some(fields.within("concurrency", |fields| {
        if from.key.is_empty() {
            fields.refuse("key", "must not be empty");
        }
        if from.limit < 1 {
            fields.refuse("limit", "must be at least 1");
        }
        Concurrency {
            key: fields.line("key", from.key, MAX_NAME),
            limit: u32::try_from(from.limit).unwrap_or_default(),
            on_limit: match fields.value::<Action>("on_limit", from.on_limit) {
                Some(Action::Reject) => ConcurrencyAction::Reject,
                Some(Action::CancelOldest) => ConcurrencyAction::CancelOldest,
                Some(Action::Queue | Action::Unspecified) | None => ConcurrencyAction::Queue,
            },
        }
    }))
}

fn budget(fields: &mut Fields, from: Option<v1::Budget>) -> Option<Budget> {
    let from = from?;
    Some(fields.within("budget", |fields| Budget {
        max_input_tokens: fields.amount("max_input_tokens", from.max_input_tokens),
        max_output_tokens: fields.amount("max_output_tokens", from.max_output_tokens),
        max_total_tokens: fields.amount("max_total_tokens", from.max_total_tokens),
    }))
}

fn cap(fields: &mut Fields, from: Option<v1::CapAttributes>) -> Option<CapFields> {
    let from = from?;
    Some(fields.within("cap", |fields| {
        let hints = from.context_hints.unwrap_or_default();
        let (max_input_tokens, tags) = fields.within("context_hints", |fields| {
            let most = fields.amount("max_input_tokens", hints.max_input_tokens);
            let most = i32::try_from(most).unwrap_or_else(|_| {
                // The wire format of CAP has 32 bits for it.
                fields.refuse("max_input_tokens", format!("must be at most {}", i32::MAX));
                0
            });
            (most, fields.lines("tags", hints.tags))
        });
        let step_index = fields.count("step_index", from.step_index, i32::MAX as u32);
        CapFields {
            env: fields.labels("env", from.env),
            adapter_id: fields.line("adapter_id", from.adapter_id, MAX_NAME),
            max_input_tokens,
            allow_summarization: hints.allow_summarization,
            allow_retrieval: hints.allow_retrieval,
            tags,
            step_index: i32::try_from(step_index).unwrap_or_default(),
        }
    }))
}

/// Fills in the defaults; the bounds are those of the policy itself.
fn retry(fields: &mut Fields, from: Option<v1::RetryPolicy>) -> Option<RetryPolicy> {
    let from = from?;
    Some(fields.within("retry", |fields| {
        let pause = Duration::ZERO..=MAX_BACKOFF;
        let initial_backoff = fields
            .duration("initial_backoff", from.initial_backoff, &pause)
            .unwrap_or(RetryPolicy::DEFAULT_INITIAL_BACKOFF);
        let max_backoff = fields
            .duration("max_backoff", from.max_backoff, &pause)
            // A longer first pause needs no longer maximum to be said.
            .unwrap_or(RetryPolicy::DEFAULT_MAX_BACKOFF.max(initial_backoff));
        let multiplier = match from.multiplier {
            0.0 => RetryPolicy::DEFAULT_MULTIPLIER,
            given => given,
        };
        let policy = RetryPolicy {
            max_attempts: from
                .max_attempts
                .map_or(1, |most| fields.count("max_attempts", most, MAX_ATTEMPTS)),
            initial_backoff,
            multiplier,
            max_backoff,
            jitter: from.jitter.unwrap_or(RetryPolicy::DEFAULT_JITTER),
            non_retryable_codes: codes(fields, from.non_retryable_codes),
        };
        for violation in policy.validate().err().unwrap_or_default() {
            fields.refuse_once(violation.field, violation.message);
        }
        policy
    }))
}

fn codes(fields: &mut Fields, codes: Vec<String>) -> Vec<String> {
    if !fields.at_most("non_retryable_codes", codes.len(), MAX_LIST) {
        return Vec::new();
    }
    codes
}

/// Reads a topic that a worker declares.
pub(crate) fn topics(
    fields: &mut Fields,
    field: &str,
    topics: &[String],
    max: usize,
) -> Vec<Topic> {
    if topics.is_empty() {
        fields.refuse(field, "must name at least one topic");
    }
    fields.ids(field, topics, max, Topic::parse)
}

#[cfg(test)]
mod tests;
