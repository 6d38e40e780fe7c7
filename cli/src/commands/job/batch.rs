//! `coretexctl job submit --batch`: one job per line, in groups, with one line of output for each.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use coretex::proto::submit_jobs_result::Outcome;
use coretex::proto::{SubmitJobRequest, SubmitJobsRequest, SubmitJobsResult};
use coretex::{Code, Error, ErrorReason, Job, JobExt};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::time::Instant;

use super::follow::Waiting;
use super::{batch_line, request, wait};
use crate::args::job::{Follow, WaitLimits};
use crate::commands::Cx;
use crate::failure::{Exit, Failure};
use crate::view::job::{error, payload, state_name, state_tint};
use crate::view::{Document, Paint, clean};

/// What the server takes in one call.
const MAX_ITEMS: usize = 1_000;
/// Text of lines to send in one call. The server takes 8 MiB of encoded requests; a list of small
/// numbers is larger encoded than as text, hence the distance. What is still too large is halved.
const MAX_TEXT: usize = 2 * 1024 * 1024;
/// How many jobs are waited for at once.
const PARALLEL_WAITS: usize = 64;
/// Output shown in a line, in characters.
const MAX_OUTPUT: usize = 100;

/// What became of the lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    submitted: usize,
    replayed: usize,
    refused: usize,
    succeeded: usize,
    ended_badly: usize,
    unfinished: usize,
    need_approval: usize,
}

impl Tally {
    fn count(&mut self, job: &Job, limits: &WaitLimits) {
        let slot = if job.succeeded() {
            &mut self.succeeded
        } else if job.ended() {
            &mut self.ended_badly
        } else if limits.no_approval_wait && wait::needs_approval(job) {
            &mut self.need_approval
        } else {
            &mut self.unfinished
        };
        *slot += 1;
    }

    fn exit(&self, waited: bool) -> Exit {
        if self.refused + self.ended_badly > 0 {
            Exit::Refused
        } else if waited && self.unfinished > 0 {
            Exit::Unfinished
        } else if waited && self.need_approval > 0 {
            Exit::ApprovalPending
        } else {
            Exit::Done
        }
    }

    fn summary(&self, waited: bool, took: Duration) -> String {
        let mut text = format!("submitted {} jobs", self.submitted);
        let mut say = |count: usize, what: &str| {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        };
        say(self.replayed, "of them before");
        say(self.refused, "refused");
        if waited {
            say(self.succeeded, "succeeded");
            say(self.need_approval, "wait for an approval");
            say(self.unfinished, "not finished in time");
        }
        say(self.ended_badly, "ended badly");
        format!("{text}, in {:.1} s", took.as_secs_f64())
    }
}

/// A line of the file and what to do with it.
struct Line {
    number: usize,
    request: Result<SubmitJobRequest, String>,
}

/// An accepted job and the line it came from.
struct Accepted {
    line: usize,
    result: SubmitJobsResult,
}

pub(super) async fn submit(
    cx: &Cx<'_>,
    file: &Path,
    flags: &SubmitJobRequest,
    how: &Follow,
) -> Result<Exit, Failure> {
    let begin = Instant::now();
    let (source, length) = open(file).await?;
    let mut lines = BufReader::new(source).lines();
    let bar = progress_bar(cx, length);
    let mut batch = Batch {
        cx,
        limits: &how.limits,
        waits: how.wait,
        tally: Tally::default(),
        waiting: Waiting::default(),
        accepted: Vec::new(),
        bar: &bar,
    };
    let mut number = 0;
    while let Some(group) = read_group(&mut lines, &mut number, flags, &bar, file).await? {
        if let Err(failure) = batch.submit(group).await {
            // What was submitted before stays submitted: say how much that is.
            bar.finish_and_clear();
            cx.ui.note(&batch.tally.summary(false, begin.elapsed()));
            return Err(failure);
        }
        bar.set_message(format!("{} submitted", batch.tally.submitted));
    }
    if how.wait {
        batch
            .wait(how.limits.timeout.map(|timeout| begin + timeout))
            .await?;
    }
    bar.finish_and_clear();
    cx.ui.note(&batch.tally.summary(how.wait, begin.elapsed()));
    Ok(batch.tally.exit(how.wait))
}

