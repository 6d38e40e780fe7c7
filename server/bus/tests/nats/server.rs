//! A `nats-server` of its own for each test: on a free port of this machine, in a folder that
//! vanishes, killed when the test is over, however it ends.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coretex_bus::nats::{NatsBus, NatsOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Far above what anything here takes, so that a slow machine does not fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `condition` returns `Ok`. While it does not hold it says what it sees, and a timeout
/// reports the last of that.
pub(crate) async fn until<T>(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let begin = tokio::time::Instant::now();
    let mut looks = tokio::time::interval(PAUSE);
    loop {
        looks.tick().await;
        match condition().await {
            Ok(value) => return value,
            Err(status) => assert!(
                begin.elapsed() < PATIENCE,
                "waited {PATIENCE:?} for {what}; last seen: {status}"
            ),
        }
    }
}

/// A running server, or one that a test has killed.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    folder: TempDir,
    child: Child,
    /// 0 until the first start has chosen one.
    port: u16,
}

impl Server {
    /// Starts one with these lines in its configuration; `None` where there is none to start.
    pub(crate) async fn start(config: &str) -> Option<Self> {
        Self::start_in(TempDir::new().expect("a temporary folder"), config).await
    }

    /// Starts one in a folder that holds files it needs.
    pub(crate) async fn start_in(folder: TempDir, config: &str) -> Option<Self> {
        let program = find("nats-server")?;
        let child = spawn(&program, folder.path(), 0, config);
        let mut server = Self {
            program,
            folder,
            child,
            port: 0,
        };
        server.port = server.ready().await;
        Some(server)
    }

    /// Starts it again on the same port, with these lines in its configuration.
    pub(crate) async fn restart(&mut self, config: &str) {
        self.kill();
        self.child = spawn(&self.program, self.folder.path(), self.port, config);
        self.ready().await;
    }

    /// Ends it without a word to anybody.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child that can be killed");
        self.child.wait().expect("a child to wait for");
    }

    /// Stops its clock: connections stay, nothing answers.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a [`Server::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("a child that takes signals");
    }

    /// Waits until it takes connections; its ports are then in a file named after its process.
    async fn ready(&mut self) -> u16 {
        let pid = self.child.id();
        let file = self.folder.path().join(format!("nats-server_{pid}.ports"));
        let child = &mut self.child;
        let log = self.folder.path().join("log");
        until("nats-server to take connections", async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            let ports = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            let port = ports.split("127.0.0.1:").nth(1).map(|rest| {
                let end = rest.find(|digit: char| !digit.is_ascii_digit());
                rest[..end.unwrap_or(rest.len())].parse().ok()
            });
            port.flatten().ok_or(ports)
        })
        .await
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How to reach it, with short times so that tests are quick.
    pub(crate) fn options(&self) -> NatsOptions {
        options(&format!("nats://{}", self.address()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Options with short times so that tests are quick.
pub(crate) fn options(addresses: &str) -> NatsOptions {
    NatsOptions::new(addresses)
        .expect("addresses")
        .startup_timeout(PATIENCE)
        .connect_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_millis(200))
        .max_backoff(Duration::from_millis(50))
}

/// A handle.
pub(crate) async fn connect(options: NatsOptions) -> NatsBus {
    NatsBus::connect(options).await.expect("a connection")
}

fn spawn(program: &Path, folder: &Path, port: u16, config: &str) -> Child {
    let file = folder.join("server.conf");
    // Port -1 lets the server choose a free one.
    let port = if port == 0 { -1 } else { i32::from(port) };
    let fixed = format!(
        "host: 127.0.0.1\nport: {port}\nports_file_dir: {:?}\n",
        folder
    );
    fs::write(&file, fixed + config).expect("a configuration");
    let log = fs::File::create(folder.join("log")).expect("a log");
    Command::new(program)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("nats-server starts")
}

/// Finds what `scripts/setup backends` installed. A missing server fails where `CI` is set;
/// elsewhere the test is skipped and says so.
fn find(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(env::var_os("CORETEX_TOOLS").map(PathBuf::from));
    folders.push(root.join(".tools/bin"));
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let found = folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!in_ci, "{name} is missing, run `make setup`");
        // Not `eprintln!`: the test harness would keep that of a passing test to itself.
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "SKIPPED: {name} is missing, run `make setup`");
    }
    found
}
