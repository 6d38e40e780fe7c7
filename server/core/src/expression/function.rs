//! The functions an expression may call: names, call forms and number of arguments.
//!
//! What they do is in `call`.

/// A function, independent of how it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    LowerAscii,
    UpperAscii,
    Trim,
    Split,
    Join,
    Replace,
    Int,
    Double,
    String,
    Bool,
    Dyn,
    Timestamp,
    Duration,
    Part(Part),
}

/// A part of a timestamp or duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `f(x)`.
    Global,
    /// `x.f()`.
    Method,
    /// Both.
    Either,
}

/// One row of the table of functions.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) name: &'static str,
    pub(super) function: Function,
    pub(super) form: Form,
    /// Fewest and most arguments, the receiver of a method included.
    pub(super) arguments: (usize, usize),
}

const fn row(
    name: &'static str,
    function: Function,
    form: Form,
    fewest: usize,
    most: usize,
) -> Signature {
    Signature {
        name,
        function,
        form,
        arguments: (fewest, most),
    }
}

const fn part(name: &'static str, part: Part) -> Signature {
    row(name, Function::Part(part), Form::Method, 1, 2)
}

/// Every function there is.
pub(super) const FUNCTIONS: [Signature; 28] = [
    row("size", Function::Size, Form::Either, 1, 1),
    row("contains", Function::Contains, Form::Method, 2, 2),
    row("startsWith", Function::StartsWith, Form::Method, 2, 2),
    row("endsWith", Function::EndsWith, Form::Method, 2, 2),
    row("matches", Function::Matches, Form::Either, 2, 2),
    row("lowerAscii", Function::LowerAscii, Form::Method, 1, 1),
    row("upperAscii", Function::UpperAscii, Form::Method, 1, 1),
    row("trim", Function::Trim, Form::Method, 1, 1),
    row("split", Function::Split, Form::Method, 2, 2),
    row("join", Function::Join, Form::Method, 1, 2),
    row("replace", Function::Replace, Form::Method, 3, 3),
    row("int", Function::Int, Form::Global, 1, 1),
    row("double", Function::Double, Form::Global, 1, 1),
    row("string", Function::String, Form::Global, 1, 1),
    row("bool", Function::Bool, Form::Global, 1, 1),
    row("dyn", Function::Dyn, Form::Global, 1, 1),
    row("timestamp", Function::Timestamp, Form::Global, 1, 1),
    row("duration", Function::Duration, Form::Global, 1, 1),
    part("getFullYear", Part::FullYear),
    part("getMonth", Part::Month),
    part("getDate", Part::Date),
    part("getDayOfMonth", Part::DayOfMonth),
    part("getDayOfWeek", Part::DayOfWeek),
    part("getDayOfYear", Part::DayOfYear),
    part("getHours", Part::Hours),
    part("getMinutes", Part::Minutes),
    part("getSeconds", Part::Seconds),
    part("getMilliseconds", Part::Milliseconds),
];

/// The row of a function, if there is such a function.
pub(super) fn signature(name: &str) -> Option<&'static Signature> {
    FUNCTIONS.iter().find(|row| row.name == name)
}

/// The name of a function, for messages.
pub(super) fn name_of(function: Function) -> &'static str {
    FUNCTIONS
        .iter()
        .find(|row| row.function == function)
        .map_or("function", |row| row.name)
}
