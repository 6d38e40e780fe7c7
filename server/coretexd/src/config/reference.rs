//! The reference of all settings as Markdown: docs/config.md, which a test keeps current.

use super::Config;
use super::settings::{SECTIONS, SETTINGS, Section, Setting};
use super::{notify, routing};

const INTRO: &str = "\
# Configuration of `coretexd`

Generated from `settings.rs` and `routing/` in `server/coretexd/src/config`; `UPDATE_DOCS=1 cargo test
-p coretexd --test config_reference` writes it anew.

This is what the server itself is told. What organisations, teams and workflows say about their jobs
is kept in the store: [configuration of jobs](job-config.md).

`coretexd` without arguments is a working single node. What it is told comes, each over the one
before, from

1. the defaults below,
2. the TOML file of `--config FILE` or `CORETEX_CONFIG`; there is no other place where one is looked
   for,
3. environment variables (an empty one counts as not set),
4. flags.

Unknown keys and unknown variables that start with `CORETEX_` are refused with the nearest known
name, and so are values that contradict each other; all complaints come at once, with file, line and
column. Ignored are the variables of clients, of the children of `worker exec` and of the scripts of
this repository: `CORETEX_SERVER`, `CORETEX_API_KEY`, `CORETEX_PROFILE`, `CORETEX_OUTPUT`,
`CORETEX_JOB_ID`, `CORETEX_ATTEMPT`, `CORETEX_DEADLINE`, `CORETEX_TOOLS` and those that start with
`CORETEX_CLI_`, `CORETEX_TEST_`, `CORETEX_BENCH_` or `CORETEX_DEMO_`.

`coretexd --dump-config` prints what would be used, where each value comes from, with secrets masked;
its output is a configuration file.

The tables `topics`, `pools` and `tenants` are read again while the server runs; all other settings
are those of its start. [Their part of this page](#topics-pools-tenants-the-routing-tables) says how.

Exit codes: 0 clean stop, 1 stopped by a second signal before it was done, 2 usage or configuration,
3 cannot start (port taken, data directory locked, backend unreachable).

The first start outside of `dev` makes an admin key of tenant `default` and writes it to
`<data_dir>/admin.key` (mode 0600), where `coretexctl` finds it; it is shown only when stderr is a
terminal. A key that is there and works is left alone, and who has taken the file away gets no other
one. A server with `ephemeral` has another key each time: it moves the one that it finds to
`admin.key.kept`, and the next server with the store of that directory moves it back.

SIGTERM and SIGINT drain: `/readyz` answers 503 and `grpc.health.v1` NOT_SERVING, workers are told
to reconnect elsewhere, calls under way are answered, the store is closed; all of it within
`timing.drain_timeout`. Jobs that workers are running are not touched.

A durable server on a network, for example:

```toml
listen = \"0.0.0.0:50051\"
data_dir = \"/var/lib/coretex\"

[tls]
cert = \"/etc/coretex/server.pem\"
key = \"/etc/coretex/server.key\"

[retention]
jobs = \"30d\"
```

The same on servers that keep the jobs and carry the messages, so that several replicas can share
them. Passwords stand in files, for this user alone:

```toml
listen = \"0.0.0.0:50051\"
data_dir = \"/var/lib/coretex\"

[tls]
cert = \"/etc/coretex/server.pem\"
key = \"/etc/coretex/server.key\"

[store]
url = \"rediss://redis.internal:6379/0\"
user = \"coretex\"
password_file = \"/etc/coretex/redis.password\"
tls_ca = \"/etc/coretex/internal-ca.pem\"
durability = \"fsync\"

[bus]
url = \"tls://nats-1.internal,tls://nats-2.internal\"
credentials_file = \"/etc/coretex/bus.creds\"
tls_ca = \"/etc/coretex/internal-ca.pem\"
```

Redis is a store only if it keeps what it is given: opening refuses a version before 7.0, a
`maxmemory-policy` other than `noeviction`, a durability that it does not give, and a user who may
not do what is needed; a server that is down then ends the start with code 3. Later, a server
without its store is not ready, and one without its bus is: jobs go on, and other replicas notice
within a second instead of at once. `coretexctl status` and the metric `coretex_bus_connected` say
so. A URL with TLS is never tried without.

Two pairs work and are warned about: Redis without NATS (other replicas notice only by looking,
once a second) and NATS without Redis (nobody else has this store).
";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut text = INTRO.to_owned();
    text.push_str("\n## Top level\n\n");
    keys("", &mut text);
    for Section { name, doc, main } in SECTIONS {
        text.push_str(&format!("\n## `[{name}]`\n\n{doc}"));
        if let Some(key) = main {
            text.push_str(&format!(" `{name} = ...` alone means `{key}`."));
        }
        text.push_str("\n\n");
        keys(name, &mut text);
    }
    text.push('\n');
    text.push_str(&routing::reference::markdown());
    text.push_str(&notify::markdown());
    text
}

fn keys(section: &str, text: &mut String) {
    let defaults = Config::default();
    for setting in SETTINGS
        .iter()
        .filter(|setting| setting.parts().0 == section)
    {
        let Setting {
            key,
            env,
            flag,
            form,
            doc,
            ..
        } = setting;
        let default = match (*key, setting.show(&defaults)) {
            ("data_dir", _) => "`$XDG_DATA_HOME/coretex`, else `~/.local/share/coretex`".to_owned(),
            ("store.durability", _) => "`\"fsync\"`, with Redis `\"async\"`".to_owned(),
            (_, Some(value)) => format!("`{value}`"),
            (_, None) => "not set".to_owned(),
        };
        let flag = flag.map_or_else(String::new, |flag| format!(", `--{flag}`"));
        text.push_str(&format!(
            "- **`{key}`**: {doc}\n  {form}; default {default}; `{env}`{flag}\n"
        ));
    }
}
