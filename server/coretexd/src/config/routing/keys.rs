//! The one list of what the routing tables may hold: name, form and meaning of every key.

/// A section whose entries have names of their own.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// An entry, as it is written.
    pub example: &'static str,
    /// What it is about.
    pub doc: &'static str,
    /// What an entry may hold.
    pub keys: &'static [Key],
}

/// One key of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its values look like.
    pub form: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What its table may hold, if it is one.
    pub keys: &'static [Key],
}

/// The tenants that have no entry.
pub const ALL_OTHERS: &str = "*";

/// The tables, in the order of the reference.
pub static TABLES: [&Table; 3] = [&TOPICS, &POOLS, &TENANTS];

pub(in crate::config) const fn key(
    name: &'static str,
    form: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        form,
        default,
        doc,
        keys: &[],
    }
}

const NAMES: &str = "list of names, not empty";
const TEXTS: &str = "list of texts, up to 64";
const DURATION: &str = "duration (`250ms`, `5m`, `1h30m`)";
const TIMEOUT: &str = "duration from `1ms` to `366d`";

/// What holds for the jobs of a topic.
pub static TOPICS: Table = Table {
    name: "topics",
    example: "topics.\"job.a.*\"",
    doc: "One entry for each pattern of topics. `*` stands for one token, `>` at the end for one \
          or more; the most specific pattern that matches a job's topic is the one that counts. \
          Without any entry the table is open: a topic is served by whichever workers name it. \
          With entries it is closed: a job whose topic matches none, or whose tenant is not let \
          in, fails with `no_pool_mapping`. `input_schema_id` and `output_schema_id` are refused: \
          schemas are not available in this version.",
    keys: &[
        key(
            "pools",
            NAMES,
            "any pool",
            "The pools whose workers get its jobs. Where there is a table of pools, only names \
             from there.",
        ),
        key(
            "tenants",
            NAMES,
            "all tenants",
            "The tenants that may use it.",
        ),
        key(
            "capability",
            "text",
            "none",
            "What its jobs do, where the caller does not say.",
        ),
        key(
            "risk_tags",
            TEXTS,
            "none",
            "Risk tags that its jobs have beside the caller's own.",
        ),
        key(
            "timeout",
            TIMEOUT,
            "the server's",
            "How long an attempt may take, where the caller does not say.",
        ),
        key(
            "schedule_to_start_timeout",
            TIMEOUT,
            "the server's",
            "How long a job may wait for a worker, where the caller does not say.",
        ),
        Key {
            keys: RETRY,
            ..key(
                "retry",
                "table",
                "no retry",
                "How failed attempts are repeated, where the caller does not say.",
            )
        },
        Key {
            keys: CONCURRENCY,
            ..key(
                "concurrency",
                "table",
                "no limit",
                "How many of its jobs run at once, for each tenant, where the caller names no \
                 limit.",
            )
        },
    ],
};

/// Keys of the contract whose behaviour is not built: refused, never ignored.
pub static NOT_AVAILABLE: [&str; 2] = ["input_schema_id", "output_schema_id"];

/// How failed attempts are repeated.
pub static RETRY: &[Key] = &[
    key(
        "max_attempts",
        "number from 1 to 1000",
        "must be given",
        "Attempts in all, the first included.",
    ),
    key(
        "initial_backoff",
        DURATION,
        "`1s`",
        "The pause after the first failed attempt; at most `1d`.",
    ),
    key(
        "multiplier",
        "number from 1 to 100",
        "`2.0`",
        "How much longer each pause is than the one before.",
    ),
    key(
        "max_backoff",
        DURATION,
        "`1m`, or `initial_backoff` if that is longer",
        "No pause is longer; at most `1d`.",
    ),
    key(
        "jitter",
        "number from 0 to 1",
        "`0.2`",
        "How far a pause may be off in either direction, as a part of it.",
    ),
    key(
        "non_retryable_codes",
        TEXTS,
        "none",
        "Error codes after which there is no further attempt.",
    ),
];

/// How many jobs run at once.
pub static CONCURRENCY: &[Key] = &[
    key(
        "limit",
        "number from 1 to 2147483647",
        "must be given",
        "The most at once.",
    ),
    key(
        "key",
        "text",
        "the pattern",
        "What is counted: jobs of the tenant with this key, whether it comes from here or from \
         their caller.",
    ),
    key(
        "on_limit",
        "`queue`, `reject` or `cancel-oldest`",
        "`queue`",
        "What happens to one more: it waits, it is refused at submission, or the one that was \
         handed out first is cancelled.",
    ),
];

/// What holds for the workers of a pool.
pub static POOLS: Table = Table {
    name: "pools",
    example: "pools.NAME",
    doc: "One entry for each pool. With entries, topics and workers may name only these.",
    keys: &[
        key(
            "capabilities",
            TEXTS,
            "none",
            "What all its workers can do, beside what each says of itself.",
        ),
        key(
            "tenants",
            NAMES,
            "all tenants",
            "The tenants that may use it.",
        ),
        key(
            "weight",
            "number from 1 to 1000",
            "`1`",
            "How full its workers are made in relation to those of other pools.",
        ),
        key(
            "skip_overloaded",
            "true or false",
            "`false`",
            "Its workers get nothing while their CPU or GPU is at 90 % or more. Otherwise they \
             are a last choice then.",
        ),
    ],
};

/// What holds for the jobs of a tenant.
pub static TENANTS: Table = Table {
    name: "tenants",
    example: "tenants.NAME",
    doc: "One entry for each tenant; `[tenants.\"*\"]` is for all that have none. An entry takes \
          nothing from `\"*\"`: what it does not say is the default.",
    keys: &[
        key(
            "weight",
            "number from 1 to 1000",
            "`1`",
            "Its share of the slots while several tenants wait.",
        ),
        key(
            "max_running_jobs",
            "number, at least 1",
            "no limit",
            "The most of its jobs that workers have at once.",
        ),
        key(
            "submit_rate",
            "`100/s`, `5000/h`, `1/10s`: up to 1000000 in a time from `1ms` to `1d`",
            "no limit",
            "How often it may submit.",
        ),
        key(
            "submit_burst",
            "number from 1 to 1000000",
            "the number of `submit_rate`",
            "How many it may submit at once after a pause.",
        ),
    ],
};
