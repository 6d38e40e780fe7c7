//! What takes away from what rules allow: topic lists of tenants, and the safety section of the
//! configuration. Neither ever allows anything.

use super::Decision;
use super::evaluate::{Recorder, Undecided};
use super::safety::Safety;
use super::secrets::Secrets;
use super::snapshot::Compiled;
use super::subject::Subject;
use super::terms::ApprovalTerms;
use super::vote::{Vote, Voter};

/// What the topic lists of the tenant say: they can only deny.
pub(super) fn lists_vote<'s, R: Recorder>(
    bundle: &'s Compiled,
    subject: &Subject<'_>,
    recorder: &mut R,
) -> Option<Vote<'s>> {
    let lists = bundle.bundle.lists(subject.tenant)?;
    let topic = &subject.spec.topic;
    let tenant = subject.tenant;
    let reason = if let Some(pattern) = lists.deny.iter().find(|p| p.matches(topic)) {
        format!("topic `{topic}` is denied to tenant `{tenant}` by `{pattern}`")
    } else if lists
        .allow
        .as_ref()
        .is_some_and(|allow| !allow.iter().any(|pattern| pattern.matches(topic)))
    {
        format!("topic `{topic}` is not among those allowed to tenant `{tenant}`")
    } else {
        return None;
    };
    let voter = Voter::Lists {
        bundle: &bundle.name,
    };
    let reason = format!("{reason} (bundle `{}`)", bundle.name);
    recorder.restriction(voter, Decision::Deny, &reason);
    Some(Vote::new(voter, Decision::Deny, reason))
}

/// What the safety section says: it can only deny or ask for an approval.
pub(super) fn safety_votes<R: Recorder>(
    safety: &Safety,
    subject: &Subject<'_>,
    votes: &mut Vec<Vote<'_>>,
    recorder: &mut R,
) -> Result<(), Undecided> {
    let spec = subject.spec;
    let topic = &spec.topic;
    let metadata = &spec.metadata;
    let mut add = |decision: Decision, reason: String| {
        let reason = format!("configuration: {reason}");
        recorder.restriction(Voter::Safety, decision, &reason);
        let mut vote = Vote::new(Voter::Safety, decision, reason);
        if decision == Decision::RequireApproval {
            vote.approval = Some(ApprovalTerms::default());
        }
        votes.push(vote);
    };
    if let Some(allowed) = &safety.allowed_topics
        && !allowed.iter().any(|pattern| pattern.matches(topic))
    {
        add(
            Decision::Deny,
            format!("topic `{topic}` is not in `allowed_topics`"),
        );
    }
    if let Some(pattern) = safety.denied_topics.iter().find(|p| p.matches(topic)) {
        let reason = format!("`{pattern}` of `denied_topics` matches topic `{topic}`");
        add(Decision::Deny, reason);
    }
    let mut capabilities = std::iter::once(&metadata.capability).chain(&metadata.requires);
    let denied = capabilities.find(|name| {
        let mut globs = safety.denied_capabilities.iter();
        !name.is_empty() && globs.any(|glob| glob.matches(name))
    });
    if let Some(name) = denied {
        let reason = format!("capability `{name}` is in `denied_capabilities`");
        add(Decision::Deny, reason);
    }
    let denied = metadata.risk_tags.iter().find(|tag| {
        let mut globs = safety.denied_risk_tags.iter();
        globs.any(|glob| glob.matches(tag))
    });
    if let Some(tag) = denied {
        add(
            Decision::Deny,
            format!("risk tag `{tag}` is in `denied_risk_tags`"),
        );
    }
    if let Some(pattern) = safety.approval_topics.iter().find(|p| p.matches(topic)) {
        let reason = format!("`{pattern}` of `approval_topics` matches topic `{topic}`");
        add(Decision::RequireApproval, reason);
    }
    if safety.deny_secrets {
        match subject.secrets()? {
            Secrets::Absent => {}
            Secrets::Present(kind) => add(
                Decision::Deny,
                format!("`deny_secrets`, and the job carries {kind}"),
            ),
            Secrets::Unknown => add(
                Decision::Deny,
                "`deny_secrets`, and whether the input, an artifact, has secrets cannot be said"
                    .to_owned(),
            ),
        }
    }
    Ok(())
}
