//! Dead letters: one, many.

use coretex::proto::{
    DeleteDlqEntryResponse, DlqEntry, JobErrorSource, ListDlqEntriesResponse,
    ListJobAttemptsResponse,
};

use super::job::{state_name, state_tint};
use super::{Document, Fields, Grid, Paint, Tint, age, documents, time};

documents! {
    DlqEntry => details;
    ListDlqEntriesResponse => list;
    DeleteDlqEntryResponse => nothing;
}

fn details(entry: &DlqEntry, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("entry", entry.entry_id.as_str());
    fields.tinted("reason", Tint::Bad, entry.reason_code.as_str());
    fields.add("message", entry.message.as_str());
    if entry.source() == JobErrorSource::Worker {
        fields.add("source", "worker");
    }
    let state = entry.last_state();
    fields.tinted("last state", state_tint(state), state_name(state));
    fields.add("since", time(entry.create_time.as_ref()));
    fields.add("kept until", time(entry.expire_time.as_ref()));
    let mut text = fields.finish();
    if let Some(job) = &entry.job {
        text.push('\n');
        text.push_str(&job.text(paint));
    }
    if !entry.attempts.is_empty() {
        let attempts = ListJobAttemptsResponse {
            attempts: entry.attempts.clone(),
            dropped_count: entry.dropped_attempt_count,
            ..ListJobAttemptsResponse::default()
        };
        text.push('\n');
        text.push_str(&attempts.text(paint));
    }
    text
}

fn list(page: &ListDlqEntriesResponse, paint: Paint) -> String {
    let head = [
        "ENTRY", "TOPIC", "STATE", "REASON", "ATTEMPT", "AGE", "MESSAGE",
    ];
    let mut grid = Grid::new(paint, &head);
    for entry in &page.entries {
        let job = entry.job.clone().unwrap_or_default();
        let state = entry.last_state();
        grid.tinted([
            (Tint::Plain, entry.entry_id.clone()),
            (Tint::Plain, job.topic),
            (state_tint(state), state_name(state).to_owned()),
            (Tint::Plain, entry.reason_code.clone()),
            (Tint::Plain, job.attempt.to_string()),
            (Tint::Plain, age(entry.create_time.as_ref())),
            (Tint::Plain, entry.message.clone()),
        ]);
    }
    grid.finish()
}

/// That it went well is all there is to say.
fn nothing(_: &DeleteDlqEntryResponse, _: Paint) -> String {
    String::new()
}
