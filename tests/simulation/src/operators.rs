//! What operators do beside draining: pauses, which are obeyed, and dead letters, of each of which
//! comes one new job at most.

use std::collections::BTreeMap;

use coretex_core::id::{PoolName, TenantId};
use coretex_core::job::Job;
use coretex_core::pause::{Pause, PauseScope};
use coretex_core::routing::pattern::TopicPattern;
use coretex_core::time::Timestamp;
use coretex_engine::{Caller, DlqFilter, Error, JobEdits, PageRequest, Role};
use coretex_store::{Order, Range, Shard, Store, codec};
use coretex_testbench::{admin, caller, secs};

use crate::world::{TENANTS, TOPICS, World};

/// A pause is in force within this time at every server that reaches the store.
const OBEYED_WITHIN: std::time::Duration = secs(2);

/// A pause that stands in the store.
#[derive(Debug)]
pub(crate) struct Standing {
    version: u64,
    /// It has stood there since then, at least; store time.
    since: Timestamp,
}

/// The pauses that stand in the store.
pub(crate) type StandingPauses = BTreeMap<PauseScope, Standing>;

fn system() -> Caller {
    Caller {
        system: true,
        ..admin()
    }
}

impl World {
    /// An operator pauses something, or resumes what is paused.
    pub(crate) async fn pause_or_resume(&mut self) {
        let Some(engine) = self.any_engine() else {
            return;
        };
        let operator = system();
        self.see_pauses().await;
        let count = self.pauses.len() as u64;
        let standing = self.pauses.keys().nth(self.dice.below(count) as usize);
        if let Some(scope) = standing.cloned()
            && !self.one_in(3)
        {
            self.note(format_args!("{scope} is resumed"));
            let resumed = engine.resume_jobs(&operator, scope);
            drop(tokio::time::timeout(secs(12), resumed).await);
        } else {
            let scope = self.any_scope();
            self.note(format_args!("{scope} is paused"));
            let paused = engine.pause_jobs(&operator, scope, String::new());
            if let Ok(Ok(_)) = tokio::time::timeout(secs(12), paused).await {
                self.tally.pauses += 1;
            }
        }
        self.see_pauses().await;
    }

    fn any_scope(&self) -> PauseScope {
        let tenant = || Some(TenantId::from_trusted(self.tenant()));
        let topic = || TopicPattern::parse(TOPICS[self.dice.below(3) as usize]).ok();
        match self.dice.below(4) {
            0 => PauseScope {
                pool: Some(PoolName::from_trusted("default")),
                ..PauseScope::default()
            },
            1 => PauseScope {
                topic: topic(),
                ..PauseScope::default()
            },
            2 => PauseScope {
                tenant: tenant(),
                ..PauseScope::default()
            },
            _ => PauseScope {
                tenant: tenant(),
                topic: topic(),
                ..PauseScope::default()
            },
        }
    }

    /// Notes which pauses stand in the store.
    pub(crate) async fn see_pauses(&mut self) {
        let base = &self.cluster.base;
        let all = [Range::all(bytes::Bytes::from_static(b"paused"))];
        let read = base.range(Shard::Sys, &all, 1_000, Order::Ascending).await;
        let members = read.unwrap().value.remove(0);
        let keys: Vec<bytes::Bytes> = members
            .iter()
            .map(|member| [b"pause/", member.as_ref()].concat().into())
            .collect();
        let now = self.now();
        let mut before = std::mem::take(&mut self.pauses);
        if keys.is_empty() {
            return;
        }
        let records = base.get(Shard::Sys, &keys).await.unwrap().value;
        for record in records {
            let record = record.expect("the record of a pause");
            let (_, pause) = codec::decode::<Pause>(&record.value).unwrap();
            let version = record.version;
            let known = before.remove(&pause.scope);
            let known = known.filter(|known| known.version == version);
            let since = known.map_or(now, |known| known.since);
            self.pauses.insert(pause.scope, Standing { version, since });
        }
    }

    /// The clock of the store was set: what was noted by it counts from here on.
    pub(crate) fn forget_times(&mut self, before: Timestamp) {
        let from = before.max(self.now());
        for standing in self.pauses.values_mut() {
            standing.since = from;
        }
        for server in self.cluster.servers.iter_mut().flatten() {
            server.well_from = server.well_from.map(|well| well.max(from));
        }
    }

