//! Approvals: what a human has to say before a job may run, and how votes are counted.
//!
//! An approval stands in the record of its job and changes with it, so the two never disagree. What
//! it makes of the job is in [`transition`](crate::job::transition); what rules may ask for is in
//! [`terms`](crate::policy::terms). All of this is pure: who votes, and when, comes in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::ApprovalId;
use crate::job::{Job, JobState};
use crate::payload::{Content, Payload};
use crate::policy::terms::{ApprovalTerms, ApproverGroup, OnExpire};
use crate::policy::{Decision, JobDecision};
use crate::time::Timestamp;

/// Who may approve where a rule names no roles.
pub const DEFAULT_ROLES: [&str; 2] = ["admin", "approver"];
/// The most approvals that one job keeps; the oldest that are resolved go.
pub const MAX_APPROVALS: usize = 16;
/// The most votes of one approval. A rejection is always taken.
pub const MAX_VOTES: usize = 64;

/// Where an approval stands. Numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ApprovalState {
    /// It waits for votes.
    Pending = 1,
    /// Enough have approved. It is the job's grant.
    Approved = 2,
    /// Somebody has rejected it.
    Rejected = 3,
    /// Nobody has resolved it in time.
    Expired = 4,
    /// It is no longer asked for: the job was cancelled, or policy says something else now.
    Withdrawn = 5,
}

impl ApprovalState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Approved,
        Self::Rejected,
        Self::Expired,
        Self::Withdrawn,
    ];

    /// The name in logs and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What a vote says. Numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ApprovalVerdict {
    /// The job may run.
    Approve = 1,
    /// It may not; one such vote is enough.
    Reject = 2,
}

/// What somebody has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Who, from the credential.
    pub principal_id: String,
    /// The roles of the credential at that time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// What.
    pub verdict: ApprovalVerdict,
    /// Why, in the words of who voted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When.
    pub time: Timestamp,
}

/// A vote that is to be cast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// Who, what and why.
    pub vote: Vote,
    /// On which approval.
    pub approval_id: ApprovalId,
    /// The hash that the voter was shown.
    pub expected_hash: Vec<u8>,
    /// What the voter answers beside the verdict, JSON text.
    pub answer: Option<String>,
    /// There are no credentials, and so nobody else who could vote: whoever asked may.
    pub anonymous: bool,
}

/// Why a vote is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoteRefusal {
    /// There is nothing to resolve any more.
    #[error("the approval is resolved")]
    Resolved,
    /// Nobody approves what he has asked for.
    #[error("who asked for the job has no vote")]
    Requester,
    /// The voter has none of the roles.
    #[error("the roles of the credential have no vote")]
    Role,
    /// The voter was shown something else.
    #[error("the expected hash is not that of the approval")]
    HashMismatch,
    /// The rule wants to know why.
    #[error("a reason is required")]
    ReasonRequired,
    /// There are as many votes as there may be.
    #[error("the approval has too many votes")]
    Full,
}

/// One request for a human's consent, with what was said to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its name within the tenant. Ids sort by creation.
    pub id: ApprovalId,
    /// Where it stands.
    pub state: ApprovalState,
    /// What it is about, as one number: see [`binding`].
    #[serde(with = "serde_bytes")]
    pub hash: Vec<u8>,
    /// The rule that asks for it; empty = the default decision.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule_id: String,
    /// The policy snapshot under which it was last found to be needed.
    pub policy_snapshot: String,
    /// Why the rule asks, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who has to approve, and by when.
    pub terms: ApprovalTerms,
    /// What was said, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<Vote>,
    /// The last answer that came with a vote, JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// When it was asked for.
    pub create_time: Timestamp,
    /// When it expires or escalates; `None` = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<Timestamp>,
    /// When the roles of `escalate_to` got their vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate_time: Option<Timestamp>,
    /// When it was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolve_time: Option<Timestamp>,
    /// How it was resolved, for people; empty while it is pending.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resolution: String,
}

impl Approval {
    /// Asks for the approval that `decision` needs. Its id is the one in the decision.
    #[must_use]
    pub fn open(job: &Job, decision: &JobDecision, terms: ApprovalTerms, now: Timestamp) -> Self {
        Self {
            id: ApprovalId::from_trusted(&decision.approval_id),
            state: ApprovalState::Pending,
            hash: binding(job, &decision.rule_id, &terms),
            rule_id: decision.rule_id.clone(),
            policy_snapshot: decision.policy_snapshot.clone(),
            reason: decision.reason.clone(),
            votes: Vec::new(),
            answer: None,
            create_time: now,
            expire_time: terms.expires_after.map(|after| now + after),
            escalate_time: None,
            resolve_time: None,
            resolution: String::new(),
            terms,
        }
    }

