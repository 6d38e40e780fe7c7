//! One handler, from its start to its result.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coretex_proto::v1::{Job, JobState, WorkerResult};
use futures::FutureExt;
use tokio::time::Instant;

use super::attempt::{Attempt, CancelReason};
use super::shared::Shared;
use super::table::Start;
use super::{Context, JobFailure, Output, message};

/// How a handler ended.
enum Ended {
    Returned(Result<Output, JobFailure>),
    Panicked(JobFailure),
    /// It had not returned when patience ended, and was dropped.
    Dropped,
}

pub(super) async fn run(shared: Arc<Shared>, start: Start) {
    let Start { attempt, job } = start;
    let begin = Instant::now();
    let ended = handle(&shared, &attempt, *job).await;
    let took = begin.elapsed();
    let result = conclude(&shared, &attempt, ended, took).await;
    shared.conclude(&attempt, result);
}

async fn handle(shared: &Arc<Shared>, attempt: &Arc<Attempt>, job: Job) -> Ended {
    let Some(handler) = shared.router.find(&attempt.topic) else {
        let message = format!("this worker does not serve topic {}", attempt.topic);
        return Ended::Returned(Err(JobFailure::new("no_handler", message)));
    };
    let context = Context::new(Arc::clone(shared), Arc::clone(attempt));
    // The call itself may panic too, before there is a future: hence the block.
    let work = AssertUnwindSafe(async { handler.run(context, job).await }).catch_unwind();
    tokio::select! {
        // First, so that a handler that is ready at once never sets up the timers of the other.
        biased;
        outcome = work => match outcome {
            Ok(outcome) => Ended::Returned(outcome),
            Err(panic) => Ended::Panicked(JobFailure::from_panic(&*panic)),
        },
        () = attempt.must_end() => Ended::Dropped,
    }
}

/// What the server is told; `None` when it is to take the attempt for lost.
async fn conclude(
    shared: &Shared,
    attempt: &Attempt,
    ended: Ended,
    took: Duration,
) -> Option<WorkerResult> {
    let failure = match ended {
        Ended::Returned(Ok(output)) => match complete(shared, attempt, output, took).await {
            Ok(result) => return Some(result),
            Err(failure) => failure,
        },
        Ended::Returned(Err(failure)) => failure,
        Ended::Panicked(failure) => {
            tracing::error!(
                job_id = attempt.reference.job_id,
                attempt = attempt.reference.attempt,
                message = failure.message(),
                "handler panicked"
            );
            // Not excused by a cancel: a panic is a defect that somebody wants to hear of.
            return Some(failed(attempt, failure, took));
        }
        Ended::Dropped => JobFailure::new("timeout", "the handler did not stop in time"),
    };
    match attempt.stop.reason() {
        // It will run elsewhere, uncounted: no result of its own.
        Some(CancelReason::Shutdown) => None,
        Some(CancelReason::Requested(_) | CancelReason::Revoked) => {
            let mut result = message::result(&attempt.reference, JobState::Cancelled, took);
            result.error = Some(failure.into_error());
            Some(result)
        }
        Some(CancelReason::TimeLimit) | None => Some(failed(attempt, failure, took)),
    }
}

fn failed(attempt: &Attempt, failure: JobFailure, took: Duration) -> WorkerResult {
    let mut result = message::result(&attempt.reference, JobState::Failed, took);
    result.error = Some(failure.into_error());
    result.artifact_ids = std::mem::take(&mut attempt.artifact_ids.lock());
    result
}

/// Makes a good result of an output, large ones by way of the payload store.
async fn complete(
    shared: &Shared,
    attempt: &Attempt,
    output: Output,
    took: Duration,
) -> Result<WorkerResult, JobFailure> {
    if let Some(failure) = output.invalid {
        return Err(failure);
    }
    let mut payload = output.payload;
    shared.client.fit(&mut payload).await.map_err(|error| {
        let hint = error.hint().map(|hint| format!("; {hint}"));
        let message = format!("{error}{}", hint.unwrap_or_default());
        JobFailure::new("output_too_large", message)
    })?;
    let mut result = message::result(&attempt.reference, JobState::Succeeded, took);
    result.output = payload;
    result.artifact_ids = std::mem::take(&mut attempt.artifact_ids.lock());
    result.artifact_ids.extend(output.artifact_ids);
    Ok(result)
}
