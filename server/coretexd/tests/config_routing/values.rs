//! Every value that is refused, with its exact place.

use crate::refused;

/// A line in an entry, and what is said of it: column, path and rule, with `T` for the entry.
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
