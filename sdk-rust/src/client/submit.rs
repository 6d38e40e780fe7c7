//! A job described step by step, submitted, and waited for.

use std::time::Duration;

use coretex_proto::time::duration_from_std;
use coretex_proto::v1::{
    Job, JobPriority, Payload, RetryPolicy, SubmitJobRequest, SubmitJobResponse,
};
use serde::Serialize;
use tokio::time::Instant;

use super::{Client, MAX_SERVER_WAIT};
use crate::{Error, JobExt, to_payload};

/// A job to submit. Made by [`Client::submit`]; [`send`](Self::send) or [`result`](Self::result)
/// submits it.
#[derive(Debug)]
#[must_use = "a described job is not submitted before `send` or `result`"]
pub struct Submit {
    client: Client,
    request: SubmitJobRequest,
    wait: Duration,
    /// Why the input could not be written; told when the job is sent, to keep the chain simple.
    invalid: Option<Error>,
}

impl Client {
    /// Describes a job on a topic with an input that serde can write as JSON. For other inputs say
    /// `()` here and use [`Submit::payload`].
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use coretex::{JobExt, JobPriority};
    /// use serde_json::json;
    ///
    /// # async fn example(client: coretex::Client) -> Result<(), coretex::Error> {
    /// let submitted = client
    ///     .submit("job.wc", json!({"text": "to be"}))
    ///     .priority(JobPriority::Critical)
    ///     .label("origin", "docs")
    ///     .wait(Duration::from_secs(5))
    ///     .send()
    ///     .await?;
    /// if let Some(job) = submitted.job && job.ended() {
    ///     let count: u64 = job.output_as()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit(&self, topic: impl Into<String>, input: impl Serialize) -> Submit {
        let (input, invalid) = match to_payload(&input) {
            Ok(payload) => (Some(payload), None),
            Err(error) => (None, Some(error)),
        };
        Submit {
            client: self.clone(),
            request: SubmitJobRequest {
                topic: topic.into(),
                input,
                ..SubmitJobRequest::default()
            },
            wait: Duration::ZERO,
            invalid,
        }
    }
}

impl Submit {
    /// The id the job shall have. Default: the server makes one.
    pub fn job_id(mut self, job_id: impl Into<String>) -> Self {
        self.request.job_id = job_id.into();
        self
    }

    /// The input, replacing what [`Client::submit`] was given. `None`: no data.
    pub fn payload(mut self, input: impl Into<Option<Payload>>) -> Self {
        self.request.input = input.into();
        self.invalid = None;
        self
    }

    /// How soon the job is served. Default: INTERACTIVE.
    pub fn priority(mut self, priority: JobPriority) -> Self {
        self.request.set_priority(priority);
        self
    }

    /// A label, for finding the job and for policy.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.labels.insert(key.into(), value.into());
        self
    }

    /// Makes submitting again safe beyond this call. Default: a key of its own for every call.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.request.idempotency_key = key.into();
        self
    }

    /// How long one attempt may take. Default: 1 hour.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.timeout = Some(duration_from_std(timeout));
        self
    }

    /// When the job ends at the latest, counted from acceptance. Default: never.
    pub fn deadline_after(mut self, deadline: Duration) -> Self {
        self.request.deadline_after = Some(duration_from_std(deadline));
        self
    }

    /// How many attempts the worker may fail, the first included. Default: 1.
    pub fn max_attempts(mut self, attempts: i32) -> Self {
        let retry = self.request.retry.get_or_insert_default();
        retry.max_attempts = Some(attempts);
        self
    }

    /// How failed attempts are repeated, replacing what [`max_attempts`](Self::max_attempts) said.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.request.retry = Some(retry);
        self
    }

    /// Answer only when the job has ended, or after this long. More than the server's 60 seconds
    /// is waited for in several calls. Default: answer as soon as the job is stored.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Changes anything else in the request.
    ///
    /// ```no_run
    /// # fn example(client: coretex::Client) {
    /// let job = client.submit("job.x", ()).edit(|request| request.confirm_start = true);
    /// # }
    /// ```
    pub fn edit(mut self, edit: impl FnOnce(&mut SubmitJobRequest)) -> Self {
        edit(&mut self.request);
        self
    }

    /// The request as it stands, for batches with [`Client::submit_jobs`].
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the input could not be written as JSON.
    pub fn into_request(self) -> Result<SubmitJobRequest, Error> {
        match self.invalid {
            Some(error) => Err(error),
            None => Ok(self.request),
        }
    }

    /// Submits the job. Without [`wait`](Self::wait) the answer holds the job as it was accepted.
    /// A job that is denied or waits for an approval is no error.
    ///
    /// # Errors
    /// As [`Client::submit_job`]; when waiting, as [`Client::wait_ended`].
    pub async fn send(self) -> Result<SubmitJobResponse, Error> {
        let (client, wait) = (self.client.clone(), self.wait);
        let begin = Instant::now();
        let mut request = self.into_request()?;
        if !wait.is_zero() {
            request.wait = Some(duration_from_std(wait.min(MAX_SERVER_WAIT)));
        }
        let mut response = client.submit_job(request).await?;
        let left = wait.saturating_sub(begin.elapsed());
        if let Some(job) = &response.job
            && !left.is_zero()
            && !job.ended()
        {
            let job = client.wait_ended(job.job_id.clone(), Some(left)).await?;
            response.job = Some(job);
        }
        Ok(response)
    }

    /// Submits the job and waits until it has ended: within [`wait`](Self::wait) if given (then
    /// the job may not have ended), else for as long as it takes. How it ended is in the job.
    ///
    /// # Errors
    /// As [`Client::submit_job`] and [`Client::wait_ended`].
    pub async fn result(mut self) -> Result<Job, Error> {
        let client = self.client.clone();
        let limited = !self.wait.is_zero();
        if !limited {
            self.wait = MAX_SERVER_WAIT;
        }
        let response = self.send().await?;
        let job = response.job.ok_or_else(|| Error::incomplete("job"))?;
        if limited || job.ended() {
            return Ok(job);
        }
        client.wait_ended(job.job_id, None).await
    }
}
