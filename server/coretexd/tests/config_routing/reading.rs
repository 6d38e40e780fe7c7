//! What good tables are read as, and printed as.

use std::time::Duration;

use coretex_core::job::{Concurrency, ConcurrencyAction};
use coretex_core::retry::RetryPolicy;
use coretex_core::routing::{PoolRule, Rate, Routing, TenantRule, TopicRule};
use coretexd::config::dump::dump;
use coretexd::config::routing::keys::TABLES;
use coretexd::config::{Environment, Flags, load, reference};

use crate::{FULL, load_bytes, load_text, pool, refused, tables, tenant, topic_rule};

#[test]
fn every_field_is_read() {
    let routing = tables(FULL);
    assert_eq!(
        topic_rule(&routing, "job.a.b"),
        TopicRule {
            pools: vec![pool("gpu"), pool("default")],
            tenants: vec![tenant("acme")],
            capability: "render".to_owned(),
            risk_tags: vec!["money".to_owned(), "pii".to_owned()],
            timeout: Some(Duration::from_secs(600)),
            retry: Some(RetryPolicy {
                max_attempts: 5,
                initial_backoff: Duration::from_millis(250),
                multiplier: 1.5,
                max_backoff: Duration::from_secs(10),
                jitter: 0.0,
                non_retryable_codes: vec!["bad_input".to_owned()],
            }),
            concurrency: Some(Concurrency {
                key: "model".to_owned(),
                limit: 4,
                on_limit: ConcurrencyAction::CancelOldest,
            }),
            schedule_to_start_timeout: Some(Duration::from_secs(5_400)),
        }
    );
    // What is not said is as in a request of a caller.
    let rest = topic_rule(&routing, "job.b");
    assert_eq!(
        rest.retry,
        Some(RetryPolicy {
            max_attempts: 2,
            jitter: RetryPolicy::DEFAULT_JITTER,
            ..RetryPolicy::default()
        })
    );
    assert_eq!(
        rest.concurrency,
        Some(Concurrency {
            key: String::new(),
            limit: 1,
            on_limit: ConcurrencyAction::Queue,
        })
    );
    assert_eq!(routing.topics().count(), 2);
    assert_eq!(routing.pool(&pool("default")), Some(&PoolRule::default()));
    assert_eq!(
        routing.pool(&pool("gpu")),
        Some(&PoolRule {
            capabilities: vec!["cuda".to_owned()],
            tenants: vec![tenant("acme"), tenant("other")],
            weight: 1_000,
            skip_overloaded: true,
        })
    );
    assert_eq!(
        routing.tenant(&tenant("acme")),
        &TenantRule {
            weight: 7,
            max_running_jobs: Some(200),
            submit_rate: Some(Rate {
                permits: 100,
                per: Duration::from_secs(1),
                burst: 500,
            }),
        }
    );
    let other = TenantRule {
        weight: 1,
        max_running_jobs: Some(20),
        submit_rate: Some(Rate {
            permits: 1_000,
            per: Duration::from_secs(600),
            burst: 1_000,
        }),
    };
    assert_eq!(routing.tenant(&tenant("other")), &other);
    assert_eq!(routing.default_tenant(), &other);
}

#[test]
fn without_the_sections_the_tables_are_empty() {
    for text in ["", "dev = true\n", "[topics]\n[pools]\n[tenants]\n"] {
        assert_eq!(tables(text), Routing::default(), "{text}");
    }
}

#[test]
fn a_longer_first_pause_needs_no_longer_maximum_to_be_said() {
    let text = "[topics.'job.a']\nretry = { max_attempts = 2, initial_backoff = '5m' }\n";
    let retry = topic_rule(&tables(text), "job.a").retry.unwrap();
    assert_eq!(retry.max_backoff, Duration::from_secs(300));
}

#[test]
fn rates_are_read_as_people_write_them() {
    for (text, permits, millis) in [
        ("100/s", 100, 1_000),
        ("1/ms", 1, 1),
        ("5000/h", 5_000, 3_600_000),
        ("1/10s", 1, 10_000),
        ("7/1d", 7, 86_400_000),
        ("3/1m30s", 3, 90_000),
    ] {
        let routing = tables(&format!("[tenants.a]\nsubmit_rate = '{text}'\n"));
        let rate = routing.tenant(&tenant("a")).submit_rate.unwrap();
        assert_eq!(
            (rate.permits, rate.per, rate.burst),
            (permits, Duration::from_millis(millis), permits),
            "{text}"
        );
    }
    let must = "2:15: `tenants.a.submit_rate` must be a number and a time such as `100/s`, \
                `5000/h` or `1/10s`";
    for text in [
        "",
        "100",
        "/s",
        "100/",
        "-1/s",
        "+1/s",
        "1.5/s",
        "100 / s",
        "1/x",
        "1/0x",
        "a/s",
        "99999999999/s",
        "1/s/s",
    ] {
        let found = refused(&format!("[tenants.a]\nsubmit_rate = '{text}'\n"));
        assert_eq!(found, [must], "{text}");
    }
    let must = "2:15: `tenants.a.submit_rate` must be from 1 to 1000000 in a time from 1ms to 1d";
    for text in ["0/s", "1000001/s", "1/0s", "1/2d"] {
        let found = refused(&format!("[tenants.a]\nsubmit_rate = '{text}'\n"));
        assert_eq!(found, [must], "{text}");
    }
}

#[test]
fn the_dump_holds_the_tables_and_loads_again() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = load_bytes(folder.path(), FULL.as_bytes()).unwrap();
    let text = dump(&loaded);
    for line in [
        format!("[topics.\"job.a.*\"] # {}/c.toml", folder.path().display()),
        "retry = { max_attempts = 5, initial_backoff = \"250ms\", multiplier = 1.5, max_backoff = \
         \"10s\", jitter = 0.0, non_retryable_codes = [\"bad_input\"] }"
            .to_owned(),
        "concurrency = { key = \"model\", limit = 4, on_limit = \"cancel-oldest\" }".to_owned(),
        "submit_rate = \"1000/10m\"".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(tables(&text), loaded.config.routing);
    // Every key of the reference is in the example of this test.
    for key in TABLES.iter().flat_map(|table| table.keys) {
        for name in key.keys.iter().chain([key]).map(|key| key.name) {
            assert!(FULL.contains(&format!("{name} = ")) || FULL.contains(&format!(".{name}]")));
            assert!(text.contains(&format!("{name} = ")), "{name}");
        }
    }
}

#[test]
fn the_examples_of_the_reference_are_good() {
    let page = reference::markdown();
    let examples: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let with_topics = examples.iter().filter(|text| text.contains("[topics."));
    assert_eq!(with_topics.clone().count(), 1);
    for text in with_topics {
        let routing = tables(text);
        assert!(routing.closes_topics());
        assert_eq!(tables(&dump(&load_text(text).unwrap())), routing);
    }
}

#[test]
fn variables_for_the_tables_do_not_exist() {
    let env: Environment = [("HOME", "/"), ("CORETEX_TOPICS", "x")]
        .into_iter()
        .collect();
    let error = load(&Flags::default(), &env).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("unknown variable `CORETEX_TOPICS`")
    );
}
