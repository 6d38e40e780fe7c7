//! How one call is made: deadline, credential, repetition, decoding of its error.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::Client;
use crate::Error;
use crate::backoff::Backoff;

/// Pauses between repetitions: short at first, because most trouble is a reconnect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether the contract says that sending this RPC twice does no harm. Requests that need an
/// idempotency key for that have been given one before they get here.
fn repeatable(path: &str) -> bool {
    // Looked up after a failure only: decoding the descriptors costs milliseconds, once.
    coretex_proto::methods::methods()
        .get(path)
        .is_some_and(|method| method.idempotency.repeatable())
}

impl Client {
    /// Opens a stream of answers. No deadline travels along: the stream is to last. Only its
    /// beginning must not take too long.
    pub(super) async fn open_stream<Req, Resp, Fut>(
        &self,
        request: Req,
        open: impl FnOnce(Channel, Request<Req>) -> Fut,
    ) -> Result<Resp, Error>
    where
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let (channel, server) = self.shared.transport.channel();
        let opening = open(channel, self.prepare(request, None));
        match tokio::time::timeout(self.deadline(), opening).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from(status).at_server(server)),
            Err(_) => Err(Error::deadline(self.deadline())),
        }
    }

    /// Makes a unary call: sends it, repeats it where that is safe and may help, until `limit`.
    pub(super) async fn call<Req, Resp, F, Fut>(
        &self,
        path: &'static str,
        limit: Duration,
        request: Req,
        send: F,
    ) -> Result<Resp, Error>
    where
        Req: Clone,
        F: Fn(Channel, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let deadline = Instant::now() + limit;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut attempt = 1;
        loop {
            let (channel, server) = self.shared.transport.channel();
            let prepared = self.prepare(request.clone(), Some(deadline));
            // Boxed, or every future that makes a call would be many kilobytes large.
            let sending = Box::pin(send(channel, prepared));
            let error = match timeout_at(deadline, sending).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Error::from(status).at_server(server),
                Err(_) => return Err(Error::deadline(limit)),
            };
            if attempt >= self.options.attempts || !error.is_retryable() || !repeatable(path) {
                return Err(error);
            }
            let pause = backoff
                .next(self.shared.entropy.fraction())
                .max(error.retry_after().unwrap_or_default());
            if Instant::now() + pause >= deadline {
                // Waiting would only turn a clear error into "deadline exceeded".
                return Err(error);
            }
            tracing::debug!(path, attempt, ?pause, %error, "repeating a call");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// Adds to a request what every call carries.
    pub(super) fn prepare<Req>(&self, message: Req, deadline: Option<Instant>) -> Request<Req> {
        let mut request = Request::new(message);
        self.shared.transport.authorize(request.metadata_mut());
        if let Some(traceparent) = &self.options.traceparent {
            request
                .metadata_mut()
                .insert("traceparent", traceparent.clone());
        }
        if let Some(deadline) = deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        request
    }

    pub(super) fn deadline(&self) -> Duration {
        self.options.deadline
    }
}

/// Writes the methods of a client that are one unary RPC each.
macro_rules! unary {
    ($($(#[$meta:meta])* $service:ident :: $name:ident ($path:literal, $request:ident) -> $response:ident;)+) => {
        impl $crate::Client {
            $(
                $(#[$meta])*
                ///
                /// # Errors
                /// What the contract names for the RPC, and local errors when no answer comes.
                pub async fn $name(
                    &self,
                    request: coretex_proto::v1::$request,
                ) -> Result<coretex_proto::v1::$response, $crate::Error> {
                    self.call($path, self.deadline(), request, |channel, request| async move {
                        $service::new(channel).$name(request).await
                    })
                    .await
                }
            )+
        }
    };
}
pub(super) use unary;
