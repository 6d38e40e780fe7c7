//! `coretexctl config ...`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use coretex::proto::ConfigScope;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show a document of configuration
    Get {
        #[command(flatten)]
        name: Name,
    },
    /// Write a document, from a file or key by key
    ///
    /// With --file the document is replaced as a whole, whatever is there, unless --etag says what has
    /// to be there. With KEY=VALUE the others of its keys stay as they are, and somebody who writes at
    /// the same time is noticed.
    ///
    /// For example: coretexctl config set team/research limits.max_labels=8 models.default=small
    Set(Set),
    /// Change a document with an editor ($VISUAL, $EDITOR)
    ///
    /// Somebody who has written meanwhile is noticed, and what was typed is kept in a file.
    Edit {
        #[command(flatten)]
        name: Name,
    },
    /// Delete a document; its history is kept
    Delete {
        #[command(flatten)]
        name: Name,
        /// Only if the document has this etag
        #[arg(long, value_name = "ETAG")]
        etag: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// List documents, newest first
    List {
        /// Only documents of this scope; may be repeated, or a list with commas
        #[arg(
            long = "scope",
            value_enum,
            value_name = "SCOPE",
            value_delimiter = ','
        )]
        scopes: Vec<Scope>,
    },
    /// Show what a document has said, newest first
    History {
        #[command(flatten)]
        name: Name,
        /// The most revisions to list
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show how two revisions of a document differ, or a document and a file
    ///
    /// Without revisions: the current one from the one before.
    Diff {
        #[command(flatten)]
        name: Name,
        /// The revision to start from
        #[arg(value_name = "FROM", conflicts_with = "file")]
        from: Option<i32>,
        /// The revision to compare with [default: the current one]
        #[arg(value_name = "TO", requires = "from")]
        to: Option<i32>,
        /// Compare the document with this file (`-`: stdin)
        #[arg(long, short, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Show the configuration in force for a team, a workflow or a step
    Effective {
        /// For jobs of this team
        #[arg(long, value_name = "TEAM")]
        team: Option<String>,
        /// In this workflow
        #[arg(long, value_name = "WORKFLOW")]
        workflow: Option<String>,
        /// In this step of the workflow
        #[arg(long, value_name = "STEP", requires = "workflow")]
        step: Option<String>,
        /// Say where each value comes from
        #[arg(long)]
        origins: bool,
    },
}

/// Which document.
#[derive(Clone, Debug, Args)]
pub(crate) struct Name {
    /// The document: system, org, team/ID, workflow/ID or step/WORKFLOW/STEP
    #[arg(value_name = "DOCUMENT", value_parser = document)]
    pub(crate) document: (ConfigScope, String),
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    pub(crate) name: Name,
    /// A key and its value as JSON or plain text: a.b=5, or a JSON pointer where keys hold dots:
    /// /topics/job.a/timeout=5m. `null` takes back what a wider scope says
    #[arg(value_name = "KEY=VALUE", value_parser = super::value::pair)]
    pub(crate) pairs: Vec<(String, String)>,
    /// Take this key out of the document; may be repeated
    #[arg(long, value_name = "KEY")]
    pub(crate) unset: Vec<String>,
    /// Read the whole document from this file, JSON or YAML (`-`: stdin)
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["pairs", "unset"])]
    pub(crate) file: Option<PathBuf>,
    /// Only if the document has this etag
    #[arg(long, value_name = "ETAG", conflicts_with = "create")]
    pub(crate) etag: Option<String>,
    /// Only if there is no such document yet
    #[arg(long)]
    pub(crate) create: bool,
    /// Check everything and change nothing
    #[arg(long)]
    pub(crate) validate_only: bool,
}

/// Scopes of documents, widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// The installation
    System,
    /// The tenant
    Org,
    /// A team
    Team,
    /// A workflow
    Workflow,
    /// A step of a workflow
    Step,
}

impl From<Scope> for ConfigScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::System => Self::System,
            Scope::Org => Self::Org,
            Scope::Team => Self::Team,
            Scope::Workflow => Self::Workflow,
            Scope::Step => Self::Step,
        }
    }
}

/// `team/research` is a scope and an id.
fn document(text: &str) -> Result<(ConfigScope, String), String> {
    let (scope, id) = text.split_once('/').unwrap_or((text, ""));
    let scope = Scope::from_str(scope, true).map_err(|_| {
        "must be system, org, team/ID, workflow/ID or step/WORKFLOW/STEP".to_owned()
    })?;
    let good = match scope {
        Scope::System | Scope::Org => !text.contains('/'),
        Scope::Team | Scope::Workflow => !id.is_empty(),
        Scope::Step => id
            .split_once('/')
            .is_some_and(|(of, step)| !of.is_empty() && !step.is_empty()),
    };
    if !good {
        return Err(match scope {
            Scope::System | Scope::Org => "takes no id".to_owned(),
            Scope::Team | Scope::Workflow => "needs an id after the slash".to_owned(),
            Scope::Step => "needs step/WORKFLOW/STEP".to_owned(),
        });
    }
    Ok((scope.into(), id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_named_by_scope_and_id() {
        let named = |text: &str| document(text).ok();
        let pair = |scope, id: &str| Some((scope, id.to_owned()));
        assert_eq!(named("system"), pair(ConfigScope::System, ""));
        assert_eq!(named("team/a"), pair(ConfigScope::Team, "a"));
        assert_eq!(named("step/w/s"), pair(ConfigScope::Step, "w/s"));
        for bad in ["", "teem/a", "team", "team/", "org/a", "step/w", "step/w/"] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }
}
