//! What can go wrong: at save time ([`CompileErrors`]) and while evaluating ([`EvalError`]).

use std::fmt;

/// A place in the source of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Bytes before the place.
    pub offset: usize,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// Finds line and column of a byte offset; an offset past the end means the end.
    #[must_use]
    pub fn of(source: &str, offset: usize) -> Self {
        let mut offset = offset.min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = source.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            offset,
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why an expression was refused when it was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompileErrorKind {
    /// The text is not an expression.
    Syntax,
    /// A form of the language that is not offered here (bytes, messages, optional fields).
    Unsupported,
    /// A variable outside the scope.
    UnknownVariable,
    /// A function that does not exist or is not in the scope.
    UnknownFunction,
    /// A function or macro used with the wrong number or kind of arguments.
    Arguments,
    /// Too long, too deep, too many nodes, or loops nested too deeply.
    TooComplex,
}

/// One reason why an expression was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Where.
    pub position: Position,
    /// Which class of reason.
    pub kind: CompileErrorKind,
    /// What is wrong, for the author of the expression.
    pub message: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.position, self.message)
    }
}

/// All reasons why an expression was refused, in source order; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.joined())]
pub struct CompileErrors(pub(super) Vec<CompileError>);

impl CompileErrors {
    /// The reasons, in source order; at least one.
    #[must_use]
    pub fn errors(&self) -> &[CompileError] {
        &self.0
    }

    fn joined(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        lines.join("; ")
    }
}

/// Why an evaluation gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvalErrorKind {
    /// An object has no such field, or a list no such index.
    Missing,
    /// A variable of the scope has no value in this evaluation, or its text is not JSON.
    Variable,
    /// An operator or function was given a value of a type it does not take.
    Type,
    /// Overflow, division by zero, or a text that is not a number, time or duration.
    Value,
    /// The budget of the evaluation is used up; never hidden by `||`, `&&`, `all` or `exists`.
    Budget,
}

/// An evaluation that gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}")]
pub struct EvalError {
    /// Where in the expression.
    pub position: Position,
    /// Which class of reason.
    pub kind: EvalErrorKind,
    /// What happened, for the author of the expression.
    pub message: String,
}

/// An [`EvalError`] before line and column are worked out.
///
/// Errors inside `exists` and `all` are often dropped again, so they stay cheap to make. Boxed by
/// its users because the value path should not pay for its size.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) kind: EvalErrorKind,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(kind: EvalErrorKind, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            offset: usize::MAX,
            kind,
            message: message.into(),
        })
    }

    pub(super) fn of_type(message: impl Into<String>) -> Box<Self> {
        Self::new(EvalErrorKind::Type, message)
    }

    pub(super) fn of_value(message: impl Into<String>) -> Box<Self> {
        Self::new(EvalErrorKind::Value, message)
    }

    /// Sets the place unless an inner node has already set it.
    pub(super) fn at(mut self: Box<Self>, offset: usize) -> Box<Self> {
        if self.offset == usize::MAX {
            self.offset = offset;
        }
        self
    }

    pub(super) fn into_error(self, source: &str) -> EvalError {
        EvalError {
            position: Position::of(source, self.offset),
            kind: self.kind,
            message: self.message,
        }
    }
}
