//! What a test finds wrong, collected, so that one run tells everything.

use std::fmt::Write;

/// What is wrong, all of it at once.
#[derive(Debug, Default)]
#[must_use]
pub struct Problems(String);

impl Problems {
    /// Notes a problem: what is wrong and where, in one line.
    pub fn add(&mut self, problem: &str) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.0, "  {problem}");
    }

    /// Ends a test.
    ///
    /// # Panics
    /// When there is a problem, with all of them.
    #[track_caller]
    pub fn none(self) {
        assert!(self.0.is_empty(), "against the rules:\n{}", self.0);
    }
}
