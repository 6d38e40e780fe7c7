//! What happened to jobs: events, attempts, decisions, watches.

use coretex::JobState;
use coretex::proto::{
    JobEvent, JobEventType, ListJobAttemptsResponse, ListJobDecisionsResponse,
    ListJobEventsResponse, WatchJobsResponse,
};

use super::job::{progress, state_name, state_tint};
use super::{Grid, Paint, Tint, between, clean, documents, rough, short, time};

documents! {
    ListJobEventsResponse => events;
    ListJobAttemptsResponse => attempts;
    ListJobDecisionsResponse => decisions;
    WatchJobsResponse => watch_line;
}

fn type_name(event: &JobEvent) -> &'static str {
    short(event.r#type().as_str_name(), "JOB_EVENT_TYPE_")
}

fn numbered(number: i32) -> String {
    if number == 0 {
        String::new()
    } else {
        number.to_string()
    }
}

fn dropped(count: i32, what: &str) -> String {
    if count == 0 {
        String::new()
    } else {
        format!("{count} older {what} were dropped\n")
    }
}

fn events(page: &ListJobEventsResponse, paint: Paint) -> String {
    let head = [
        "SEQ", "TIME", "EVENT", "STATE", "ATTEMPT", "WORKER", "BY", "REASON",
    ];
    let mut grid = Grid::new(paint, &head);
    for event in &page.events {
        let state = event.to_state();
        grid.tinted([
            (Tint::Plain, event.sequence.to_string()),
            (Tint::Plain, time(event.time.as_ref())),
            (Tint::Plain, type_name(event).to_owned()),
            (state_tint(state), state_name(state).to_owned()),
            (Tint::Plain, numbered(event.attempt)),
            (Tint::Plain, event.worker_id.clone()),
            (Tint::Plain, event.principal_id.clone()),
            (Tint::Plain, event.reason.clone()),
        ]);
    }
    dropped(page.dropped_count, "events") + &grid.finish()
}

fn attempts(page: &ListJobAttemptsResponse, paint: Paint) -> String {
    let head = [
        "ATTEMPT",
        "STATE",
        "WORKER",
        "POOL",
        "HANDED OUT",
        "TOOK",
        "ERROR",
    ];
    let mut grid = Grid::new(paint, &head);
    for attempt in &page.attempts {
        let state = attempt.end_state();
        let name = match state {
            JobState::Unspecified => "(lasts)",
            // The worker gave it back.
            JobState::Pending => "(returned)",
            _ => state_name(state),
        };
        let took = between(attempt.dispatch_time.as_ref(), attempt.end_time.as_ref());
        let mut error = attempt.error.as_ref().map_or_else(String::new, |error| {
            format!("{} ({})", error.message, error.code)
        });
        if attempt.late_result {
            error.push_str(" [a late result was not applied]");
        }
        grid.tinted([
            (Tint::Plain, attempt.attempt.to_string()),
            (state_tint(state), name.to_owned()),
            (Tint::Plain, attempt.worker_id.clone()),
            (Tint::Plain, attempt.pool.clone()),
            (Tint::Plain, time(attempt.dispatch_time.as_ref())),
            (Tint::Plain, took.map(rough).unwrap_or_default()),
            (Tint::Plain, error),
        ]);
    }
    dropped(page.dropped_count, "attempts") + &grid.finish()
}

fn decisions(page: &ListJobDecisionsResponse, paint: Paint) -> String {
    let head = [
        "SEQ", "TIME", "DECISION", "RULE", "SNAPSHOT", "ATTEMPT", "REASON",
    ];
    let mut grid = Grid::new(paint, &head);
    for decision in &page.decisions {
        let verdict = short(decision.decision().as_str_name(), "POLICY_DECISION_");
        grid.row([
            decision.sequence.to_string(),
            time(decision.decide_time.as_ref()),
            verdict.to_owned(),
            decision.rule_id.clone(),
            decision.policy_snapshot.clone(),
            numbered(decision.attempt),
            decision.reason.clone(),
        ]);
    }
    dropped(page.dropped_count, "decisions") + &grid.finish()
}

/// One line for each event; nothing for a checkpoint.
fn watch_line(message: &WatchJobsResponse, paint: Paint) -> String {
    let Some(event) = &message.event else {
        return String::new();
    };
    let state = event.to_state();
    let mut line = format!(
        "{}  {}  {:<16} {}",
        time(event.time.as_ref()),
        clean(&event.job_id),
        type_name(event),
        paint.tint(state_tint(state), &format!("{:<10}", state_name(state))),
    );
    let mut say = |text: String| {
        if !text.is_empty() {
            line.push_str("  ");
            line.push_str(&clean(&text));
        }
    };
    if event.attempt > 0 {
        say(format!("attempt {}", event.attempt));
    }
    say(event.worker_id.clone());
    say(event.reason.clone());
    // The first report may come together with the start.
    if let Some(job) = &message.job
        && matches!(
            event.r#type(),
            JobEventType::Started | JobEventType::Progressed
        )
    {
        say(progress(job));
    }
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use coretex::proto::{JobAttempt, JobError, JobProgress};

    use coretex::Job;

    use super::*;

    #[test]
    fn a_watch_shows_events_in_lines_and_checkpoints_not_at_all() {
        let paint = Paint::new(false);
        assert_eq!(watch_line(&WatchJobsResponse::default(), paint), "");
        let event = JobEvent {
            job_id: "a".into(),
            r#type: JobEventType::Progressed.into(),
            to_state: JobState::Running.into(),
            attempt: 1,
            worker_id: "w".into(),
            ..JobEvent::default()
        };
        let job = Job {
            progress: Some(JobProgress {
                percent: 40,
                message: "half".into(),
            }),
            ..Job::default()
        };
        let message = WatchJobsResponse {
            event: Some(event),
            job: Some(job),
            ..WatchJobsResponse::default()
        };
        let line = watch_line(&message, paint);
        assert!(line.contains("PROGRESSED"), "{line}");
        assert!(
            line.ends_with("RUNNING     attempt 1  w  40 % half\n"),
            "{line}"
        );
    }

    #[test]
    fn attempts_say_how_they_ended_and_what_is_missing() {
        let attempt = |number, state: JobState| JobAttempt {
            attempt: number,
            end_state: state.into(),
            error: (state == JobState::Failed).then(|| JobError {
                code: "exit_1".into(),
                message: "no".into(),
                ..JobError::default()
            }),
            late_result: state == JobState::Failed,
            ..JobAttempt::default()
        };
        let page = ListJobAttemptsResponse {
            attempts: vec![
                attempt(65, JobState::Failed),
                attempt(66, JobState::Unspecified),
            ],
            dropped_count: 64,
            ..ListJobAttemptsResponse::default()
        };
        let text = attempts(&page, Paint::new(false));
        assert!(
            text.starts_with("64 older attempts were dropped\n"),
            "{text}"
        );
        assert!(
            text.contains("no (exit_1) [a late result was not applied]"),
            "{text}"
        );
        assert!(text.contains("(lasts)"), "{text}");
    }
}
