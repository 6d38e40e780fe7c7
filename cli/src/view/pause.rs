//! Pauses.

use coretex::proto::{ListPausesResponse, Pause, ResumePoolResponse};

use super::{Fields, Grid, Paint, age, documents, time};

documents! {
    Pause => details;
    ResumePoolResponse => resumed;
    ListPausesResponse => list;
}

/// What is not said applies to all.
fn or_all(part: &str) -> String {
    if part.is_empty() { "all" } else { part }.to_owned()
}

fn details(pause: &Pause, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("pool", or_all(&pause.pool));
    fields.add("topic", or_all(&pause.topic));
    fields.add("tenant", or_all(&pause.tenant_id));
    fields.add("reason", pause.reason.as_str());
    fields.add("paused by", pause.principal_id.as_str());
    fields.add("since", time(pause.create_time.as_ref()));
    fields.finish()
}

fn resumed(answer: &ResumePoolResponse, paint: Paint) -> String {
    match &answer.pause {
        Some(pause) => details(pause, paint),
        None => "nothing like that was paused\n".to_owned(),
    }
}

fn list(page: &ListPausesResponse, paint: Paint) -> String {
    let head = ["POOL", "TOPIC", "TENANT", "SINCE", "BY", "REASON"];
    let mut grid = Grid::new(paint, &head);
    for pause in &page.pauses {
        grid.row([
            or_all(&pause.pool),
            or_all(&pause.topic),
            or_all(&pause.tenant_id),
            age(pause.create_time.as_ref()),
            pause.principal_id.clone(),
            pause.reason.clone(),
        ]);
    }
    grid.finish()
}
