//! Waiting for as long as it takes, across the limit of one call and across outages.

use std::time::Duration;

use coretex_proto::time::duration_from_std;
use coretex_proto::v1::{Job, JobView, WaitJobRequest};
use tokio::time::Instant;
use tonic::Code;

use super::{Client, MAX_SERVER_WAIT};
use crate::backoff::Backoff;
use crate::{Error, JobExt};

/// An answer within this is not one that was waited for.
const SOON: Duration = Duration::from_millis(100);

/// What decides whether a long wait or a watch goes on after a failure.
#[derive(Debug)]
pub(super) struct Patience {
    backoff: Backoff,
    tolerance: Duration,
    failing_since: Option<Instant>,
}

impl Patience {
    pub(super) fn new(tolerance: Duration) -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(3)),
            tolerance,
            failing_since: None,
        }
    }

    /// Something has been heard: trouble starts to count anew.
    pub(super) fn heard(&mut self) {
        self.failing_since = None;
        self.backoff.reset();
    }

    /// How long to pause after an error; `None` when it has gone on for too long.
    pub(super) fn pause(&mut self, error: &Error, fraction: f64) -> Option<Duration> {
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        if now.duration_since(since) >= self.tolerance {
            return None;
        }
        let pause = self.backoff.next(fraction);
        Some(pause.max(error.retry_after().unwrap_or_default()))
    }
}

/// Whether an error says no more than that no server answers just now. One that stalls is as good
/// as away.
pub(super) fn away(error: &Error) -> bool {
    error.is_retryable() || error.code() == Code::DeadlineExceeded
}

impl Client {
    /// Waits until a job has ended, or until `limit` is over: then the job is returned as it
    /// stands. Without a limit it waits for as long as it takes. Survives outages of the server up
    /// to the client's `outage_tolerance`.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use coretex::JobExt;
    ///
    /// # async fn example(client: coretex::Client) -> Result<(), coretex::Error> {
    /// let job = client.wait_ended("job-1", Some(Duration::from_secs(300))).await?;
    /// if !job.ended() { /* five minutes were not enough */ }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// JOB_NOT_FOUND; the last error of an outage that went on for too long.
    pub async fn wait_ended(
        &self,
        job_id: impl Into<String>,
        limit: Option<Duration>,
    ) -> Result<Job, Error> {
        let job_id = job_id.into();
        let begin = Instant::now();
        let mut patience = Patience::new(self.shared.outage_tolerance);
        loop {
            let left = limit.map(|limit| limit.saturating_sub(begin.elapsed()));
            let timeout = left.map_or(MAX_SERVER_WAIT, |left| left.min(MAX_SERVER_WAIT));
            let request = WaitJobRequest {
                job_id: job_id.clone(),
                timeout: Some(duration_from_std(timeout)),
                view: JobView::Full.into(),
            };
            let asked = Instant::now();
            match self.wait_job(request).await {
                Ok(response) => {
                    patience.heard();
                    let job = response.job.ok_or_else(|| Error::incomplete("job"))?;
                    if job.ended() || limit.is_some_and(|limit| begin.elapsed() >= limit) {
                        return Ok(job);
                    }
                    if asked.elapsed() < SOON && timeout > SOON {
                        // A server that is about to stop answers early; it must not be hammered.
                        tokio::time::sleep(SOON).await;
                    }
                }
                Err(error) => {
                    let fraction = self.shared.entropy.fraction();
                    let pause = patience.pause(&error, fraction).filter(|_| away(&error));
                    // After the limit nothing is left to wait for.
                    let pause = pause.filter(|pause| left.is_none_or(|left| left > *pause));
                    let Some(pause) = pause else {
                        return Err(error);
                    };
                    tracing::debug!(job_id, %error, ?pause, "waiting goes on after a failure");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