async fn open(file: &Path) -> Result<(Box<dyn AsyncRead + Unpin>, Option<u64>), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let failed = |error| Failure::usage(format!("cannot read {}", file.display())).cause(error);
    let source = File::open(file).await.map_err(failed)?;
    let length = source.metadata().await.map_err(failed)?.len();
    Ok((Box::new(source), Some(length)))
}

fn progress_bar(cx: &Cx<'_>, length: Option<u64>) -> ProgressBar {
    if !cx.ui.watched {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:30} {percent:>3} %  {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Reads lines for one call; `None` at the end of the file. Empty lines are left out.
async fn read_group<R: AsyncRead + Unpin>(
    lines: &mut Lines<BufReader<R>>,
    number: &mut usize,
    flags: &SubmitJobRequest,
    bar: &ProgressBar,
    file: &Path,
) -> Result<Option<Vec<Line>>, Failure> {
    let mut group = Vec::new();
    let mut text = 0;
    while group.len() < MAX_ITEMS && text < MAX_TEXT {
        let line = lines.next_line().await.map_err(|error| {
            Failure::usage(format!("cannot read {}", file.display())).cause(error)
        })?;
        let Some(line) = line else { break };
        *number += 1;
        text += line.len();
        bar.inc(line.len() as u64 + 1);
        if line.trim().is_empty() {
            continue;
        }
        let request = batch_line::read(&line).map(|mut request| {
            request::fill(&mut request, flags);
            request
        });
        group.push(Line {
            number: *number,
            request,
        });
    }
    Ok((!group.is_empty()).then_some(group))
}

struct Batch<'a> {
    cx: &'a Cx<'a>,
    limits: &'a WaitLimits,
    waits: bool,
    tally: Tally,
    waiting: Waiting,
    /// Those that will be waited for.
    accepted: Vec<Accepted>,
    bar: &'a ProgressBar,
}

impl Batch<'_> {
    /// Submits a group and reports its lines in their order.
    async fn submit(&mut self, group: Vec<Line>) -> Result<(), Failure> {
        let requests = group
            .iter()
            .filter_map(|line| line.request.clone().ok())
            .collect();
        let mut results = submit_all(&self.cx.client, requests).await?.into_iter();
        for Line { number, request } in group {
            if let Err(problem) = request {
                self.refuse(number, &problem, json!({"code": 3, "message": problem}))?;
                continue;
            }
            let result = results
                .next()
                .ok_or_else(|| Failure::incomplete("results"))?;
            self.take(number, result)?;
        }
        Ok(())
    }

    fn take(&mut self, line: usize, result: SubmitJobsResult) -> Result<(), Failure> {
        match &result.outcome {
            Some(Outcome::Job(job)) => {
                self.tally.submitted += 1;
                self.tally.replayed += usize::from(result.replayed);
                let (waiting, ui) = (&mut self.waiting, self.cx.ui);
                self.bar.suspend(|| waiting.say(ui, job, false));
                if self.waits {
                    self.accepted.push(Accepted { line, result });
                    return Ok(());
                }
                if job.ended() && !job.succeeded() && !result.replayed {
                    self.tally.ended_badly += 1;
                }
                self.print(&BatchLine {
                    line,
                    result: &result,
                })
            }
            Some(Outcome::Status(status)) => {
                let error = Error::from_item(status);
                let value = BatchLine {
                    line,
                    result: &result,
                }
                .value()?;
                self.refuse(line, &error.to_string(), value["status"].clone())
            }
            None => Err(Failure::incomplete("an outcome")),
        }
    }

    /// Reports a line that made no job.
    fn refuse(&mut self, line: usize, problem: &str, status: Value) -> Result<(), Failure> {
        self.tally.refused += 1;
        let ui = self.cx.ui;
        let error = ui.err.bold_red("error");
        self.bar
            .suspend(|| ui.note(&format!("{error}: line {line}: {}", clean(problem))));
        self.print(&Refused { line, status })
    }

    fn print(&self, document: &dyn Document) -> Result<(), Failure> {
        self.bar.suspend(|| self.cx.ui.show_next(document))
    }

    /// Waits for all accepted jobs and prints each, in the order of their lines.
    async fn wait(&mut self, deadline: Option<Instant>) -> Result<(), Failure> {
        let accepted = std::mem::take(&mut self.accepted);
        let total = accepted.len();
        self.bar.set_length(total as u64);
        self.bar.set_position(0);
        let (client, limits) = (&self.cx.client, self.limits);
        let mut ended = stream::iter(accepted)
            .map(|Accepted { line, mut result }| async move {
                if let Some(Outcome::Job(job)) = result.outcome.take() {
                    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                    let job = wait::until(client, job, left, limits.no_approval_wait, None).await?;
                    result.outcome = Some(Outcome::Job(job));
                }
                Ok::<_, Failure>(Accepted { line, result })
            })
            .buffered(PARALLEL_WAITS);
        while let Some(next) = ended.next().await {
            let Accepted { line, result } = next?;
            if let Some(Outcome::Job(job)) = &result.outcome {
                self.tally.count(job, limits);
            }
            self.bar.inc(1);
            self.bar
                .set_message(format!("{} of {total} ended", self.bar.position()));
            self.print(&BatchLine {
                line,
                result: &result,
            })?;
        }
        Ok(())
    }
}

