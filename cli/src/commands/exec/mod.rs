//! `coretexctl worker exec`: any program as a worker.
//!
//! Here a worker of the library is described and a job becomes a run of the program. `program`
//! finds the program, `child` runs it once, `lines` reads what it says, `result` makes of its end
//! what the server is told.

mod child;
mod lines;
mod program;
mod result;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coretex::{Context, Job, JobFailure, Output, Payload, PayloadExt, Worker};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Cx;
use crate::args::worker::{Exec, Stdout};
use crate::failure::{Exit, Failure};
use crate::output::Ui;
use crate::view::clean;
use child::{Listener, Run};
use program::Program;

/// The most bytes of output: what the platform takes as a payload.
const MAX_OUTPUT: usize = 1024 * 1024;

/// What a worker does with every job.
struct Setup {
    program: Program,
    stdout: Stdout,
    raw: bool,
    ui: Ui,
}

pub(super) async fn run(cx: &Cx<'_>, args: &Exec) -> Result<Exit, Failure> {
    let setup = Arc::new(Setup {
        program: Program::find(&args.command)?,
        stdout: args.stdout,
        raw: args.raw,
        ui: *cx.ui,
    });
    let mut worker = Worker::new(cx.client.clone())
        .max_parallel_jobs(usize::try_from(args.parallel).unwrap_or(usize::MAX))
        .drain_grace(args.drain_grace);
    for topic in &args.topics {
        worker = worker.topic(topic);
    }
    for capability in &args.capabilities {
        worker = worker.capability(capability);
    }
    for (key, value) in &args.labels {
        worker = worker.label(key, value);
    }
    if let Some(pool) = &args.pool {
        worker = worker.pool(pool);
    }
    if let Some(worker_id) = &args.worker_id {
        worker = worker.worker_id(worker_id);
    }
    let worker = worker.handler(move |context, job| {
        let setup = Arc::clone(&setup);
        async move { setup.run(&context, &job).await }
    });
    let mut handle = worker.handle();
    let greeting = async {
        if handle.connected().await {
            let name = match handle.status() {
                coretex::worker::WorkerStatus::Connected { worker_id, .. } => worker_id,
                _ => String::new(),
            };
            cx.ui.note(&format!(
                "worker {name} serves {} at {}, {} at once; ctrl-c lets it finish and leave",
                args.topics.join(", "),
                cx.server,
                args.parallel
            ));
        }
        std::future::pending::<()>().await;
    };
    let work = Box::pin(worker.run());
    tokio::select! {
        outcome = work => outcome?,
        () = greeting => {}
    }
    Ok(Exit::Done)
}

impl Setup {
    async fn run(&self, context: &Context, job: &Job) -> Result<Output, JobFailure> {
        let input = input(job.input.as_ref(), self.raw)?;
        let run = Run {
            program: &self.program,
            input,
            environment: environment(context, SystemTime::now()),
            max_output: MAX_OUTPUT,
        };
        let listener = JobListener {
            context,
            ui: self.ui,
        };
        let cancelled = async {
            context.cancelled().await;
        };
        let ended = child::run(run, &listener, cancelled)
            .await
            .map_err(|error| {
                JobFailure::new("exec_failed", format!("{}: {error}", self.program.name()))
            })?;
        result::output(self.stdout, ended, context.cancel_reason().as_ref())
    }
}

/// What the program reads.
fn input(payload: Option<&Payload>, raw: bool) -> Result<Vec<u8>, JobFailure> {
    let Some(payload) = payload else {
        return Ok(Vec::new());
    };
    if raw
        && payload.is_json()
        && let Ok(Some(serde_json::Value::String(text))) = payload.to_json()
    {
        return Ok(text.into_bytes());
    }
    Ok(payload.to_bytes()?.to_vec())
}

/// What the program finds in its environment; `None` is what it must not inherit.
fn environment(context: &Context, now: SystemTime) -> Vec<(&'static str, Option<String>)> {
    let traceparent = context.traceparent();
    vec![
        ("CORETEX_JOB_ID", Some(context.job_id().to_owned())),
        ("CORETEX_ATTEMPT", Some(context.attempt().to_string())),
        (
            "CORETEX_DEADLINE",
            context.remaining().and_then(|left| deadline(now, left)),
        ),
        (
            "TRACEPARENT",
            (!traceparent.is_empty()).then(|| traceparent.to_owned()),
        ),
    ]
}

/// When the time is up, as RFC 3339. `None` when that is further away than the format can say.
fn deadline(now: SystemTime, left: Duration) -> Option<String> {
    let time = jiff::Timestamp::try_from(now.checked_add(left)?).ok()?;
    Some(format!("{time:.3}"))
}

/// What the program says while it runs.
struct JobListener<'a> {
    context: &'a Context,
    ui: Ui,
}

impl Listener for JobListener<'_> {
    fn progress(&self, percent: i32, message: String) {
        self.context.progress(percent, message);
    }

    fn log<'a>(&'a self, line: &'a str) -> BoxFuture<'a, ()> {
        self.ui
            .note(&format!("[{}] {}", self.context.job_id(), clean(line)));
        self.context.log(line).boxed()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_input_is_json_text_or_bytes_as_they_are() {
        let read = |payload: Payload, raw| super::input(Some(&payload), raw).unwrap_or_default();
        let text = Payload::from_json(&json!("to be"));
        assert_eq!(read(text.clone(), false), b"\"to be\"");
        assert_eq!(read(text, true), b"to be");
        let object = Payload::from_json(&json!({"a": 1}));
        assert_eq!(read(object, true), br#"{"a":1}"#);
        let typed = Payload::from_bytes(r#""x""#, "application/json");
        assert_eq!(read(typed.clone(), false), br#""x""#);
        assert_eq!(read(typed, true), b"x");
        let bytes = Payload::from_bytes(vec![0, 0xff], "image/png");
        assert_eq!(read(bytes, true), [0, 0xff]);
        assert!(super::input(None, false).is_ok_and(|input| input.is_empty()));
    }

    #[test]
    fn the_deadline_is_rfc_3339() {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_853_600);
        let text = deadline(begin, Duration::from_millis(1_500));
        assert_eq!(text.as_deref(), Some("2026-01-31T10:00:01.500Z"));
        assert_eq!(deadline(begin, Duration::MAX), None);
    }
}