    /// Whether it waits for votes.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.state == ApprovalState::Pending
    }

    /// The groups that have to approve, with the roles that a rule without any means. Whom it was
    /// escalated to counts in each of them.
    #[must_use]
    pub fn groups(&self) -> Vec<ApproverGroup> {
        let mut groups = self.terms.groups();
        for group in groups.iter_mut().filter(|group| group.roles.is_empty()) {
            group.roles = DEFAULT_ROLES.map(str::to_owned).into();
        }
        groups
    }

    /// Whether somebody with these roles has got a vote at `time` by an escalation.
    fn escalated_to(&self, roles: &[String], time: Timestamp) -> bool {
        self.escalate_time.is_some_and(|since| time >= since)
            && roles
                .iter()
                .any(|role| self.terms.escalate_to.contains(role))
    }

    /// Whether the vote of somebody with these roles counts at `now`.
    #[must_use]
    pub fn admits(&self, roles: &[String], now: Timestamp) -> bool {
        self.escalated_to(roles, now) || self.groups().iter().any(|group| group.admits(roles))
    }

    /// Every role whose vote counts, sorted.
    #[must_use]
    pub fn approver_roles(&self) -> Vec<String> {
        let groups = self.groups().into_iter();
        let mut roles: Vec<String> = groups.flat_map(|group| group.roles).collect();
        if self.escalate_time.is_some() {
            roles.extend(self.terms.escalate_to.iter().cloned());
        }
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// How many approving votes are missing at least; 0 = it is approved.
    #[must_use]
    pub fn missing(&self) -> u32 {
        let missing = self.groups().into_iter().map(|group| {
            let votes = self.votes.iter();
            let approving = votes.filter(|vote| vote.verdict == ApprovalVerdict::Approve);
            // A person counts once, however often he has voted.
            let given: BTreeSet<&str> = approving
                .filter(|vote| {
                    group.admits(&vote.roles) || self.escalated_to(&vote.roles, vote.time)
                })
                .map(|vote| vote.principal_id.as_str())
                .collect();
            let given = u32::try_from(given.len()).unwrap_or(u32::MAX);
            group.required.saturating_sub(given)
        });
        missing.max().unwrap_or(0)
    }

    /// Whether a ballot may be cast: `true` = yes, `false` = it has been cast already.
    ///
    /// # Errors
    /// See [`VoteRefusal`].
    pub fn takes(&self, requested_by: &str, ballot: &Ballot) -> Result<bool, VoteRefusal> {
        let vote = &ballot.vote;
        // Whoever has got another vote by an escalation may use it.
        let escalated = self.escalated_to(&vote.roles, vote.time);
        let since = self
            .escalate_time
            .filter(|_| escalated && self.is_pending());
        let repeated = self.votes.iter().any(|own| {
            let same = own.principal_id == vote.principal_id && own.verdict == vote.verdict;
            same && since.is_none_or(|since| own.time >= since)
        });
        let same_hash = self.hash == ballot.expected_hash;
        if !self.is_pending() {
            return match repeated && same_hash {
                true => Ok(false),
                false => Err(VoteRefusal::Resolved),
            };
        }
        if vote.principal_id == requested_by && !ballot.anonymous {
            return Err(VoteRefusal::Requester);
        }
        if !self.admits(&vote.roles, vote.time) {
            return Err(VoteRefusal::Role);
        }
        if !same_hash {
            return Err(VoteRefusal::HashMismatch);
        }
        if repeated {
            return Ok(false);
        }
        if self.terms.reason_required && vote.reason.trim().is_empty() {
            return Err(VoteRefusal::ReasonRequired);
        }
        if vote.verdict == ApprovalVerdict::Approve && self.votes.len() >= MAX_VOTES {
            return Err(VoteRefusal::Full);
        }
        Ok(true)
    }

    /// Counts a ballot that [`takes`](Self::takes) lets pass.
    pub(crate) fn cast(&mut self, ballot: Ballot) {
        let Ballot { vote, answer, .. } = ballot;
        let (who, why) = (vote.principal_id.clone(), vote.reason.clone());
        let (verdict, now) = (vote.verdict, vote.time);
        self.votes.push(vote);
        if answer.is_some() {
            self.answer = answer;
        }
        match verdict {
            ApprovalVerdict::Reject => {
                let how = format!("rejected by {who}");
                let how = if why.is_empty() {
                    how
                } else {
                    format!("{how}: {why}")
                };
                self.resolve(ApprovalState::Rejected, how, now);
            }
            ApprovalVerdict::Approve if self.missing() == 0 => {
                self.resolve(ApprovalState::Approved, format!("approved by {who}"), now);
            }
            ApprovalVerdict::Approve => {}
        }
    }

    /// Its time is over: it escalates, once, or expires.
    pub(crate) fn run_out(&mut self, now: Timestamp) {
        let escalates = self.terms.on_expire == OnExpire::Escalate
            && !self.terms.escalate_to.is_empty()
            && self.escalate_time.is_none();
        if escalates {
            self.escalate_time = Some(now);
            self.expire_time = self.terms.expires_after.map(|after| now + after);
        } else {
            let how = "nobody has resolved it in time".to_owned();
            self.resolve(ApprovalState::Expired, how, now);
        }
    }

    pub(crate) fn resolve(&mut self, state: ApprovalState, how: String, now: Timestamp) {
        self.state = state;
        self.resolution = how;
        self.resolve_time = Some(now);
    }
}

