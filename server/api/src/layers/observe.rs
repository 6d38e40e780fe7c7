//! The outermost of our own layers: gives the call its id and span, counts it, and cuts its streams
//! when the server stops.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use bytes::Bytes;
use coretex_core::time::IdGen;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Span;

use crate::call::Context;
use crate::methods::{Method, MethodTable, code_name};
use crate::problem::Problem;
use crate::status;

/// Names the call in requests, answers and logs.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken over from a caller.
const MAX_REQUEST_ID: usize = 128;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct ObserveLayer {
    pub(crate) methods: Arc<MethodTable>,
    pub(crate) ids: Arc<dyn IdGen>,
    /// Cancelled when streams have to end.
    pub(crate) cut: CancellationToken,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            layer: self.clone(),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = Arc::clone(self.layer.methods.get(request.uri().path()));
        let request_id = self.request_id(request.headers());
        let span = tracing::info_span!("call", method = method.name(), %request_id);
        request.extensions_mut().insert(Context {
            request_id: Arc::clone(&request_id),
            method: Arc::clone(&method),
            deadline: None,
            caller: None,
        });
        let _entered = span.enter();
        Observed {
            inner: Box::pin(self.inner.call(request)),
            request_id,
            cut: method.streams.then(|| self.layer.cut.clone()),
            record: Some(Record {
                method,
                start: Instant::now(),
                span: span.clone(),
                answered: false,
            }),
        }
    }
}

impl<S> Observe<S> {
    /// The caller's own request id, if it is one; else a new one.
    fn request_id(&self, headers: &HeaderMap) -> Arc<str> {
        let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let good = |id: &&str| {
            let byte =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(byte)
        };
        given.filter(good).map_or_else(
            || format!("{:032x}", self.layer.ids.random()).into(),
            Into::into,
        )
    }
}

/// Counts a call when it has ended, in whatever way: a dropped one was cancelled by its caller.
#[derive(Debug)]
struct Record {
    method: Arc<Method>,
    start: Instant,
    span: Span,
    answered: bool,
}

impl Record {
    /// The answer, or its beginning, is there.
    fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            self.method.took(self.start.elapsed().as_secs_f64());
        }
    }

    fn end(&mut self, code: Code) {
        self.answered();
        self.method.count(code);
        self.span.in_scope(|| {
            let milliseconds = self.start.elapsed().as_millis() as u64;
            tracing::debug!(code = code_name(code), milliseconds, "call ended");
        });
        // Nothing is left for `drop` to count.
        self.span = Span::none();
    }
}

/// The future of [`Observe`].
#[derive(Debug)]
pub(crate) struct Observed<F> {
    inner: Pin<Box<F>>,
    request_id: Arc<str>,
    cut: Option<CancellationToken>,
    record: Option<Record>,
}

impl<F> Drop for Observed<F> {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.end(Code::Cancelled);
        }
    }
}

impl<F> Future for Observed<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let span = self.record.as_ref().map(|record| record.span.clone());
        let _entered = span.as_ref().map(Span::enter);
        let Ok(mut response) = std::task::ready!(self.inner.as_mut().poll(cx));
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let Some(mut record) = self.record.take() else {
            return Poll::Ready(Ok(response));
        };
        // An answer without a message has its status in the headers.
        let failed = response.headers().get(Status::GRPC_STATUS);
        if let Some(code) = failed {
            record.end(Code::from_bytes(code.as_bytes()));
            return Poll::Ready(Ok(response));
        }
        let Some(cut) = self.cut.take() else {
            record.end(Code::Ok);
            return Poll::Ready(Ok(response));
        };
        record.answered();
        let request_id = Arc::clone(&self.request_id);
        Poll::Ready(Ok(response.map(|body| {
            Body::new(ObservedBody {
                inner: body,
                cut: Box::pin(cut.cancelled_owned()),
                request_id,
                record: Some(record),
                ended: false,
            })
        })))
    }
}

/// A stream of responses: counted when it ends, and ended when the server stops.
struct ObservedBody {
    inner: Body,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    request_id: Arc<str>,
    record: Option<Record>,
    ended: bool,
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.end(Code::Cancelled);
        }
    }
}

impl ObservedBody {
    fn end(&mut self, code: Code) {
        self.ended = true;
        if let Some(mut record) = self.record.take() {
            record.end(code);
        }
    }

    /// The end of a stream that did not end by itself in time.
    fn cut(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        let draining = Problem::Engine(coretex_engine::Error::Draining);
        let status = status::of(draining, Some(&self.request_id));
        self.end(status.code());
        let mut trailers = HeaderMap::with_capacity(3);
        Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        )
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let code = trailers.get(Status::GRPC_STATUS);
                    let code = code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
                    self.end(code);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(status))) => {
                self.end(status.code());
                Poll::Ready(Some(Err(status)))
            }
            Poll::Ready(None) => {
                self.end(Code::Ok);
                Poll::Ready(None)
            }
            Poll::Pending => match self.cut.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(self.cut()),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
