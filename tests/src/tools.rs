//! Programs that tests call: finding what `scripts/setup` installed, and running it.
//!
//! A missing tool fails where `CI` is set, because a check that silently does not
//! run is worth nothing; elsewhere the test is skipped and says so.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::workspace;

/// Names a folder that is searched before `.tools/bin` and `PATH`.
pub const TOOLS_VARIABLE: &str = "CORETEX_TOOLS";

/// The path of a tool, or `None` after saying on stderr why the test is skipped.
///
/// # Panics
/// Where `CI` is set and the tool is missing.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let found = folders()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        missing(name);
    }
    found
}

/// The paths of several tools in the order asked for, or `None` like [`find`].
///
/// # Panics
/// Where `CI` is set and one of them is missing.
#[must_use]
pub fn find_all<const N: usize>(names: [&str; N]) -> Option<[PathBuf; N]> {
    let found: Vec<PathBuf> = names.iter().filter_map(|name| find(name)).collect();
    found.try_into().ok()
}

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Panics
/// With the command line and all of its output when it cannot be started or ends
/// with another status than 0.
pub fn run(command: &mut Command) -> String {
    let line = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{line} ended with {}\n--- stdout\n{stdout}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Whether a missing tool is an error: `CI` is set to anything but nothing.
#[must_use]
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty())
}

fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    folders.extend(env::var_os(TOOLS_VARIABLE).map(PathBuf::from));
    folders.push(workspace::root().join(".tools/bin"));
    let path = env::var_os("PATH");
    folders.extend(env::split_paths(path.as_deref().unwrap_or(OsStr::new(""))));
    folders
}

fn missing(name: &str) {
    let message = format!("{name} is missing, run `make setup`");
    assert!(!in_ci(), "{message}");
    // Not `eprintln!`: the test harness would keep that of a passing test to itself.
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "SKIPPED: {message}");
}

/// A command on `tool` that works in `folder` and finds the other tools on its `PATH`.
#[must_use]
pub fn command(tool: &Path, folder: &Path) -> Command {
    let mut command = Command::new(tool);
    command.current_dir(folder);
    if let Ok(path) = env::join_paths(folders()) {
        command.env("PATH", path);
    }
    command
}
