//! Watching jobs, resumed by itself.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_proto::v1::job_service_client::JobServiceClient;
use coretex_proto::v1::watch_jobs_request::Target;
use coretex_proto::v1::{WatchJobsRequest, WatchJobsResponse};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tonic::{Code, Streaming};

use super::Client;
use super::wait::{Patience, away};
use crate::{Error, JobExt};

/// What happens to jobs, as it happens. A [`Stream`]; ends after an error.
#[must_use]
pub struct JobWatch {
    stream: BoxStream<'static, Result<WatchJobsResponse, Error>>,
}

impl JobWatch {
    /// The next message; `None` when the watch is over, which only one on a single job ever is.
    pub async fn next(&mut self) -> Option<Result<WatchJobsResponse, Error>> {
        self.stream.next().await
    }
}

impl Stream for JobWatch {
    type Item = Result<WatchJobsResponse, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl fmt::Debug for JobWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWatch").finish_non_exhaustive()
    }
}

struct State {
    client: Client,
    /// As given, with the newest resume token.
    request: WatchJobsRequest,
    stream: Option<Streaming<WatchJobsResponse>>,
    patience: Patience,
    /// The one job that is watched has ended.
    job_ended: bool,
    over: bool,
}

impl State {
    async fn next(&mut self) -> Option<Result<WatchJobsResponse, Error>> {
        while !self.over {
            let error = match self.read().await {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) if self.job_ended => return None,
                Ok(None) => Error::local(Code::Unavailable, "the server ended the watch"),
                Err(error) => error,
            };
            self.stream = None;
            // Cut because we read too slowly: what was missed is read from the token.
            let resumable = away(&error) || error.code() == Code::ResourceExhausted;
            let fraction = self.client.shared.entropy.fraction();
            let pause = self.patience.pause(&error, fraction);
            let Some(pause) = pause.filter(|_| resumable) else {
                self.over = true;
                return Some(Err(error));
            };
            tracing::debug!(%error, ?pause, "resuming a watch");
            tokio::time::sleep(pause).await;
        }
        None
    }

    async fn read(&mut self) -> Result<Option<WatchJobsResponse>, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(open(&self.client, self.request.clone()).await?),
        };
        let Some(message) = stream.message().await? else {
            return Ok(None);
        };
        self.patience.heard();
        if !message.resume_token.is_empty() {
            self.request.resume_token.clone_from(&message.resume_token);
        }
        if matches!(self.request.target, Some(Target::JobId(_))) {
            self.job_ended = message.job.as_ref().is_some_and(JobExt::ended);
        }
        Ok(Some(message))
    }
}

async fn open(
    client: &Client,
    request: WatchJobsRequest,
) -> Result<Streaming<WatchJobsResponse>, Error> {
    client
        .open_stream(request, |channel, request| async move {
            JobServiceClient::new(channel).watch_jobs(request).await
        })
        .await
}

impl Client {
    /// Tells what happens to jobs, as it happens. Resumes by itself where it was, when the
    /// connection breaks, the server is restarted, or it was cut for reading slowly. The first
    /// message is a checkpoint; further ones follow after a resumption.
    ///
    /// The watch on a single job ends after the job has ended.
    ///
    /// ```no_run
    /// use coretex::proto::{WatchJobsRequest, watch_jobs_request::Target};
    ///
    /// # async fn example(client: coretex::Client) -> Result<(), coretex::Error> {
    /// let target = Some(Target::JobId("job-1".into()));
    /// let mut watch = client.watch(WatchJobsRequest { target, ..Default::default() });
    /// while let Some(message) = watch.next().await.transpose()? {
    ///     if let (Some(event), Some(job)) = (message.event, message.job) {
    ///         // Something happened to the job.
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Errors come as the last item: RESUME_TOKEN_INVALID when what was missed is no longer kept
    /// (list again), or the last error of an outage longer than the client's `outage_tolerance`.
    pub fn watch(&self, request: WatchJobsRequest) -> JobWatch {
        let state = State {
            client: self.clone(),
            request,
            stream: None,
            patience: Patience::new(self.shared.outage_tolerance),
            job_ended: false,
            over: false,
        };
        let stream = stream::unfold(state, |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        });
        JobWatch {
            stream: stream.boxed(),
        }
    }
}
