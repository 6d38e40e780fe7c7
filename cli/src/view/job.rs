//! Jobs: one, many, counted, diagnosed.

use std::borrow::Cow;

use coretex::proto::{
    CountJobsResponse, DiagnoseJobResponse, ListJobsResponse, PolicyDecision, payload,
};
use coretex::{Job, JobExt, JobPriority, JobState, Payload, PayloadExt};
use serde_json::Value;

use super::{
    Fields, Grid, Paint, Tint, age, at_least, between, documents, pairs, rough, short, time,
};

documents! {
    Job => details;
    ListJobsResponse => list;
    CountJobsResponse => count;
    DiagnoseJobResponse => diagnosis;
}

/// Payloads up to so many characters are shown; of longer ones, the beginning.
const MAX_PAYLOAD: usize = 4_000;

/// A state without its prefix.
pub(crate) fn state_name(state: JobState) -> &'static str {
    short(state.as_str_name(), "JOB_STATE_")
}

pub(crate) fn state_tint(state: JobState) -> Tint {
    match state {
        JobState::Succeeded => Tint::Good,
        JobState::Failed | JobState::Timeout | JobState::Denied => Tint::Bad,
        JobState::Cancelled | JobState::ApprovalRequired => Tint::Waiting,
        JobState::Running | JobState::Dispatched => Tint::Active,
        JobState::Unspecified | JobState::Pending | JobState::Scheduled => Tint::Plain,
    }
}

/// Why a job ended badly, or why its last attempt did: `message (code)`.
pub(crate) fn error(job: &Job) -> String {
    job.error
        .as_ref()
        .map_or_else(String::new, |error| match error.message.as_str() {
            "" => error.code.clone(),
            message => format!("{message} ({})", error.code),
        })
}

