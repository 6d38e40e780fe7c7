//! One thing done to many jobs: the question before it, the progress, what came of it.

use std::time::Duration;

use coretex::proto::BulkProgress;
use coretex::{Bulk, Error};
use indicatif::{ProgressBar, ProgressStyle};

use super::Cx;
use super::confirm::{confirm, is_somebody_there, nobody_to_ask};
use crate::failure::{Exit, Failure};
use crate::view::clean;

/// How often the progress bar moves by itself.
const TICK: Duration = Duration::from_millis(100);

/// Asks whether to do `what` to so many; `count` is the operation as a dry run.
pub(super) async fn ask(what: &str, things: &str, count: Bulk) -> Result<(), Failure> {
    if !is_somebody_there() {
        return Err(nobody_to_ask());
    }
    let found = count.finish().await?.matched_count;
    confirm(&format!("{what} {found} {things}?"))
}

/// Follows an operation to its end and shows how it came out.
pub(super) async fn follow(cx: &Cx<'_>, mut bulk: Bulk) -> Result<Exit, Failure> {
    let bar = bar(cx);
    let mut last = BulkProgress::default();
    while let Some(next) = bulk.next().await {
        match next {
            Ok(progress) => last = progress,
            Err(error) => {
                bar.finish_and_clear();
                return Err(broken(cx, &last, error));
            }
        }
        bar.set_message(line(&last));
    }
    bar.finish_and_clear();
    for failure in &last.failures {
        let status = failure.status.clone().unwrap_or_default();
        let error = Error::from_item(&status);
        let job = clean(&failure.job_id);
        let text = clean(&error.to_string());
        let label = cx.ui.err.bold_red("error");
        cx.ui.note(&format!("{label}: {job}: {text}"));
    }
    cx.ui.show(&last)?;
    Ok(if last.failed_count > 0 {
        Exit::Refused
    } else {
        Exit::Done
    })
}

fn line(progress: &BulkProgress) -> String {
    format!(
        "{} of {} so far",
        progress.done_count, progress.matched_count
    )
}

/// What was done stays done: says how much that is, and where to go on.
fn broken(cx: &Cx<'_>, last: &BulkProgress, error: Error) -> Failure {
    let failure = Failure::from(error);
    if last.page_token.is_empty() || last.matched_count == 0 {
        return failure;
    }
    cx.ui.note(&format!(
        "stopped: {}; to go on, say the same with --page-token {}",
        line(last),
        last.page_token
    ));
    failure
}

fn bar(cx: &Cx<'_>) -> ProgressBar {
    if !cx.ui.watched {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}
