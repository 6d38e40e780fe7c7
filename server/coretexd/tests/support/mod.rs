//! The program as a child process: started on free ports, killed when the test ends.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several test files, each of which uses a part; a test may stop at what it \
              did not expect"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Long enough for the slowest machine; nothing waits that long on a good day.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program, without anything of the environment of the test that it would notice.
pub fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coretexd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CORETEX_") {
            command.env_remove(name);
        }
    }
    command
        .env("NO_COLOR", "1")
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null());
    command
}

/// What a run that ends by itself said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs to the end.
pub fn run(command: &mut Command) -> Ended {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let (done, ended) = sync_channel(1);
    let waiter = std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = ended.recv_timeout(PATIENCE);
    if output.is_err() {
        let _gone = kill_process(pid, Signal::KILL);
    }
    let _joined = waiter.join();
    let output = output.unwrap().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running server.
pub struct Running {
    child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// From the start of the process to the line that says ready.
    pub ready_after: Duration,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Running {
    /// Starts `command` with `--ready-json` and waits for its line.
    pub fn start(command: &mut Command) -> Self {
        let started = Instant::now();
        let mut child = command
            .arg("--ready-json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _read = stderr.read_to_string(&mut text);
            text
        });
        let (line, stdout) = first_line(child.stdout.take().unwrap());
        let Ok(line) = line.recv_timeout(PATIENCE) else {
            let _killed = child.kill();
            let _ended = child.wait();
            panic!(
                "the server is not ready; it said: {}",
                stderr.join().unwrap()
            );
        };
        let ready_after = started.elapsed();
        let addresses: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("`{line}`: {error}; stderr: {}", {
                let _killed = child.kill();
                ""
            })
        });
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        Self {
            listen: address("listen"),
            admin: address("admin"),
            ready_after,
            child,
            stdout,
            stderr,
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends `signal` and waits for the end: status, time it took, the rest of stdout, stderr.
    pub fn stop(mut self, signal: Signal) -> Stopped {
        let started = Instant::now();
        self.signal(signal);
        let pid = Pid::from_child(&self.child);
        let (ended, over) = sync_channel::<()>(1);
        // A server that hangs fails the test instead of hanging it.
        let watchdog = std::thread::spawn(move || {
            if over.recv_timeout(PATIENCE).is_err() {
                let _gone = kill_process(pid, Signal::KILL);
            }
        });
        let status = self.child.wait().unwrap();
        let took = started.elapsed();
        let _told = ended.send(());
        watchdog.join().unwrap();
        Stopped {
            status,
            took,
            stdout: self.stdout.join().unwrap(),
            stderr: self.stderr.join().unwrap(),
        }
    }
}

/// How a server ended.
#[derive(Debug)]
pub struct Stopped {
    pub status: ExitStatus,
    pub took: Duration,
    pub stdout: String,
    pub stderr: String,
}

/// The first line, as soon as it is there, and everything after it.
fn first_line(stdout: impl Read + Send + 'static) -> (Receiver<String>, JoinHandle<String>) {
    let (sender, receiver) = sync_channel(1);
    let rest = std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        if stdout.read_line(&mut line).is_ok_and(|length| length > 0) {
            let _told = sender.send(line);
        }
        drop(sender);
        let mut rest = String::new();
        let _read = stdout.read_to_string(&mut rest);
        rest
    });
    (receiver, rest)
}

/// Status and body of a plain HTTP request.
pub fn http(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    http(address, "GET", path)
}