/// What an approval is bound to, as one number: SHA-256 over the job, its request (of which the
/// fingerprint covers every byte, also of the input), who asked, the rule, and what the rule asks
/// for. An approval of one number is none of another.
#[must_use]
pub fn binding(job: &Job, rule_id: &str, terms: &ApprovalTerms) -> Vec<u8> {
    let mut hash = Parts(Sha256::new());
    hash.text("coretex approval 1");
    hash.text(job.tenant.as_str());
    hash.text(job.id.as_str());
    hash.part(&job.fingerprint);
    hash.payload(job.input.as_ref());
    hash.text(&job.principal_id);
    hash.text(rule_id);
    for group in terms.groups() {
        hash.texts(&group.roles);
        hash.number(group.required.into());
    }
    let after = terms.expires_after.map(|after| after.as_micros());
    hash.number(after.map_or(u64::MAX, |micros| u64::try_from(micros).unwrap_or(u64::MAX)));
    hash.number(match terms.on_expire {
        OnExpire::Reject => 0,
        OnExpire::Escalate => 1,
    });
    hash.texts(&terms.escalate_to);
    hash.number(terms.reason_required.into());
    hash.0.finalize().to_vec()
}

/// Hashes parts so that no two lists of them look alike: each after its length.
struct Parts(Sha256);

impl Parts {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn part(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.part(text.as_bytes());
    }

    fn texts(&mut self, texts: &[String]) {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text);
        }
    }

    fn payload(&mut self, payload: Option<&Payload>) {
        let Some(payload) = payload else {
            return self.text("none");
        };
        match &payload.content {
            Content::Json(bytes) => {
                self.text("json");
                self.part(bytes);
            }
            Content::Raw(bytes) => {
                self.text("raw");
                self.part(bytes);
            }
            Content::Artifact(id) => {
                self.text("artifact");
                self.text(id);
            }
            // The bytes stand elsewhere, and in the fingerprint.
            Content::Apart { json, size } => {
                self.text("apart");
                self.number((*json).into());
                self.number(*size);
            }
        }
        self.text(&payload.content_type);
    }
}

impl Job {
    /// The approval that it waits for.
    #[must_use]
    pub fn pending_approval(&self) -> Option<&Approval> {
        let waits = self.state == JobState::ApprovalRequired;
        self.approvals
            .last()
            .filter(|approval| waits && approval.is_pending())
    }

    /// The approval of this name.
    #[must_use]
    pub fn approval(&self, id: &ApprovalId) -> Option<&Approval> {
        self.approvals.iter().find(|approval| approval.id == *id)
    }

    /// The grant that this very decision asks for, if humans have given it.
    ///
    /// A grant is good for every attempt of its job, under any snapshot, as long as the same rule
    /// asks for the same. Nothing that a client sends makes one.
    #[must_use]
    pub fn grant(&self, decision: &JobDecision) -> Option<&Approval> {
        if decision.decision != Decision::RequireApproval {
            return None;
        }
        let given = |approval: &&Approval| approval.state == ApprovalState::Approved;
        self.approvals.iter().find(given)?;
        let terms = decision.terms.clone().unwrap_or_default();
        let hash = binding(self, &decision.rule_id, &terms);
        let mut given = self.approvals.iter().rev().filter(given);
        given.find(|approval| approval.hash == hash)
    }
}
