//! Configuration of tenants: documents by scope, and what comes out of them for one job.
//!
//! [`document`] checks what somebody writes, [`merge`] makes one of the documents of
//! several scopes, [`sections`] is the typed form of the result, `fill` what it does to a job and
//! [`visibility`] what of it a worker sees. Where documents are kept is not decided here.

pub mod document;
mod effective;
mod fill;
mod merge;
pub mod sections;
pub mod visibility;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{TenantId, check_id};

pub use self::effective::{Contribution, Effective, Source};
pub use self::fill::Exceeded;
pub use self::merge::{Merged, merge};

/// How far a document reaches. From the widest to the narrowest; numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigScope {
    /// The installation: every tenant.
    System = 1,
    /// One tenant.
    Org = 2,
    /// One team of a tenant.
    Team = 3,
    /// One workflow of a tenant.
    Workflow = 4,
    /// One step of a workflow.
    Step = 5,
}

impl ConfigScope {
    /// Every scope, widest first.
    pub const ALL: [Self; 5] = [
        Self::System,
        Self::Org,
        Self::Team,
        Self::Workflow,
        Self::Step,
    ];

    /// The name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Org => "org",
            Self::Team => "team",
            Self::Workflow => "workflow",
            Self::Step => "step",
        }
    }

    /// Parses the name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == text)
    }
}

/// Which document: a scope and the id of what it is about, within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigName {
    /// The scope.
    pub scope: ConfigScope,
    /// Of the tenant, the team or the workflow; `<workflow>/<step>` of a step; empty for the system.
    pub id: String,
}

impl ConfigName {
    /// The document of the whole installation.
    #[must_use]
    pub const fn system() -> Self {
        Self {
            scope: ConfigScope::System,
            id: String::new(),
        }
    }

    /// Parses the id of a scope for somebody of `tenant`.
    ///
    /// # Errors
    /// What an id of this scope has to be.
    pub fn parse(scope: ConfigScope, id: &str, tenant: &TenantId) -> Result<Self, String> {
        let checked = |id: &str| check_id(id).map_err(|error| error.to_string());
        let id = match scope {
            ConfigScope::System if id.is_empty() => "",
            ConfigScope::System => return Err("must be empty: there is one system".to_owned()),
            ConfigScope::Org if id.is_empty() || id == tenant.as_str() => tenant.as_str(),
            ConfigScope::Org => return Err("must be empty or the tenant of the caller".to_owned()),
            ConfigScope::Team | ConfigScope::Workflow => {
                checked(id)?;
                id
            }
            ConfigScope::Step => {
                let parts = id.split_once('/');
                let (workflow, step) = parts.ok_or("must be `<workflow_id>/<step_id>`")?;
                checked(workflow)?;
                checked(step)?;
                id
            }
        };
        let id = id.to_owned();
        Ok(Self { scope, id })
    }

    /// The documents that hold for a place, widest first. What is empty has none.
    #[must_use]
    pub fn chain(tenant: &TenantId, team: &str, workflow: &str, step: &str) -> Vec<Self> {
        let mut chain = vec![Self::system()];
        let mut add = |scope, id: String| chain.push(Self { scope, id });
        add(ConfigScope::Org, tenant.as_str().to_owned());
        if !team.is_empty() {
            add(ConfigScope::Team, team.to_owned());
        }
        if !workflow.is_empty() {
            add(ConfigScope::Workflow, workflow.to_owned());
            if !step.is_empty() {
                add(ConfigScope::Step, format!("{workflow}/{step}"));
            }
        }
        chain
    }
}

impl fmt::Display for ConfigName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scope.name())?;
        if self.scope > ConfigScope::Org {
            write!(f, " `{}`", self.id)?;
        }
        Ok(())
    }
}

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON pointer; empty = the whole document.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

/// A pointer one key further down.
pub(crate) fn below(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
