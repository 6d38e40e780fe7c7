//! One call: who makes it, until when it may take, and how its result becomes an answer.
//!
//! The layers put a [`Context`] into the request; handlers take it out as a [`Call`].

use std::sync::Arc;
use std::time::Duration;

use coretex_engine::Caller;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::methods::Method;
use crate::problem::{Problem, Result};
use crate::status;

/// How long before the caller's deadline a wait is answered, so that the answer arrives in time.
const DEADLINE_MARGIN: Duration = Duration::from_millis(200);

/// What the layers found out about a request.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Finds the call in logs.
    pub(crate) request_id: Arc<str>,
    /// The RPC.
    pub(crate) method: Arc<Method>,
    /// When the caller stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// Who calls; set once the credential was checked.
    pub(crate) caller: Option<Arc<Caller>>,
}

/// A call that was let in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Who calls.
    pub(crate) caller: Arc<Caller>,
    /// Finds the call in logs.
    pub(crate) request_id: Arc<str>,
    deadline: Option<Instant>,
    metadata: MetadataMap,
}

impl Call {
    fn open<Q>(request: Request<Q>) -> std::result::Result<(Self, Q), Status> {
        let (metadata, mut extensions, message) = request.into_parts();
        let context = extensions.remove::<Context>();
        let Some(context) = context else {
            return Err(status::of(Problem::LayersMissing, None));
        };
        let Some(caller) = context.caller else {
            let request_id = Some(&*context.request_id);
            return Err(status::of(Problem::LayersMissing, request_id));
        };
        let call = Self {
            caller,
            request_id: context.request_id,
            deadline: context.deadline,
            metadata,
        };
        Ok((call, message))
    }

    /// How long to wait for something, so that the answer comes before the caller's own deadline.
    pub(crate) fn wait(&self, asked: Duration) -> Duration {
        let Some(deadline) = self.deadline else {
            return asked;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // A short deadline is shared between waiting and answering.
        asked.min(left.saturating_sub(DEADLINE_MARGIN.min(left / 2)))
    }

    /// The trace that the caller wants the call to belong to; empty when it names none.
    pub(crate) fn trace_id(&self) -> &str {
        let header = self.metadata.get("traceparent");
        let text = header.and_then(|value| value.to_str().ok());
        text.and_then(trace_id).unwrap_or_default()
    }

    /// The status of `problem` for this call.
    pub(crate) fn status(&self, problem: Problem) -> Status {
        status::of(problem, Some(&self.request_id))
    }
}

/// The trace id of a W3C `traceparent`, if it is one.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let good = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16);
    (good && !zero(trace) && !zero(span)).then_some(trace)
}

/// Runs a handler whose request is one message, or a stream of them, and wraps what comes of it.
pub(crate) async fn answer<Q, A, F>(
    request: Request<Q>,
    handle: impl FnOnce(Call, Q) -> F,
) -> std::result::Result<Response<A>, Status>
where
    F: Future<Output = Result<A>>,
{
    let (call, message) = Call::open(request)?;
    let request_id = Arc::clone(&call.request_id);
    match handle(call, message).await {
        Ok(answer) => Ok(Response::new(answer)),
        Err(problem) => Err(status::of(problem, Some(&request_id))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coretex_core::id::TenantId;

    use super::*;

    fn call(deadline: Option<Duration>) -> Call {
        Call {
            caller: Arc::new(Caller {
                principal_id: "dev".to_owned(),
                tenant: TenantId::from_trusted("default"),
                team_ids: BTreeSet::new(),
                roles: BTreeSet::new(),
                tenants_served: BTreeSet::new(),
                system: false,
            }),
            request_id: "r".into(),
            deadline: deadline.map(|after| Instant::now() + after),
            metadata: MetadataMap::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_end_before_the_callers_deadline() {
        let wait = |deadline: Option<u64>, asked: u64| {
            let call = call(deadline.map(Duration::from_millis));
            call.wait(Duration::from_millis(asked)).as_millis()
        };
        assert_eq!(wait(None, 60_000), 60_000);
        assert_eq!(wait(Some(10_000), 60_000), 9_800);
        assert_eq!(wait(Some(10_000), 5_000), 5_000);
        assert_eq!(wait(Some(100), 60_000), 50);
        assert_eq!(wait(Some(0), 60_000), 0);
    }

    #[test]
    fn only_well_formed_trace_parents_are_joined() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&good), Some(trace));
        for bad in [
            "",
            "00-4bf92f-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