/// Submits requests, in one call or, where the server finds that too large, in several.
async fn submit_all(
    client: &coretex::Client,
    requests: Vec<SubmitJobRequest>,
) -> Result<Vec<SubmitJobsResult>, Failure> {
    let mut results = Vec::with_capacity(requests.len());
    let mut due = VecDeque::from([requests]);
    while let Some(mut requests) = due.pop_front() {
        if requests.is_empty() {
            continue;
        }
        let call = SubmitJobsRequest {
            requests: requests.clone(),
        };
        match client.submit_jobs(call).await {
            Ok(answer) => results.extend(answer.results),
            Err(error) if requests.len() > 1 && is_too_large(&error) => {
                let rest = requests.split_off(requests.len() / 2);
                due.push_front(rest);
                due.push_front(requests);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(results)
}

/// Whether the message as a whole was larger than the server takes.
fn is_too_large(error: &Error) -> bool {
    match error.reason() {
        Some(reason) => matches!(
            reason,
            ErrorReason::RequestTooLarge | ErrorReason::TooManyItems
        ),
        // A transport that refuses before the service sees the message gives no reason.
        None => matches!(error.code(), Code::OutOfRange | Code::ResourceExhausted),
    }
}

/// A line that became a job.
struct BatchLine<'a> {
    line: usize,
    result: &'a SubmitJobsResult,
}

impl Document for BatchLine<'_> {
    fn value(&self) -> Result<Value, Failure> {
        let value = coretex::proto_json::to_value(self.result).map_err(Failure::defect)?;
        let mut fields = serde_json::Map::from_iter([("line".to_owned(), json!(self.line))]);
        if let Value::Object(rest) = value {
            fields.extend(rest);
        }
        Ok(Value::Object(fields))
    }

    fn text(&self, paint: Paint) -> String {
        let Some(Outcome::Job(job)) = &self.result.outcome else {
            return String::new();
        };
        let state = format!("{:<9}", state_name(job.state()));
        let state = paint.tint(state_tint(job.state()), &state);
        let output = job.output.as_ref().map(payload).unwrap_or_default();
        let note = if job.succeeded() { output } else { error(job) };
        let first: String = note
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(MAX_OUTPUT)
            .collect();
        let line = format!(
            "{:>5}  {}  {state}  {}",
            self.line,
            clean(&job.job_id),
            clean(&first)
        );
        format!("{}\n", line.trim_end())
    }
}

/// A line that did not.
struct Refused {
    line: usize,
    status: Value,
}

impl Document for Refused {
    fn value(&self) -> Result<Value, Failure> {
        Ok(json!({"line": self.line, "status": self.status}))
    }

    /// For people the line on stderr is enough.
    fn text(&self, _: Paint) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_worst_of_all_lines() {
        let tally = |refused, unfinished, need_approval| Tally {
            refused,
            unfinished,
            need_approval,
            ..Tally::default()
        };
        assert_eq!(tally(1, 1, 1).exit(true), Exit::Refused);
        assert_eq!(tally(0, 1, 1).exit(true), Exit::Unfinished);
        assert_eq!(tally(0, 0, 1).exit(true), Exit::ApprovalPending);
        assert_eq!(tally(0, 1, 0).exit(false), Exit::Done);
    }

    #[test]
    fn only_a_message_that_is_too_large_is_halved() {
        assert!(is_too_large(&Error::local(
            Code::OutOfRange,
            "decoded message length too large"
        )));
        assert!(!is_too_large(&Error::local(Code::Unavailable, "away")));
    }
}
