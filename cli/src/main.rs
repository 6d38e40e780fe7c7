//! `coretexctl`, the command line client.
//!
//! - `args`: what can be typed, as clap types; the help texts are here and nowhere else.
//! - `commands`: what each verb does; one file or folder per noun.
//! - `view`: what people see of each message. `output`: where it goes, as table, JSON or YAML.
//! - `settings`: profiles, environment and keys. `failure`: errors and exit codes.
//!
//! Talking to the server is the business of the library `coretex`.

mod args;
mod commands;
#[cfg(test)]
mod docs;
mod failure;
mod output;
mod settings;
mod view;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use output::Ui;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new(cli.global.output);
    match commands::run(&cli, &ui) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell(&ui);
            failure.exit().into()
        }
    }
}
