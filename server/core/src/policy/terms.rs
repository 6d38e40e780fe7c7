//! What an approval asks for: who may give it, how many, by when. The record of an approval and its
//! votes are kept elsewhere; this is what rules say and what votes are counted against.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names of the roles that a rule may ask for, as credentials carry them.
pub const ROLES: [&str; 7] = [
    "admin",
    "operator",
    "approver",
    "submitter",
    "worker",
    "viewer",
    "auditor",
];

/// What happens to an approval that nobody has resolved in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpire {
    /// The job is denied.
    #[default]
    Reject,
    /// The roles of `escalate_to` may resolve it too, for as long again; then the job is denied.
    Escalate,
}

/// Some of the approvals that are asked for: `required` people with one of `roles`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApproverGroup {
    /// Roles, sorted; empty = whoever may resolve approvals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// How many different people; at least 1.
    pub required: u32,
}

impl ApproverGroup {
    fn new(mut roles: Vec<String>, required: u32) -> Self {
        roles.sort_unstable();
        roles.dedup();
        Self {
            roles,
            required: required.max(1),
        }
    }

    /// Whether someone with these roles counts for the group.
    #[must_use]
    pub fn admits<R: AsRef<str>>(&self, roles: &[R]) -> bool {
        self.roles.is_empty()
            || roles
                .iter()
                .any(|role| self.roles.iter().any(|wanted| wanted == role.as_ref()))
    }

    /// Whether whatever satisfies this group satisfies `other`.
    fn implies(&self, other: &Self) -> bool {
        let narrower = other.roles.is_empty()
            || (!self.roles.is_empty() && self.roles.iter().all(|r| other.roles.contains(r)));
        narrower && self.required >= other.required
    }
}

/// What an approval asks for.
///
/// Several rules may ask for an approval of one job. [`ApprovalTerms::strictest`] puts their terms
/// together so that who satisfies the result satisfies each of them: `also` holds the groups that
/// do not follow from the first. One person's vote counts once in every group that admits them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalTerms {
    /// Roles that may approve, sorted; empty = whoever may resolve approvals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// How many different people have to; at least 1.
    #[serde(default = "one")]
    pub required: u32,
    /// Further groups that have to approve as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<ApproverGroup>,
    /// How long it may take from the request on; `None` = as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after: Option<Duration>,
    /// What happens after that.
    #[serde(default)]
    pub on_expire: OnExpire,
    /// For [`OnExpire::Escalate`]: the roles that may resolve it then, sorted; not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalate_to: Vec<String>,
    /// Whoever resolves it has to say why.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reason_required: bool,
}

const fn one() -> u32 {
    1
}

impl Default for ApprovalTerms {
    /// One approval by whoever may give it, without a limit of time.
    fn default() -> Self {
        Self {
            roles: Vec::new(),
            required: 1,
            also: Vec::new(),
            expires_after: None,
            on_expire: OnExpire::Reject,
            escalate_to: Vec::new(),
            reason_required: false,
        }
    }
}

impl ApprovalTerms {
    /// All groups that have to approve; at least one.
    #[must_use]
    pub fn groups(&self) -> Vec<ApproverGroup> {
        let first = ApproverGroup::new(self.roles.clone(), self.required);
        std::iter::once(first)
            .chain(self.also.iter().cloned())
            .collect()
    }

    /// Whether the vote of someone with these roles counts for any group.
    #[must_use]
    pub fn admits<R: AsRef<str>>(&self, roles: &[R]) -> bool {
        self.groups().iter().any(|group| group.admits(roles))
    }

    /// How many approvals are missing at least, given the roles of each person who has approved;
    /// 0 = it is approved.
    #[must_use]
    pub fn missing<R: AsRef<str>>(&self, approvers: &[Vec<R>]) -> u32 {
        let missing = self.groups().into_iter().map(|group| {
            let given = approvers.iter().filter(|roles| group.admits(roles)).count();
            group
                .required
                .saturating_sub(u32::try_from(given).unwrap_or(u32::MAX))
        });
        missing.max().unwrap_or(0)
    }

    /// Terms that ask for everything that each of `all` asks for; `None` of none. The order of
    /// `all` makes no difference.
    #[must_use]
    pub fn strictest(all: &[Self]) -> Option<Self> {
        let first = all.first()?;
        let mut groups: Vec<ApproverGroup> = all
            .iter()
            .flat_map(Self::groups)
            .map(|group| ApproverGroup::new(group.roles, group.required))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let kept: Vec<ApproverGroup> = groups
            .iter()
            .filter(|group| {
                let follows = |other: &&ApproverGroup| *other != *group && other.implies(group);
                !groups.iter().any(|other| follows(&other))
            })
            .cloned()
            .collect();
        let mut kept = kept.into_iter();
        let ApproverGroup { roles, required } = kept.next()?;
        let (on_expire, escalate_to) = all
            .iter()
            .fold(first.escalation(), |found, terms| {
                let other = terms.escalation()?;
                let both: Vec<String> = found?.into_iter().filter(|r| other.contains(r)).collect();
                (!both.is_empty()).then_some(both)
            })
            .map_or((OnExpire::Reject, Vec::new()), |roles| {
                (OnExpire::Escalate, roles)
            });
        Some(Self {
            roles,
            required,
            also: kept.collect(),
            expires_after: all.iter().filter_map(|terms| terms.expires_after).min(),
            on_expire,
            escalate_to,
            reason_required: all.iter().any(|terms| terms.reason_required),
        })
    }

    /// Whom it escalates to; `None` = it does not.
    fn escalation(&self) -> Option<Vec<String>> {
        let mut roles = self.escalate_to.clone();
        roles.sort_unstable();
        roles.dedup();
        (self.on_expire == OnExpire::Escalate && !roles.is_empty()).then_some(roles)
    }
}
