//! Bounds what requests on their way in hold in memory: all of them together, and for how long one
//! may be on its way.
//!
//! The limit of one message does not bound many that are never finished. Sessions are not counted:
//! they read one message at a time, for as long as they last.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use coretex_engine::Error;
use http::Request;
use http_body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use crate::call::Context;
use crate::options::ApiOptions;
use crate::problem::Problem;
use crate::status;

/// The pause after which there may be room again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What all requests on their way in may hold.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    held: Arc<AtomicUsize>,
    max_bytes: usize,
    patience: Duration,
}

impl Intake {
    pub(crate) fn new(options: &ApiOptions) -> Self {
        Self {
            held: Arc::default(),
            max_bytes: options.max_intake_bytes,
            patience: options.intake_timeout,
        }
    }

    /// Counts what the request brings while it is read.
    pub(crate) fn watch(&self, request: Request<Body>) -> Request<Body> {
        let context = request.extensions().get::<Context>();
        let Some(context) = context.filter(|context| !context.method.client_streams) else {
            return request;
        };
        let request_id = Arc::clone(&context.request_id);
        request.map(|body| {
            Body::new(Incoming {
                inner: body,
                intake: self.clone(),
                request_id,
                taken: 0,
                patience: None,
            })
        })
    }
}

/// The body of one request.
struct Incoming {
    inner: Body,
    intake: Intake,
    request_id: Arc<str>,
    taken: usize,
    /// Runs from the first time that something is awaited.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.intake.held.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

impl Incoming {
    /// Whether there is room for `bytes` more.
    fn take(&mut self, bytes: usize) -> bool {
        self.taken += bytes;
        let before = self.intake.held.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= self.intake.max_bytes
    }

    fn refuse(&self, problem: Problem) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(Some(Err(status::of(problem, Some(&self.request_id)))))
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if self.take(bytes) {
                    return Poll::Ready(Some(Ok(frame)));
                }
                let retry_after = RETRY_AFTER;
                self.refuse(Error::Overloaded { retry_after }.into())
            }
            Poll::Pending => {
                let whole = self.intake.patience;
                let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(whole)));
                if patience.as_mut().poll(cx).is_ready() {
                    return self.refuse(Problem::DeadlinePassed);
                }
                Poll::Pending
            }
            other @ Poll::Ready(Some(Err(_)) | None) => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
