//! `coretexctl` as a child process, run to its end or in the background.

use std::ffi::OsStr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::in_time;
use super::server::Server;
use crate::binaries;

/// What a run that ended by itself said.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code and returns what was written to stdout.
    ///
    /// # Panics
    /// The code is another one.
    #[track_caller]
    #[must_use]
    pub fn code(self, expected: i32) -> String {
        assert_eq!(self.code, Some(expected), "{self:#?}");
        self.stdout
    }

    /// What was written to stdout, as JSON.
    ///
    /// # Panics
    /// The exit code is not 0, or it is no JSON.
    #[track_caller]
    #[must_use]
    pub fn json(self) -> serde_json::Value {
        let stdout = self.code(0);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{stdout:?}: {error}"))
    }
}

/// The program as a user has it who works with `server`: without any configuration of the person
/// who runs the tests, and with a home folder of its own.
#[must_use]
pub fn command(server: &Server) -> Command {
    let mut command = Command::new(binaries::path("coretexctl"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CORETEX_") || name_text.starts_with("XDG_") {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", server.folder())
        .env("CORETEX_SERVER", server.url())
        .env("NO_COLOR", "1")
        .current_dir(server.folder())
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub async fn run<S: AsRef<OsStr>>(
    server: &Server,
    arguments: impl IntoIterator<Item = S>,
) -> Ended {
    finish(command(server).args(arguments)).await
}

/// Runs a command to its end.
///
/// # Panics
/// It cannot be started, does not end, or writes what is no text.
pub async fn finish(command: &mut Command) -> Ended {
    let line = format!("{:?}", command.as_std());
    let output = in_time(&line, command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).unwrap_or_else(|error| panic!("{line} wrote no text: {error}"))
    };
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A run in the background. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: JoinHandle<String>,
}

impl Running {
    /// Starts a command.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let line = format!("{:?}", command.as_std());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdout), Some(mut stderr)) = (stdout, stderr) else {
            panic!("{line} has no output");
        };
        let stderr = tokio::spawn(async move {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text).await;
            text
        });
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
            stderr,
        }
    }

    /// The next line that it writes to stdout; `None` at the end.
    ///
    /// # Panics
    /// None comes.
    pub async fn line(&mut self) -> Option<String> {
        let line = in_time("a line", self.lines.next_line()).await;
        line.unwrap_or_else(|error| panic!("stdout cannot be read: {error}"))
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// It has ended.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let Some(pid) = id.and_then(Pid::from_raw) else {
            panic!("it has ended already");
        };
        if let Err(error) = kill_process(pid, signal) {
            panic!("it cannot be sent {signal:?}: {error}");
        }
    }

    /// Waits for its end; stdout is what was not read by [`line`](Self::line).
    ///
    /// # Panics
    /// It does not end.
    pub async fn end(mut self) -> Ended {
        let mut stdout = String::new();
        while let Some(line) = self.line().await {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        let status = in_time("it to end", self.child.wait()).await;
        let stderr = in_time("the end of stderr", self.stderr).await;
        Ended {
            code: status.ok().and_then(|status| status.code()),
            stdout,
            stderr: stderr.unwrap_or_default(),
        }
    }
}
