//! Jobs as callers and workers see them.

use coretex_core::job::{
    ActorType, Budget, CapFields, Concurrency, ConcurrencyAction, ErrorSource, Job, JobError,
    JobMetadata, JobState, McpCall, Placement, Priority, WorkerLossPolicy,
};
use coretex_core::retry::RetryPolicy;
use coretex_engine::JobAnswer;
use coretex_proto::v1;

use super::policy::unless_default;
use super::{count, duration, payload, policy, text, time};

/// How much of a job an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Everything but the payloads.
    Basic,
    /// Everything.
    Full,
}

impl View {
    /// Whether payloads are wanted.
    pub(crate) const fn is_full(self) -> bool {
        matches!(self, Self::Full)
    }
}

/// Writes a job as an answer of the engine.
pub(crate) fn answer(answer: &JobAnswer, view: View) -> v1::Job {
    v1::Job {
        waiting_reason: answer.waiting_reason.to_owned(),
        etag: answer.version.to_string(),
        ..write(&answer.job, view)
    }
}

/// Writes a job.
pub(crate) fn write(job: &Job, view: View) -> v1::Job {
    let spec = &*job.spec;
    let last = job.attempts.last();
    let (input, output) = match view {
        View::Basic => (None, None),
        View::Full => (job.input.as_ref(), job.output.as_ref()),
    };
    v1::Job {
        job_id: job.id.to_string(),
        tenant_id: job.tenant.to_string(),
        team_id: spec.team_id.clone(),
        topic: spec.topic.to_string(),
        state: state(job.state).into(),
        priority: priority(spec.priority).into(),
        labels: spec.labels.clone(),
        metadata: metadata(&spec.metadata),
        placement: placement(&spec.placement),
        memory_id: spec.memory_id.clone(),
        idempotency_key: job.idempotency_key.clone(),
        cap: spec.cap.as_ref().map(cap),
        principal_id: job.principal_id.clone(),
        trace_id: job.trace_id.clone(),
        parent_job_id: text(spec.parent_job_id.as_ref()),
        rerun_of_job_id: text(job.rerun_of.as_ref()),
        input: input.and_then(payload::write),
        output: output.and_then(payload::write),
        error: job.error.as_ref().map(error),
        progress: job.progress.as_ref().map(|progress| v1::JobProgress {
            percent: progress.percent.into(),
            message: progress.message.clone(),
        }),
        artifact_ids: job.artifact_ids.clone(),
        attempt: count(job.attempt),
        max_attempts: count(spec.retry.max_attempts.max(1)),
        worker_id: text(last.map(|attempt| &attempt.worker_id)),
        pool: text(last.map(|attempt| &attempt.pool)),
        decision: job
            .decision
            .as_ref()
            .map(|decision| policy::decision(decision, job.decisions.total().saturating_add(1))),
        redispatch_count: count(job.redispatches),
        create_time: Some(time(job.create_time)),
        eligible_time: Some(time(job.eligible_time)),
        start_time: job.start_time.map(time),
        end_time: job.end_time.map(time),
        cancel_requested_time: job.cancel.as_ref().map(|cancel| time(cancel.time)),
        deadline: job.deadline.map(time),
        not_before: spec.not_before.map(time),
        update_time: Some(time(job.update_time)),
        retry: retry(&spec.retry),
        on_worker_loss: worker_loss(spec.on_worker_loss).into(),
        max_redispatch: count(spec.max_redispatch),
        timeout: Some(duration(spec.timeout)),
        schedule_to_start_timeout: Some(duration(spec.schedule_to_start_timeout)),
        confirm_start: spec.confirm_start,
        budget: spec.budget.as_ref().map(budget),
        estimated_cost: spec.estimated_cost,
        // What is not built yet: workflows, limits by key, fairness inside a tenant. The first two
        // fields of an answer belong to it, not to the record.
        waiting_reason: String::new(),
        etag: String::new(),
        workflow_id: String::new(),
        run_id: String::new(),
        step_id: String::new(),
        fairness_key: spec.fairness_key.clone(),
        concurrency: spec.concurrency.as_ref().map(concurrency),
    }
}

/// Writes only what names a job and its state, for answers that would else be too large.
pub(crate) fn slim(job: v1::Job) -> v1::Job {
    v1::Job {
        job_id: job.job_id,
        tenant_id: job.tenant_id,
        topic: job.topic,
        state: job.state,
        priority: job.priority,
        idempotency_key: job.idempotency_key,
        principal_id: job.principal_id,
        trace_id: job.trace_id,
        attempt: job.attempt,
        max_attempts: job.max_attempts,
        waiting_reason: job.waiting_reason,
        create_time: job.create_time,
        update_time: job.update_time,
        etag: job.etag,
        ..v1::Job::default()
    }
}

/// Writes a state.
pub(crate) const fn state(state: JobState) -> v1::JobState {
    match state {
        JobState::Pending => v1::JobState::Pending,
        JobState::Scheduled => v1::JobState::Scheduled,
        JobState::Dispatched => v1::JobState::Dispatched,
        JobState::Running => v1::JobState::Running,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
        JobState::Denied => v1::JobState::Denied,
        JobState::Timeout => v1::JobState::Timeout,
        JobState::ApprovalRequired => v1::JobState::ApprovalRequired,
    }
}

