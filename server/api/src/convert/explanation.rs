//! How a decision came about.

use coretex_core::policy::evaluate::Condition;
use coretex_core::policy::explain::{BundleExplanation, Restriction, RuleExplanation, RuleResult};
use coretex_engine::Explained;
use coretex_proto::v1;
use prost::Message;

use super::count;
use super::policy::{decision, verdict};
use crate::page::MAX_RESPONSE_BYTES;

/// Room in an answer for everything but rules.
const BESIDE: usize = 512 * 1024;

/// Writes an explanation. Rules for which there is no room are counted.
pub(crate) fn write(from: &Explained) -> v1::ExplainPolicyResponse {
    let mut room = MAX_RESPONSE_BYTES - BESIDE;
    let explanation = &from.explanation;
    let bundles = explanation.bundles.iter().map(|one| {
        let hidden = from.hidden.get(&one.bundle_id).copied().unwrap_or_default();
        bundle(one, hidden, &mut room)
    });
    v1::ExplainPolicyResponse {
        bundles: bundles.collect(),
        decision: Some(decision(&from.decision, 0)),
        config: explanation.safety.iter().map(restriction).collect(),
        defaults: explanation
            .defaults
            .iter()
            .map(|(bundle, decision)| v1::DefaultExplanation {
                bundle_id: bundle.clone(),
                decision: verdict(*decision).into(),
            })
            .collect(),
    }
}

fn bundle(from: &BundleExplanation, hidden: u32, room: &mut usize) -> v1::BundleExplanation {
    let matched = |rule: &&RuleExplanation| rule.result == RuleResult::Matched;
    let vote = from.rules.iter().find(matched);
    let (mut rules, mut omitted) = (Vec::new(), hidden);
    for one in &from.rules {
        let written = rule(one);
        let size = written.encoded_len() + 8;
        // The one that matched is what everybody looks for.
        if *room >= size || matched(&one) {
            *room = room.saturating_sub(size);
            rules.push(written);
        } else {
            omitted = omitted.saturating_add(1);
        }
    }
    v1::BundleExplanation {
        bundle_id: from.bundle_id.clone(),
        vote: vote.map_or(v1::PolicyDecision::Unspecified, |rule| {
            verdict(rule.decision)
        }) as i32,
        tenant_lists: from.lists.as_ref().map(restriction),
        rules,
        not_reached_count: count(from.not_reached),
        omitted_count: count(omitted),
    }
}

fn restriction(from: &Restriction) -> v1::PolicyRestriction {
    v1::PolicyRestriction {
        decision: verdict(from.decision).into(),
        reason: from.reason.clone(),
    }
}

fn rule(from: &RuleExplanation) -> v1::RuleExplanation {
    let result = match from.result {
        RuleResult::Matched => v1::RuleResult::Matched,
        RuleResult::NotMatched => v1::RuleResult::NotMatched,
        RuleResult::Unsure => v1::RuleResult::Unsure,
    };
    let error = match &from.condition {
        Some(Condition::Failed(error)) => error.clone(),
        Some(Condition::Value(_)) | None => String::new(),
    };
    let mut written = v1::RuleExplanation {
        rule_id: from.rule_id.clone(),
        line: i32::try_from(from.line).unwrap_or(i32::MAX),
        priority: from.priority,
        decision: verdict(from.decision).into(),
        result: result.into(),
        condition_error: error,
        ..v1::RuleExplanation::default()
    };
    match &from.criterion {
        Some(criterion) => {
            written.criterion.clone_from(&criterion.name);
            written.wanted.clone_from(&criterion.wanted);
            written.found.clone_from(&criterion.found);
        }
        None if from.result != RuleResult::Matched => "when".clone_into(&mut written.criterion),
        None => {}
    }
    written
}
