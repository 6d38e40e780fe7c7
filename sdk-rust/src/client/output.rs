//! Reading what jobs stream while they run, resumed by itself.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_proto::v1::job_service_client::JobServiceClient;
use coretex_proto::v1::{ReadJobOutputRequest, ReadJobOutputResponse};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tonic::Streaming;

use super::Client;
use super::wait::{Patience, away};
use crate::Error;

/// What a job has streamed, piece by piece. A [`Stream`]; ends after an error.
#[must_use]
pub struct JobOutput {
    stream: BoxStream<'static, Result<ReadJobOutputResponse, Error>>,
}

impl JobOutput {
    /// The next piece, or a gap; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<ReadJobOutputResponse, Error>> {
        self.stream.next().await
    }
}

impl Stream for JobOutput {
    type Item = Result<ReadJobOutputResponse, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl fmt::Debug for JobOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobOutput").finish_non_exhaustive()
    }
}

struct State {
    client: Client,
    /// As given, or from the last piece on.
    request: ReadJobOutputRequest,
    stream: Option<Streaming<ReadJobOutputResponse>>,
    patience: Patience,
    over: bool,
}

impl State {
    async fn next(&mut self) -> Option<Result<ReadJobOutputResponse, Error>> {
        while !self.over {
            let error = match self.read().await {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => {
                    self.over = true;
                    return None;
                }
                Err(error) => error,
            };
            self.stream = None;
            let fraction = self.client.shared.entropy.fraction();
            let pause = self.patience.pause(&error, fraction);
            let Some(pause) = pause.filter(|_| away(&error)) else {
                self.over = true;
                return Some(Err(error));
            };
            tracing::debug!(%error, ?pause, "reading output goes on after a failure");
            tokio::time::sleep(pause).await;
        }
        None
    }

    async fn read(&mut self) -> Result<Option<ReadJobOutputResponse>, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(open(&self.client, self.request.clone()).await?),
        };
        let Some(message) = stream.message().await? else {
            return Ok(None);
        };
        self.patience.heard();
        self.request.resume_token.clone_from(&message.resume_token);
        self.request.from_sequence = 0;
        Ok(Some(message))
    }
}

async fn open(
    client: &Client,
    request: ReadJobOutputRequest,
) -> Result<Streaming<ReadJobOutputResponse>, Error> {
    client
        .open_stream(request, |channel, request| async move {
            JobServiceClient::new(channel)
                .read_job_output(request)
                .await
        })
        .await
}

impl Client {
    /// Reads what the attempts of a job have streamed, and with `follow` what they stream until the
    /// job ends. Goes on by itself where it was, when the connection breaks or the server is
    /// restarted: no piece is missed and none comes twice.
    ///
    /// ```no_run
    /// use coretex::proto::ReadJobOutputRequest;
    ///
    /// # async fn example(client: coretex::Client) -> Result<(), coretex::Error> {
    /// let mut output = client.read_output(ReadJobOutputRequest {
    ///     job_id: "job-1".into(),
    ///     follow: true,
    ///     ..Default::default()
    /// });
    /// while let Some(piece) = output.next().await.transpose()? {
    ///     let text = String::from_utf8_lossy(&piece.chunk);
    ///     // Tokens or log lines, see `piece.channel()`; or a gap, see `piece.gap`.
    ///     # let _ = text;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Errors come as the last item: JOB_NOT_FOUND, RESUME_TOKEN_INVALID, or the last error of an
    /// outage longer than the client's `outage_tolerance`.
    pub fn read_output(&self, request: ReadJobOutputRequest) -> JobOutput {
        let state = State {
            client: self.clone(),
            request,
            stream: None,
            patience: Patience::new(self.shared.outage_tolerance),
            over: false,
        };
        let stream = stream::unfold(state, |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        });
        JobOutput {
            stream: stream.boxed(),
        }
    }
}
