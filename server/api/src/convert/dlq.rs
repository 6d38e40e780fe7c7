//! Dead letters as callers see them, and which of them a request is about.

use coretex_core::id::Topic;
use coretex_core::job::ErrorSource;
use coretex_engine::{DlqAnswer, DlqFilter};
use coretex_proto::v1;

use super::job::{self, View};
use super::query::{states, team};
use super::{count, history, time};
use crate::validate::{Fields, MAX_LIST, principal};

/// Writes an entry.
pub(crate) fn entry(from: &DlqAnswer, view: View) -> v1::DlqEntry {
    let record = &*from.answer.job;
    let letter = record.dead_letter.as_ref();
    let source = match letter.map(|letter| letter.source) {
        Some(ErrorSource::Worker) => v1::JobErrorSource::Worker,
        Some(ErrorSource::Platform) | None => v1::JobErrorSource::Platform,
    };
    v1::DlqEntry {
        entry_id: record.id.to_string(),
        job: Some(job::answer(&from.answer, view)),
        reason_code: letter.map(|letter| letter.code.clone()).unwrap_or_default(),
        message: record.dead_letter_message().to_owned(),
        source: source.into(),
        last_state: job::state(record.state).into(),
        attempts: record.attempts.iter().map(history::attempt).collect(),
        dropped_attempt_count: count(record.attempts.dropped()),
        create_time: letter.map(|letter| time(letter.time)),
        expire_time: Some(time(from.expire_time)),
    }
}

/// Reads the filter in `filter`. None selects everything.
pub(crate) fn filter(fields: &mut Fields, filter: Option<v1::DlqFilter>) -> DlqFilter {
    filter.map_or_else(DlqFilter::default, |filter| {
        fields.within("filter", |fields| read_filter(fields, filter))
    })
}

/// The filter of a list, whose parts stand in the request itself.
pub(crate) fn listed(request: &mut v1::ListDlqEntriesRequest) -> v1::DlqFilter {
    v1::DlqFilter {
        reason_codes: std::mem::take(&mut request.reason_codes),
        topics: std::mem::take(&mut request.topics),
        states: std::mem::take(&mut request.states),
        labels: std::mem::take(&mut request.labels),
        principal_id: std::mem::take(&mut request.principal_id),
        team_id: std::mem::take(&mut request.team_id),
        created_after: request.created_after.take(),
        created_before: request.created_before.take(),
    }
}

/// Reads a filter.
pub(crate) fn read_filter(fields: &mut Fields, filter: v1::DlqFilter) -> DlqFilter {
    let created_after = fields.time("created_after", filter.created_after);
    let created_before = fields.time("created_before", filter.created_before);
    if let (Some(after), Some(before)) = (created_after, created_before)
        && before < after
    {
        fields.refuse("created_before", "must not be before created_after");
    }
    DlqFilter {
        reason_codes: fields.lines("reason_codes", filter.reason_codes),
        states: states(fields, &filter.states),
        topics: fields.ids("topics", &filter.topics, MAX_LIST, Topic::parse),
        labels: fields.labels("labels", filter.labels),
        principal_id: fields
            .optional_id("principal_id", &filter.principal_id, principal)
            .unwrap_or_default(),
        team_id: fields
            .optional_id("team_id", &filter.team_id, team)
            .unwrap_or_default(),
        created_after,
        created_before,
    }
}
