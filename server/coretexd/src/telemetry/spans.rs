//! A job that has ended, as the spans of its trace.
//!
//! The record knows everything: when the job was accepted, handed out, started and ended, and by
//! whom. Spans are made from it once, at the end, so a trace costs nothing while a job runs,
//! survives restarts of the server, and costs nothing at all when nobody collects traces.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use coretex_core::job::history::{AttemptEnd, AttemptRecord};
use coretex_core::job::{Job, JobState};
use coretex_core::time::Timestamp;
use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// The trace of a job; `None` when its id is none (a caller may send what it likes).
pub(super) fn trace_of(job: &Job) -> Option<TraceId> {
    TraceId::from_hex(&job.trace_id)
        .ok()
        .filter(|id| *id != TraceId::INVALID)
}

/// The span of an attempt, which workers continue: the id that the API puts into `traceparent`.
pub(super) fn span_of(trace: TraceId, attempt: &AttemptRecord) -> SpanId {
    let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
    let low = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    SpanId::from((low ^ u64::from(attempt.attempt)).max(1))
}

/// The span of the whole job as `root`, and one for each attempt below it.
pub(super) fn spans_of(job: &Job, trace: TraceId, root: SpanId) -> Vec<SpanData> {
    let mut spans = Vec::with_capacity(1 + job.attempts.iter().len());
    let end = job.end_time.unwrap_or(job.update_time);
    for attempt in job.attempts.iter() {
        spans.push(attempt_span(job, attempt, trace, root, end));
    }
    let text = |key: &'static str, value: &str| KeyValue::new(key, value.to_owned());
    let mut attributes = vec![
        text("coretex.job_id", job.id.as_str()),
        text("coretex.tenant_id", job.tenant.as_str()),
        text("coretex.topic", job.spec.topic.as_str()),
        text("coretex.principal_id", &job.principal_id),
        KeyValue::new("coretex.attempts", i64::from(job.attempt)),
    ];
    if let Some(error) = &job.error {
        attributes.push(text("error.type", &error.code));
    }
    let events = job.events.iter().map(|event| {
        let attributes = vec![KeyValue::new("coretex.attempt", i64::from(event.attempt))];
        Event::new(event.kind.name(), at(event.time), attributes, 0)
    });
    let mut told = SpanEvents::default();
    told.events = events.collect();
    told.dropped_count = job.events.dropped();
    spans.push(SpanData {
        name: Cow::Owned(format!("job {}", job.spec.topic)),
        span_kind: SpanKind::Producer,
        events: told,
        status: match job.state {
            JobState::Succeeded => Status::Ok,
            _ => failed(job.error.as_ref().map(|error| error.code.as_str())),
        },
        ..span(
            trace,
            root,
            SpanId::INVALID,
            job.create_time,
            end,
            attributes,
        )
    });
    spans
}

fn attempt_span(
    job: &Job,
    attempt: &AttemptRecord,
    trace: TraceId,
    root: SpanId,
    job_end: Timestamp,
) -> SpanData {
    let text = |key: &'static str, value: &str| KeyValue::new(key, value.to_owned());
    let mut attributes = vec![
        text("coretex.worker_id", attempt.worker_id.as_str()),
        text("coretex.pool", attempt.pool.as_str()),
        KeyValue::new("coretex.attempt", i64::from(attempt.attempt)),
    ];
    let code = attempt.error.as_ref().map(|error| error.code.as_str());
    if let Some(code) = code {
        attributes.push(text("error.type", code));
    }
    let mut events = SpanEvents::default();
    if let Some(start) = attempt.start_time {
        events
            .events
            .push(Event::new("started", at(start), Vec::new(), 0));
    }
    SpanData {
        name: Cow::Owned(format!("attempt {}", job.spec.topic)),
        span_kind: SpanKind::Consumer,
        events,
        status: match attempt.end {
            Some(AttemptEnd::Succeeded) => Status::Ok,
            Some(AttemptEnd::Returned) => Status::Unset,
            Some(AttemptEnd::Failed) => failed(code),
            Some(AttemptEnd::Cancelled) => failed(Some("cancelled")),
            Some(AttemptEnd::TimedOut) => failed(Some("timeout")),
            Some(AttemptEnd::Lost) => failed(Some("worker_lost")),
            None => Status::Unset,
        },
        ..span(
            trace,
            span_of(trace, attempt),
            root,
            attempt.dispatch_time,
            attempt.end_time.unwrap_or(job_end),
            attributes,
        )
    }
}

