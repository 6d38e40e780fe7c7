//! Many jobs in one request: each by itself, in the order of the requests.

use coretex_engine::Engine;
use coretex_proto::v1;
use coretex_proto::v1::submit_jobs_result::Outcome;
use futures::{StreamExt, stream};
use prost::Message;

use crate::call::Call;
use crate::convert;
use crate::convert::job::View;
use crate::convert::submit;
use crate::page::MAX_RESPONSE_BYTES;
use crate::problem::{Problem, Result};
use crate::status;
use crate::validate::check;

/// The most jobs of one request.
const MAX_ITEMS: usize = 1_000;
/// Jobs that are submitted at once: as many as the store takes into one write.
const AT_ONCE: usize = 128;
/// What a result takes when it is cut to the least.
const SLIM: usize = 1_536;

/// Submits `requests`.
///
/// # Errors
/// There are too many. What is wrong with one of them stands in its own result.
pub(super) async fn submit(
    engine: &Engine,
    call: &Call,
    requests: Vec<v1::SubmitJobRequest>,
) -> Result<v1::SubmitJobsResponse> {
    if requests.len() > MAX_ITEMS {
        return Err(Problem::TooManyItems {
            field: "requests",
            limit: MAX_ITEMS,
        });
    }
    let count = requests.len();
    let items = requests
        .into_iter()
        .map(|request| one(engine, call, request));
    let mut results: Vec<_> = stream::iter(items).buffered(AT_ONCE).collect().await;
    let mut budget = Budget::new(count);
    for result in &mut results {
        budget.fit(result);
    }
    Ok(v1::SubmitJobsResponse { results })
}

async fn one(engine: &Engine, call: &Call, request: v1::SubmitJobRequest) -> v1::SubmitJobsResult {
    let (outcome, replayed) = match submit_one(engine, call, request).await {
        Ok((job, replayed)) => (Outcome::Job(job), replayed),
        Err(problem) => {
            let status = status::rpc(problem, Some(&call.request_id));
            (Outcome::Status(status), false)
        }
    };
    v1::SubmitJobsResult {
        outcome: Some(outcome),
        replayed,
    }
}

async fn submit_one(
    engine: &Engine,
    call: &Call,
    request: v1::SubmitJobRequest,
) -> Result<(v1::Job, bool)> {
    let (limits, trace) = (engine.limits(), call.trace_id());
    let request = check(|fields| {
        if request.wait.is_some() {
            fields.refuse("wait", "must be unset in a batch");
        }
        submit::read(fields, request, limits, trace)
    })?;
    let submitted = engine.submit_job(&call.caller, request).await?;
    let job = convert::job::answer(&submitted.answer, View::Basic);
    Ok((job, submitted.replayed))
}

/// Keeps a response below its limit: what is beyond is cut to the least, never left out. Callers
/// know what they sent, and what became of it is all there.
struct Budget {
    left: usize,
}

impl Budget {
    fn new(items: usize) -> Self {
        Self {
            left: MAX_RESPONSE_BYTES.saturating_sub(items * SLIM),
        }
    }

    fn fit(&mut self, result: &mut v1::SubmitJobsResult) {
        let size = result.encoded_len();
        if size <= SLIM {
            return;
        }
        if let Some(left) = self.left.checked_sub(size - SLIM) {
            self.left = left;
            return;
        }
        result.outcome = result.outcome.take().map(|outcome| match outcome {
            Outcome::Job(job) => Outcome::Job(convert::job::slim(job)),
            Outcome::Status(status) => Outcome::Status(status::slim(status)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(outcome: Outcome) -> v1::SubmitJobsResult {
        v1::SubmitJobsResult {
            outcome: Some(outcome),
            replayed: false,
        }
    }

    #[test]
    fn responses_stay_below_their_limit_and_say_what_became_of_each() {
        let long = "x".repeat(256);
        let job = v1::Job {
            job_id: "x".repeat(128),
            tenant_id: "x".repeat(128),
            topic: "x".repeat(255),
            principal_id: "x".repeat(128),
            idempotency_key: long.clone(),
            labels: (0..64)
                .map(|n| (format!("{n}{long}"), "x".repeat(1024)))
                .collect(),
            ..v1::Job::default()
        };
        let violations = (0..64)
            .map(|n| coretex_engine::Violation::new(format!("labels[{n}]"), "must not be empty"))
            .collect();
        let invalid = Problem::Engine(coretex_engine::Error::Invalid(violations));
        let mut results: Vec<_> = (0..MAX_ITEMS)
            .map(|n| match n % 2 {
                0 => result(Outcome::Job(job.clone())),
                _ => result(Outcome::Status(status::rpc(invalid.clone(), None))),
            })
            .collect();
        let mut budget = Budget::new(results.len());
        for result in &mut results {
            budget.fit(result);
        }
        let response = v1::SubmitJobsResponse { results };
        assert!(response.encoded_len() <= MAX_RESPONSE_BYTES);
        let whole = response
            .results
            .first()
            .and_then(|first| first.outcome.as_ref());
        assert_eq!(whole, Some(&Outcome::Job(job.clone())));
        for (n, result) in response.results.iter().enumerate() {
            match &result.outcome {
                Some(Outcome::Job(cut)) => assert_eq!((n % 2, &cut.job_id), (0, &job.job_id)),
                Some(Outcome::Status(cut)) => assert_eq!((n % 2, cut.code), (1, 3)),
                None => unreachable!("an outcome is never left out"),
            }
        }
    }
}
