//! What follows a submission: nothing, waiting, or watching; and what is said at the end.

use std::collections::BTreeSet;

use coretex::proto::payload::Data;
use coretex::{Job, JobExt, JobState, JobView, Payload, PayloadExt};
use serde_json::Value;

use super::{get, wait, watch};
use crate::args::job::{Follow, WaitLimits};
use crate::commands::Cx;
use crate::failure::{Exit, Failure};
use crate::output::Ui;
use crate::view::job::{error, state_name};

/// Flags that mean nothing without waiting are refused.
pub(in crate::commands) fn check(how: &Follow) -> Result<(), Failure> {
    let limits = &how.limits;
    if how.watch && limits.result_only {
        return Err(Failure::usage(
            "--watch and --result-only exclude each other",
        ));
    }
    if how.wait || how.watch {
        return Ok(());
    }
    let flags = [
        ("--timeout", limits.timeout.is_some()),
        ("--no-approval-wait", limits.no_approval_wait),
        ("--result-only", limits.result_only),
    ];
    match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(format!("{flag} needs --wait"))),
        None => Ok(()),
    }
}

/// Does with a submitted job what was asked for.
pub(super) async fn follow(cx: &Cx<'_>, job: Job, how: &Follow) -> Result<Exit, Failure> {
    Waiting::default().say(cx.ui, &job, how.wait || how.watch);
    if !how.wait && !how.watch {
        cx.ui.show(&job)?;
        // Accepted is what was asked for; refused by policy is not.
        return match job.state() {
            JobState::Denied => Err(ended_badly(&job)),
            _ => Ok(Exit::Done),
        };
    }
    let limits = &how.limits;
    if how.watch {
        let job = watch::until_ended(cx, &job.job_id, limits).await?;
        return conclude(&job, limits);
    }
    let job = wait::ended(cx, job, limits).await?;
    finish(cx, &job, limits)
}

/// `coretexctl job wait`.
pub(super) async fn wait(cx: &Cx<'_>, job_id: &str, limits: &WaitLimits) -> Result<Exit, Failure> {
    let job = get(cx, job_id, JobView::Full).await?;
    Waiting::default().say(cx.ui, &job, true);
    let job = wait::ended(cx, job, limits).await?;
    finish(cx, &job, limits)
}

/// Prints a job that was waited for and says how it went.
fn finish(cx: &Cx<'_>, job: &Job, limits: &WaitLimits) -> Result<Exit, Failure> {
    if !limits.result_only {
        cx.ui.show(job)?;
    } else if job.succeeded() {
        let bytes = result(job.output.as_ref().unwrap_or(&Payload::default()))?;
        cx.ui.data(&bytes)?;
    }
    conclude(job, limits)
}

/// The output alone: bytes as they are, a JSON string without its quotes, other JSON as a line.
fn result(output: &Payload) -> Result<Vec<u8>, Failure> {
    let mut bytes = match (&output.data, output.to_json()) {
        (Some(Data::Json(_)), Ok(Some(Value::String(text)))) => text.into_bytes(),
        _ => output.to_bytes()?.to_vec(),
    };
    if matches!(output.data, Some(Data::Json(_))) && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// How a wait ended, as exit code and message.
fn conclude(job: &Job, limits: &WaitLimits) -> Result<Exit, Failure> {
    if job.ended() {
        return end(job);
    }
    if limits.no_approval_wait && job.state() == JobState::ApprovalRequired {
        return Err(Failure::new(
            Exit::ApprovalPending,
            format!("job {} waits for an approval", job.job_id),
        ));
    }
    let state = state_name(job.state());
    let message = format!("job {} is still {state} at the timeout", job.job_id);
    Err(Failure::new(Exit::Unfinished, message).hint(format!(
        "it goes on; wait again with: coretexctl job wait {}",
        job.job_id
    )))
}

/// How a job that has ended did, as exit code and message.
pub(super) fn end(job: &Job) -> Result<Exit, Failure> {
    if job.succeeded() {
        Ok(Exit::Done)
    } else {
        Err(ended_badly(job))
    }
}

fn ended_badly(job: &Job) -> Failure {
    let mut message = format!("job {} ended {}", job.job_id, state_name(job.state()));
    let mut why = error(job);
    if why.is_empty()
        && job.state() == JobState::Denied
        && let Some(decision) = &job.decision
    {
        why.clone_from(&decision.reason);
    }
    if !why.is_empty() {
        message = format!("{message}: {why}");
    }
    Failure::new(Exit::Refused, message)
}

/// Says once for each topic that nobody serves it.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    said: BTreeSet<String>,
}

