//! Asking before something is done that cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::{Exit, Failure};

/// Asks whoever is at the terminal; without one, `--yes` is needed.
pub(super) fn confirm(question: &str) -> Result<(), Failure> {
    if !is_somebody_there() {
        return Err(nobody_to_ask());
    }
    let mut answer = String::new();
    let asked = write!(io::stderr().lock(), "{question} [y/N] ")
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::usage("cannot ask").cause(error))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, "nothing was done"))
}

/// Whether a question would reach anybody.
pub(super) fn is_somebody_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Nobody is there, and nobody has said `--yes`.
pub(super) fn nobody_to_ask() -> Failure {
    Failure::usage("this cannot be undone and nobody is there to ask").hint("say --yes")
}
