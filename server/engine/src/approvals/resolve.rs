//! Votes on approvals. The deciding one judges the job again, under the policy of that moment and in
//! the same commit: what a human grants is never more than policy asks for.

use coretex_core::approval::{Approval, ApprovalVerdict, Ballot, Vote, VoteRefusal};
use coretex_core::id::ApprovalId;
use coretex_core::job::transition::{Trigger, Verdict, apply};
use coretex_core::job::{Job, JobState};
use coretex_core::time::Timestamp;
use coretex_store::{CommitError, Key, codec};
use sha2::{Digest, Sha256};

use super::ApprovalAnswer;
use crate::access::{Caller, Role};
use crate::commits::{Extras, IdempotencyRecord, Loaded};
use crate::engine::Engine;
use crate::limits::{self, Met};
use crate::rulings::Turn;
use crate::types::JobAnswer;
use crate::{Error, Result, keyspace};

/// The longest answer, in bytes of JSON text.
pub const MAX_ANSWER: usize = 4 * 1024;
/// How often a vote is tried again after losing against another change.
const MAX_TRIES: u32 = 16;

/// A vote.
#[derive(Clone, Debug)]
pub struct ResolveApproval {
    /// On which approval.
    pub approval_id: ApprovalId,
    /// What.
    pub verdict: ApprovalVerdict,
    /// The hash of what the voter has been shown.
    pub expected_hash: Vec<u8>,
    /// Why.
    pub reason: String,
    /// What the voter answers beside the verdict, JSON text.
    pub answer: Option<String>,
    /// Scoped to the tenant, good for a day; empty = none.
    pub idempotency_key: String,
}

/// What has become of an approval by a vote.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The approval.
    pub answer: ApprovalAnswer,
    /// Its job.
    pub job: JobAnswer,
    /// True when the same vote had been cast before.
    pub replayed: bool,
}

/// What a vote makes of a job, to be written.
struct Counted {
    job: Job,
    extras: Extras,
    rates: Vec<coretex_core::policy::evaluate::RateTaken>,
}

