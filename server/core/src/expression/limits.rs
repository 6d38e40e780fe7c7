//! The bounds of an expression: fixed ones for its text, and the budget of one evaluation.

use std::cell::Cell;

use super::error::{EvalErrorKind, Fault};

/// Longest source in bytes. A thousand nodes with long names fit.
pub const MAX_SOURCE_BYTES: usize = 16 * 1024;
/// Most nodes of one expression.
pub const MAX_NODES: usize = 1_000;
/// Deepest nesting of brackets and of `? :` in the text. The parser recurses through several
/// functions for each level, so this bounds its stack.
pub const MAX_NESTING: usize = 50;
/// Deepest tree, which the evaluation walks by recursion. A chain such as `a + b + c` is as deep
/// as it is long; chains of `&&` and `||` are not.
pub const MAX_DEPTH: usize = 100;
/// Deepest nesting of `all`, `exists`, `exists_one`, `map` and `filter` inside one another.
pub const MAX_LOOPS: usize = 2;
/// Longest regular expression in bytes.
pub const MAX_PATTERN_BYTES: usize = 1_024;
/// Memory of one compiled regular expression and of its lazily built tables, in bytes. A class
/// such as `\w` takes 64 KiB because it covers Unicode; `\w{10}` takes 512 KiB.
pub(super) const MAX_PATTERN_PROGRAM: usize = 512 * 1024;
/// Most constant patterns of one expression, because each is kept compiled.
pub const MAX_PATTERNS: usize = 16;
/// What a pattern costs, in steps, that is known only during the evaluation. Compiling the
/// largest program takes about as long as a thousand elements.
pub(super) const PATTERN_STEPS: usize = 1_000;
/// Bytes of text that a regular expression may read per step.
const MATCHED_BYTES_PER_STEP: usize = 16;
/// Bytes of text that are copied, compared or searched per step.
const TEXT_BYTES_PER_STEP: usize = 64;
/// How deep a JSON value may be before comparing or copying it is refused.
pub(super) const MAX_VALUE_DEPTH: usize = 200;

/// What one evaluation may use.
///
/// The two counters bound run time and memory together: a step is an element (looped over,
/// copied, compared) or a piece of text, a visit is a node of the expression evaluated once. Both
/// depend on the expression and its input alone, never on the clock, so a run gives the same
/// answer on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Elements looped over, copied or compared, and pieces of 64 bytes of text.
    pub steps: u64,
    /// Nodes evaluated; an element of a list or map literal counts as eight.
    pub visits: u64,
    /// Size of the result as JSON text, in bytes, counted while it is copied out.
    pub result_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            steps: 10_000,
            visits: 1_000_000,
            result_bytes: 4 * 1024 * 1024,
        }
    }
}

/// What an evaluation has used of its [`Budget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Steps used; more than the budget when the evaluation was stopped by it.
    pub steps: u64,
    /// Visits used; more than the budget when the evaluation was stopped by it.
    pub visits: u64,
    /// Size of the result in bytes, as far as it was written.
    pub result_bytes: usize,
}

/// Counts what an evaluation uses and stops it at the budget.
#[derive(Debug)]
pub(super) struct Meter {
    budget: Budget,
    usage: Cell<Usage>,
}

impl Meter {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            usage: Cell::new(Usage::default()),
        }
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage.get()
    }

    /// Pays for `count` elements, before they are touched.
    pub(super) fn steps(&self, count: usize) -> Result<(), Box<Fault>> {
        let mut usage = self.usage.get();
        usage.steps = usage.steps.saturating_add(count as u64);
        self.usage.set(usage);
        if usage.steps > self.budget.steps {
            return Err(Fault::new(
                EvalErrorKind::Budget,
                format!("more than {} steps", self.budget.steps),
            ));
        }
        Ok(())
    }

    /// Pays for text that is copied, compared or searched. Short text is part of its node's visit.
    pub(super) fn text(&self, bytes: usize) -> Result<(), Box<Fault>> {
        self.steps(bytes / TEXT_BYTES_PER_STEP)
    }

    /// Pays for text that a regular expression reads.
    pub(super) fn matched(&self, bytes: usize) -> Result<(), Box<Fault>> {
        self.steps(bytes / MATCHED_BYTES_PER_STEP)
    }

    /// Pays for `count` evaluated nodes.
    pub(super) fn visits(&self, count: usize) -> Result<(), Box<Fault>> {
        let mut usage = self.usage.get();
        usage.visits = usage.visits.saturating_add(count as u64);
        self.usage.set(usage);
        if usage.visits > self.budget.visits {
            return Err(Fault::new(
                EvalErrorKind::Budget,
                format!("more than {} evaluated nodes", self.budget.visits),
            ));
        }
        Ok(())
    }

    /// Pays for a part of the result.
    pub(super) fn result(&self, bytes: usize) -> Result<(), Box<Fault>> {
        let mut usage = self.usage.get();
        usage.result_bytes = usage.result_bytes.saturating_add(bytes);
        self.usage.set(usage);
        if usage.result_bytes > self.budget.result_bytes {
            return Err(Fault::new(
                EvalErrorKind::Budget,
                format!(
                    "the result is larger than {} bytes",
                    self.budget.result_bytes
                ),
            ));
        }
        Ok(())
    }
}
