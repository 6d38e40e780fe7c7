//! docs/cli.md: every help text on one page, as the program itself prints it.
//!
//! A test writes it and compares, so the page is the snapshot of the help texts too.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::env;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};

use crate::args::Cli;

const HEAD: &str = "\
# Reference of `coretexctl`

Generated from `cli/src/args/`; `UPDATE_DOCS=1 cargo test -p coretexctl docs` writes it anew. The
same texts come from `coretexctl help` and `--help`.

## Configuration

`$XDG_CONFIG_HOME/coretex/config.toml` (`~/.config/coretex/config.toml`) describes servers by name.
Unknown keys are refused.

```toml
# Used when neither --profile nor CORETEX_PROFILE names one; without it, `default` if there is one.
default_profile = \"staging\"

[profiles.staging]
server = \"https://coretex.staging.example.com\"
api_key = \"ck_...\"
ca_file = \"/etc/ssl/our-ca.pem\"
```

Each setting comes from the flag, else from the environment, else from the profile. Without a key
from any of them, the `admin.key` of a server on this machine is used: in `$CORETEX_DATA_DIR`, else
in `$XDG_DATA_HOME/coretex` (`~/.local/share/coretex`). It is refused when others can read it, and
sent to loopback addresses only.

Colours and progress are for terminals; `NO_COLOR` switches colours off. `CORETEX_CLI_LOG` selects
log lines for stderr, in the syntax of `tracing` filters.

## Output

`--output table` is for people and may change. `--output json` is proto JSON with the field names of
the contract: a single resource is printed as itself (`job get` prints a Job), lists as one object
that holds the plural (`{\"jobs\": [...]}`), other answers as the answer of their RPC. Watches and
batches are one JSON object per line. `--output yaml` has the same content.

Errors go to stderr: `error:`, details, causes, `hint:`, `reason:`.

| Exit code | Meaning |
|---|---|
| 0 | ok; with waiting: the job succeeded |
| 1 | refused, or a job ended badly |
| 2 | usage or environment: wrong flags, unreadable files, no server |
| 3 | not finished at `--timeout` |
| 4 | waiting for an approval, with `--no-approval-wait` |

## Commands

The global options of `coretexctl` stand anywhere; they are shown here once.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut command = Cli::command()
        .term_width(100)
        .color(clap::ColorChoice::Never);
    command.build();
    add(&mut page, &command, "");
    page
}

fn add(page: &mut String, command: &Command, parents: &str) {
    let name = format!("{parents}{}", command.get_name());
    let mut alone = command.clone().bin_name(&name);
    if !parents.is_empty() {
        alone = alone.mut_args(|arg| {
            let everywhere = arg.is_global_set();
            arg.hide(everywhere)
        });
    }
    let help = alone.render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    page.push_str(&format!(
        "\n### {name}\n\n```text\n{}\n```\n",
        help.join("\n")
    ));
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        add(page, sub, &format!("{name} "));
    }
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let expected = page();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/cli.md is not what the program says; write it anew with \
         `UPDATE_DOCS=1 cargo test -p coretexctl docs`"
    );
}