impl Engine {
    /// Votes on an approval. One rejection denies the job. The last approving vote that is needed
    /// lets it run, as far as the policy in force says the same: it may deny the job by now, or ask
    /// for another approval.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `ApprovalHashMismatch`, `ApprovalResolved`, `ApprovalOwnRequest`,
    /// `ApprovalRoleMissing`, `IdempotencyKeyReused`, `Unavailable` (also when the safety kernel
    /// gives no verdict), `OutcomeUnknown`.
    pub async fn resolve_approval(
        &self,
        caller: &Caller,
        request: ResolveApproval,
    ) -> Result<Resolved> {
        let id = request.approval_id.clone();
        let mut before = self.find_approval(caller, &id).await?;
        let key = self.vote_key(caller, &before, &request)?;
        if self.voted_before(key.as_ref()).await? {
            return self.resolved(before, &id, true).await;
        }
        let ballot = self.ballot(caller, request);
        let mut wait: Option<Turn> = None;
        for attempt in 0..MAX_TRIES {
            let now = self.now();
            let counted = self
                .count_vote(&before, &ballot, wait.as_ref(), now)
                .await?;
            let Some(Counted { job, extras, rates }) = counted else {
                return self.resolved(before, &id, true).await;
            };
            let extras = Extras {
                vote_key: key.clone(),
                ..extras
            };
            match self.write(Some(&before), job, extras).await {
                Ok(after) => return self.resolved(after, &id, false).await,
                Err(CommitError::Conflict { .. }) => {
                    self.pause(attempt).await;
                    before = self.find_approval(caller, &id).await?;
                    if self.voted_before(key.as_ref()).await? {
                        return self.resolved(before, &id, true).await;
                    }
                }
                Err(CommitError::PointerMoved { .. }) => self.policy_moved(attempt).await,
                Err(CommitError::LimitReached(limit)) => {
                    match limits::met(&caller.tenant, &limit) {
                        Met::Rate(bucket, at) => {
                            let turn = self.turn(&caller.tenant, &rates, &bucket, at, None).await?;
                            wait = Some(turn);
                        }
                        Met::Waiting | Met::SubmitRate(_) | Met::Tenant | Met::Key(_) => {
                            return Err(Error::Contention);
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// Counts a vote, and judges the job again if that was the last; `None` = it was cast before.
    async fn count_vote(
        &self,
        before: &Loaded,
        ballot: &Ballot,
        wait: Option<&Turn>,
        now: Timestamp,
    ) -> Result<Option<Counted>> {
        let job = &*before.job;
        let mut ballot = ballot.clone();
        ballot.vote.time = now;
        let found = job.approval(&ballot.approval_id);
        let asked = found.ok_or_else(|| Error::no_approval(ballot.approval_id.as_str()))?;
        let takes = asked.takes(&job.principal_id, &ballot);
        if !takes.map_err(|refusal| refused(refusal, asked))? {
            return Ok(None);
        }
        let ballot = Box::new(ballot);
        let voted = apply(job, Trigger::Voted { ballot }, now)?.job;
        if voted.state != JobState::ApprovalRequired || voted.pending_approval().is_some() {
            return Ok(Some(Counted {
                job: voted,
                extras: Extras::default(),
                rates: Vec::new(),
            }));
        }
        let ruling = self.rule_again(&voted, now, wait).await;
        if let Verdict::Unavailable { reason, .. } = ruling.verdict {
            // A grant without a verdict would be one that nobody has judged.
            let reason = format!("the safety kernel gives no verdict: {reason}");
            return Err(Error::Unavailable { reason });
        }
        let extras = Extras {
            snapshot: ruling.snapshot.clone(),
            limits: ruling.preconditions(&job.tenant, ""),
            ..Extras::default()
        };
        let rates = ruling.rates.clone();
        let job = apply(&voted, ruling.trigger(), now)?.job;
        Ok(Some(Counted { job, extras, rates }))
    }

    fn ballot(&self, caller: &Caller, request: ResolveApproval) -> Ballot {
        // Without credentials there is one principal, which asks and answers for everybody.
        let anonymous = self
            .dev_caller()
            .is_some_and(|dev| dev.principal_id == caller.principal_id);
        let all = Role::ALL.into_iter().collect();
        let roles = if anonymous { &all } else { &caller.roles };
        Ballot {
            vote: Vote {
                principal_id: caller.principal_id.clone(),
                roles: roles.iter().map(|role| role.name().to_owned()).collect(),
                verdict: request.verdict,
                reason: request.reason,
                time: self.now(),
            },
            approval_id: request.approval_id,
            expected_hash: request.expected_hash,
            answer: request.answer,
            anonymous,
        }
    }

    async fn resolved(&self, after: Loaded, id: &ApprovalId, replayed: bool) -> Result<Resolved> {
        Ok(Resolved {
            answer: self.approval_answer(&after, id, false).await?,
            job: self.answer(after, false).await?,
            replayed,
        })
    }

    /// What the key of a vote stands for; `None` without one.
    fn vote_key(
        &self,
        caller: &Caller,
        before: &Loaded,
        request: &ResolveApproval,
    ) -> Result<Option<(Key, IdempotencyRecord)>> {
        if request.idempotency_key.is_empty() {
            return Ok(None);
        }
        let said = (
            "vote",
            &caller.principal_id,
            &request.approval_id,
            request.verdict,
            &request.expected_hash,
            &request.reason,
            &request.answer,
        );
        let record = IdempotencyRecord {
            job_id: before.job.id.clone(),
            fingerprint: Sha256::digest(codec::encode(1, &said)?).to_vec(),
            create_time: self.now(),
        };
        let key = keyspace::idempotency(&caller.tenant, &request.idempotency_key);
        Ok(Some((key, record)))
    }

    /// Whether this very vote has been cast with its key.
    async fn voted_before(&self, key: Option<&(Key, IdempotencyRecord)>) -> Result<bool> {
        let Some((key, record)) = key else {
            return Ok(false);
        };
        let read = self
            .store()
            .get(self.shard(), std::slice::from_ref(key))
            .await?;
        let Some(found) = read.value.into_iter().flatten().next() else {
            return Ok(false);
        };
        let (_, found) = codec::decode::<IdempotencyRecord>(&found.value)?;
        if found.fingerprint == record.fingerprint {
            Ok(true)
        } else {
            Err(Error::IdempotencyKeyReused { job_id: None })
        }
    }
}

fn refused(refusal: VoteRefusal, asked: &Approval) -> Error {
    match refusal {
        VoteRefusal::Resolved => Error::ApprovalResolved { state: asked.state },
        VoteRefusal::Requester => Error::ApprovalOwnRequest,
        VoteRefusal::Role => Error::ApprovalRoleMissing {
            roles: asked.approver_roles(),
        },
        VoteRefusal::HashMismatch => Error::ApprovalHashMismatch,
        VoteRefusal::ReasonRequired => {
            Error::invalid("reason", "must not be empty: the rule asks for one")
        }
        VoteRefusal::Full => Error::invalid("verdict", "the approval has as many votes as it may"),
    }
}
