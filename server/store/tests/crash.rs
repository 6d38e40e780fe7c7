//! Processes that die: nothing acknowledged is lost, nothing is half there, nobody gets in twice.
//!
//! Each test runs its own binary again as the process that dies, told by an environment variable.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use coretex_store::conformance::ManualClock;
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
use coretex_store::{Batch, Durability, Order, Range, Store};

use common::{SHARD, b, fresh};

const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const WRITERS: u64 = 24;
/// Each writer keeps this many of its records and deletes older ones.
const KEEP: u64 = 5;

fn options(directory: &Path, durability: Durability) -> EmbeddedOptions {
    let clock = Arc::new(ManualClock::default());
    let mut options = EmbeddedOptions::directory(directory, clock, 1);
    options.durability = durability;
    options
}

/// Runs one test of this file in a process of its own.
fn again(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Writes without end, and says what was acknowledged. One commit is: a record, the writer's head,
/// an index entry, a log entry, and the end of an older record with its index entry.
async fn write_for_ever(directory: &Path, durability: Durability) {
    let store = Arc::new(EmbeddedStore::open(options(directory, durability)).unwrap());
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let head = b(format!("head/{writer}"));
            let found = store.get(SHARD, std::slice::from_ref(&head)).await.unwrap();
            let mut number = found.value[0]
                .as_ref()
                .map_or(0, |record| parse(&record.value));
            let record = |number: u64| b(format!("record/{writer:02}/{number:08}"));
            let kept: Vec<_> = ((number + 1).saturating_sub(KEEP).max(1)..=number)
                .map(record)
                .collect();
            let kept = store.get(SHARD, &kept).await.unwrap().value;
            // Versions of the kept records, and so of the head, which each commit writes too.
            let mut versions: VecDeque<_> = kept
                .into_iter()
                .map(|record| record.unwrap().version)
                .collect();
            while number < u64::MAX {
                number += 1;
                let name = format!("{writer:02}/{number:08}");
                let mut batch = Batch::new(SHARD, fresh());
                batch.create(record(number), Bytes::from(vec![b'x'; 500]));
                match versions.back() {
                    None => batch.create(head.clone(), b(number.to_string())),
                    Some(last) => batch.replace(head.clone(), *last, b(number.to_string())),
                };
                batch.add(b("records"), b(&name)).append(b(&name));
                if number > KEEP {
                    let old = format!("{writer:02}/{:08}", number - KEEP);
                    batch.delete(record(number - KEEP), versions.pop_front().unwrap());
                    batch.remove(b("records"), b(&old));
                }
                versions.push_back(store.commit(batch).await.unwrap().version);
                // Not by a print macro, which the test harness would keep for itself.
                let line = format!("acknowledged {name}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Starts a writing process, kills it after so many acknowledgements, and tells the last number
/// that each writer had acknowledged.
fn kill_after(test: &str, directory: &Path, lines: usize) -> BTreeMap<u64, u64> {
    let mut child = again(test, directory);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = BTreeMap::new();
    let mut seen = 0;
    let mut line = String::new();
    loop {
        line.clear();
        // What was said before the kill is still in the pipe after it.
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        let Some(name) = line.trim_end().strip_prefix("acknowledged ") else {
            continue;
        };
        let (writer, number) = name.split_once('/').unwrap();
        let (Ok(writer), Ok(number)) = (writer.parse(), number.parse()) else {
            continue;
        };
        if number >= acknowledged.get(&writer).copied().unwrap_or(0) {
            acknowledged.insert(writer, number);
        }
        seen += 1;
        if seen == lines {
            // SIGKILL: no handler, no destructor, no flush.
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(
        seen >= lines,
        "the process ended by itself after {seen} lines"
    );
    acknowledged
}

/// Opens what the process left and checks that it is the result of whole commits. Tells the last
/// number of each writer.
async fn check(directory: &Path, durability: Durability) -> BTreeMap<u64, u64> {
    let store = EmbeddedStore::open(options(directory, durability)).unwrap();
    let ranges = [Range::all(b("records"))];
    let listed = store
        .range(SHARD, &ranges, 1_000_000, Order::Ascending)
        .await;
    let listed: BTreeSet<Bytes> = listed.unwrap().value.pop().unwrap().into_iter().collect();
    let size = store.count(SHARD, &ranges[0], u64::MAX).await.unwrap();
    assert_eq!(size.value, listed.len() as u64);
    let log = store.tail(SHARD, 1, 10_000_000).await.unwrap().value;
    assert_eq!(log.entries.len() as u64 + 1, log.next);
    let mut logged: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in &log.entries {
        let name = std::str::from_utf8(&entry.value).unwrap();
        let (writer, number) = name.split_once('/').unwrap();
        let (writer, number) = (writer.parse().unwrap(), number.parse().unwrap());
        // Each writer's entries come in order, none twice, none missing.
        let last = logged.insert(writer, number).unwrap_or(0);
        assert_eq!(number, last + 1, "writer {writer}");
    }
    let mut expected = BTreeSet::new();
    for writer in 0..WRITERS {
        let head = store.get(SHARD, &[b(format!("head/{writer}"))]).await;
        let head = head.unwrap().value.pop().unwrap();
        let last = head.as_ref().map_or(0, |record| parse(&record.value));
        assert_eq!(last, logged.get(&writer).copied().unwrap_or(0));
        let keys: Vec<_> = (1..=last)
            .map(|number| b(format!("record/{writer:02}/{number:08}")))
            .collect();
        let found = store.get(SHARD, &keys).await.unwrap().value;
        for (number, record) in (1..=last).zip(found) {
            let kept = number + KEEP > last;
            assert_eq!(
                record.is_some(),
                kept,
                "writer {writer}, {number} of {last}"
            );
            if number == last {
                // Written by one commit.
                let versions = [&head, &record].map(|one| one.as_ref().map(|one| one.version));
                assert_eq!(versions[0], versions[1]);
            }
            if kept {
                expected.insert(b(format!("{writer:02}/{number:08}")));
            }
        }
    }
    assert_eq!(listed, expected);
    logged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        write_for_ever(Path::new(&directory), Durability::Fsync).await;
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for lines in [1, 30, 200, 1_000, 300, 3_000] {
        let name = "what_was_acknowledged_survives_a_kill";
        let acknowledged = kill_after(name, directory.path(), lines);
        let found = check(directory.path(), Durability::Fsync).await;
        for (writer, number) in acknowledged {
            let last = found.get(&writer).copied().unwrap_or(0);
            assert!(
                last >= number,
                "writer {writer}: {number} was lost, {last} is last"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_fsync_a_kill_loses_whole_commits_at_the_end() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        write_for_ever(Path::new(&directory), Durability::Async).await;
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut survived = 0;
    for lines in [100, 2_000, 8_000] {
        let name = "without_fsync_a_kill_loses_whole_commits_at_the_end";
        kill_after(name, directory.path(), lines);
        let found = check(directory.path(), Durability::Async).await;
        survived = found.values().sum();
    }
    // Opening, closing and reopening put on disk what they found.
    let again = check(directory.path(), Durability::Async).await;
    assert_eq!(survived, again.values().sum::<u64>());
}

#[tokio::test]
async fn a_second_process_is_refused() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let refused = EmbeddedStore::open(options(Path::new(&directory), Durability::Fsync));
        let error = refused.err().map(|error| error.to_string());
        let line = format!("said: {}\n", error.unwrap_or_default());
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(options(directory.path(), Durability::Fsync)).unwrap();
    let mut child = again("a_second_process_is_refused", directory.path());
    let output = BufReader::new(child.stdout.take().unwrap());
    let said: Vec<_> = output
        .lines()
        .map(Result::unwrap)
        .filter(|line| line.contains("said: "))
        .collect();
    child.wait().unwrap();
    let expected = format!(
        "the store in {} is in use by another process",
        directory.path().display()
    );
    assert_eq!(said.len(), 1);
    assert!(said[0].ends_with(&expected), "{said:?}");
    // The first one is not disturbed, nor is a second one in this process let in.
    store
        .commit(common::creation("key", "value"))
        .await
        .unwrap();
    let refused = EmbeddedStore::open(options(directory.path(), Durability::Fsync));
    assert!(matches!(refused, Err(OpenError::InUse { .. })));
    drop(store);
    EmbeddedStore::open(options(directory.path(), Durability::Fsync)).unwrap();
}
