//! What verbs share that do one thing to many jobs.

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};

use super::job::Filter;
use super::value;

/// One job, or many.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The job
    #[arg(
        value_name = "JOB_ID",
        required_unless_present_any = ["filter", "all"],
        conflicts_with_all = ["filter", "all"]
    )]
    pub(crate) job_id: Option<String>,
    /// Instead of one job all that match, as the flags of `job list` select them; may be repeated
    ///
    /// For example: --filter state=pending --filter topic=job.wc --filter label=env=prod --filter
    /// created-before=2h
    #[arg(
        long,
        value_name = "KEY=VALUE",
        value_parser = value::pair,
        help_heading = "Many at once"
    )]
    pub(crate) filter: Vec<(String, String)>,
    /// Instead of one job every job of the tenant
    #[arg(long, conflicts_with = "filter", help_heading = "Many at once")]
    pub(crate) all: bool,
}

/// How many are worked through.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many at once")]
pub(crate) struct Pace {
    /// The most a second, at most 1000
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<i32>,
    #[command(flatten)]
    pub(crate) from: From,
}

/// From where, and whether at all.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many at once")]
pub(crate) struct From {
    /// Do nothing but count what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go on where an earlier command with the same filter stopped
    #[arg(long, value_name = "TOKEN")]
    pub(crate) page_token: Option<String>,
}

impl Pace {
    /// The first flag that was given and means nothing for a single job.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--rate", self.rate.is_some()),
            ("--dry-run", self.from.dry_run),
            ("--page-token", self.from.page_token.is_some()),
        ];
        flags
            .iter()
            .find(|(_, given)| *given)
            .map(|(flag, _)| *flag)
    }
}

/// The flags of `job list`, read once more.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Typed {
    #[command(flatten)]
    filter: Filter,
}

impl Which {
    /// What `--filter` selects.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn filter(&self) -> Result<Filter, String> {
        let command = Typed::command();
        let keys: Vec<&str> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        let mut flags = Vec::with_capacity(self.filter.len());
        for (key, value) in &self.filter {
            let key = key.replace('_', "-");
            if !keys.contains(&key.as_str()) {
                let keys = keys.join(", ");
                return Err(format!("--filter knows no `{key}`, but {keys}"));
            }
            flags.push(format!("--{key}={value}"));
        }
        let typed = Typed::try_parse_from(flags).map_err(|error| match error.kind() {
            ErrorKind::ArgumentConflict => "a key of --filter is given twice".to_owned(),
            _ => {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                let first = first.trim_start_matches("error: ");
                format!("--filter: {first}")
            }
        })?;
        Ok(typed.filter)
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test may stop at what it did not expect"
    )]

    use super::*;

    fn which(pairs: &[&str]) -> Which {
        Which {
            job_id: None,
            filter: pairs
                .iter()
                .map(|pair| value::pair(pair).unwrap())
                .collect(),
            all: false,
        }
    }

    #[test]
    fn a_filter_is_read_as_the_flags_of_a_list() {
        let filter = which(&[
            "state=pending,running",
            "state=FAILED",
            "topic=job.a",
            "label=env=prod",
            "created_after=2h",
            "worker=w-1",
        ]);
        let filter = filter.filter().unwrap();
        assert_eq!(filter.states.len(), 3);
        assert_eq!(filter.topics, ["job.a"]);
        assert_eq!(filter.labels, [("env".to_owned(), "prod".to_owned())]);
        assert!(filter.created_after.is_some());
        assert_eq!(filter.worker.as_deref(), Some("w-1"));
    }

    #[test]
    fn what_a_filter_cannot_mean_is_refused() {
        for (pair, says) in [
            ("stat=pending", "knows no `stat`, but state, topic"),
            ("help=x", "knows no `help`"),
            ("state=asleep", "asleep"),
            ("label=env", "KEY=VALUE"),
            ("created-before=soon", "not a time"),
        ] {
            let refused = which(&[pair]).filter().unwrap_err();
            assert!(refused.contains(says), "{pair}: {refused}");
        }
        let twice = which(&["worker=a", "worker=b"]).filter().unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
    }
}
