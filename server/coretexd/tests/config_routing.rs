//! The routing tables of the file: every field is read, every mistake has its place, and nothing
//! that anybody can write makes the loader stumble.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use coretex_core::id::{PoolName, TenantId, Topic};
use coretex_core::job::{Concurrency, ConcurrencyAction};
use coretex_core::retry::RetryPolicy;
use coretex_core::routing::{PoolRule, Rate, Routing, TenantRule, TopicRule};
use coretexd::config::dump::dump;
use coretexd::config::routing::keys::TABLES;
use coretexd::config::{ConfigError, Environment, Flags, Loaded, load, reference};
use proptest::prelude::*;

fn load_bytes(folder: &Path, bytes: &[u8]) -> Result<Loaded, ConfigError> {
    let path = folder.join("c.toml");
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let flags = Flags::parse_from(["coretexd", "--config", path]);
    load(&flags, &[("HOME", "/home/somebody")].into_iter().collect())
}

fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    load_bytes(folder.path(), text.as_bytes())
}

fn tables(text: &str) -> Routing {
    let loaded = load_text(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    loaded.config.routing
}

/// What is wrong with a file, one line each: `line:column: message`.
fn refused(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let error = load_bytes(folder.path(), text.as_bytes()).unwrap_err();
    let file = format!("{}/c.toml:", folder.path().display());
    let problems = error.problems.iter();
    problems
        .map(|problem| {
            let place = problem.place.strip_prefix(&file).unwrap();
            format!("{place}: {}", problem.message)
        })
        .collect()
}

fn topic_rule(routing: &Routing, topic: &str) -> TopicRule {
    let topic = Topic::parse(topic).unwrap();
    routing.topic(&topic).unwrap().1.clone()
}

fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

/// Every key of every table.
const FULL: &str = r#"
[topics."job.a.*"]
pools = ["gpu", "default"]
tenants = ["acme"]
capability = "render"
risk_tags = ["money", "pii"]
timeout = "10m"
schedule_to_start_timeout = "1h30m"

[topics."job.a.*".retry]
max_attempts = 5
initial_backoff = "250ms"
multiplier = 1.5
max_backoff = "10s"
jitter = 0
non_retryable_codes = ["bad_input"]

[topics."job.a.*".concurrency]
key = "model"
limit = 4
on_limit = "cancel-oldest"

[topics."job.>"]
retry = { max_attempts = 2 }
concurrency = { limit = 1 }

[pools]
default = {}

[pools.gpu]
capabilities = ["cuda"]
tenants = ["acme", "other"]
weight = 1000
skip_overloaded = true

[tenants.acme]
weight = 7
max_running_jobs = 200
submit_rate = "100/s"
submit_burst = 500

[tenants."*"]
max_running_jobs = 20
submit_rate = "1_000/10m"
"#;

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

/// A line in an entry, and what is said of it (after `line:column: `path.key``).
#[test]
fn every_mistake_in_a_topic_has_its_place() {
    let long = "x".repeat(257);
    let many = format!("[{}]", "'a', ".repeat(65));
    let cases = [
        (
            "pools = 'gpu'",
            "9: `T.pools` must be a list of up to 1000 names",
        ),
        (
            "pools = []",
            "9: `T.pools` must name at least one; leave it out for all",
        ),
        (
            "pools = ['a', 5]",
            "15: `T.pools[1]` must be a text, in quotes",
        ),
        ("pools = ['a', 'a']", "15: `T.pools[1]` stands there twice"),
        (
            "pools = ['a b']",
            "10: `T.pools[0]` may hold only letters, digits, `_` and `-`",
        ),
        ("pools = ['']", "10: `T.pools[0]` must not be empty"),
        (
            "tenants = true",
            "11: `T.tenants` must be a list of up to 1000 names",
        ),
        (
            "tenants = []",
            "11: `T.tenants` must name at least one; leave it out for all",
        ),
        (
            "tenants = ['*']",
            "12: `T.tenants[0]` may hold only letters, digits, `_` and `-`",
        ),
        (
            "capability = 5",
            "14: `T.capability` must be a text, in quotes",
        ),
        ("capability = ''", "14: `T.capability` must not be empty"),
        (
            "capability = \"a\\nb\"",
            "14: `T.capability` must not hold control characters",
        ),
        (
            &format!("capability = '{long}'"),
            "14: `T.capability` must be at most 256 bytes long",
        ),
        (
            "risk_tags = 'a'",
            "13: `T.risk_tags` must be a list of up to 64 texts",
        ),
        (
            &format!("risk_tags = {many}"),
            "13: `T.risk_tags` must be a list of up to 64 texts",
        ),
        (
            "risk_tags = ['a', '']",
            "19: `T.risk_tags[1]` must not be empty",
        ),
        (
            "timeout = 5",
            "11: `T.timeout` must be a duration such as `250ms`, `5m` or `1h30m`, in quotes",
        ),
        (
            "timeout = '5 minutes'",
            "11: `T.timeout` must be a duration such as `250ms`, `5m` or `1h30m`",
        ),
        ("timeout = '0s'", "11: `T.timeout` must be from 1ms to 366d"),
        (
            "timeout = '367d'",
            "11: `T.timeout` must be from 1ms to 366d",
        ),
        (
            "schedule_to_start_timeout = '0'",
            "29: `T.schedule_to_start_timeout` must be from 1ms to 366d",
        ),
        (
            "retry = 3",
            "9: `T.retry` must be a table: `retry = { .. }` or a section `[T.retry]`",
        ),
        ("retry = {}", "1: `T.retry` needs `max_attempts`"),
        (
            "retry = { max_attempts = 0 }",
            "26: `T.retry.max_attempts` must be a whole number from 1 to 1000",
        ),
        (
            "retry = { max_attempts = 1001 }",
            "26: `T.retry.max_attempts` must be a whole number from 1 to 1000",
        ),
        (
            "retry = { max_attempts = 2.0 }",
            "26: `T.retry.max_attempts` must be a whole number from 1 to 1000",
        ),
        (
            "retry = { max_attempts = 2, initial_backoff = '25h' }",
            "47: `T.retry.initial_backoff` must be from 0s to 1d",
        ),
        (
            "retry = { max_attempts = 2, multiplier = 0.5 }",
            "42: `T.retry.multiplier` must be a number from 1 to 100",
        ),
        (
            "retry = { max_attempts = 2, multiplier = nan }",
            "42: `T.retry.multiplier` must be a number from 1 to 100",
        ),
        (
            "retry = { max_attempts = 2, max_backoff = '10ms' }",
            "43: `T.retry.max_backoff` must not be shorter than `initial_backoff`",
        ),
        (
            "retry = { max_attempts = 2, jitter = 1.1 }",
            "38: `T.retry.jitter` must be a number from 0 to 1",
        ),
        (
            "retry = { max_attempts = 2, jitter = 'much' }",
            "38: `T.retry.jitter` must be a number from 0 to 1",
        ),
        (
            "retry = { max_attempts = 2, non_retryable_codes = [''] }",
            "52: `T.retry.non_retryable_codes[0]` must not be empty",
        ),
        (
            &format!(
                "retry = {{ max_attempts = 2, non_retryable_codes = ['{}'] }}",
                &long[..129]
            ),
            "51: `T.retry.non_retryable_codes` must hold codes of at most 128 bytes",
        ),
        (
            "retry = { max_attempts = 2, max_backof = '1s' }",
            "29: unknown key `T.retry.max_backof`; did you mean `max_backoff`?",
        ),
        (
            "concurrency = 4",
            "15: `T.concurrency` must be a table: `concurrency = { .. }` or a section \
             `[T.concurrency]`",
        ),
        (
            "concurrency = { key = 'k' }",
            "1: `T.concurrency` needs `limit`",
        ),
        (
            "concurrency = { limit = 0 }",
            "25: `T.concurrency.limit` must be a whole number from 1 to 2147483647",
        ),
        (
            "concurrency = { limit = 1, key = '' }",
            "34: `T.concurrency.key` must not be empty",
        ),
        (
            "concurrency = { limit = 1, on_limit = 'drop' }",
            "39: `T.concurrency.on_limit` must be one of `queue`, `reject`, `cancel-oldest`, in \
             quotes",
        ),
        (
            "input_schema_id = 's'",
            "1: `T.input_schema_id`: schemas are not available in this version",
        ),
        (
            "output_schema_id = 5",
            "1: `T.output_schema_id`: schemas are not available in this version",
        ),
        (
            "timeuot = '5m'",
            "1: unknown key `T.timeuot`; did you mean `timeout`?",
        ),
        (
            "limit = 5",
            "1: unknown key `T.limit`; did you mean `concurrency.limit`?",
        ),
        ("frobnicate = 5", "1: unknown key `T.frobnicate`"),
        ("\"a b\" = 5", "1: unknown key `T.\"a b\"`"),
    ];
    for (line, expected) in cases {
        let text = format!("\n[topics.'job.a.*']\n{line}\n");
        let expected = expected.replace("T.", "topics.\"job.a.*\".");
        assert_eq!(refused(&text), [format!("3:{expected}")], "{line}");
    }
}

#[test]
fn every_mistake_in_a_pool_or_a_tenant_has_its_place() {
    for (entry, line, expected) in [
        (
            "pools.p",
            "weight = 0",
            "10: `pools.p.weight` must be a whole number from 1 to 1000",
        ),
        (
            "pools.p",
            "weight = 1001",
            "10: `pools.p.weight` must be a whole number from 1 to 1000",
        ),
        (
            "pools.p",
            "weight = -1",
            "10: `pools.p.weight` must be a whole number from 1 to 1000",
        ),
        (
            "pools.p",
            "weight = '1'",
            "10: `pools.p.weight` must be a whole number from 1 to 1000",
        ),
        (
            "pools.p",
            "skip_overloaded = 1",
            "19: `pools.p.skip_overloaded` must be `true` or `false`",
        ),
        (
            "pools.p",
            "capabilities = ['a', 'a']",
            "22: `pools.p.capabilities[1]` stands there twice",
        ),
        (
            "pools.p",
            "tenants = []",
            "11: `pools.p.tenants` must name at least one; leave it out for all",
        ),
        (
            "pools.p",
            "wieght = 1",
            "1: unknown key `pools.p.wieght`; did you mean `weight`?",
        ),
        (
            "pools.p",
            "input_schema_id = ''",
            "1: unknown key `pools.p.input_schema_id`",
        ),
        (
            "tenants.t",
            "weight = 1.5",
            "10: `tenants.t.weight` must be a whole number from 1 to 1000",
        ),
        (
            "tenants.t",
            "max_running_jobs = 0",
            "20: `tenants.t.max_running_jobs` must be a whole number from 1 to 9223372036854775807",
        ),
        (
            "tenants.t",
            "submit_rate = 100",
            "15: `tenants.t.submit_rate` must be a text, in quotes",
        ),
        (
            "tenants.t",
            "submit_burst = 5",
            "16: `tenants.t.submit_burst` needs `submit_rate`",
        ),
        (
            "tenants.t",
            "submit_burst = 0\nsubmit_rate = '1/s'",
            "16: `tenants.t.submit_burst` must be a whole number from 1 to 1000000",
        ),
        (
            "tenants.t",
            "submit_burst = 1_000_000\nsubmit_rate = '1/d'",
            "16: `tenants.t.submit_burst` must come together again within 366d",
        ),
        (
            "tenants.'*'",
            "rate = 1",
            "1: unknown key `tenants.\"*\".rate`",
        ),
    ] {
        let text = format!("\n[{entry}]\n{line}\n");
        assert_eq!(refused(&text), [format!("3:{expected}")], "{line}");
    }
}

#[test]
fn names_of_entries_are_checked() {
    let pattern = "the name must be `job.` followed by dotted tokens of letters, digits, `_` and \
                   `-`, `*` for any one token, or `>` at the end for the rest";
    for name in ["a", "jobs.a", "job.a*", "job..a", "a b"] {
        let found = refused(&format!("[topics.'{name}']\n"));
        let path = match name {
            "a" => "topics.a".to_owned(),
            name => format!("topics.\"{name}\""),
        };
        assert_eq!(found, [format!("1:9: `{path}`: {pattern}")]);
    }
    assert_eq!(
        refused("[topics.'job.>.a']\n"),
        ["1:9: `topics.\"job.>.a\"`: the name may have `>` only as its last token"]
    );
    assert_eq!(
        refused("[pools.'a.b']\n[tenants.'']\n[tenants.'job.*']\n"),
        [
            "1:8: `pools.\"a.b\"`: the name may hold only letters, digits, `_` and `-`",
            "2:10: `tenants.\"\"`: the name must not be empty",
            "3:10: `tenants.\"job.*\"`: the name may hold only letters, digits, `_` and `-`",
        ]
    );
    // Dots without quotes make sections of sections.
    let error = load_text("[topics.job.a]\npools = ['p']\n").unwrap_err();
    assert_eq!(error.problems.len(), 1);
    assert_eq!(
        error.problems[0].message,
        "`topics.job` is no pattern of topics"
    );
    let hint = error.problems[0].hint.as_deref();
    assert_eq!(
        hint,
        Some("patterns stand in quotes: `[topics.\"job.a.*\"]`")
    );
    assert!(error.problems[0].place.ends_with("c.toml:1:9"));
}

#[test]
fn what_is_no_section_is_told_how_to_be_one() {
    assert_eq!(
        refused("pools = ['a']\ntopics = 5\ntenants = 'x'\n"),
        [
            "1:1: `pools` is a section of entries: write `[pools.NAME]`",
            "2:1: `topics` is a section of entries: write `[topics.\"job.a.*\"]`",
            "3:1: `tenants` is a section of entries: write `[tenants.NAME]`",
        ]
    );
    assert_eq!(
        refused("[[topics]]\n"),
        ["1:3: `topics` is a section of entries: write `[topics.\"job.a.*\"]`"]
    );
    assert_eq!(
        refused("[topics]\n'job.a' = 'gpu'\n"),
        ["2:1: `topics.\"job.a\"` must be a section: write `[topics.\"job.a\"]`"]
    );
    let error = load_text("[pools]\nweight = 5\n").unwrap_err();
    let hint = error.problems[0].hint.as_deref();
    assert_eq!(
        hint,
        Some("`weight` stands inside of an entry such as `[pools.NAME]`")
    );
    assert_eq!(
        refused("[topic.'job.a']\n[pool.a]\n[tenant.a]\n"),
        [
            "1:2: unknown key `topic`; did you mean `topics`?",
            "2:2: unknown key `pool`; did you mean `pools`?",
            "3:2: unknown key `tenant`; did you mean `tenants`?",
        ]
    );
}

#[test]
fn topics_name_only_pools_of_the_table() {
    assert_eq!(
        refused("[topics.'job.a']\npools = ['gpo', 'cpu', 'other']\n[pools.gpu]\n[pools.cpu]\n"),
        [
            "2:10: `topics.\"job.a\".pools[0]` is not in the table of pools; did you mean `gpu`?",
            "2:24: `topics.\"job.a\".pools[2]` is not in the table of pools",
        ]
    );
    // A pool with a mistake in it is there.
    assert_eq!(
        refused("[topics.'job.a']\npools = ['gpu']\n[pools.gpu]\nweight = 0\n"),
        ["4:10: `pools.gpu.weight` must be a whole number from 1 to 1000"]
    );
    // Without a table of pools every name will do.
    tables("[topics.'job.a']\npools = ['gpo']\n");
}

#[test]
fn duplicates_do_not_hide_what_else_is_wrong() {
    let text = "[topics.'job.a']\ntimeout = '5m'\ntimeout = '6m'\n\n[pools.a]\nweight = 0\n\n\
                [topics.'job.a']\npools = []\n[pools.a]\n";
    assert_eq!(
        refused(text),
        [
            "3:1: duplicate key",
            "6:10: `pools.a.weight` must be a whole number from 1 to 1000",
            "8:9: duplicate key",
            "9:9: `topics.\"job.a\".pools` must name at least one; leave it out for all",
            "10:8: duplicate key",
        ]
    );
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
    let text = "[tenants.t]\nweight = 0\n[limits]\nmax_sesions = 1\n[topics.'a']\ntimeout = 1\n\
                [retention]\njobs = 7\n[pools.p]\nx = 1\n";
    let found = refused(text);
    let places: Vec<&str> = found
        .iter()
        .map(|line| line.split_once(": ").unwrap().0)
        .collect();
    assert_eq!(
        places,
        ["2:10", "4:1", "5:9", "6:11", "8:8", "10:1"],
        "{found:?}"
    );
    // Every broken line is told, and what follows from it is not.
    let found = refused("dev = \nlisten = = 1\n[topics.'job.a']\npool = 1\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(
        found[0].starts_with("1:") && found[1].starts_with("2:"),
        "{found:?}"
    );
    assert!(
        !found.iter().any(|line| line.contains("unknown")),
        "{found:?}"
    );
}

#[test]
fn tables_have_a_most() {
    let entries = |count: usize| -> String {
        let entry = |number| format!("[topics.'job.t{number}']\n");
        (0..count).map(entry).collect()
    };
    assert_eq!(tables(&entries(1_000)).topics().count(), 1_000);
    assert_eq!(
        refused(&entries(1_001)),
        ["1:2: `topics` must have at most 1000 entries"]
    );
}

#[test]
fn files_that_are_no_text_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let error = load_bytes(folder.path(), b"dev = true\n# \xc3\xa4 \xff\n").unwrap_err();
    let problem = &error.problems[0];
    assert!(problem.place.ends_with("c.toml:2:5"), "{error}");
    assert_eq!(problem.message, "the file is not UTF-8");
    let error = load_bytes(folder.path(), &vec![b'#'; 16 * 1024 * 1024 + 1]).unwrap_err();
    assert_eq!(error.problems[0].message, "the file is larger than 16MiB");
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

/// What is put into a good file at some place.
fn mutation() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "[",
        "]",
        "[[",
        "]]",
        "=",
        ".",
        ",",
        "\"",
        "'",
        "'''",
        "\"\"\"",
        "{",
        "}",
        "\n",
        "\r\n",
        "\r",
        "#",
        "*",
        ">",
        "\\",
        "\\u0000",
        "\u{0}",
        "\u{feff}",
        "ä",
        "🦀",
        "0x",
        "1e9",
        "-",
        "nan",
        "true",
        "1979-05-27",
        "topics",
        "[topics]",
        "[pools.x]",
        "weight = 0",
        "[tenants.\"*\"]",
        "job.a",
        "''",
    ]);
    prop_oneof![words.prop_map(str::to_owned), ".{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_file_it_loads_or_says_where_it_is_wrong(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..20, mutation()), 1..4),
    ) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, removed, added) in changes {
            let start = at.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
        }
        let text: String = text.into_iter().collect();
        let folder = tempfile::tempdir().unwrap();
        match load_bytes(folder.path(), text.as_bytes()) {
            Ok(loaded) => {
                prop_assert_eq!(tables(&dump(&loaded)), loaded.config.routing);
            }
            Err(error) => {
                prop_assert!(!error.problems.is_empty());
                let file = format!("{}/c.toml:", folder.path().display());
                for problem in &error.problems {
                    let place = problem.place.strip_prefix(&file);
                    prop_assert!(place.is_some(), "{}", error);
                    let (line, column) = place.unwrap_or_default().split_once(':').unwrap();
                    let (line, column): (usize, usize) = (line.parse().unwrap(), column.parse().unwrap());
                    let found = text.split('\n').nth(line - 1);
                    prop_assert!(found.is_some(), "{}", error);
                    // One behind the end is where something is missing.
                    let width = found.unwrap_or_default().chars().count() + 1;
                    prop_assert!((1..=width).contains(&column), "{}", error);
                    prop_assert!(!problem.message.is_empty());
                }
            }
        }
    }
}

#[test]
fn a_summary_is_one_bounded_line() {
    let text: String = (0..30).map(|number| format!("x{number} = 1\n")).collect();
    let error = load_text(&text).unwrap_err();
    let brief = error.brief();
    assert!(!brief.contains('\n'));
    assert!(brief.contains("c.toml:1:1: unknown key `x0`"), "{brief}");
    assert!(brief.contains("c.toml:20:1"), "{brief}");
    assert!(!brief.contains("c.toml:21:1"), "{brief}");
    assert!(brief.ends_with("; and 10 more"), "{brief}");
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
