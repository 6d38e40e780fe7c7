//! Runs of real programs: pipes, progress, signals, groups.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::collections::BTreeSet;
use std::fs;
use std::future::pending;
use std::os::unix::process::ExitStatusExt;

use rustix::process::test_kill_process;
use tokio::sync::watch;

use futures::FutureExt;

use super::*;

#[derive(Default)]
struct Ears {
    heard: watch::Sender<Vec<String>>,
}

impl Ears {
    fn all(&self) -> Vec<String> {
        self.heard.borrow().clone()
    }

    /// Waits for something to be said.
    async fn line(&self, wanted: &str) {
        let said = |heard: &Vec<String>| heard.iter().any(|line| line == wanted);
        self.heard.subscribe().wait_for(said).await.unwrap();
    }

    /// The process id in a line `NAME ID`.
    fn pid(&self, name: &str) -> Pid {
        let all = self.all();
        let line = all.iter().find_map(|heard| heard.strip_prefix(name));
        Pid::from_raw(line.unwrap().trim().parse().unwrap()).unwrap()
    }
}

impl Listener for Ears {
    fn progress(&self, percent: i32, message: String) {
        self.heard
            .send_modify(|heard| heard.push(format!("{percent} {message}")));
    }

    fn log<'a>(&'a self, line: &'a str) -> BoxFuture<'a, ()> {
        self.heard.send_modify(|heard| heard.push(line.to_owned()));
        std::future::ready(()).boxed()
    }
}

fn shell(script: &str) -> Program {
    let command = ["sh", "-c", script].map(Into::into);
    Program::find(&command).unwrap()
}

fn of(program: &Program, input: impl Into<Vec<u8>>) -> Run<'_> {
    Run {
        program,
        input: input.into(),
        environment: Vec::new(),
        max_output: 1024 * 1024,
    }
}

async fn simply(script: &str, input: impl Into<Vec<u8>>) -> (Ended, Vec<String>) {
    let (program, ears) = (shell(script), Ears::default());
    let ended = run(of(&program, input), &ears, pending()).await.unwrap();
    (ended, ears.all())
}

/// Waits until a process is gone or only its entry is left for somebody else to collect.
async fn gone(pid: Pid) {
    let ended = || {
        test_kill_process(pid).is_err()
            || fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
                .map_or(true, |stat| {
                    stat.rsplit(") ").next().unwrap().starts_with('Z')
                })
    };
    while !ended() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn input_output_and_complaints_go_their_ways() {
    let (ended, heard) = simply("cat; echo one >&2; echo two >&2", "to be").await;
    assert!(ended.status.success());
    assert_eq!(ended.stdout, b"to be");
    assert_eq!(ended.complaints, "one\ntwo");
    assert_eq!(heard, ["one", "two"]);
}

#[tokio::test]
async fn more_than_a_pipe_holds_flows_both_ways() {
    let input = vec![b'x'; 700_000];
    let (ended, _) = simply("cat", input.clone()).await;
    assert_eq!(ended.stdout, input);
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let (ended, _) = simply("echo done", vec![b'x'; 700_000]).await;
    assert!(ended.status.success());
    assert_eq!(ended.stdout, b"done\n");
}

#[tokio::test]
async fn progress_comes_on_descriptor_three() {
    let script = r#"echo '{"progress": 40, "message": "half"}' >&3
        echo nonsense >&3
        printf '{"progress": 90}' >&3"#;
    let (ended, heard) = simply(script, "").await;
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(heard, ["40 half", "90 half"]);
}

#[tokio::test]
async fn nothing_else_of_ours_is_inherited() {
    let list = "ls /proc/$$/fd";
    // Whoever started the tests may have left descriptors open: those are no fault of ours.
    let plain = std::process::Command::new("sh")
        .args(["-c", list])
        .output()
        .unwrap();
    let open = |listing: Vec<u8>| -> BTreeSet<i32> {
        let text = String::from_utf8(listing).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let mut expected = open(plain.stdout);
    expected.insert(PROGRESS_FD);
    let (ended, _) = simply(list, "").await;
    assert_eq!(open(ended.stdout), expected);
}

#[tokio::test]
async fn the_environment_is_set_and_cleaned() {
    let program = shell("echo $CORETEX_JOB_ID-${HOME:-none}");
    let mut run = of(&program, "");
    run.environment = vec![("CORETEX_JOB_ID", Some("a".to_owned())), ("HOME", None)];
    let ended = super::run(run, &Ears::default(), pending()).await.unwrap();
    assert_eq!(ended.stdout, b"a-none\n");
}

#[tokio::test]
async fn exit_codes_and_signals_are_told() {
    let (ended, _) = simply("exit 7", "").await;
    assert_eq!(ended.status.code(), Some(7));
    let (ended, _) = simply("kill -9 $$", "").await;
    assert_eq!(ended.status.signal(), Some(9));
}

#[tokio::test]
async fn stopping_reaches_the_whole_group() {
    let (program, ears) = (
        shell("sleep 600 & echo sleeper $! >&2; echo up >&2; wait"),
        Ears::default(),
    );
    let stop = ears.line("up");
    let ended = run(of(&program, ""), &ears, stop).await.unwrap();
    assert!(ended.stopped);
    assert_eq!(ended.status.signal(), Some(15));
    gone(ears.pid("sleeper ")).await;
}

#[tokio::test]
async fn who_ignores_the_request_is_killed_with_the_run() {
    let script = "trap 'echo told >&2' TERM; sleep 600 & echo sleeper $! >&2; echo self $$ >&2; echo up >&2; \
                  while :; do wait; done";
    let (program, ears) = (shell(script), Ears::default());
    {
        let running = run(of(&program, ""), &ears, ears.line("up"));
        tokio::pin!(running);
        tokio::select! {
            _ = &mut running => panic!("it was to ignore the request"),
            () = ears.line("told") => {}
        }
        // Here the grace ends: the run is dropped.
    }
    gone(ears.pid("self ")).await;
    gone(ears.pid("sleeper ")).await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_goes_with_it() {
    let script = "sleep 600 >/dev/null 2>&1 3>&- & echo sleeper $! >&2; echo done";
    let (ended, heard) = simply(script, "").await;
    assert_eq!(ended.stdout, b"done\n");
    let line = heard.iter().find_map(|line| line.strip_prefix("sleeper "));
    gone(Pid::from_raw(line.unwrap().parse().unwrap()).unwrap()).await;
}

#[tokio::test]
async fn what_is_still_written_after_the_end_is_read() {
    let (ended, _) = simply("(sleep 0.1; echo late) & echo early", "").await;
    assert_eq!(ended.stdout, b"early\nlate\n");
}

#[tokio::test]
async fn too_much_output_kills_the_program() {
    let program = shell("yes");
    let mut run = of(&program, "");
    run.max_output = 100_000;
    let ended = super::run(run, &Ears::default(), pending()).await.unwrap();
    assert!(ended.overflowed);
    assert_eq!(ended.status.signal(), Some(9));
    assert!(ended.stdout.len() <= 100_000);
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torn");
    fs::write(&path, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = Program::find(&[path.into()]).unwrap();
    let failed = run(of(&program, ""), &Ears::default(), pending()).await;
    assert!(failed.is_err());
}
