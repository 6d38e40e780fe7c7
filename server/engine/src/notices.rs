//! Notices about approvals for systems outside: told at least once to every endpoint that the
//! operator has named, whatever happens to servers meanwhile.
//!
//! The owner of the shard reads the log and puts what an endpoint wants to hear into its outbox, in
//! one commit with how far it has read ([`collect`]). Another loop for each endpoint takes from the
//! outbox what is due and delivers it ([`outbox`]). How a notice travels is the [`Notifier`]'s
//! business.

mod collect;
mod outbox;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coretex_core::approval::ApprovalState;
use coretex_core::id::{ApprovalId, JobId, TenantId};
use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitId, Index, Key, Member};
use sha2::{Digest, Sha256};

use crate::approvals::{ApprovalAnswer, ApprovalEvent, ApprovalEventKind};
use crate::engine::Engine;
use crate::{Result, keyspace};

/// Who wants to hear of approvals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, unique among the endpoints.
    pub name: String,
    /// Whose approvals; empty = of all tenants.
    pub tenants: Vec<TenantId>,
    /// What of them; empty = everything.
    pub kinds: Vec<ApprovalEventKind>,
}

impl Endpoint {
    fn wants(&self, tenant: &TenantId, kind: ApprovalEventKind) -> bool {
        (self.tenants.is_empty() || self.tenants.contains(tenant))
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

/// Something to tell an endpoint.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The same whenever this very thing is told to this endpoint again.
    pub id: String,
    /// Whose approval.
    pub tenant: TenantId,
    /// What happened.
    pub event: ApprovalEvent,
    /// The approval as it is now, without an input that stands apart.
    pub answer: ApprovalAnswer,
}

/// Takes notices to endpoints.
#[async_trait]
pub trait Notifier: Send + Sync + Debug {
    /// The endpoints there are.
    fn endpoints(&self) -> &[Endpoint];

    /// Takes a notice to an endpoint, once. It is tried again when that fails.
    ///
    /// # Errors
    /// Why it did not arrive, for the log: without secrets.
    async fn deliver(&self, endpoint: &str, notice: &Notice) -> std::result::Result<(), String>;
}

/// A notice as it stands in an outbox. When it is due comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    due: Timestamp,
    /// When it was put there.
    first: Timestamp,
    time: Timestamp,
    kind: ApprovalEventKind,
    state: ApprovalState,
    tenant: TenantId,
    approval_id: ApprovalId,
    job_id: JobId,
}

const KINDS: [ApprovalEventKind; 5] = [
    ApprovalEventKind::Requested,
    ApprovalEventKind::Voted,
    ApprovalEventKind::Escalated,
    ApprovalEventKind::Renewed,
    ApprovalEventKind::Resolved,
];

impl Entry {
    fn encode(&self) -> Member {
        let kind = KINDS.iter().position(|kind| *kind == self.kind);
        let mut member = Vec::new();
        for time in [self.due, self.first, self.time] {
            member.extend_from_slice(&time.to_be_bytes());
        }
        member.extend_from_slice(&[kind.unwrap_or_default() as u8, self.state as u8]);
        let names = keyspace::pending_place(&self.tenant, &self.approval_id, &self.job_id);
        member.extend_from_slice(&names);
        member.into()
    }

    fn decode(member: &[u8]) -> Option<Self> {
        let (times, rest) = member.split_first_chunk::<24>()?;
        let time = |place: usize| {
            let bytes = times.get(place * 8..place * 8 + 8)?.try_into().ok()?;
            Some(Timestamp::from_micros(u64::from_be_bytes(bytes)))
        };
        let ([kind, state], names) = rest.split_first_chunk::<2>()?;
        let (tenant, approval_id, job_id) = keyspace::parse_pending(names)?;
        let state = |wanted: &ApprovalState| *wanted as u8 == *state;
        Some(Self {
            due: time(0)?,
            first: time(1)?,
            time: time(2)?,
            kind: *KINDS.get(usize::from(*kind))?,
            state: ApprovalState::ALL.into_iter().find(state)?,
            tenant,
            approval_id,
            job_id,
        })
    }

    /// What the receiver knows a repeated notice by.
    fn id(&self, endpoint: &str) -> String {
        let plain = Self {
            due: Timestamp::ZERO,
            first: Timestamp::ZERO,
            ..self.clone()
        };
        let digest = Sha256::digest([endpoint.as_bytes(), &[0], &plain.encode()].concat());
        digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn outbox(endpoint: &str) -> Index {
    [b"outbox/", endpoint.as_bytes()].concat().into()
}

impl Engine {
    /// Tells of approvals by `notifier` until the engine stops. To be called once.
    pub fn notify_by(&self, notifier: Arc<dyn Notifier>) {
        for endpoint in notifier.endpoints() {
            let (name, notifier) = (endpoint.name.clone(), Arc::clone(&notifier));
            self.spawn("notices", |engine| engine.run_outbox(notifier, name));
        }
        if !notifier.endpoints().is_empty() {
            self.spawn("collecting notices", |engine| {
                engine.run_collect_notices(notifier)
            });
        }
    }

    /// Writes a change of notices on the condition that nobody else has written `key` since it was
    /// read at `version`.
    async fn write_notices(
        &self,
        key: Key,
        version: Option<u64>,
        value: Bytes,
        fill: impl FnOnce(&mut Batch),
    ) -> Result<u64> {
        let mut batch = Batch::new(self.shard(), CommitId(self.ids().random()));
        match version {
            Some(version) => batch.replace(key, version, value),
            None => batch.create(key, value),
        };
        fill(&mut batch);
        Ok(self.store().commit(batch).await?.version)
    }
}
