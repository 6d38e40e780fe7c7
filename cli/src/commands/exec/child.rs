//! One run of a program: its pipes, its process group, its end.
//!
//! The program leads a process group of its own, so that signals reach what it starts and a Ctrl-C
//! at the terminal does not. Its end is seen before it is collected: until then its number, which
//! is also the number of the group, cannot be given to anybody else, and a signal cannot hit a
//! stranger. Whoever drops a run kills the whole group.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{ChildStdin, Command};
use tokio::signal::unix as signals;
use tokio::time::timeout;

use super::lines::{Report, Splitter, Tail};
use super::program::Program;

/// Where the program writes its progress.
const PROGRESS_FD: i32 = 3;
/// How long what a program has left behind may go on writing when the program itself has ended.
const LINGER: Duration = Duration::from_secs(2);
/// How long pipes may stay open after everybody in the group was killed: somebody outside of it
/// holds them.
const LAST_BYTES: Duration = Duration::from_millis(200);
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// What is to be run.
pub(super) struct Run<'a> {
    pub(super) program: &'a Program,
    pub(super) input: Vec<u8>,
    /// Set, or with `None` removed from what is inherited.
    pub(super) environment: Vec<(&'static str, Option<String>)>,
    /// Bytes of output at which the program is killed.
    pub(super) max_output: usize,
}

/// Hears what a program says while it runs.
pub(super) trait Listener: Sync {
    /// It has reported progress.
    fn progress(&self, percent: i32, message: String);
    /// It has written a line to stderr. Until this returns no more is read, and in the end the
    /// program waits.
    fn log<'a>(&'a self, line: &'a str) -> BoxFuture<'a, ()>;
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The last lines of stderr.
    pub(super) complaints: String,
    /// It was killed because it wrote too much.
    pub(super) overflowed: bool,
    /// It was asked to stop before it ended.
    pub(super) stopped: bool,
}

/// The process group of a child that has not been collected.
struct Group {
    leader: Pid,
    collected: bool,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if !self.collected {
            // Nobody left to hear it is fine.
            let _ = kill_process_group(self.leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The stdout of the program was larger than allowed.
struct Overflow;

/// Runs the program. When `stop` returns, the group gets SIGTERM; when the future is dropped,
/// SIGKILL.
pub(super) async fn run(
    run: Run<'_>,
    listener: &dyn Listener,
    stop: impl Future<Output = ()>,
) -> io::Result<Ended> {
    // Listened to before there is a child, so that no end is missed.
    let mut child_signals = signals::signal(signals::SignalKind::child())?;
    let (progress, progress_end) = io::pipe()?;
    let mut command = command(&run, progress_end.into())?;
    let mut child = command.spawn()?;
    // Closes our copy of the end that the program writes to, or it would never be seen to close.
    drop(command);
    let leader = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let leader = leader.ok_or_else(|| io::Error::other("the program has no process id"))?;
    let mut group = Group {
        leader,
        collected: false,
    };
    let progress = pipe::Receiver::from_owned_fd(progress.into())?;

    let (mut stdout, mut tail, mut report) = (Vec::new(), Tail::default(), Report::default());
    // Open until the end: a program that writes too much is killed, and not told by a broken pipe.
    let mut output = child.stdout.take();
    let pipes = async {
        tokio::try_join!(
            feed(child.stdin.take(), &run.input),
            collect(output.as_mut(), &mut stdout, run.max_output),
            async {
                let mut lines = Lines::of(child.stderr.take());
                while let Some(line) = lines.next().await {
                    tail.push(&line);
                    listener.log(&line).await;
                }
                Ok(())
            },
            async {
                let mut lines = Lines::of(Some(progress));
                while let Some(line) = lines.next().await {
                    if report.update(&line) {
                        listener.progress(report.percent, report.message.clone());
                    }
                }
                Ok(())
            },
        )
    };
    let (mut overflowed, mut stopped, mut drained) = (false, false, false);
    {
        let end = end_of(leader, &mut child_signals);
        tokio::pin!(pipes, end, stop);
        loop {
            tokio::select! {
                () = &mut end => break,
                read = &mut pipes, if !drained => {
                    drained = true;
                    overflowed = read.is_err();
                    if overflowed {
                        group.signal(Signal::KILL);
                    }
                }
                () = &mut stop, if !stopped => {
                    stopped = true;
                    group.signal(Signal::TERM);
                }
            }
        }
        if !drained && let Ok(read) = timeout(LINGER, &mut pipes).await {
            drained = true;
            overflowed = read.is_err();
        }
        // The program has ended, so the attempt has: what it left behind goes with it.
        group.signal(Signal::KILL);
        if !drained && let Ok(read) = timeout(LAST_BYTES, &mut pipes).await {
            overflowed = read.is_err();
        }
    }
    let status = child.wait().await?;
    group.collected = true;
    Ok(Ended {
        status,
        stdout,
        complaints: tail.text(),
        overflowed,
        stopped,
    })
}

fn command(run: &Run<'_>, progress: OwnedFd) -> io::Result<Command> {
    let mut command = Command::new(run.program.path());
    command
        .arg0(run.program.raw_name())
        .args(run.program.arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for (name, value) in &run.environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mapping = FdMapping {
        parent_fd: progress,
        child_fd: PROGRESS_FD,
    };
    command
        .fd_mappings(vec![mapping])
        .map_err(io::Error::other)?;
    Ok(command)
}

/// Waits until the child has ended, and leaves it to be collected.
async fn end_of(leader: Pid, child_signals: &mut signals::Signal) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(leader), options) {
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            // Ended, or no child of ours any more, which comes to the same.
            Ok(Some(_)) | Err(_) => return,
        }
        child_signals.recv().await;
    }
}

async fn feed(stdin: Option<ChildStdin>, input: &[u8]) -> Result<(), Overflow> {
    if let Some(mut stdin) = stdin {
        // A program need not read its input: a closed pipe is no trouble.
        let _ = stdin.write_all(input).await;
    }
    Ok(())
}

async fn collect(
    source: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
    limit: usize,
) -> Result<(), Overflow> {
    let Some(mut source) = source else {
        return Ok(());
    };
    let mut chunk = vec![0; CHUNK];
    // What cannot be read any more counts as the end.
    while let Ok(count) = source.read(&mut chunk).await
        && count > 0
    {
        if into.len() + count > limit {
            return Err(Overflow);
        }
        into.extend_from_slice(&chunk[..count]);
    }
    Ok(())
}

/// The lines of a pipe, read no faster than they are taken.
struct Lines<R> {
    source: Option<R>,
    splitter: Splitter,
    chunk: Vec<u8>,
    ready: VecDeque<String>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn of(source: Option<R>) -> Self {
        Self {
            source,
            splitter: Splitter::default(),
            chunk: vec![0; CHUNK],
            ready: VecDeque::new(),
        }
    }

    async fn next(&mut self) -> Option<String> {
        while self.ready.is_empty() {
            let source = self.source.as_mut()?;
            // What cannot be read any more counts as the end.
            let count = source.read(&mut self.chunk).await.unwrap_or(0);
            let ready = &mut self.ready;
            let line = |line: &str| ready.push_back(line.to_owned());
            if count == 0 {
                self.source = None;
                self.splitter.finish(line);
            } else {
                self.splitter.push(&self.chunk[..count], line);
            }
        }
        self.ready.pop_front()
    }
}

#[cfg(test)]
#[path = "child_tests.rs"]
mod tests;