    /// A job that is handed out by a server that reaches the store is not held up by a pause.
    pub(crate) async fn not_paused(&mut self, place: usize, job: &Job) {
        self.see_pauses().await;
        let (Some(lease), Some(server)) = (&job.lease, &self.cluster.servers[place]) else {
            return;
        };
        let Some(well_from) = server.well_from else {
            return;
        };
        for (scope, standing) in &self.pauses {
            if scope.covers(&job.tenant, &job.spec.topic, Some(&lease.pool)) {
                let from = standing.since.max(well_from) + OBEYED_WITHIN;
                assert!(
                    lease.dispatch_time <= from,
                    "{} was handed out at {} by server {place}, and {scope} is paused since {}",
                    job.id,
                    lease.dispatch_time,
                    standing.since
                );
            }
        }
    }

    /// Whether a pause of the kind that a diagnosis names holds up a job.
    pub(crate) fn is_paused(&self, job: &Job, code: &str) -> bool {
        let pool = PoolName::from_trusted("default");
        self.pauses.keys().any(|scope| {
            scope.code() == code && scope.covers(&job.tenant, &job.spec.topic, Some(&pool))
        })
    }

    /// Whatever is paused is resumed.
    pub(crate) async fn resume_all(&mut self) {
        self.see_pauses().await;
        let scopes: Vec<PauseScope> = self.pauses.keys().cloned().collect();
        for scope in scopes {
            if let Some(engine) = self.any_engine() {
                drop(engine.resume_jobs(&system(), scope).await);
            }
        }
    }

    /// Operators retry a dead letter, sometimes two of them the same one.
    pub(crate) async fn retry_dead_letter(&mut self) {
        let tenant = TENANTS[self.dice.below(2) as usize];
        let who = caller(tenant, "key:o", &[Role::Admin]);
        let (Some(one), Some(other)) = (self.any_engine(), self.any_engine()) else {
            return;
        };
        let page = PageRequest {
            size: 20,
            token: String::new(),
        };
        let filter = DlqFilter::default();
        let listed = one.list_dlq_entries(&who, &filter, page, false);
        let Ok(Ok(page)) = tokio::time::timeout(secs(12), listed).await else {
            return;
        };
        let count = page.entries.len() as u64;
        let Some(entry) = page.entries.get(self.dice.below(count) as usize) else {
            return;
        };
        let id = entry.answer.job.id.clone();
        self.note(format_args!("{id} of {tenant} is retried"));
        self.keys += 1;
        let key = if self.one_in(2) {
            format!("r{}", self.keys)
        } else {
            String::new()
        };
        self.book.retried.insert((tenant.to_owned(), id.clone()));
        let retry = |engine: coretex_engine::Engine| {
            let (who, id, key) = (who.clone(), id.clone(), key.clone());
            async move {
                let retry = engine.retry_dlq_entry(&who, &id, JobEdits::default(), key);
                tokio::time::timeout(secs(12), retry).await
            }
        };
        let answers = if self.one_in(2) {
            let (first, second) = futures::join!(retry(one), retry(other));
            vec![first, second]
        } else {
            vec![retry(one).await]
        };
        let mut made = Vec::new();
        for answer in answers {
            match answer {
                Ok(Ok(submitted)) => {
                    let job = submitted.answer.job;
                    assert_eq!(job.rerun_of.as_ref(), Some(&id));
                    self.book.saw(&job);
                    let name = (tenant.to_owned(), job.id.clone());
                    self.book.accepted.insert(name);
                    made.push(job.id.clone());
                }
                Err(_)
                | Ok(Err(
                    Error::OutcomeUnknown
                    | Error::NotFound { .. }
                    | Error::ConcurrencyLimitReached { .. }
                    | Error::Unavailable { .. }
                    | Error::Overloaded { .. }
                    | Error::Contention
                    | Error::Draining,
                )) => {}
                Ok(Err(error)) => panic!("retry of {id}: {error}"),
            }
        }
        self.tally.retried += u64::from(!made.is_empty());
        made.dedup();
        assert!(made.len() < 2, "of one dead letter came {made:?}");
    }
}
