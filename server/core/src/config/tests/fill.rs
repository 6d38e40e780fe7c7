//! What a configuration does to a job that is submitted.

use super::*;
use crate::job::Priority;

#[test]
fn jobs_get_what_their_submitters_left_open() {
    let sections: Sections = of(&[json!({
        "topics": {
            "job.>": {"timeout": "1h", "risk_tags": ["any"], "priority": "batch",
                      "retry": {"max_attempts": 4, "max_backoff": "100ms"}},
            "job.a.*": {"timeout": "5m", "risk_tags": ["a"], "capability": "read"},
            "job.a.b": {"risk_tags": ["b"], "schedule_to_start_timeout": "7m"},
        },
        "pools": {"preferred": {"job.a.>": "gpu"}},
        "timeouts": {"job": "3h", "schedule_to_start": "2m", "max_job": "50m"},
        "limits": {"max_attempts": 2, "max_labels": 1, "max_payload_bytes": 10},
    })])
    .typed;
    let filled = |name: &str, open: LeftOpen, change: &dyn Fn(&mut JobSpec)| {
        let mut spec = JobSpec::new(topic(name));
        change(&mut spec);
        let open = sections.fill_in_topic(&mut spec, open);
        sections.fill_in_clocks(&mut spec, open);
        sections.cut(&mut spec);
        spec
    };
    let spec = filled("job.a.b", OPEN, &|_| {});
    let mins = |minutes: u64| Duration::from_secs(minutes * 60);
    assert_eq!(spec.timeout, mins(5));
    assert_eq!(spec.schedule_to_start_timeout, mins(7));
    assert_eq!(spec.metadata.capability, "read");
    assert_eq!(spec.metadata.risk_tags, ["b", "a", "any"]);
    assert_eq!(spec.priority, Priority::Batch);
    assert_eq!(spec.retry.max_attempts, 2);
    assert_eq!(spec.retry.initial_backoff, Duration::from_millis(100));
    assert_eq!(spec.placement.preferred_pool.unwrap().as_str(), "gpu");
    // What was said stays, but for what goes beyond.
    let said = filled("job.a.b", LeftOpen::default(), &|spec| {
        spec.metadata.capability = "mine".to_owned();
        spec.metadata.risk_tags = vec!["a".to_owned()];
        spec.placement.preferred_pool = Some(crate::id::PoolName::from_trusted("cpu"));
        spec.retry.max_attempts = 9;
    });
    assert_eq!(said.timeout, mins(50));
    assert_eq!(
        said.schedule_to_start_timeout,
        JobSpec::DEFAULT_SCHEDULE_TO_START
    );
    assert_eq!(said.metadata.capability, "mine");
    assert_eq!(said.metadata.risk_tags, ["a", "b", "any"]);
    assert_eq!(said.priority, Priority::Interactive);
    assert_eq!(said.placement.preferred_pool.unwrap().as_str(), "cpu");
    assert_eq!(said.retry.max_attempts, 2);
    let elsewhere = filled("job.c", OPEN, &|_| {});
    assert_eq!(elsewhere.timeout, mins(50));
    assert_eq!(elsewhere.schedule_to_start_timeout, mins(2));
    assert_eq!(elsewhere.placement.preferred_pool, None);

    let mut labelled = JobSpec::new(topic("job.a"));
    for key in ["a", "b"] {
        labelled.labels.insert(key.to_owned(), String::new());
    }
    let exceeded = sections.exceeded(&labelled, 11);
    let fields: Vec<_> = exceeded.iter().map(|one| (one.field, one.limit)).collect();
    assert_eq!(fields, [("input", 10), ("labels", 1)]);
    labelled.labels.remove("b");
    assert_eq!(sections.exceeded(&labelled, 10), []);
}
