//! What the reference says of the routing tables: an example, the rules, and the list of keys.

use super::keys::{Key, TABLES};

const INTRO: &str = "\
## `[topics]`, `[pools]`, `[tenants]`: the routing tables

They say which pools serve a topic, who may use them, and what holds for jobs whose caller does not
say. They stand in the file alone: there are no variables or flags for them.

```toml
# One token in place of `*`. The name stands in quotes, because of its dots.
[topics.\"job.render.*\"]
pools = [\"gpu\"]
timeout = \"10m\"
schedule_to_start_timeout = \"1h\"
retry = { max_attempts = 3, initial_backoff = \"5s\", non_retryable_codes = [\"bad_input\"] }
concurrency = { limit = 4, on_limit = \"queue\" }

# More specific, so it is the one that counts for this topic.
[topics.\"job.render.preview\"]
pools = [\"gpu\", \"default\"]
timeout = \"30s\"

# Every topic below `job.billing`, for one tenant only.
[topics.\"job.billing.>\"]
tenants = [\"acme\"]
capability = \"billing.write\"
risk_tags = [\"money\"]

# Everything else.
[topics.\"job.>\"]

[pools.default]

[pools.gpu]
capabilities = [\"cuda\"]
weight = 2
skip_overloaded = true

[tenants.acme]
weight = 3
max_running_jobs = 200
submit_rate = \"100/s\"
submit_burst = 500

# All tenants that have no entry of their own.
[tenants.\"*\"]
max_running_jobs = 20
```

A server looks at its file once a second and on SIGHUP. Changed tables are in force at once, for jobs
that wait, too; what runs goes on. A file that cannot be used as a whole, or that is gone, changes
nothing: the tables of before stay in force. The log says why, once for each content, with line and
column; `coretexctl status` says it to system admins, and to others that it is so;
`coretex_config_ok` is 0 until the file is good again, and `coretex_config_reload_failures_total`
counts. All other settings are those of the start: one warning names those that have changed in the
file. Replicas read a file each, so give all of them the same. What is no regular file, such as a
pipe, is read once.
";

/// The part of the page that is about the tables.
pub(in crate::config) fn markdown() -> String {
    let mut text = INTRO.to_owned();
    for table in TABLES {
        text.push_str(&format!("\n### `[{}]`\n\n{}\n\n", table.example, table.doc));
        keys("", table.keys, &mut text);
    }
    text
}

fn keys(outer: &str, list: &[Key], text: &mut String) {
    for key in list {
        let name = format!("{outer}{}", key.name);
        let Key {
            form, default, doc, ..
        } = key;
        text.push_str(&format!(
            "- **`{name}`**: {doc}\n  {form}; default {default}\n"
        ));
        keys(&format!("{name}."), key.keys, text);
    }
}
