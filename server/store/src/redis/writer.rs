//! The one writer: groups of commits over a connection of its own.
//!
//! A group is one pipeline of script calls. While Redis works on one, the next is prepared. When
//! no answer comes, every commit of the group is of unknown outcome, the connection is given up,
//! and the next one begins by shutting it out (`fence.lua`): what the old connection still carries
//! is refused from then on, so that the answer to a resend stays true.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::embedded::GroupReport;
use crate::{CommitError, Durability, Shard};

use super::Shared;
use super::answer::{Answer, decode};
use super::connect::{ConnectError, Connection};
use super::errors::{Refusal, judge, not_applied, reason, text, unknown};
use super::layout::{Kind, key};
use super::queue::Item;
use super::seen::Mark;

/// How long a connection stays shut out; longer than any network keeps a packet.
const FENCE_SECONDS: u32 = 24 * 3600;
/// How often a script is loaded again for one group.
const LOADS: usize = 3;

/// The connection of the writer.
struct Link {
    connection: Connection,
    generation: u64,
}

/// What became of a group.
struct Done {
    generation: u64,
    /// The connection is not to be used again; whether something of it may still arrive.
    broken: Option<Outcome>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Settled,
    Unsettled,
}

/// The writer.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// What the fences of this writer are called.
    name: [u8; 16],
    link: Option<Link>,
    generation: u64,
    /// An older connection may still carry commits.
    unsettled: bool,
    /// The shards that this writer has written to.
    shards: BTreeSet<Shard>,
    groups: JoinSet<Done>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            name: shared.options.ids.random().to_le_bytes(),
            shared,
            link: None,
            generation: 0,
            unsettled: false,
            shards: BTreeSet::new(),
            groups: JoinSet::new(),
        }
    }

    /// Serves the queue until it is closed and empty.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            let room = self.groups.len() < shared.options.groups;
            tokio::select! {
                biased;
                Some(done) = self.groups.join_next() => self.done(done.ok().as_ref()),
                group = shared.queue.take(), if room => match group {
                    Some(items) => self.serve(items).await,
                    None => break,
                },
            }
        }
        while let Some(done) = self.groups.join_next().await {
            self.done(done.ok().as_ref());
        }
    }

    /// Takes note of how a group ended; `None` = it was cut off.
    fn done(&mut self, done: Option<&Done>) {
        let current = self.link.as_ref().map(|link| link.generation);
        match done {
            Some(Done { broken: None, .. }) => {}
            Some(Done {
                generation,
                broken: Some(outcome),
            }) => {
                self.unsettled |= *outcome == Outcome::Unsettled;
                if current == Some(*generation) {
                    self.link = None;
                }
            }
            None => {
                self.unsettled = true;
                self.link = None;
            }
        }
    }

    /// Sends a group.
    async fn serve(&mut self, items: Vec<Item>) {
        for item in &items {
            if self.shards.insert(item.commit.shard) {
                self.shared.seen.watch(item.commit.shard);
            }
        }
        if self.link.is_none()
            && let Err(error) = self.connect().await
        {
            // Who waits behind them would only wait for the next failure.
            for item in items.into_iter().chain(self.shared.queue.abandon()) {
                refuse(item, &error.to_string());
            }
            return;
        }
        let Some(link) = &self.link else { return };
        let group = Group {
            shared: self.shared.clone(),
            connection: link.connection.handle(),
            generation: link.generation,
            name: self.name,
        };
        self.groups.spawn(group.run(items));
    }

    /// Makes a connection, loads the scripts, shuts out the connections before.
    async fn connect(&mut self) -> Result<(), ConnectError> {
        let timeout = self.shared.options.commit_timeout;
        let (mut connection, _) = self.shared.connector.connect(timeout).await?;
        self.generation += 1;
        let scripts = &self.shared.scripts;
        let mut commands = Pipeline::new();
        for script in scripts.of_writer() {
            commands.cmd("SCRIPT").arg("LOAD").arg(&script.text);
        }
        if self.unsettled {
            for shard in &self.shards {
                let fence = key(*shard, Kind::Fence, &self.name);
                commands.add_command(raise(&scripts.fence.sha, &fence, self.generation));
            }
        }
        let answers = connection
            .send(&commands)
            .await
            .map_err(|error| ConnectError::Unreachable(text(&error)))?;
        for answer in answers {
            if let Value::ServerError(error) = answer {
                self.shared.refused(judge(&error));
                return Err(ConnectError::Unreachable(reason(&error)));
            }
        }
        self.unsettled = false;
        self.link = Some(Link {
            connection,
            generation: self.generation,
        });
        Ok(())
    }
}

/// The command that shuts out every connection of a writer below `generation`.
fn raise(script: &str, fence: &[u8], generation: u64) -> Cmd {
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(script).arg(1).arg(fence);
    cmd.arg(generation).arg(FENCE_SECONDS);
    cmd
}

/// A group on its way.
struct Group {
    shared: Arc<Shared>,
    connection: Connection,
    generation: u64,
    name: [u8; 16],
}

