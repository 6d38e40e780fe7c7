//! Honours the caller's deadline: handlers learn of it, and nothing runs on after it.

use std::convert::Infallible;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt};
use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tower::{Layer, Service};

use super::refusal;
use crate::call::Context;
use crate::problem::Problem;

/// How much earlier than the caller we give up, so that it hears why.
const MARGIN: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(left) = timeout(request.headers()) else {
            return Either::Left(self.inner.call(request));
        };
        let now = Instant::now();
        // A deadline too far away to be represented is none.
        let Some(deadline) = now.checked_add(left) else {
            return Either::Left(self.inner.call(request));
        };
        let (mut read_only, mut request_id) = (true, None);
        if let Some(context) = request.extensions_mut().get_mut::<Context>() {
            context.deadline = Some(deadline);
            read_only = context.method.read_only;
            request_id = Some(context.request_id.clone());
        }
        if left.is_zero() {
            let refused = refusal(Problem::DeadlinePassed, request_id.as_deref());
            return Either::Right(async { Ok(refused) }.boxed());
        }
        let give_up = now + left.saturating_sub(MARGIN.min(left / 4));
        let inner = self.inner.call(request);
        let limited = async move {
            if let Ok(response) = timeout_at(give_up, inner).await {
                return response;
            }
            let problem = if read_only {
                Problem::DeadlinePassed
            } else {
                Problem::DeadlinePassedMidway
            };
            Ok(refusal(problem, request_id.as_deref()))
        };
        Either::Right(limited.boxed())
    }
}

/// The time the caller gives, if it says: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use http::HeaderValue;
    use tonic::Status;
    use tonic_types::StatusExt;
    use tower::ServiceExt;
    use tower::util::service_fn;

    use super::*;
    use crate::methods::MethodTable;

    fn read(text: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_static(text));
        timeout(&headers)
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(read("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("6n"), Some(Duration::from_nanos(6)));
        for bad in ["", "S", "1", "1s", "-1S", "123456789m", "1 S", "+1S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    /// What a call that takes for ever is answered with.
    async fn reason(method: &str, timeout: &'static str) -> String {
        let stuck = service_fn(|_| std::future::pending());
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(Context {
            request_id: "r".into(),
            method: Arc::clone(MethodTable::new().get(method)),
            deadline: None,
            caller: None,
        });
        let headers = request.headers_mut();
        headers.insert("grpc-timeout", HeaderValue::from_static(timeout));
        let response = DeadlineLayer.layer(stuck).oneshot(request).await;
        let Ok(response) = response;
        let status = Status::from_header_map(response.headers()).unwrap();
        status
            .get_error_details()
            .error_info()
            .unwrap()
            .reason
            .clone()
    }

    #[tokio::test(start_paused = true)]
    async fn only_reads_are_sure_to_have_changed_nothing() {
        let (read, write) = (
            "/coretex.v1.JobService/GetJob",
            "/coretex.v1.JobService/SubmitJob",
        );
        let start = Instant::now();
        assert_eq!(reason(read, "1S").await, "DEADLINE_PASSED");
        // The caller hears why before it gives up itself.
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(reason(write, "1S").await, "OUTCOME_UNKNOWN");
        // Nothing was begun.
        assert_eq!(reason(write, "0n").await, "DEADLINE_PASSED");
    }
}
