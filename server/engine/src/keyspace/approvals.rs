//! Where approvals are found: the indexes that lead to the records of their jobs.

use coretex_core::id::{ApprovalId, JobId, TenantId};
use coretex_core::job::Job;
use coretex_store::{Index, Key, Member};

use super::{SEPARATOR, joined, text};

/// All approvals of a tenant, by creation, which their ids tell.
pub(crate) fn approvals(tenant: &TenantId) -> Index {
    joined(b"approvals/", &[tenant.as_bytes()])
}

/// What a member of [`approvals`] begins with.
pub(crate) fn approval_prefix(id: &ApprovalId) -> Vec<u8> {
    let mut prefix = id.as_bytes().to_vec();
    prefix.push(SEPARATOR);
    prefix
}

/// A member of [`approvals`]: which approval, and in the record of which job it stands.
pub(crate) fn approval_place(id: &ApprovalId, job: &JobId) -> Member {
    joined(b"", &[id.as_bytes(), job.as_bytes()])
}

/// Parses [`approval_place`].
pub(crate) fn parse_approval_place(member: &[u8]) -> Option<(ApprovalId, JobId)> {
    let mut parts = member.split(|byte| *byte == SEPARATOR).map(text);
    let id = ApprovalId::from_trusted(parts.next()??);
    Some((id, JobId::from_trusted(parts.next()??)))
}

/// Approvals that wait for votes: `tenant approval job`.
pub(crate) const PENDING_APPROVALS: Index = Index::from_static(b"pending-approvals");

/// The part of [`PENDING_APPROVALS`] that belongs to one tenant; its members go on as those of
/// [`approvals`].
pub(crate) fn pending_prefix(tenant: &TenantId) -> Vec<u8> {
    let mut prefix = tenant.as_bytes().to_vec();
    prefix.push(SEPARATOR);
    prefix
}

/// A member of [`PENDING_APPROVALS`].
pub(crate) fn pending_place(tenant: &TenantId, id: &ApprovalId, job: &JobId) -> Member {
    joined(b"", &[tenant.as_bytes(), id.as_bytes(), job.as_bytes()])
}

/// Parses a member of [`PENDING_APPROVALS`].
pub(crate) fn parse_pending(member: &[u8]) -> Option<(TenantId, ApprovalId, JobId)> {
    let end = member.iter().position(|byte| *byte == SEPARATOR)?;
    let tenant = TenantId::from_trusted(text(&member[..end])?);
    let (id, job) = parse_approval_place(&member[end + 1..])?;
    Some((tenant, id, job))
}

/// How far the log was read for notices.
pub(crate) fn notices() -> Key {
    Key::from_static(b"notices")
}

/// Who delivers the notices of an endpoint writes this.
pub(crate) fn notices_of(endpoint: &str) -> Key {
    joined(b"notices/", &[endpoint.as_bytes()])
}

/// The index entries of the approvals of a job.
pub(super) fn entries(job: &Job) -> Vec<(Index, Member)> {
    let mut entries = Vec::with_capacity(2 * job.approvals.len());
    for approval in &job.approvals {
        let place = approval_place(&approval.id, &job.id);
        entries.push((approvals(&job.tenant), place));
        if approval.is_pending() {
            let place = pending_place(&job.tenant, &approval.id, &job.id);
            entries.push((PENDING_APPROVALS, place));
        }
    }
    entries
}
