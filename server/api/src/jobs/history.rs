//! What is kept of a job's history: the last events, decisions and attempts, as pages.

use std::sync::Arc;

use coretex_core::job::Job;
use coretex_engine::{Caller, Engine};
use coretex_proto::v1;

use crate::convert;
use crate::page::{self, Slice};
use crate::problem::Result;
use crate::validate::check;

/// A request for a part of a job's history.
pub(super) trait Asked {
    /// The name of the list, for its tokens.
    const LIST: &'static str;
    /// Job, page size and page token.
    fn parts(&self) -> (&str, i32, &str);
}

macro_rules! asked {
    ($request:ty, $list:literal) => {
        impl Asked for $request {
            const LIST: &'static str = $list;

            fn parts(&self) -> (&str, i32, &str) {
                (&self.job_id, self.page_size, &self.page_token)
            }
        }
    };
}

asked!(v1::ListJobEventsRequest, "events");
asked!(v1::ListJobDecisionsRequest, "decisions");
asked!(v1::ListJobAttemptsRequest, "attempts");

/// Checks the request and gets its job.
pub(super) async fn job(
    engine: &Engine,
    caller: &Caller,
    asked: &(impl Asked + Sync),
) -> Result<Arc<Job>> {
    let (id, size, token) = asked.parts();
    let id = check(|fields| {
        page::read(fields, size, token.to_owned());
        fields.job("job_id", id)
    })?;
    let answer = engine.get_job(caller, &id, false).await?;
    Ok(answer.job)
}

fn slice(asked: &impl Asked, length: usize, dropped: u32) -> Result<Slice> {
    let (id, size, token) = asked.parts();
    let list = page::list_name(["history", asked_list(asked), id]);
    page::slice(length, dropped, size, token, list)
}

const fn asked_list<A: Asked>(_: &A) -> &'static str {
    A::LIST
}

/// A page of events.
pub(super) fn events(
    job: &Job,
    asked: &v1::ListJobEventsRequest,
) -> Result<v1::ListJobEventsResponse> {
    let dropped = job.events.dropped();
    let page = slice(asked, job.events.iter().len(), dropped)?;
    let events = job.events.iter().skip(page.skip).take(page.take);
    Ok(v1::ListJobEventsResponse {
        events: events
            .map(|event| convert::history::event(event, &job.id))
            .collect(),
        next_page_token: page.next,
        dropped_count: convert::count(dropped),
    })
}

/// A page of decisions, the one in force last.
pub(super) fn decisions(
    job: &Job,
    asked: &v1::ListJobDecisionsRequest,
) -> Result<v1::ListJobDecisionsResponse> {
    let dropped = job.decisions.dropped();
    let all = || job.decisions.iter().chain(&job.decision);
    let page = slice(asked, all().count(), dropped)?;
    let decisions = (dropped + 1..).zip(all()).skip(page.skip).take(page.take);
    Ok(v1::ListJobDecisionsResponse {
        decisions: decisions
            .map(|(sequence, decision)| convert::policy::decision(decision, sequence))
            .collect(),
        next_page_token: page.next,
        dropped_count: convert::count(dropped),
    })
}

/// A page of attempts.
pub(super) fn attempts(
    job: &Job,
    asked: &v1::ListJobAttemptsRequest,
) -> Result<v1::ListJobAttemptsResponse> {
    let dropped = job.attempts.dropped();
    let page = slice(asked, job.attempts.iter().len(), dropped)?;
    let attempts = job.attempts.iter().skip(page.skip).take(page.take);
    Ok(v1::ListJobAttemptsResponse {
        attempts: attempts.map(convert::history::attempt).collect(),
        next_page_token: page.next,
        dropped_count: convert::count(dropped),
    })
}
