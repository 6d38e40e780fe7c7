//! Waiting for the end of a job, with a look at its progress where somebody watches.

use std::time::Duration;

use coretex::proto::WatchJobsRequest;
use coretex::proto::watch_jobs_request::Target;
use coretex::{Client, Job, JobExt, JobState};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::job::WaitLimits;
use crate::commands::Cx;
use crate::failure::Failure;
use crate::view::clean;
use crate::view::job::{progress, state_name};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Whether a job waits for people.
pub(super) fn needs_approval(job: &Job) -> bool {
    job.state() == JobState::ApprovalRequired
}

/// Waits until the job has ended or a limit is met, and returns it as it then stands.
pub(super) async fn ended(cx: &Cx<'_>, job: Job, limits: &WaitLimits) -> Result<Job, Failure> {
    if job.ended() {
        return Ok(job);
    }
    let spinner = Spinner::new(cx.ui.watched, &job);
    let show = |job: &Job| spinner.show(job);
    let show: Option<&(dyn Fn(&Job) + Sync)> = cx.ui.watched.then_some(&show);
    until(
        &cx.client,
        job,
        limits.timeout,
        limits.no_approval_wait,
        show,
    )
    .await
}

/// As [`ended`], with somebody who is shown the job whenever it changes.
pub(super) async fn until(
    client: &Client,
    job: Job,
    timeout: Option<Duration>,
    no_approval_wait: bool,
    show: Option<&(dyn Fn(&Job) + Sync)>,
) -> Result<Job, Failure> {
    if job.ended() || (no_approval_wait && needs_approval(&job)) {
        return Ok(job);
    }
    // On the heap: both hold a whole call, and many callers hold both.
    let wait = Box::pin(client.wait_ended(job.job_id.as_str(), timeout));
    let look = Box::pin(look(client, &job.job_id, no_approval_wait, show));
    tokio::select! {
        job = wait => Ok(job?),
        job = look => job,
    }
}

/// Watches the job: shows what changes, and returns when it waits for people who are not to be
/// waited for. Does not return otherwise: the end is found by waiting.
async fn look(
    client: &Client,
    job_id: &str,
    no_approval_wait: bool,
    show: Option<&(dyn Fn(&Job) + Sync)>,
) -> Result<Job, Failure> {
    if no_approval_wait || show.is_some() {
        let mut watch = client.watch(WatchJobsRequest {
            target: Some(Target::JobId(job_id.to_owned())),
            ..WatchJobsRequest::default()
        });
        while let Some(message) = watch.next().await {
            match message {
                Ok(message) => {
                    let Some(job) = message.job else { continue };
                    if no_approval_wait && needs_approval(&job) {
                        return Ok(job);
                    }
                    if let Some(show) = show {
                        show(&job);
                    }
                }
                Err(error) if no_approval_wait => return Err(error.into()),
                // A decoration that fails is left out.
                Err(_) => break,
            }
        }
    }
    std::future::pending().await
}

/// What turns on a terminal while a job runs.
struct Spinner {
    bar: ProgressBar,
}

impl Spinner {
    fn new(visible: bool, job: &Job) -> Self {
        let bar = if visible {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        let spinner = Self { bar };
        spinner.show(job);
        if visible {
            spinner.bar.enable_steady_tick(TICK);
        }
        spinner
    }

    fn show(&self, job: &Job) {
        let mut text = format!("{} {}", clean(&job.job_id), state_name(job.state()));
        for more in [job.waiting_reason.clone(), progress(job)] {
            if !more.is_empty() {
                text.push_str("  ");
                text.push_str(&clean(&more));
            }
        }
        self.bar.set_message(text);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
