//! What is kept of a job's history: the last events, decisions and attempts, as pages.

use std::sync::Arc;

use coretex_core::job::Job;
use coretex_core::job::history::HISTORY_LIMIT;
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
    // The one in force is kept beside the ring, and counts.
    let kept = job.decisions.iter().len() + usize::from(job.decision.is_some());
    let oldest = kept.saturating_sub(HISTORY_LIMIT);
    let dropped = job.decisions.dropped() + oldest as u32;
    let all = || job.decisions.iter().chain(&job.decision).skip(oldest);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use coretex_core::id::{JobId, TenantId, Topic};
    use coretex_core::job::JobSpec;
    use coretex_core::job::transition::{NewJob, Trigger, Verdict, accept, apply};
    use coretex_core::policy::{Decision, JobDecision};
    use coretex_core::time::Timestamp;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn decision() -> Box<JobDecision> {
        Box::new(JobDecision {
            time: NOW,
            attempt: 0,
            decision: Decision::Allow,
            reason: String::new(),
            rule_id: String::new(),
            policy_snapshot: "s".to_owned(),
            constraints: None,
            approval_id: String::new(),
            terms: None,
            remediations: Vec::new(),
            retry_at: None,
            bucket: String::new(),
            taken: Vec::new(),
            config_hash: String::new(),
        })
    }

    fn judged(times: usize) -> Job {
        let new = NewJob {
            id: JobId::from_trusted("j"),
            tenant: TenantId::from_trusted("acme"),
            spec: Arc::new(JobSpec::new(Topic::from_trusted("job.x"))),
            principal_id: String::new(),
            trace_id: String::new(),
            fingerprint: Vec::new(),
            idempotency_key: String::new(),
            rerun_of: None,
            input: None,
            unmapped: None,
            keep: None,
        };
        let job = accept(new, Verdict::Decided(decision()), NOW);
        (1..times).fold(job, |job, _| {
            let trigger = Trigger::Judged {
                decision: decision(),
            };
            apply(&job, trigger, NOW).unwrap().job
        })
    }

    #[test]
    fn the_last_64_decisions_are_shown_with_their_places_and_attempts() {
        for (times, dropped) in [(1, 0), (64, 0), (65, 1), (70, 6), (140, 76)] {
            let job = judged(times);
            let page = decisions(&job, &v1::ListJobDecisionsRequest::default()).unwrap();
            assert_eq!(page.dropped_count, dropped, "{times}");
            let places: Vec<_> = page.decisions.iter().map(|one| one.sequence).collect();
            let last = i32::try_from(times).unwrap();
            assert_eq!(places, (dropped + 1..=last).collect::<Vec<_>>());
            let attempts = page.decisions.iter().map(|one| (one.sequence, one.attempt));
            for (sequence, attempt) in attempts {
                assert_eq!(attempt, i32::from(sequence > 1), "{sequence}");
            }
        }
    }

    #[test]
    fn pages_of_decisions_go_on_while_old_ones_are_dropped() {
        let asked = |page_token: String| v1::ListJobDecisionsRequest {
            page_size: 3,
            page_token,
            ..v1::ListJobDecisionsRequest::default()
        };
        let first = decisions(&judged(70), &asked(String::new())).unwrap();
        assert_eq!(first.decisions[0].sequence, 7);
        let second = decisions(&judged(71), &asked(first.next_page_token)).unwrap();
        assert_eq!(second.decisions[0].sequence, 10);
    }
}
