//! Votes, and what comes of them: the strictest wins, constraints add up.

use std::cmp::Reverse;

use super::evaluate::{Outcome, RateTaken};
use super::terms::ApprovalTerms;
use super::{Constraints, Decision, Remediation};

/// The most rules that a reason names.
const MAX_NAMED: usize = 5;
/// The longest reason, in bytes.
const MAX_REASON: usize = 2_048;

impl Decision {
    /// Every decision and its word in bundles and messages.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("allow", Self::Allow),
        ("deny", Self::Deny),
        ("require_approval", Self::RequireApproval),
        ("throttle", Self::Throttle),
        ("allow_with_constraints", Self::AllowWithConstraints),
    ];

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
            Self::Throttle => "throttle",
            Self::AllowWithConstraints => "allow_with_constraints",
        }
    }

    /// How strict it is: of two decisions about one job, the one with the higher number holds.
    #[must_use]
    pub const fn strictness(self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::AllowWithConstraints => 1,
            Self::Throttle => 2,
            Self::RequireApproval => 3,
            Self::Deny => 4,
        }
    }

    /// Whether it keeps a job from running at once.
    #[must_use]
    pub const fn restricts(self) -> bool {
        match self {
            Self::Allow | Self::AllowWithConstraints => false,
            Self::Deny | Self::RequireApproval | Self::Throttle => true,
        }
    }
}

/// Who votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voter<'s> {
    /// A rule that matched for sure.
    Rule { bundle: &'s str, rule: &'s str },
    /// A rule of which nobody can say whether it matches.
    Unsure { bundle: &'s str, rule: &'s str },
    /// The topic lists of a tenant.
    Lists { bundle: &'s str },
    /// The safety section of the configuration.
    Safety,
    /// The default decision of a bundle; empty = of nobody.
    Default { bundle: &'s str },
}

/// One vote.
#[derive(Debug)]
pub(super) struct Vote<'s> {
    pub(super) voter: Voter<'s>,
    pub(super) decision: Decision,
    pub(super) reason: String,
    pub(super) constraints: Option<&'s Constraints>,
    pub(super) remediations: &'s [Remediation],
    pub(super) approval: Option<ApprovalTerms>,
    pub(super) rate: Option<RateTaken>,
}

impl<'s> Vote<'s> {
    pub(super) const fn new(voter: Voter<'s>, decision: Decision, reason: String) -> Self {
        Self {
            voter,
            decision,
            reason,
            constraints: None,
            remediations: &[],
            approval: None,
            rate: None,
        }
    }

    /// Whether it says that the job may run, so that no default is needed.
    const fn decides(&self) -> bool {
        matches!(self.voter, Voter::Rule { .. })
    }

    /// Whether it says nothing but its constraints: a rule that allows, if it matched.
    const fn is_silent(&self) -> bool {
        matches!(self.voter, Voter::Unsure { .. }) && !self.decision.restricts()
    }
}

/// Puts votes together. `default` votes when no rule did. Votes come in the order of bundles.
pub(super) fn outcome<'s>(
    mut votes: Vec<Vote<'s>>,
    default: impl FnOnce() -> Vote<'s>,
    section: Option<&Constraints>,
) -> Outcome {
    if !votes.iter().any(Vote::decides) {
        votes.push(default());
    }
    let spoken = || votes.iter().filter(|vote| !vote.is_silent());
    let strictest = spoken().map(|vote| vote.decision.strictness()).max();
    let mut deciding: Vec<&Vote<'_>> = spoken()
        .filter(|vote| Some(vote.decision.strictness()) == strictest)
        .collect();
    // Rules that are sure of it speak first; the order is stable beside.
    deciding.sort_by_key(|vote| Reverse(vote.decides()));
    let (bundle_id, rule_id) = deciding.first().map_or(("", ""), |vote| match vote.voter {
        Voter::Rule { bundle, rule } | Voter::Unsure { bundle, rule } => (bundle, rule),
        Voter::Lists { bundle } | Voter::Default { bundle } => (bundle, ""),
        Voter::Safety => ("", ""),
    });
    // Nobody said anything: that is a denial, too.
    let mut decision = deciding
        .first()
        .map_or(Decision::Deny, |vote| vote.decision);
    let mut constraints = None;
    if decision != Decision::Deny {
        let all = votes
            .iter()
            .filter_map(|vote| vote.constraints)
            .chain(section);
        constraints = all.fold(None, |merged: Option<Constraints>, more| {
            Some(merged.unwrap_or_default().tightest(more))
        });
        if decision == Decision::Allow && constraints.is_some() {
            decision = Decision::AllowWithConstraints;
        }
    }
    let approvals: Vec<ApprovalTerms> = votes
        .iter()
        .filter_map(|vote| vote.approval.clone())
        .collect();
    let rates = match decision {
        Decision::Throttle | Decision::RequireApproval => {
            votes.iter().filter_map(|vote| vote.rate.clone()).collect()
        }
        Decision::Allow | Decision::AllowWithConstraints | Decision::Deny => Vec::new(),
    };
    Outcome {
        decision,
        reason: reason(&deciding),
        bundle_id: bundle_id.to_owned(),
        rule_id: rule_id.to_owned(),
        constraints,
        remediations: if decision == Decision::Deny {
            remediations(&deciding)
        } else {
            Vec::new()
        },
        approval: if decision == Decision::RequireApproval {
            ApprovalTerms::strictest(&approvals)
        } else {
            None
        },
        rates,
        counts: Vec::new(),
    }
}

/// Why: what the first rule says, and which others say the same.
fn reason(deciding: &[&Vote<'_>]) -> String {
    let mut text = String::new();
    for (place, vote) in deciding.iter().enumerate() {
        if place == MAX_NAMED {
            text.push_str(&format!("; and {} more", deciding.len() - place));
            break;
        }
        if place > 0 {
            text.push_str("; ");
            if let Voter::Rule { bundle, rule } | Voter::Unsure { bundle, rule } = vote.voter {
                text.push_str(&format!("rule `{rule}` of bundle `{bundle}`: "));
            }
        }
        text.push_str(&vote.reason);
    }
    if text.len() > MAX_REASON {
        let mut end = MAX_REASON;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What all that deny offer; one that has another's id gets a number behind it.
fn remediations(deciding: &[&Vote<'_>]) -> Vec<Remediation> {
    let mut all: Vec<Remediation> = Vec::new();
    for remediation in deciding.iter().flat_map(|vote| vote.remediations) {
        let mut id = remediation.id.clone();
        let mut number = 2;
        while all.iter().any(|other| other.id == id) {
            id = format!("{}-{number}", remediation.id);
            number += 1;
        }
        all.push(Remediation {
            id,
            ..remediation.clone()
        });
    }
    all
}