impl Group {
    async fn run(mut self, items: Vec<Item>) -> Done {
        let started = Instant::now();
        let (commits, bytes) = (items.len(), items.iter().map(|i| i.commit.bytes).sum());
        let mut applied = 0;
        let broken = self.exchange(items, &mut applied).await;
        let took = started.elapsed();
        let queue = &self.shared.queue;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        queue.pace.store(micros, Ordering::Relaxed);
        if let Some(observer) = &self.shared.options.observer {
            observer.group(GroupReport {
                commits,
                applied,
                bytes,
                waiting: queue.len(),
                took,
                written: broken.is_none(),
            });
        }
        Done {
            generation: self.generation,
            broken,
        }
    }

    /// Sends the commits and answers them.
    async fn exchange(&mut self, mut items: Vec<Item>, applied: &mut usize) -> Option<Outcome> {
        let mut broken = None;
        for round in 0..=LOADS {
            let marks: Vec<Mark> = items
                .iter()
                .map(|item| self.shared.seen.mark(item.commit.shard))
                .collect();
            let commands = self.commands(&items, round > 0);
            let answers = match self.connection.send(&commands).await {
                Ok(answers) => answers,
                Err(error) => {
                    let words = text(&error);
                    tracing::warn!(
                        reason = words,
                        commits = items.len(),
                        "no answer from redis"
                    );
                    for item in items {
                        answer(item, Err(unknown(words.clone())));
                    }
                    return Some(Outcome::Unsettled);
                }
            };
            let lacking = self.lacking(&answers);
            let mut again = Vec::new();
            let skip = commands.len() - items.len() - self.extra();
            for ((item, mark), value) in items
                .into_iter()
                .zip(marks)
                .zip(answers.into_iter().skip(skip))
            {
                if let Value::ServerError(error) = value {
                    match judge(&error) {
                        Refusal::NoScript if round < LOADS => again.push(item),
                        refusal => {
                            self.shared.refused(refusal);
                            if refusal == Refusal::NotMaster {
                                broken = broken.or(Some(Outcome::Settled));
                            }
                            let words = reason(&error);
                            answer(
                                item,
                                Err(match refusal {
                                    Refusal::Unclear => unknown(words),
                                    _ => not_applied(words),
                                }),
                            );
                        }
                    }
                    continue;
                }
                let Answer {
                    commits,
                    mut result,
                } = decode(&item.commit, value);
                if let Some(commits) = commits {
                    self.shared.seen.saw(item.commit.shard, mark, commits);
                }
                if let Ok(committed) = &mut result {
                    *applied += usize::from(!committed.resent);
                    committed.time = self.shared.seen.time(committed.time.as_micros());
                    if let Some(lacking) = &lacking {
                        result = Err(unknown(lacking.clone()));
                    }
                }
                answer(item, result);
            }
            if again.is_empty() {
                break;
            }
            items = again;
        }
        broken
    }

    /// How many commands follow the commits.
    fn extra(&self) -> usize {
        if self.shared.options.durability == Durability::Replicated {
            2
        } else {
            0
        }
    }

    fn commands(&self, items: &[Item], load: bool) -> Pipeline {
        let scripts = &self.shared.scripts;
        let mut commands = Pipeline::with_capacity(items.len() + 4);
        if load {
            for script in scripts.of_writer() {
                commands.cmd("SCRIPT").arg("LOAD").arg(&script.text);
            }
        }
        for item in items {
            let fence = key(item.commit.shard, Kind::Fence, &self.name);
            let script = if item.commit.shrinks {
                &scripts.shrink
            } else {
                &scripts.commit
            };
            commands.add_command(item.commit.command(&script.sha, &fence, self.generation));
        }
        if self.extra() > 0 {
            // WAIT waits for what this connection wrote. A resend writes nothing, and must wait
            // for the first send all the same: so something is written.
            let fence = key(Shard::Sys, Kind::Fence, &self.name);
            commands.add_command(raise(&scripts.fence.sha, &fence, self.generation));
            let millis = self
                .shared
                .options
                .replica_timeout
                .max(Duration::from_millis(1));
            commands
                .cmd("WAIT")
                .arg(self.shared.options.replicas)
                .arg(u64::try_from(millis.as_millis()).unwrap_or(u64::MAX));
        }
        commands
    }

    /// What is missing when too few replicas have the group.
    fn lacking(&self, answers: &[Value]) -> Option<String> {
        if self.extra() == 0 {
            return None;
        }
        let wanted = i64::from(self.shared.options.replicas);
        match answers {
            [.., Value::Array(_), Value::Int(have)] if *have >= wanted => None,
            [.., Value::Int(have)] => Some(format!("{have} of {wanted} replicas have the commit")),
            _ => Some("redis does not tell whether its replicas have the commit".to_owned()),
        }
    }
}

/// Answers a commit that was not sent.
pub(super) fn refuse(item: Item, reason: &str) {
    answer(item, Err(not_applied(reason)));
}

fn answer(item: Item, result: Result<crate::Committed, CommitError>) {
    // Who no longer waits settles it by a resend.
    let _ = item.reply.send(result);
}