/// A payload for people.
pub(crate) fn payload(payload: &Payload) -> String {
    let text = match &payload.data {
        None => return String::new(),
        Some(payload::Data::ArtifactId(id)) => return format!("artifact {id}"),
        // What a program wrote is shown as it wrote it.
        Some(payload::Data::Json(_)) => match payload.to_json() {
            Ok(Some(Value::String(text))) => Ok(Cow::Owned(text)),
            _ => payload.to_text(),
        },
        Some(payload::Data::Raw(raw)) => {
            let readable = payload.is_json() || payload.media_type().starts_with("text/");
            match payload.to_text() {
                Ok(text) if readable => Ok(text),
                _ => return format!("{} bytes of {}", raw.len(), payload.media_type()),
            }
        }
    };
    let text = text
        .map(|text| text.trim_end().to_owned())
        .unwrap_or_default();
    match text.char_indices().nth(MAX_PAYLOAD) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// How far a running job is.
pub(crate) fn progress(job: &Job) -> String {
    job.progress.as_ref().map_or_else(String::new, |progress| {
        format!("{} % {}", progress.percent, progress.message)
            .trim_end()
            .to_owned()
    })
}

fn attempts(job: &Job) -> String {
    match job.attempt {
        0 => String::new(),
        attempt => format!("{attempt} of {}", job.max_attempts.max(1)),
    }
}

fn details(job: &Job, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("job", job.job_id.as_str());
    fields.add("topic", job.topic.as_str());
    let state = state_name(job.state());
    fields.tinted("state", state_tint(job.state()), state);
    fields.add("waiting for", job.waiting_reason.as_str());
    if matches!(job.priority(), JobPriority::Critical | JobPriority::Batch) {
        let priority = short(job.priority().as_str_name(), "JOB_PRIORITY_");
        fields.add("priority", priority);
    }
    fields.add("labels", pairs(&job.labels));
    fields.add("attempt", attempts(job));
    if job.redispatch_count > 0 {
        fields.add("redispatched", job.redispatch_count.to_string());
    }
    fields.add("worker", job.worker_id.as_str());
    fields.add("pool", job.pool.as_str());
    if !job.ended() {
        fields.add("progress", progress(job));
    }
    fields.add("principal", job.principal_id.as_str());
    fields.add("trace", job.trace_id.as_str());
    fields.add("parent", job.parent_job_id.as_str());
    fields.add("rerun of", job.rerun_of_job_id.as_str());
    fields.add("created", time(job.create_time.as_ref()));
    fields.add("not before", time(job.not_before.as_ref()));
    if job.state() == JobState::Scheduled {
        fields.add("runs at", time(job.eligible_time.as_ref()));
    }
    fields.add("started", time(job.start_time.as_ref()));
    fields.add("cancelled at", time(job.cancel_requested_time.as_ref()));
    let took = between(job.create_time.as_ref(), job.end_time.as_ref());
    let took = took.map(|took| format!(" (after {})", rough(took)));
    let ended = time(job.end_time.as_ref());
    fields.add("ended", format!("{ended}{}", took.unwrap_or_default()));
    fields.add("deadline", time(job.deadline.as_ref()));
    if let Some(decision) = &job.decision
        && decision.decision() != PolicyDecision::Allow
    {
        let verdict = short(decision.decision().as_str_name(), "POLICY_DECISION_");
        let why: Vec<&str> = [decision.rule_id.as_str(), decision.reason.as_str()]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        fields.add(
            "decision",
            format!("{verdict} {}", why.join(": ")).trim_end(),
        );
        fields.add("approval", decision.approval_id.as_str());
    }
    fields.tinted("error", Tint::Bad, error(job));
    fields.add("input", job.input.as_ref().map(payload).unwrap_or_default());
    fields.add(
        "output",
        job.output.as_ref().map(payload).unwrap_or_default(),
    );
    fields.add("artifacts", job.artifact_ids.join(", "));
    fields.finish()
}

fn list(page: &ListJobsResponse, paint: Paint) -> String {
    let head = ["JOB", "TOPIC", "STATE", "ATTEMPT", "WORKER", "AGE", "NOTE"];
    let mut grid = Grid::new(paint, &head);
    for job in &page.jobs {
        let note = [job.waiting_reason.clone(), error(job), progress(job)];
        let note = note.into_iter().find(|note| !note.is_empty());
        grid.tinted([
            (Tint::Plain, job.job_id.clone()),
            (Tint::Plain, job.topic.clone()),
            (state_tint(job.state()), state_name(job.state()).to_owned()),
            (Tint::Plain, attempts(job)),
            (Tint::Plain, job.worker_id.clone()),
            (Tint::Plain, age(job.create_time.as_ref())),
            (
                Tint::Plain,
                note.filter(|_| !job.succeeded()).unwrap_or_default(),
            ),
        ]);
    }
    grid.finish()
}

fn count(count: &CountJobsResponse, _: Paint) -> String {
    format!("{}\n", at_least(count.count, count.capped))
}

/// Why a pool or worker does not take a job: the word for programs, and what it means here.
fn why_not(reason: &str, message: &str) -> String {
    match message {
        "" => reason.to_owned(),
        message => format!("{reason}: {message}"),
    }
}

fn diagnosis(answer: &DiagnoseJobResponse, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    let state = state_name(answer.state());
    fields.tinted("state", state_tint(answer.state()), state);
    for cause in &answer.causes {
        fields.add("cause", format!("{}: {}", cause.code, cause.message));
        fields.add("  remedy", cause.remedy.as_str());
        fields.add("  until", time(cause.until_time.as_ref()));
        fields.add("  held by", cause.holders.join(", "));
    }
    if answer.queue_position > 0 {
        let position = at_least(answer.queue_position, answer.queue_position_capped);
        fields.add("queue position", position);
    }
    let mut text = fields.finish();
    if !answer.pools.is_empty() {
        let mut grid = Grid::new(paint, &["POOL", "WORKER", "TAKES IT", "WHY NOT"]);
        let verdict = |eligible| match eligible {
            true => (Tint::Good, "yes".to_owned()),
            false => (Tint::Bad, "no".to_owned()),
        };
        for pool in &answer.pools {
            grid.tinted([
                (Tint::Plain, pool.pool.clone()),
                (Tint::Plain, String::new()),
                verdict(pool.eligible),
                (Tint::Plain, why_not(&pool.reason, &pool.message)),
            ]);
            for worker in &pool.workers {
                grid.tinted([
                    (Tint::Plain, pool.pool.clone()),
                    (Tint::Plain, worker.worker_id.clone()),
                    verdict(worker.eligible),
                    (Tint::Plain, why_not(&worker.reason, &worker.message)),
                ]);
            }
        }
        text.push('\n');
        text.push_str(&grid.finish());
    }
    text
}

#[cfg(test)]
mod tests {
    use coretex::proto::JobError;
    use serde_json::json;

    use super::*;

    #[test]
    fn payloads_show_what_can_be_read() {
        let shown = |payload: Payload| super::payload(&payload);
        assert_eq!(shown(Payload::from_json(&json!({"n": 3}))), r#"{"n":3}"#);
        assert_eq!(shown(Payload::from_json(&json!("6\n"))), "6");
        assert_eq!(
            shown(Payload::from_bytes("6\n", "text/plain; charset=utf-8")),
            "6"
        );
        assert_eq!(shown(Payload::from_bytes("[1]", "application/json")), "[1]");
        assert_eq!(
            shown(Payload::from_bytes(vec![0xff; 3], "image/png")),
            "3 bytes of image/png"
        );
        assert_eq!(shown(Payload::default()), "");
        let long = shown(Payload::from_bytes("ä".repeat(5_000), "text/plain"));
        assert!(long.ends_with("… (10000 bytes)"));
    }

    #[test]
    fn a_failed_job_shows_its_error_and_no_secrets_of_the_terminal() {
        let job = Job {
            job_id: "a".into(),
            state: JobState::Failed.into(),
            attempt: 2,
            max_attempts: 3,
            error: Some(JobError {
                code: "exit_7".into(),
                message: "on \u{1b}[31mfire".into(),
                ..JobError::default()
            }),
            ..Job::default()
        };
        let text = details(&job, Paint::new(false));
        assert!(
            text.contains("attempt  2 of 3") && text.contains("FAILED"),
            "{text}"
        );
        assert!(text.contains("on \\u{1b}[31mfire (exit_7)"), "{text}");
    }
}
