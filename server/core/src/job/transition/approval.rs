//! What verdicts, votes and time make of the approvals of a job. How votes are counted is in
//! [`approval`](crate::approval).
//!
//! A job waits for its last approval, and for no other. Only between a deciding vote and the verdict
//! that the same change ends with is the last one APPROVED while the job still waits: then the
//! verdict says what the vote was worth.

use super::record::Note;
use super::{Refusal, TriggerKind};
use crate::approval::{
    Approval, ApprovalState, ApprovalVerdict, Ballot, MAX_APPROVALS, VoteRefusal,
};
use crate::job::dead_letter::{APPROVAL_EXPIRED, APPROVAL_REJECTED};
use crate::job::history::EventType;
use crate::job::{Job, JobError, JobState};
use crate::policy::{Decision, JobDecision};
use crate::time::Timestamp;

impl Job {
    /// Brings the approvals in line with a verdict that is about to be followed: one that is still
    /// asked for stays, another is withdrawn, a new one is opened.
    pub(super) fn follow_approval(&mut self, decision: &mut JobDecision, now: Timestamp) {
        let terms = decision.terms.take();
        match decision.decision {
            Decision::RequireApproval => {
                let new = Approval::open(self, decision, terms.unwrap_or_default(), now);
                if let Some(pending) = self.asked_for().filter(|asked| asked.is_pending())
                    && pending.hash == new.hash
                {
                    pending.policy_snapshot = new.policy_snapshot;
                    pending.reason = new.reason;
                    decision.approval_id = pending.id.to_string();
                    return;
                }
                self.withdraw(true, "policy asks for another approval", now);
                if self.approvals.len() >= MAX_APPROVALS {
                    let given = |one: &Approval| one.state == ApprovalState::Approved;
                    let oldest = self.approvals.iter().position(|one| !given(one));
                    self.approvals.remove(oldest.unwrap_or(0));
                }
                self.approvals.push(new);
            }
            Decision::Deny => {
                let why = format!("policy denies the job: {}", decision.reason);
                self.withdraw(true, &why, now);
            }
            Decision::Allow | Decision::AllowWithConstraints | Decision::Throttle => {
                self.withdraw(false, "policy asks for no approval any more", now);
            }
        }
    }

    /// The approval that the job waits for, or has waited for until a vote of this change.
    fn asked_for(&mut self) -> Option<&mut Approval> {
        let waits = self.state == JobState::ApprovalRequired;
        self.approvals.last_mut().filter(|_| waits)
    }

    /// Withdraws what the job waits for; with `granted` also what a vote of this change has granted.
    pub(super) fn withdraw(&mut self, granted: bool, why: &str, now: Timestamp) {
        if let Some(asked) = self.asked_for() {
            let open = match asked.state {
                ApprovalState::Pending => true,
                ApprovalState::Approved => granted,
                ApprovalState::Rejected | ApprovalState::Expired | ApprovalState::Withdrawn => {
                    false
                }
            };
            if open {
                asked.resolve(ApprovalState::Withdrawn, why.to_owned(), now);
            }
        }
    }

    /// Takes a vote. A rejection ends the job; after the last approving vote its verdict is due.
    pub(super) fn voted(&mut self, ballot: Ballot, now: Timestamp) -> Result<(), Refusal> {
        let requested_by = self.principal_id.clone();
        let mut ballot = ballot;
        ballot.vote.time = now;
        let asked = self
            .asked_for()
            .filter(|asked| asked.id == ballot.approval_id);
        let asked = asked.ok_or(Refusal::Vote(VoteRefusal::Resolved))?;
        if !asked.takes(&requested_by, &ballot).map_err(Refusal::Vote)? {
            return Err(Refusal::Unchanged);
        }
        let reason = match (ballot.vote.verdict, ballot.vote.reason.as_str()) {
            (ApprovalVerdict::Approve, "") => "approved".to_owned(),
            (ApprovalVerdict::Approve, why) => format!("approved: {why}"),
            (ApprovalVerdict::Reject, "") => "rejected".to_owned(),
            (ApprovalVerdict::Reject, why) => format!("rejected: {why}"),
        };
        let note = Note {
            principal_id: ballot.vote.principal_id.clone(),
            ..Note::because(reason)
        };
        asked.cast(ballot);
        let (state, resolution) = (asked.state, asked.resolution.clone());
        self.record(
            EventType::ApprovalVoted,
            Some(JobState::ApprovalRequired),
            now,
            note,
        );
        if state == ApprovalState::Rejected {
            self.refuse(APPROVAL_REJECTED, resolution, now);
        }
        Ok(())
    }

    /// The time of the approval is over.
    pub(super) fn approval_ran_out(&mut self, now: Timestamp) -> Result<(), Refusal> {
        let asked = self.asked_for().ok_or(Refusal::Illegal {
            from: JobState::ApprovalRequired,
            kind: TriggerKind::Due,
        })?;
        asked.run_out(now);
        if asked.is_pending() {
            let roles = asked.terms.escalate_to.join(", ");
            let note = Note::because(format!("now also for {roles}"));
            let from = Some(JobState::ApprovalRequired);
            self.record(EventType::ApprovalEscalated, from, now, note);
        } else {
            let resolution = asked.resolution.clone();
            self.refuse(APPROVAL_EXPIRED, resolution, now);
        }
        Ok(())
    }

    /// Ends a job that humans do not let run.
    fn refuse(&mut self, code: &str, why: String, now: Timestamp) {
        let note = Note::because(format!("{code}: {why}"));
        self.error = Some(JobError::platform(code, why));
        self.end(JobState::Denied, EventType::Denied, note, now);
    }
}
