//! What workers and server say to each other in a session.
//!
//! Messages that a worker's library got wrong are refused, which ends the session. What the worker's
//! own code got wrong (an output that is too large, an error text without end) is not: the library
//! would only send it again. It fails the attempt, or is cut.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::id::{LeaseId, PoolName, TenantId, WorkerId};
use coretex_core::job::output::{Channel, Chunk, MAX_CHUNK};
use coretex_core::job::transition::Outcome;
use coretex_core::job::{ErrorSource, Job, JobError};
use coretex_engine::{AttemptRef, FromWorker, Hello, Limits, MAX_LABELS, ToWorker, Welcome};
use coretex_proto::v1;
use coretex_proto::v1::open_session_request::Message as Request;
use coretex_proto::v1::open_session_response::Message as Response;

use super::job::{self, View};
use super::{count, duration, output, payload, policy, submit, time, worker};
use crate::problem::{Problem, Result};
use crate::status::shorten;
use crate::validate::{Fields, MAX_LIST, MAX_NAME, MAX_TEXT, MAX_TIMEOUT, check};

/// The code of an attempt whose output cannot be kept.
const RESULT_INVALID: &str = "result_invalid";
/// The code of a failure that its worker did not name.
const UNNAMED_FAILURE: &str = "failed";
/// The pool of workers that name none.
const DEFAULT_POOL: &str = "default";
/// The most topics of one worker.
const MAX_TOPICS: usize = 256;
/// The version of the session protocol.
const PROTOCOL_VERSION: i32 = 1;
/// The longest text of an error of a worker.
const MAX_ERROR_TEXT: usize = 16 * 1024;

/// Reads the first message of a session.
///
/// # Errors
/// It is not `hello`, of a version that is not spoken, or its fields are wrong.
pub(crate) fn hello(message: v1::OpenSessionRequest, limits: &Limits) -> Result<Hello> {
    let Some(Request::Hello(hello)) = message.message else {
        return Err(Problem::HelloExpected);
    };
    let version = hello.protocol_version;
    if version != 0 && version != PROTOCOL_VERSION {
        return Err(Problem::ProtocolVersion { version });
    }
    check(|fields| fields.within("hello", |fields| read_hello(fields, *hello, limits)))
}

fn read_hello(fields: &mut Fields, hello: v1::WorkerHello, limits: &Limits) -> Hello {
    let max_parallel_jobs = fields.count(
        "max_parallel_jobs",
        hello.max_parallel_jobs,
        limits.max_parallel_jobs,
    );
    let running = hello.running;
    let most = limits.max_parallel_jobs as usize;
    let running = if fields.at_most("running", running.len(), most) {
        let read = |(index, attempt): (usize, v1::AttemptRef)| {
            fields.within(&format!("running[{index}]"), |fields| {
                let v1::AttemptRef {
                    tenant_id,
                    job_id,
                    attempt,
                    lease_id,
                } = attempt;
                attempt_ref(fields, &tenant_id, &job_id, attempt, &lease_id)
            })
        };
        running.into_iter().enumerate().map(read).collect()
    } else {
        Vec::new()
    };
    Hello {
        worker_id: fields.optional_id("worker_id", &hello.worker_id, WorkerId::parse),
        pool: fields
            .optional_id("pool", &hello.pool, PoolName::parse)
            .unwrap_or_else(|| PoolName::from_trusted(DEFAULT_POOL)),
        topics: submit::topics(fields, "topics", &hello.topics, MAX_TOPICS),
        capabilities: fields
            .lines("capabilities", hello.capabilities)
            .into_iter()
            .collect(),
        labels: fields.labels("labels", hello.labels),
        max_parallel_jobs: max_parallel_jobs.max(1),
        sdk: worker::sdk(fields, hello.sdk),
        // What is not spoken was refused; 0 means the first.
        protocol_version: PROTOCOL_VERSION.unsigned_abs(),
        running,
    }
}

