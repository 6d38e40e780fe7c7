//! What a handler knows about its attempt and can say while it works.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_proto::v1::{OutputChannel, PolicyConstraints};
use coretex_proto::value::struct_to_json;
use tokio::time::Instant;

use super::attempt::{Attempt, CancelReason};
use super::shared::Shared;
use crate::Client;

/// The longest progress text to send, in bytes; longer ones are cut.
const MAX_PROGRESS_TEXT: usize = 1_024;

/// The largest piece of output to send, in bytes; longer ones are cut into several.
const MAX_PIECE: usize = 32 * 1024;

/// A handler's view of its attempt. Cheap to clone, and useful from other tasks and threads.
///
/// ```no_run
/// use coretex::{Context, Job, JobFailure};
///
/// async fn crawl(ctx: Context, _job: Job) -> Result<String, JobFailure> {
///     for page in 0..100 {
///         ctx.progress(page, format!("page {page}"));
///         tokio::select! {
///             () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
///             why = ctx.cancelled() => return Err(JobFailure::new("stopped", why.to_string())),
///         }
///     }
///     Ok("100 pages".into())
/// }
/// ```
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
    attempt: Arc<Attempt>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>, attempt: Arc<Attempt>) -> Self {
        Self { shared, attempt }
    }

    /// The tenant of the job.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        &self.attempt.reference.tenant_id
    }

    /// The job.
    #[must_use]
    pub fn job_id(&self) -> &str {
        &self.attempt.reference.job_id
    }

    /// The number of the attempt, from 1. Above 1 the work may have been done before, in part or
    /// wholly.
    #[must_use]
    pub fn attempt(&self) -> i32 {
        self.attempt.reference.attempt
    }

    /// The random proof of holding the attempt. A secret between this worker and the server; no two
    /// attempts share one, so it also tells repeated side effects apart.
    #[must_use]
    pub fn lease_id(&self) -> &str {
        &self.attempt.reference.lease_id
    }

    /// How much time is left; `None` when it is not limited. The server ends the attempt when it is
    /// used up.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// When the time is up; `None` when it is not limited.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.attempt.deadline()
    }

    /// Waits until the handler is asked to stop, and says why. Never returns otherwise: use it in
    /// `tokio::select!`. A failure returned afterwards counts as the answer to the request; a
    /// success is still a success.
    pub async fn cancelled(&self) -> CancelReason {
        self.attempt.stop.requested().await
    }

    /// Whether the handler has been asked to stop. For loops that do not await.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.attempt.stop.is_requested()
    }

    /// Why the handler has been asked to stop, if it has.
    #[must_use]
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.attempt.stop.reason()
    }

    /// When the handler is dropped if it has not returned; `None` unless it has been asked to stop.
    /// Comes nearer when somebody loses patience.
    #[must_use]
    pub fn stop_deadline(&self) -> Option<Instant> {
        self.attempt.stop.end()
    }

    /// Says how far the work is, in percent, and what it does just now. Costs next to nothing: only
    /// the latest report is sent, a few times per second at most.
    pub fn progress(&self, percent: i32, message: impl Into<String>) {
        let mut text = message.into();
        if text.len() > MAX_PROGRESS_TEXT {
            let end = (0..=MAX_PROGRESS_TEXT)
                .rev()
                .find(|at| text.is_char_boundary(*at));
            text.truncate(end.unwrap_or_default());
        }
        self.shared
            .report_progress(&self.attempt, percent.clamp(0, 100), text);
    }

    /// Streams a part of the output, for example tokens, to whoever reads along. What was streamed is
    /// kept with the job; the result is still what the handler returns.
    ///
    /// Waits while more is on its way than the server has stored. What is streamed before the handler
    /// returns arrives before the result, also across a broken connection; once the attempt is no
    /// longer this worker's, it is dropped. A large part is sent in pieces.
    ///
    /// ```no_run
    /// use coretex::{Context, Job, JobFailure};
    ///
    /// async fn write(ctx: Context, _job: Job) -> Result<String, JobFailure> {
    ///     let mut text = String::new();
    ///     for token in ["once ", "upon ", "a time"] {
    ///         ctx.output(token).await;
    ///         text.push_str(token);
    ///     }
    ///     ctx.log("3 tokens").await;
    ///     Ok(text)
    /// }
    /// ```
    pub async fn output(&self, chunk: impl AsRef<[u8]> + Send) {
        for piece in chunk.as_ref().chunks(MAX_PIECE) {
            self.stream(OutputChannel::Output, piece).await;
        }
    }

    /// Streams a line of the log, with or without its end. Otherwise as [`output`](Self::output).
    pub async fn log(&self, line: impl AsRef<str> + Send) {
        let mut rest = line.as_ref();
        rest = rest.strip_suffix('\n').unwrap_or(rest);
        while rest.len() > MAX_PIECE {
            let end = (1..=MAX_PIECE).rev().find(|at| rest.is_char_boundary(*at));
            let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.stream(OutputChannel::Log, piece.as_bytes()).await;
            rest = after;
        }
        self.stream(OutputChannel::Log, rest.as_bytes()).await;
    }

    async fn stream(&self, channel: OutputChannel, piece: &[u8]) {
        let chunk = Bytes::copy_from_slice(piece);
        self.shared.stream(&self.attempt, channel, chunk).await;
    }

    /// Adds an artifact that belongs to the result, whether that is good or bad.
    pub fn add_artifact(&self, artifact_id: impl Into<String>) {
        self.attempt.artifact_ids.lock().push(artifact_id.into());
    }

    /// The W3C `traceparent` to continue; empty when there is none.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        &self.attempt.traceparent
    }

    /// Limits that policy puts on the work. The worker must keep them.
    #[must_use]
    pub fn constraints(&self) -> Option<&PolicyConstraints> {
        self.attempt.constraints.as_ref()
    }

    /// What workers may see of the configuration that was in force when the attempt was handed out, as
    /// a JSON object; `None` when that is nothing.
    #[must_use]
    pub fn config(&self) -> Option<serde_json::Value> {
        let config = self.attempt.config.as_ref()?;
        Some(serde_json::Value::Object(struct_to_json(config)))
    }

    /// Secrets for the job, by name. Do not log them.
    #[must_use]
    pub fn secrets(&self) -> &BTreeMap<String, String> {
        &self.attempt.secrets
    }

    /// A client with the worker's credential that continues the job's trace, for jobs that this one
    /// causes.
    #[must_use]
    pub fn client(&self) -> Client {
        match self.traceparent() {
            "" => self.shared.client.clone(),
            traceparent => self.shared.client.with_traceparent(traceparent),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
