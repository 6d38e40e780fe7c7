//! Why a configuration was refused: all reasons at once, each with its place.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, a variable or a flag; empty when it has no single place.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A refused configuration. Displays as the lines for stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// Problems that [`ConfigError::brief`] names.
const BRIEF: usize = 20;

impl ConfigError {
    /// The problems in one line and without hints, for logs and status; the first 20 of them.
    #[must_use]
    pub fn brief(&self) -> String {
        let told = self.problems.iter().take(BRIEF);
        let mut told: Vec<String> = told
            .map(|Problem { place, message, .. }| match place.as_str() {
                "" => message.clone(),
                place => format!("{place}: {message}"),
            })
            .collect();
        if let Some(more @ 1..) = self.problems.len().checked_sub(BRIEF) {
            told.push(format!("and {more} more"));
        }
        told.join("; ")
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            f.write_str("error: ")?;
            if !problem.place.is_empty() {
                write!(f, "{}: ", problem.place)?;
            }
            f.write_str(&problem.message)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\nhint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