impl Waiting {
    /// Says what a job waits for: that there is no worker always, other reasons to one who waits
    /// too.
    pub(super) fn say(&mut self, ui: &Ui, job: &Job, waits: bool) {
        let topic = &job.topic;
        match job.waiting_reason.as_str() {
            "" => {}
            "no_workers" if self.said.contains(topic) => {}
            "no_workers" => {
                self.said.insert(topic.clone());
                ui.note(&format!(
                    "waiting: no worker for {topic} (start one: coretexctl worker exec \
                     --topic {topic} -- CMD)"
                ));
            }
            reason if waits => ui.note(&format!(
                "waiting: {reason} (why: coretexctl job diagnose {})",
                job.job_id
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use coretex::proto::{JobDecision, JobError};
    use serde_json::json;

    use super::*;

    fn limits(no_approval_wait: bool) -> WaitLimits {
        WaitLimits {
            timeout: None,
            no_approval_wait,
            result_only: false,
        }
    }

    fn exit(state: JobState, no_approval_wait: bool) -> Exit {
        let job = Job {
            state: state.into(),
            ..Job::default()
        };
        match conclude(&job, &limits(no_approval_wait)) {
            Ok(exit) => exit,
            Err(failure) => failure.exit(),
        }
    }

    #[test]
    fn exit_codes_say_how_a_wait_ended() {
        assert_eq!(exit(JobState::Succeeded, false), Exit::Done);
        for bad in [
            JobState::Failed,
            JobState::Cancelled,
            JobState::Denied,
            JobState::Timeout,
        ] {
            assert_eq!(exit(bad, true), Exit::Refused);
        }
        assert_eq!(exit(JobState::Running, true), Exit::Unfinished);
        assert_eq!(exit(JobState::ApprovalRequired, false), Exit::Unfinished);
        assert_eq!(
            exit(JobState::ApprovalRequired, true),
            Exit::ApprovalPending
        );
    }

    #[test]
    fn a_result_alone_is_as_a_program_would_have_written_it() {
        let result = |payload: &Payload| super::result(payload).unwrap_or_default();
        assert_eq!(result(&Payload::from_json(&json!("6\n"))), b"6\n");
        assert_eq!(result(&Payload::from_json(&json!("6"))), b"6\n");
        assert_eq!(result(&Payload::from_json(&json!([6]))), b"[6]\n");
        assert_eq!(result(&Payload::from_bytes("6", "text/plain")), b"6");
        assert_eq!(result(&Payload::default()), b"");
    }

    #[test]
    fn the_message_names_the_error_or_the_decision() {
        let failed = Job {
            job_id: "a".into(),
            state: JobState::Failed.into(),
            error: Some(JobError {
                code: "exit_2".into(),
                message: "no such file".into(),
                ..JobError::default()
            }),
            ..Job::default()
        };
        let text = format!("{:?}", ended_badly(&failed));
        assert!(
            text.contains("job a ended FAILED: no such file (exit_2)"),
            "{text}"
        );
        let denied = Job {
            state: JobState::Denied.into(),
            decision: Some(JobDecision {
                reason: "not on Sundays".into(),
                ..JobDecision::default()
            }),
            ..Job::default()
        };
        assert!(format!("{:?}", ended_badly(&denied)).contains("not on Sundays"));
    }
}