/// Reads a later message of a session.
///
/// # Errors
/// It breaks the rules of the session, or asks for what is not built.
pub(crate) fn message(message: v1::OpenSessionRequest, limits: &Limits) -> Result<FromWorker> {
    let Some(message) = message.message else {
        return violation("", "must hold a message that this server knows");
    };
    let read = match message {
        Request::Hello(_) => return Err(Problem::HelloExpected),
        Request::Output(output) => {
            check(|fields| fields.within("output", |fields| read_output(fields, output)))
        }
        Request::Heartbeat(heartbeat) => check(|fields| FromWorker::Heartbeat {
            active_jobs: fields.count("heartbeat.active_jobs", heartbeat.active_jobs, u32::MAX),
            cpu_load: heartbeat.cpu_load,
            gpu_utilization: heartbeat.gpu_utilization,
        }),
        Request::Started(started) => {
            let v1::WorkerStarted {
                tenant_id: tenant,
                job_id: job,
                attempt,
                lease_id: lease,
            } = started;
            check(|fields| {
                fields.within("started", |fields| {
                    FromWorker::Started(attempt_ref(fields, &tenant, &job, attempt, &lease))
                })
            })
        }
        Request::Progress(progress) => {
            check(|fields| fields.within("progress", |fields| read_progress(fields, progress)))
        }
        Request::Result(result) => {
            check(|fields| fields.within("result", |fields| read_result(fields, *result, limits)))
        }
        Request::Reject(reject) => {
            check(|fields| fields.within("reject", |fields| read_reject(fields, &reject)))
        }
        Request::Capacity(capacity) => {
            let most = limits.max_parallel_jobs;
            check(|fields| FromWorker::Capacity {
                max_parallel_jobs: fields.count(
                    "capacity.max_parallel_jobs",
                    capacity.max_parallel_jobs,
                    most,
                ),
            })
        }
        Request::Drain(v1::WorkerDrain {}) => Ok(FromWorker::Drain),
    };
    read.map_err(in_session)
}

/// In a session, a wrong field is a broken rule of the protocol.
fn in_session(problem: Problem) -> Problem {
    match problem {
        Problem::Engine(coretex_engine::Error::Invalid(violations)) => {
            Problem::SessionMessage(violations)
        }
        other => other,
    }
}

fn violation<T>(field: &str, rule: &str) -> Result<T> {
    let violation = coretex_engine::Violation::new(field, rule);
    Err(Problem::SessionMessage(vec![violation]))
}

/// Reads which attempt a message is about.
fn attempt_ref(
    fields: &mut Fields,
    tenant_id: &str,
    job_id: &str,
    attempt: i32,
    lease_id: &str,
) -> AttemptRef {
    let lease = LeaseId::parse(lease_id);
    if lease.is_none() {
        fields.refuse("lease_id", "must be 32 hex characters");
    }
    AttemptRef {
        tenant: fields.id(
            "tenant_id",
            tenant_id,
            TenantId::parse,
            TenantId::from_trusted,
        ),
        job_id: fields.job("job_id", job_id),
        attempt: fields.count("attempt", attempt, u32::MAX),
        lease_id: lease.unwrap_or(LeaseId::new(0)),
    }
}

fn read_progress(fields: &mut Fields, progress: v1::WorkerProgress) -> FromWorker {
    let v1::WorkerProgress {
        tenant_id: tenant,
        job_id: job,
        attempt,
        lease_id: lease,
        percent,
        message,
    } = progress;
    let percent = fields.count("percent", percent, 100);
    FromWorker::Progress {
        attempt: attempt_ref(fields, &tenant, &job, attempt, &lease),
        percent: u8::try_from(percent).unwrap_or(100),
        message: shorten(&message, MAX_TEXT).to_owned(),
    }
}

fn read_output(fields: &mut Fields, output: v1::WorkerOutput) -> FromWorker {
    let v1::WorkerOutput {
        tenant_id: tenant,
        job_id: job,
        attempt,
        lease_id: lease,
        sequence,
        channel,
        chunk,
        time,
    } = output;
    let named = fields.value::<v1::OutputChannel>("channel", channel);
    let channel = named.and_then(output::channel).unwrap_or_else(|| {
        fields.refuse_once("channel", "must be OUTPUT or LOG");
        Channel::Log
    });
    if sequence == 0 {
        fields.refuse("sequence", "must be at least 1");
    }
    if chunk.len() > MAX_CHUNK {
        fields.refuse("chunk", format!("must be at most {MAX_CHUNK} bytes"));
    }
    FromWorker::Output {
        attempt: attempt_ref(fields, &tenant, &job, attempt, &lease),
        chunk: Chunk {
            channel,
            sequence: fields.count("sequence", sequence, i32::MAX.unsigned_abs()),
            // The engine knows when it has arrived.
            time: fields.time("time", time).unwrap_or_default(),
            // A copy: what was received holds on to the buffer of the connection.
            data: Bytes::copy_from_slice(&chunk),
        },
    }
}

