//! A scripted server on a port of this machine, and runs of the program against it.

pub(crate) mod fake;
pub(crate) mod session;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coretex::proto::access_service_server::AccessServiceServer;
use coretex::proto::approval_service_server::ApprovalServiceServer;
use coretex::proto::config_service_server::ConfigServiceServer;
use coretex::proto::dlq_service_server::DlqServiceServer;
use coretex::proto::job_service_server::JobServiceServer;
use coretex::proto::system_service_server::SystemServiceServer;
use coretex::proto::worker_service_server::WorkerServiceServer;
use coretex::proto::{Job, JobError};
use coretex::{ErrorReason, JobState};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Status};

use fake::Fake;
use session::FakeSession;

/// Longer than anything that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The lines of stdout, each as JSON.
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The program with a home of its own.
pub(crate) struct Ctl {
    pub(crate) home: TempDir,
    pub(crate) environment: HashMap<&'static str, String>,
}

impl Ctl {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let environment = HashMap::from([
            ("HOME", home.path().display().to_string()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ]);
        Self { home, environment }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) -> &mut Self {
        self.environment.insert(name, value.into());
        self
    }

    /// Writes a file below the home, and gives back its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        private(&path, 0o600);
        path.display().to_string()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coretexctl"));
        command
            .args(args)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        let output = tokio::time::timeout(PATIENCE, self.command(args).output()).await;
        output.unwrap().unwrap().into()
    }

    pub(crate) async fn run_with_stdin(&self, args: &[&str], stdin: &str) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(stdin.as_bytes()).await.unwrap();
        drop(pipe);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        output.unwrap().unwrap().into()
    }
}

/// Sets the mode of a file.
pub(crate) fn private(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).unwrap();
}

/// A scripted server and the program pointed at it.
pub(crate) struct Scene {
    pub(crate) fake: Arc<Fake>,
    pub(crate) ctl: Ctl,
    pub(crate) url: String,
    sessions: mpsc::Receiver<FakeSession>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let (open, sessions) = mpsc::channel(64);
        let fake = Arc::new(Fake::new(open));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = Server::builder()
            .add_service(JobServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(ApprovalServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(DlqServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(ConfigServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(AccessServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(WorkerServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(SystemServiceServer::from_arc(Arc::clone(&fake)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        let mut ctl = Ctl::new();
        ctl.set("CORETEX_SERVER", url.clone());
        Self {
            fake,
            ctl,
            url,
            sessions,
        }
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        self.ctl.run(args).await
    }

    /// The next session that a worker opens, its hello read.
    pub(crate) async fn session(&mut self) -> FakeSession {
        let session = tokio::time::timeout(PATIENCE, self.sessions.recv()).await;
        let mut session = session.unwrap().unwrap();
        session.read_hello().await;
        session
    }
}

/// A job in a state.
pub(crate) fn job(job_id: &str, state: JobState) -> Job {
    Job {
        job_id: job_id.into(),
        topic: "job.x".into(),
        state: state.into(),
        ..Job::default()
    }
}

/// A job that failed as a program of `worker exec` does.
pub(crate) fn failed(job_id: &str) -> Job {
    Job {
        error: Some(JobError {
            code: "exit_7".into(),
            message: "the disk is full".into(),
            ..JobError::default()
        }),
        ..job(job_id, JobState::Failed)
    }
}

/// What a server refuses with.
pub(crate) fn refusal(code: Code, message: &str, reason: ErrorReason) -> Status {
    use tonic_types::{ErrorDetails, StatusExt};
    let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_");
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "coretex.dev", HashMap::new());
    Status::with_error_details(code, message, details)
}