/// Reads a state; unspecified is none.
pub(crate) const fn read_state(state: v1::JobState) -> Option<JobState> {
    match state {
        v1::JobState::Unspecified => None,
        v1::JobState::Pending => Some(JobState::Pending),
        v1::JobState::Scheduled => Some(JobState::Scheduled),
        v1::JobState::Dispatched => Some(JobState::Dispatched),
        v1::JobState::Running => Some(JobState::Running),
        v1::JobState::Succeeded => Some(JobState::Succeeded),
        v1::JobState::Failed => Some(JobState::Failed),
        v1::JobState::Cancelled => Some(JobState::Cancelled),
        v1::JobState::Denied => Some(JobState::Denied),
        v1::JobState::Timeout => Some(JobState::Timeout),
        v1::JobState::ApprovalRequired => Some(JobState::ApprovalRequired),
    }
}

const fn priority(priority: Priority) -> v1::JobPriority {
    match priority {
        Priority::Critical => v1::JobPriority::Critical,
        Priority::Interactive => v1::JobPriority::Interactive,
        Priority::Batch => v1::JobPriority::Batch,
    }
}

const fn worker_loss(policy: WorkerLossPolicy) -> v1::WorkerLossPolicy {
    match policy {
        WorkerLossPolicy::Retry => v1::WorkerLossPolicy::Retry,
        WorkerLossPolicy::Fail => v1::WorkerLossPolicy::Fail,
    }
}

/// Writes why work failed.
pub(crate) fn error(error: &JobError) -> v1::JobError {
    let source = match error.source {
        ErrorSource::Platform => v1::JobErrorSource::Platform,
        ErrorSource::Worker => v1::JobErrorSource::Worker,
    };
    v1::JobError {
        code: error.code.clone(),
        message: error.message.clone(),
        metadata: error.metadata.clone(),
        source: source.into(),
    }
}

fn metadata(from: &JobMetadata) -> Option<v1::JobMetadata> {
    let actor_type = match from.actor_type {
        None => v1::ActorType::Unspecified,
        Some(ActorType::Human) => v1::ActorType::Human,
        Some(ActorType::Service) => v1::ActorType::Service,
    };
    unless_default(v1::JobMetadata {
        capability: from.capability.clone(),
        risk_tags: from.risk_tags.clone(),
        requires: from.requires.clone(),
        pack_id: from.pack_id.clone(),
        actor_id: from.actor_id.clone(),
        actor_type: actor_type.into(),
        mcp: from.mcp.as_ref().map(mcp),
        // No credential may speak for others yet.
        verified: false,
    })
}

fn mcp(call: &McpCall) -> v1::McpCall {
    v1::McpCall {
        server: call.server.clone(),
        tool: call.tool.clone(),
        resource: call.resource.clone(),
        action: call.action.clone(),
    }
}

fn placement(from: &Placement) -> Option<v1::JobPlacement> {
    unless_default(v1::JobPlacement {
        preferred_pool: text(from.preferred_pool.as_ref()),
        preferred_worker_id: text(from.preferred_worker_id.as_ref()),
        worker_labels: from.worker_labels.clone(),
        // 0 is what the job did not say.
        slots: if from.slots.is_one() {
            0
        } else {
            count(from.slots.0)
        },
    })
}

fn concurrency(from: &Concurrency) -> v1::JobConcurrency {
    use v1::ConcurrencyLimitAction as Action;
    let action = match from.on_limit {
        ConcurrencyAction::Queue => Action::Queue,
        ConcurrencyAction::Reject => Action::Reject,
        ConcurrencyAction::CancelOldest => Action::CancelOldest,
    };
    v1::JobConcurrency {
        key: from.key.clone(),
        limit: count(from.limit),
        on_limit: action.into(),
    }
}

fn retry(from: &RetryPolicy) -> Option<v1::RetryPolicy> {
    (*from != RetryPolicy::default()).then(|| v1::RetryPolicy {
        max_attempts: Some(count(from.max_attempts)),
        initial_backoff: Some(duration(from.initial_backoff)),
        multiplier: from.multiplier,
        max_backoff: Some(duration(from.max_backoff)),
        jitter: Some(from.jitter),
        non_retryable_codes: from.non_retryable_codes.clone(),
    })
}

fn budget(from: &Budget) -> v1::Budget {
    v1::Budget {
        max_input_tokens: from.max_input_tokens,
        max_output_tokens: from.max_output_tokens,
        max_total_tokens: from.max_total_tokens,
    }
}

fn cap(from: &CapFields) -> v1::CapAttributes {
    let context_hints = unless_default(v1::CapContextHints {
        max_input_tokens: from.max_input_tokens.into(),
        allow_summarization: from.allow_summarization,
        allow_retrieval: from.allow_retrieval,
        tags: from.tags.clone(),
    });
    v1::CapAttributes {
        env: from.env.clone(),
        adapter_id: from.adapter_id.clone(),
        context_hints,
        step_index: from.step_index,
    }
}