fn read_reject(fields: &mut Fields, reject: &v1::WorkerReject) -> FromWorker {
    FromWorker::Reject {
        attempt: attempt_ref(
            fields,
            &reject.tenant_id,
            &reject.job_id,
            reject.attempt,
            &reject.lease_id,
        ),
        reason: shorten(&reject.reason, MAX_TEXT).to_owned(),
    }
}

fn read_result(fields: &mut Fields, result: v1::WorkerResult, limits: &Limits) -> FromWorker {
    let v1::WorkerResult {
        tenant_id: tenant,
        job_id: job,
        attempt,
        lease_id: lease,
        status,
        output,
        error,
        execution_duration,
        artifact_ids,
    } = result;
    let outcome = match fields.value::<v1::JobState>("status", status) {
        Some(v1::JobState::Succeeded) => succeeded(output, limits),
        Some(v1::JobState::Failed) => Outcome::Failed {
            error: worker_error(&error.unwrap_or_default()),
        },
        Some(v1::JobState::Cancelled) => Outcome::Cancelled,
        Some(_) | None => {
            fields.refuse_once("status", "must be SUCCEEDED, FAILED or CANCELLED");
            Outcome::Cancelled
        }
    };
    let ran = Duration::ZERO..=MAX_TIMEOUT;
    FromWorker::Result {
        attempt: attempt_ref(fields, &tenant, &job, attempt, &lease),
        outcome,
        execution_duration: fields.duration("execution_duration", execution_duration, &ran),
        artifact_ids: fields.lines("artifact_ids", artifact_ids),
    }
}

/// A success, unless its output cannot be kept.
fn succeeded(output: Option<v1::Payload>, limits: &Limits) -> Outcome {
    let read = check(|fields| payload::read(fields, "output", output, limits.max_payload_bytes));
    match read {
        Ok(output) => Outcome::Succeeded { output },
        Err(problem) => Outcome::Failed {
            error: JobError::platform(RESULT_INVALID, output_problem(problem)),
        },
    }
}

/// Why an output cannot be kept, for people.
fn output_problem(problem: Problem) -> String {
    match problem {
        Problem::PayloadTooLarge { field, limit_bytes } => {
            format!("{field} must be at most {limit_bytes} bytes")
        }
        Problem::NotAvailable { fields } => {
            format!("not available on this server: {}", fields.join(", "))
        }
        Problem::Engine(coretex_engine::Error::Invalid(violations)) => violations
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect::<Vec<_>>()
            .join("; "),
        _ => "output cannot be kept".to_owned(),
    }
}

/// An error in the worker's own words, cut to what a job can keep.
fn worker_error(error: &v1::JobError) -> JobError {
    let code = if error.code.is_empty() {
        UNNAMED_FAILURE
    } else {
        shorten(&error.code, MAX_NAME)
    };
    let metadata: BTreeMap<String, String> = error
        .metadata
        .iter()
        .take(MAX_LIST.min(MAX_LABELS))
        .map(|(key, value)| {
            let key = shorten(key, MAX_NAME).to_owned();
            (key, shorten(value, MAX_TEXT).to_owned())
        })
        .collect();
    JobError {
        code: code.to_owned(),
        message: shorten(&error.message, MAX_ERROR_TEXT).to_owned(),
        metadata,
        source: ErrorSource::Worker,
    }
}

/// Writes the first message of the server.
pub(crate) fn welcome(welcome: &Welcome) -> v1::OpenSessionResponse {
    respond(Response::Welcome(v1::ServerWelcome {
        worker_id: welcome.worker_id.to_string(),
        session_id: welcome.session_id.to_string(),
        heartbeat_interval: Some(duration(welcome.heartbeat_interval)),
        adoption_window: Some(duration(welcome.adoption_window)),
        kept: welcome.kept.iter().map(write_ref).collect(),
        revoked: welcome.revoked.iter().map(write_ref).collect(),
    }))
}

