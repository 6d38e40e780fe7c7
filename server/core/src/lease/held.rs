//! Members of the held index: the slots in use, by replica and session.

use crate::id::{JobId, LeaseId, ReplicaId, SessionId, TenantId};
use crate::job::{Job, Slot};

/// How the attempt of a slot stands. It is part of the index member, so that the owner of the
/// session learns from the index alone what was decided elsewhere: a cancel request or an end whose
/// message was lost would otherwise leave the member, and thereby the worker, as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It is the job's current attempt.
    Current,
    /// It is current, and the worker has been asked to stop it.
    CancelRequested,
    /// It is over; the slot is in use until the worker has answered for it.
    Over,
}

impl Standing {
    const fn byte(self) -> u8 {
        match self {
            Self::Current => b'c',
            Self::CancelRequested => b'r',
            Self::Over => b'x',
        }
    }

    const fn parse(byte: u8) -> Option<Self> {
        match byte {
            b'c' => Some(Self::Current),
            b'r' => Some(Self::CancelRequested),
            b'x' => Some(Self::Over),
            _ => None,
        }
    }
}

/// A member of the held index: one slot in use. `replica 0x00 session 0x00 standing(1) tenant 0x00
/// lease(16) job_id`. The prefix of a replica, or of a session, holds all that they hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldKey {
    /// The owner of the session.
    pub replica: ReplicaId,
    /// The session.
    pub session: SessionId,
    /// How the attempt stands.
    pub standing: Standing,
    /// Whose job it is.
    pub tenant: TenantId,
    /// The lease of the attempt.
    pub lease_id: LeaseId,
    /// The job.
    pub job_id: JobId,
}

/// A member of the held index that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed member of the held index")]
pub struct MalformedKey;

impl HeldKey {
    /// The members that a job has: one for each slot it occupies.
    pub fn of(job: &Job) -> impl Iterator<Item = Self> + '_ {
        let key = |slot: &Slot, standing| Self {
            replica: slot.replica.clone(),
            session: slot.session.clone(),
            standing,
            tenant: job.tenant.clone(),
            lease_id: slot.lease_id,
            job_id: job.id.clone(),
        };
        let current = if job.cancel.is_some() {
            Standing::CancelRequested
        } else {
            Standing::Current
        };
        let out = job.lease.iter().map(move |lease| key(&lease.slot, current));
        out.chain(
            job.unreleased
                .iter()
                .map(move |slot| key(slot, Standing::Over)),
        )
    }

    /// What every member of a replica starts with.
    #[must_use]
    pub fn replica_prefix(replica: &ReplicaId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(replica.as_bytes());
        bytes.push(0);
        bytes
    }

    /// Where a skip scan over replicas goes on.
    #[must_use]
    pub fn after_replica(replica: &ReplicaId) -> Vec<u8> {
        let mut bytes = replica.as_bytes().to_vec();
        bytes.push(1);
        bytes
    }

    /// What every member of a session starts with.
    #[must_use]
    pub fn session_prefix(replica: &ReplicaId, session: &SessionId) -> Vec<u8> {
        let mut bytes = Self::replica_prefix(replica);
        bytes.extend_from_slice(session.as_bytes());
        bytes.push(0);
        bytes
    }

    /// The index member.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Self::session_prefix(&self.replica, &self.session);
        bytes.push(self.standing.byte());
        bytes.extend_from_slice(self.tenant.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&self.lease_id.bits().to_be_bytes());
        bytes.extend_from_slice(self.job_id.as_bytes());
        bytes
    }

    /// Reads an index member.
    ///
    /// # Errors
    /// When it was not made by [`Self::encode`].
    pub fn decode(member: &[u8]) -> Result<Self, MalformedKey> {
        let mut parts = member.splitn(4, |byte| *byte == 0);
        let mut part = || {
            parts
                .next()
                .filter(|bytes| !bytes.is_empty())
                .ok_or(MalformedKey)
        };
        let (replica, session) = (text(part()?)?, text(part()?)?);
        let (standing, tenant) = part()?.split_first().ok_or(MalformedKey)?;
        let (lease, job) = part()?.split_first_chunk::<16>().ok_or(MalformedKey)?;
        Ok(Self {
            replica: ReplicaId::from_trusted(replica),
            session: SessionId::from_trusted(session),
            standing: Standing::parse(*standing).ok_or(MalformedKey)?,
            tenant: TenantId::from_trusted(text(tenant)?),
            lease_id: LeaseId::new(u128::from_be_bytes(*lease)),
            job_id: JobId::from_trusted(text(job)?),
        })
    }
}

fn text(bytes: &[u8]) -> Result<&str, MalformedKey> {
    if bytes.is_empty() {
        return Err(MalformedKey);
    }
    std::str::from_utf8(bytes).map_err(|_| MalformedKey)
}