fn failed(code: Option<&str>) -> Status {
    Status::error(code.unwrap_or_default().to_owned())
}

fn span(
    trace: TraceId,
    id: SpanId,
    parent: SpanId,
    start: Timestamp,
    end: Timestamp,
    attributes: Vec<KeyValue>,
) -> SpanData {
    let flags = TraceFlags::SAMPLED;
    SpanData {
        span_context: SpanContext::new(trace, id, flags, false, TraceState::default()),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: Cow::Borrowed(""),
        start_time: at(start),
        end_time: at(end.max(start)),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("coretexd")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn at(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(time.as_micros())
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
pub(super) mod tests {
    use super::*;

    /// A record as the store keeps it: one attempt that failed, one that succeeded.
    pub(in crate::telemetry) fn job() -> Job {
        serde_json::from_value(serde_json::json!({
            "id": "j1", "tenant": "t1", "principal_id": "key:k",
            "spec": {
                "topic": "job.wc", "max_redispatch": 3,
                "timeout": {"secs": 60, "nanos": 0},
                "schedule_to_start_timeout": {"secs": 60, "nanos": 0}
            },
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "fingerprint": [],
            "state": "Succeeded",
            "create_time": 1_000_000, "update_time": 5_000_000, "eligible_time": 1_000_000,
            "end_time": 5_000_000, "attempt": 2,
            "events": {"items": [
                {"sequence": 1, "time": 1_000_000, "kind": "Submitted", "from": null, "to": "Pending"}
            ]},
            "attempts": {"items": [
                {"attempt": 1, "lease_id": 7, "worker_id": "w1", "pool": "p",
                 "dispatch_time": 2_000_000, "start_time": 2_100_000, "end_time": 3_000_000,
                 "end": "Failed", "error": {"code": "oops", "message": "m", "source": "Worker"}},
                {"attempt": 2, "lease_id": 8, "worker_id": "w2", "pool": "p",
                 "dispatch_time": 4_000_000, "end_time": 5_000_000, "end": "Succeeded"}
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn a_job_is_a_span_with_one_below_it_for_each_attempt() {
        let job = job();
        let trace = trace_of(&job).unwrap();
        let root = SpanId::from(99);
        let spans = spans_of(&job, trace, root);
        let [first, second, whole] = spans.as_slice() else {
            panic!("{} spans", spans.len());
        };
        assert_eq!(whole.name, "job job.wc");
        assert_eq!(whole.parent_span_id, SpanId::INVALID);
        assert_eq!(whole.span_context.span_id(), root);
        assert_eq!(whole.status, Status::Ok);
        assert_eq!(whole.start_time, at(Timestamp::from_micros(1_000_000)));
        assert_eq!(whole.end_time, at(Timestamp::from_micros(5_000_000)));
        assert_eq!(whole.events[0].name, "submitted");
        assert_eq!(first.status, Status::error("oops"));
        assert_eq!(second.status, Status::Ok);
        for attempt in [first, second] {
            assert_eq!(attempt.parent_span_id, root);
            assert_eq!(attempt.span_context.trace_id(), trace);
            assert!(attempt.span_context.is_sampled());
        }
        // What the worker of the second attempt was told to continue.
        assert_eq!(
            second.span_context.span_id().to_string(),
            format!("{:016x}", 0x8448_eb21_1c80_319c_u64 ^ 2)
        );
    }

    #[test]
    fn a_trace_id_that_is_none_makes_no_trace() {
        for bad in ["", "xyz", "00000000000000000000000000000000"] {
            let job = Job {
                trace_id: bad.to_owned(),
                ..job()
            };
            assert_eq!(trace_of(&job), None, "{bad}");
        }
    }
}
