//! `coretexctl policy ...`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check bundles, without a server
    ///
    /// Tells everything that is wrong as a compiler does: file:line:column: error: what. Rules that
    /// are never reached are warnings. Ends with 1 when there is an error.
    ///
    /// For example: coretexctl policy check policy/*.yaml
    Check {
        /// Bundles in YAML or JSON; files of cases are checked as such
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Run the cases of bundles, without a server
    ///
    /// All bundles that are given are in force together, each under the name of its file without
    /// the ending. The cases of a bundle `db.yaml` are in `db.cases.yaml` beside it; further files
    /// of cases may be given, too. Tells which rules the cases never came to. Ends with 1 when a
    /// case fails.
    ///
    /// For example: coretexctl policy test policy/*.yaml
    Test {
        /// Bundles, and files of cases (*.cases.yaml)
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}