/// Writes a later message of the server.
pub(crate) fn write(message: ToWorker) -> v1::OpenSessionResponse {
    respond(match message {
        ToWorker::Assignment {
            job,
            attempt,
            valid_for,
            time_limit,
            config,
            weight: _,
        } => {
            let mut assignment = assignment(&job, &attempt, valid_for, time_limit);
            assignment.config = super::config::visible(&config);
            Response::Assignment(Box::new(assignment))
        }
        ToWorker::StartConfirmed(attempt) => {
            let (tenant_id, job_id, attempt, lease_id) = parts(&attempt);
            Response::StartConfirmed(v1::ServerStartConfirmed {
                tenant_id,
                job_id,
                attempt,
                lease_id,
            })
        }
        ToWorker::Cancel {
            attempt,
            reason,
            grace,
        } => {
            let (tenant_id, job_id, attempt, lease_id) = parts(&attempt);
            Response::Cancel(v1::ServerCancel {
                tenant_id,
                job_id,
                attempt,
                lease_id,
                reason,
                grace: Some(duration(grace)),
            })
        }
        ToWorker::Revoke { attempt, reason } => {
            let (tenant_id, job_id, attempt, lease_id) = parts(&attempt);
            Response::Revoke(v1::ServerRevoke {
                tenant_id,
                job_id,
                attempt,
                lease_id,
                reason,
            })
        }
        ToWorker::ResultAck { attempt, applied } => {
            let (tenant_id, job_id, attempt, lease_id) = parts(&attempt);
            Response::ResultAck(v1::ServerResultAck {
                tenant_id,
                job_id,
                attempt,
                lease_id,
                applied,
            })
        }
        ToWorker::OutputAck {
            attempt,
            channel,
            sequence,
            resend,
        } => {
            let (tenant_id, job_id, attempt, lease_id) = parts(&attempt);
            Response::OutputAck(v1::ServerOutputAck {
                tenant_id,
                job_id,
                attempt,
                lease_id,
                sequence: count(sequence),
                channel: output::write_channel(channel).into(),
                resend,
            })
        }
        ToWorker::Drain { deadline } => Response::Drain(v1::ServerDrain {
            deadline: Some(time(deadline)),
        }),
    })
}

fn respond(message: Response) -> v1::OpenSessionResponse {
    v1::OpenSessionResponse {
        message: Some(message),
    }
}

fn assignment(
    job: &Job,
    attempt: &AttemptRef,
    valid_for: Duration,
    time_limit: Duration,
) -> v1::ServerAssignment {
    let constraints = job
        .decision
        .as_ref()
        .and_then(|decision| decision.constraints.as_ref());
    v1::ServerAssignment {
        job: Some(job::write(job, View::Full)),
        attempt: count(attempt.attempt),
        lease_id: attempt.lease_id.to_string(),
        valid_for: Some(duration(valid_for)),
        constraints: constraints.map(policy::constraints),
        config: None,
        secrets: BTreeMap::new(),
        traceparent: traceparent(&job.trace_id, attempt.attempt),
        time_limit: Some(duration(time_limit)),
    }
}

/// The parent that a worker's own spans continue. The span of an attempt needs no storage: its id
/// follows from trace and number.
fn traceparent(trace_id: &str, attempt: u32) -> String {
    let Some(Ok(low)) = trace_id.get(16..32).map(|low| u64::from_str_radix(low, 16)) else {
        return String::new();
    };
    let span = (low ^ u64::from(attempt)).max(1);
    format!("00-{trace_id}-{span:016x}-01")
}

fn parts(attempt: &AttemptRef) -> (String, String, i32, String) {
    (
        attempt.tenant.to_string(),
        attempt.job_id.to_string(),
        count(attempt.attempt),
        attempt.lease_id.to_string(),
    )
}

fn write_ref(attempt: &AttemptRef) -> v1::AttemptRef {
    let (tenant_id, job_id, attempt, lease_id) = parts(attempt);
    v1::AttemptRef {
        tenant_id,
        job_id,
        attempt,
        lease_id,
    }
}

#[cfg(test)]
mod tests;
