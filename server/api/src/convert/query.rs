//! Which jobs a request is about, and how much of them it wants.

use coretex_core::id::{JobId, Topic, WorkerId};
use coretex_core::job::JobState;
use coretex_engine::{Caller, JobFilter};
use coretex_proto::v1;

use super::job::{View, read_state};
use crate::validate::{Fields, MAX_LIST, MAX_NAME, principal};

/// Reads the filter in `field`. None selects everything.
pub(crate) fn filter(fields: &mut Fields, field: &str, filter: Option<v1::JobFilter>) -> JobFilter {
    filter.map_or_else(JobFilter::default, |filter| {
        fields.within(field, |fields| read_filter(fields, filter))
    })
}

fn read_filter(fields: &mut Fields, filter: v1::JobFilter) -> JobFilter {
    if !filter.run_id.is_empty() {
        fields.not_available("run_id");
    }
    let created_after = fields.time("created_after", filter.created_after);
    let created_before = fields.time("created_before", filter.created_before);
    if let (Some(after), Some(before)) = (created_after, created_before)
        && before < after
    {
        fields.refuse("created_before", "must not be before created_after");
    }
    JobFilter {
        states: states(fields, &filter.states),
        topics: fields.ids("topics", &filter.topics, MAX_LIST, Topic::parse),
        labels: fields.labels("labels", filter.labels),
        principal_id: fields
            .optional_id("principal_id", &filter.principal_id, principal)
            .unwrap_or_default(),
        team_id: fields
            .optional_id("team_id", &filter.team_id, team)
            .unwrap_or_default(),
        trace_id: fields.line("trace_id", filter.trace_id, MAX_NAME),
        worker_id: fields.optional_id("worker_id", &filter.worker_id, WorkerId::parse),
        parent_job_id: parent(fields, &filter.parent_job_id),
        created_after,
        created_before,
    }
}

/// Reads a list of states.
pub(crate) fn states(fields: &mut Fields, numbers: &[i32]) -> Vec<JobState> {
    let states = fields.values::<v1::JobState>("states", numbers);
    states.into_iter().filter_map(read_state).collect()
}

fn parent(fields: &mut Fields, id: &str) -> Option<JobId> {
    (!id.is_empty()).then(|| fields.job("parent_job_id", id))
}

/// Reads a team.
pub(crate) fn team(text: &str) -> Result<String, coretex_core::id::IdError> {
    coretex_core::id::check_id(text).map(|()| text.to_owned())
}

/// Reads the view in `field`. A caller who may not see payloads gets none, whatever it asks for.
pub(crate) fn view(fields: &mut Fields, number: i32, default: View, caller: &Caller) -> View {
    let asked = match fields.value::<v1::JobView>("view", number) {
        Some(v1::JobView::Basic) => View::Basic,
        Some(v1::JobView::Full) => View::Full,
        Some(v1::JobView::Unspecified) | None => default,
    };
    visible(asked, caller)
}

/// The part of `view` that the caller may see.
pub(crate) fn visible(view: View, caller: &Caller) -> View {
    if caller.sees_payloads() {
        view
    } else {
        View::Basic
    }
}

#[cfg(test)]
mod tests;
