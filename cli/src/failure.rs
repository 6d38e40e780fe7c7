//! Why a command did not do what was asked: what is said about it and the exit code.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use coretex::{Code, Error};

use crate::output::Ui;
use crate::view;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All is well.
    Done = 0,
    /// The server refused, or a job ended badly.
    Refused = 1,
    /// Wrong usage, or the surroundings are not fit: no server, bad configuration.
    Usage = 2,
    /// What was waited for has not ended in the time given.
    Unfinished = 3,
    /// A job waits for an approval, and nobody wanted to wait for that.
    ApprovalPending = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A failure, told on stderr: `error:`, details, causes, `hint:`, `reason:`.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    // Boxed: a result should not pay for its error on the good path.
    told: Box<Told>,
}

#[derive(Clone, Debug)]
struct Told {
    message: String,
    details: Vec<String>,
    causes: Vec<String>,
    hint: Option<String>,
    reason: String,
    exit: Exit,
    /// Nobody listens any more: say nothing and end well.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            told: Box::new(Told {
                message: message.into(),
                details: Vec::new(),
                causes: Vec::new(),
                hint: None,
                reason: String::new(),
                exit,
                silent: false,
            }),
        }
    }

    /// Wrong usage or unfit surroundings.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A defect of this program or of the server.
    pub(crate) fn defect(message: impl Display) -> Self {
        Self::new(Exit::Refused, message.to_string())
    }

    /// The answer of the server lacks something that the contract promises.
    pub(crate) fn incomplete(what: &str) -> Self {
        Self::defect(format!("the answer of the server lacks {what}"))
    }

    #[must_use]
    pub(crate) fn cause(mut self, cause: impl Display) -> Self {
        self.told.causes.push(cause.to_string());
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.told.hint = Some(hint.into());
        self
    }

    /// Adds a hint unless there is one.
    #[must_use]
    pub(crate) fn or_hint(mut self, hint: impl FnOnce() -> Option<String>) -> Self {
        self.told.hint = self.told.hint.or_else(hint);
        self
    }

    /// The reason of the server, for example `JOB_NOT_FOUND`; empty when there is none.
    pub(crate) fn reason(&self) -> &str {
        &self.told.reason
    }

    pub(crate) fn exit(&self) -> Exit {
        if self.told.silent {
            Exit::Done
        } else {
            self.told.exit
        }
    }

    /// Says it on stderr.
    pub(crate) fn tell(&self, ui: &Ui) {
        if self.told.silent {
            return;
        }
        let error = ui.err.bold_red("error");
        let hint = ui.err.bold("hint");
        let mut text = format!("{error}: {}\n", view::clean_lines(&self.told.message));
        for detail in &self.told.details {
            text.push_str(&format!("  {}\n", view::clean(detail)));
        }
        for cause in &self.told.causes {
            text.push_str(&format!("cause: {}\n", view::clean_lines(cause)));
        }
        if let Some(advice) = &self.told.hint {
            text.push_str(&format!("{hint}: {}\n", view::clean_lines(advice)));
        }
        if !self.told.reason.is_empty() {
            text.push_str(&format!("reason: {}\n", view::clean(&self.told.reason)));
        }
        ui.note(text.trim_end());
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.code() {
            // The address, a certificate, an input: what was typed. Or no server that answers.
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unavailable
            | Code::DeadlineExceeded
                if error.is_local() =>
            {
                Exit::Usage
            }
            _ => Exit::Refused,
        };
        let mut message = error.message().to_owned();
        if message.is_empty() {
            message = format!("the server answered {:?}", error.code());
        }
        let mut failure = Self::new(exit, message);
        failure.told.details = error
            .violations()
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect();
        failure.told.hint = error.hint().map(str::to_owned);
        failure.told.reason = error.reason_text().to_owned();
        failure
    }
}

impl Failure {
    /// What went wrong when data was written to stdout.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        let mut failure = Self::usage("cannot write the output").cause(error);
        // The reader has seen enough (`| head`).
        failure.told.silent = error.kind() == io::ErrorKind::BrokenPipe;
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arose_here_is_usage_and_what_the_server_said_is_refusal() {
        let unreachable = Failure::from(Error::local(Code::Unavailable, "no server"));
        assert_eq!(unreachable.exit(), Exit::Usage);
        let defect = Failure::from(Error::local(Code::Internal, "lacks job"));
        assert_eq!(defect.exit(), Exit::Refused);
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let left = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::stdout(&left).exit(), Exit::Done);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::stdout(&full).exit(), Exit::Usage);
    }
}
