//! How the installation is doing.

use coretex::proto::GetStatusResponse;

use super::{Fields, Grid, Paint, Tint, at_least, documents, duration, short, size, time};

documents! {
    GetStatusResponse => status;
}

fn status(answer: &GetStatusResponse, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("version", answer.version.as_str());
    // To the second: nobody cares for the nanoseconds of an uptime.
    let uptime = answer
        .uptime
        .map(|uptime| coretex::well_known::Duration { nanos: 0, ..uptime });
    fields.add("uptime", duration(uptime.as_ref()));
    fields.add("started", time(answer.start_time.as_ref()));
    fields.add("workers", answer.workers.to_string());
    if let Some(usage) = &answer.store_usage {
        let limit = (usage.limit_bytes > 0).then(|| format!(" of {}", size(usage.limit_bytes)));
        let used = size(usage.used_bytes);
        fields.add("store", format!("{used}{}", limit.unwrap_or_default()));
    }
    fields.tinted(
        "config",
        Tint::Bad,
        answer.config_problem.replace("; ", "\n"),
    );
    let mut text = fields.finish();

    let mut grid = Grid::new(
        paint,
        &[
            "ENGINE",
            "NAME",
            "HEALTHY",
            "DURABILITY",
            "VERSION",
            "MESSAGE",
        ],
    );
    for engine in &answer.engines {
        let durability = short(engine.durability().as_str_name(), "DURABILITY_");
        let durability = if durability == "UNSPECIFIED" {
            ""
        } else {
            durability
        };
        grid.tinted([
            (Tint::Plain, engine.component.clone()),
            (Tint::Plain, engine.name.clone()),
            match engine.healthy {
                true => (Tint::Good, "yes".to_owned()),
                false => (Tint::Bad, "no".to_owned()),
            },
            (Tint::Plain, durability.to_lowercase()),
            (Tint::Plain, engine.version.clone()),
            (Tint::Plain, engine.message.clone()),
        ]);
    }
    add(&mut text, !answer.engines.is_empty(), grid);

    let head = ["REPLICA", "VERSION", "STATE", "WORKERS", "JOBS", "STARTED"];
    let mut grid = Grid::new(paint, &head);
    for replica in &answer.replicas {
        let state = match (replica.ready, replica.draining) {
            (_, true) => (Tint::Waiting, "draining"),
            (true, false) => (Tint::Good, "ready"),
            (false, false) => (Tint::Bad, "not ready"),
        };
        grid.tinted([
            (Tint::Plain, replica.replica_id.clone()),
            (Tint::Plain, replica.version.clone()),
            (state.0, state.1.to_owned()),
            (Tint::Plain, replica.workers.to_string()),
            (Tint::Plain, replica.active_jobs.to_string()),
            (Tint::Plain, time(replica.start_time.as_ref())),
        ]);
    }
    add(&mut text, !answer.replicas.is_empty(), grid);

    let mut grid = Grid::new(paint, &["TOPIC", "WAITING", "POOL"]);
    for queue in &answer.queue_depths {
        let waiting = at_least(queue.waiting, queue.capped);
        grid.row([queue.topic.clone(), waiting, queue.pool.clone()]);
    }
    add(&mut text, !answer.queue_depths.is_empty(), grid);
    if answer.queue_depths_capped {
        text.push_str("jobs may wait for more topics than these\n");
    }
    text
}

fn add(text: &mut String, wanted: bool, grid: Grid) {
    if wanted {
        text.push('\n');
        text.push_str(&grid.finish());
    }
}
