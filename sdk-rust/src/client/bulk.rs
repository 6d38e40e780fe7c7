//! Operations on many things: their progress, resumed by itself. The calls are in `jobs` and `dlq`.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_proto::v1::BulkProgress;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Client;
use super::wait::{Patience, away};
use crate::Error;

/// How far an operation on many things is, as it goes on. A [`Stream`]; ends after the progress that
/// is `finished`, or after an error. Dropping it stops the operation.
///
/// ```no_run
/// use coretex::proto::{DlqFilter, RetryDlqEntriesRequest};
///
/// # async fn example(client: coretex::Client) -> Result<(), coretex::Error> {
/// let filter = DlqFilter { topics: vec!["job.wc".into()], ..Default::default() };
/// let request = RetryDlqEntriesRequest { filter: Some(filter), ..Default::default() };
/// let progress = client.retry_dlq_entries(request).await?.finish().await?;
/// println!("{} retried, {} refused", progress.done_count, progress.failed_count);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Bulk {
    stream: BoxStream<'static, Result<BulkProgress, Error>>,
}

impl Bulk {
    /// The next progress; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<BulkProgress, Error>> {
        self.stream.next().await
    }

    /// Waits for the end, and gives back how it came out.
    ///
    /// # Errors
    /// The one that the stream ended with.
    pub async fn finish(mut self) -> Result<BulkProgress, Error> {
        let mut last = BulkProgress::default();
        while let Some(progress) = self.next().await {
            last = progress?;
        }
        Ok(last)
    }
}

impl Stream for Bulk {
    type Item = Result<BulkProgress, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk").finish_non_exhaustive()
    }
}

/// What tells the four operations from each other.
pub(super) struct Call<Q, R, F> {
    /// As given, with the newest token.
    pub(super) request: Q,
    /// Makes the request go on after a progress.
    pub(super) resume: fn(&mut Q, &BulkProgress),
    /// Opens the stream.
    pub(super) open: F,
    /// The progress in a message.
    pub(super) progress: fn(R) -> Option<BulkProgress>,
}

struct State<Q, R, F> {
    client: Client,
    call: Call<Q, R, F>,
    stream: Option<Streaming<R>>,
    patience: Patience,
    /// The most that had matched in any progress.
    matched: i32,
    over: bool,
}

impl<Q, R, F, Fut> State<Q, R, F>
where
    Q: Clone,
    F: Fn(Channel, Request<Q>) -> Fut,
    Fut: Future<Output = Result<Response<Streaming<R>>, Status>>,
{
    async fn next(&mut self) -> Option<Result<BulkProgress, Error>> {
        while !self.over {
            let error = match self.read().await {
                Ok(Some(progress)) => {
                    self.over = progress.finished;
                    return Some(Ok(progress));
                }
                Ok(None) => Error::local(Code::Unavailable, "the server ended the operation"),
                Err(error) => error,
            };
            self.stream = None;
            let fraction = self.client.shared.entropy.fraction();
            let pause = self.patience.pause(&error, fraction);
            let Some(pause) = pause.filter(|_| away(&error)) else {
                self.over = true;
                return Some(Err(error));
            };
            tracing::debug!(%error, ?pause, "going on with an operation");
            tokio::time::sleep(pause).await;
        }
        None
    }

    async fn read(&mut self) -> Result<Option<BulkProgress>, Error> {
        if self.stream.is_none() {
            self.stream = Some(self.begin().await?);
        }
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        let Some(message) = stream.message().await? else {
            return Ok(None);
        };
        let progress = (self.call.progress)(message)
            .ok_or_else(|| Error::local(Code::Internal, "a progress without content"))?;
        // The first message only repeats where it was: trouble that comes again after it goes on.
        if progress.matched_count > self.matched {
            self.matched = progress.matched_count;
            self.patience.heard();
        }
        (self.call.resume)(&mut self.call.request, &progress);
        Ok(Some(progress))
    }

    async fn begin(&self) -> Result<Streaming<R>, Error> {
        let request = self.call.request.clone();
        // Boxed, or every operation on many would be many kilobytes large.
        let open = |channel, request| Box::pin((self.call.open)(channel, request));
        self.client.open_stream(request, open).await
    }
}

impl Client {
    pub(super) fn bulk<Q, R, F, Fut>(&self, call: Call<Q, R, F>) -> Bulk
    where
        Q: Clone + Send + Sync + 'static,
        R: Send + 'static,
        F: Fn(Channel, Request<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<Streaming<R>>, Status>> + Send + 'static,
    {
        let state = State {
            client: self.clone(),
            call,
            stream: None,
            patience: Patience::new(self.shared.outage_tolerance),
            matched: 0,
            over: false,
        };
        let stream = stream::unfold(state, |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        });
        Bulk {
            stream: stream.boxed(),
        }
    }
}
