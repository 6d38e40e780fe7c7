//! Watching jobs, resumed by itself; what other watches share with that.

use std::fmt;
use std::future::Future;
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

/// A request whose answers are resumed by itself.
pub(super) trait Watched: Clone + Send + 'static {
    /// One answer.
    type Message: Send + 'static;

    /// Opens the stream.
    fn open(
        self,
        client: &Client,
    ) -> impl Future<Output = Result<Streaming<Self::Message>, Error>> + Send;

    /// Takes the resume token of a message over; true when the stream is to end after it.
    fn heard(&mut self, message: &Self::Message) -> bool;
}

impl Watched for WatchJobsRequest {
    type Message = WatchJobsResponse;

    async fn open(self, client: &Client) -> Result<Streaming<WatchJobsResponse>, Error> {
        client
            .open_stream(self, |channel, request| async move {
                JobServiceClient::new(channel).watch_jobs(request).await
            })
            .await
    }

    fn heard(&mut self, message: &WatchJobsResponse) -> bool {
        take_token(&mut self.resume_token, &message.resume_token);
        let one = matches!(self.target, Some(Target::JobId(_)));
        one && message.job.as_ref().is_some_and(JobExt::ended)
    }
}

pub(super) fn take_token(token: &mut String, newer: &str) {
    if !newer.is_empty() {
        newer.clone_into(token);
    }
}

struct State<R: Watched> {
    client: Client,
    /// As given, with the newest resume token.
    request: R,
    stream: Option<Streaming<R::Message>>,
    patience: Patience,
    /// What is watched has ended.
    ended: bool,
    over: bool,
}

impl<R: Watched> State<R> {
    async fn next(&mut self) -> Option<Result<R::Message, Error>> {
        while !self.over {
            let error = match self.read().await {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) if self.ended => return None,
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

    async fn read(&mut self) -> Result<Option<R::Message>, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.request.clone().open(&self.client).await?),
        };
        let Some(message) = stream.message().await? else {
            return Ok(None);
        };
        self.patience.heard();
        self.ended = self.request.heard(&message);
        Ok(Some(message))
    }
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
        JobWatch {
            stream: self.resumed(request),
        }
    }

    /// The messages of a watch, resumed where it was.
    pub(super) fn resumed<R: Watched>(
        &self,
        request: R,
    ) -> BoxStream<'static, Result<R::Message, Error>> {
        let state = State {
            client: self.clone(),
            request,
            stream: None,
            patience: Patience::new(self.shared.outage_tolerance),
            ended: false,
            over: false,
        };
        stream::unfold(state, |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        })
        .boxed()
    }
}
