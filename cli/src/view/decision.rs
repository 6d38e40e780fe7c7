//! Bundles, snapshots, and what policy says.

use coretex::proto::{
    Bundle, BundleExplanation, ChangedDecision, DeleteBundleResponse, EvaluatePolicyResponse,
    ExplainPolicyResponse, GetSnapshotResponse, JobDecision, ListBundlesResponse,
    ListPolicyAuditResponse, ListSnapshotsResponse, PolicyDecision, PublishBundlesResponse,
    ReloadPolicyResponse, RollbackPolicyResponse, RuleResult, SimulatePolicyResponse,
};

use super::{Fields, Grid, Paint, Tint, age, clean, clean_lines, documents, short, time};

documents! {
    Bundle => bundle;
    ListBundlesResponse => bundles;
    DeleteBundleResponse => nothing;
    EvaluatePolicyResponse => evaluated;
    ExplainPolicyResponse => explained;
    SimulatePolicyResponse => simulated;
    ChangedDecision => changed;
    PublishBundlesResponse => published;
    RollbackPolicyResponse => rolled_back;
    ReloadPolicyResponse => reloaded;
    ListSnapshotsResponse => snapshots;
    GetSnapshotResponse => compared;
    ListPolicyAuditResponse => audit;
}

fn nothing(_: &DeleteBundleResponse, _: Paint) -> String {
    String::new()
}

fn state(bundle: &Bundle) -> &'static str {
    short(bundle.state().as_str_name(), "BUNDLE_STATE_")
}

fn bundle(bundle: &Bundle, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("bundle", bundle.bundle_id.as_str());
    fields.add("state", state(bundle));
    if bundle.enabled == Some(false) {
        fields.add("enabled", "no");
    }
    fields.add("rules", bundle.rule_count.to_string());
    fields.add("description", bundle.description.as_str());
    fields.add(
        "signed",
        if bundle.signature.is_empty() {
            ""
        } else {
            "yes"
        },
    );
    fields.add("author", bundle.author.as_str());
    fields.add("written", time(bundle.update_time.as_ref()));
    fields.add("etag", bundle.etag.as_str());
    let fields = fields.finish();
    if bundle.content.is_empty() {
        return fields;
    }
    format!("{fields}\n{}", clean_lines(&bundle.content))
}

fn bundles(page: &ListBundlesResponse, paint: Paint) -> String {
    let head = [
        "BUNDLE",
        "STATE",
        "RULES",
        "FROM",
        "SIGNED",
        "AUTHOR",
        "WRITTEN",
        "DESCRIPTION",
    ];
    let mut grid = Grid::new(paint, &head);
    for bundle in &page.bundles {
        let off = bundle.enabled == Some(false);
        grid.row([
            bundle.bundle_id.clone(),
            if off {
                format!("{} (disabled)", state(bundle))
            } else {
                state(bundle).to_owned()
            },
            bundle.rule_count.to_string(),
            if bundle.base {
                "file".to_owned()
            } else {
                "api".to_owned()
            },
            if bundle.signature.is_empty() {
                String::new()
            } else {
                "yes".to_owned()
            },
            bundle.author.clone(),
            age(bundle.update_time.as_ref()),
            bundle.description.clone(),
        ]);
    }
    grid.finish()
}

fn word(decision: PolicyDecision) -> &'static str {
    short(decision.as_str_name(), "POLICY_DECISION_")
}

const fn tint(decision: PolicyDecision) -> Tint {
    match decision {
        PolicyDecision::Allow | PolicyDecision::AllowWithConstraints => Tint::Good,
        PolicyDecision::Deny => Tint::Bad,
        PolicyDecision::RequireApproval | PolicyDecision::Throttle => Tint::Waiting,
        PolicyDecision::Unspecified => Tint::Plain,
    }
}

/// A decision in one line.
fn line(decision: Option<&JobDecision>, paint: Paint) -> String {
    let Some(decision) = decision else {
        return "nothing\n".to_owned();
    };
    let mut text = paint.tint(tint(decision.decision()), word(decision.decision()));
    if !decision.rule_id.is_empty() {
        text.push_str(&format!("  rule {}", clean(&decision.rule_id)));
    }
    if !decision.reason.is_empty() {
        text.push_str(&format!("  {}", clean(&decision.reason)));
    }
    text.push('\n');
    for remediation in &decision.remediations {
        let (id, title) = (
            clean(&remediation.remediation_id),
            clean(&remediation.title),
        );
        text.push_str(&format!("  instead: {id}  {title}\n"));
    }
    text
}

fn evaluated(answer: &EvaluatePolicyResponse, paint: Paint) -> String {
    line(answer.decision.as_ref(), paint)
}

fn explained(answer: &ExplainPolicyResponse, paint: Paint) -> String {
    let mut text = line(answer.decision.as_ref(), paint);
    for bundle in &answer.bundles {
        text.push('\n');
        text.push_str(&of_bundle(bundle, paint));
    }
    for restriction in &answer.config {
        let vote = word(restriction.decision());
        text.push_str(&format!(
            "\nconfiguration: {vote}  {}\n",
            clean(&restriction.reason)
        ));
    }
    for default in &answer.defaults {
        let bundle = clean(&default.bundle_id);
        text.push_str(&format!(
            "\nno rule voted; {bundle} says by default: {}\n",
            word(default.decision())
        ));
    }
    text
}

fn of_bundle(bundle: &BundleExplanation, paint: Paint) -> String {
    let vote = match bundle.vote() {
        PolicyDecision::Unspecified => "no vote".to_owned(),
        vote => paint.tint(tint(vote), word(vote)),
    };
    let mut text = format!("bundle {}: {vote}\n", clean(&bundle.bundle_id));
    if let Some(lists) = &bundle.tenant_lists {
        let vote = word(lists.decision());
        text.push_str(&format!(
            "  lists of the tenant: {vote}  {}\n",
            clean(&lists.reason)
        ));
    }
    for rule in &bundle.rules {
        let id = clean(&rule.rule_id);
        let says = word(rule.decision());
        let how = match rule.result() {
            RuleResult::Matched => "matched".to_owned(),
            RuleResult::Unsure => format!("not sure: {}", clean(&rule.condition_error)),
            RuleResult::NotMatched | RuleResult::Unspecified => format!(
                "{}: wanted {}, found {}",
                clean(&rule.criterion),
                clean(&rule.wanted),
                if rule.found.is_empty() {
                    "nothing".to_owned()
                } else {
                    clean(&rule.found)
                },
            ),
        };
        text.push_str(&format!("  line {}: {id} ({says}): {how}\n", rule.line));
    }
    if bundle.not_reached_count > 0 {
        text.push_str(&format!(
            "  {} rules behind it were not reached\n",
            bundle.not_reached_count
        ));
    }
    if bundle.omitted_count > 0 {
        text.push_str(&format!("  {} rules are not shown\n", bundle.omitted_count));
    }
    text
}

fn simulated(answer: &SimulatePolicyResponse, paint: Paint) -> String {
    let now = line(answer.current.as_ref(), paint);
    let then = line(answer.candidate.as_ref(), paint);
    format!("now:  {now}then: {then}")
}

fn changed(change: &ChangedDecision, paint: Paint) -> String {
    let before = line(change.recorded.as_ref(), paint);
    let after = line(change.candidate.as_ref(), paint);
    let (job, topic) = (clean(&change.job_id), clean(&change.topic));
    format!("{job} ({topic})\n  was:   {before}  would: {after}")
}

fn published(answer: &PublishBundlesResponse, paint: Paint) -> String {
    moved(
        &answer.snapshot_id,
        &answer.previous_snapshot_id,
        answer.replayed,
        paint,
    )
}

fn rolled_back(answer: &RollbackPolicyResponse, paint: Paint) -> String {
    moved(
        &answer.snapshot_id,
        &answer.previous_snapshot_id,
        answer.replayed,
        paint,
    )
}

fn moved(now: &str, before: &str, replayed: bool, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("in force", now);
    fields.add("before", before);
    fields.add("replayed", if replayed { "yes" } else { "" });
    fields.finish()
}

fn reloaded(answer: &ReloadPolicyResponse, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("in force", answer.snapshot_id.as_str());
    let mut text = fields.finish();
    for problem in &answer.problems {
        text.push_str(&format!(
            "{} {}\n",
            paint.tint(Tint::Bad, "problem:"),
            clean(problem)
        ));
    }
    text
}

fn snapshots(page: &ListSnapshotsResponse, paint: Paint) -> String {
    let mut grid = Grid::new(
        paint,
        &["SNAPSHOT", "IN FORCE", "BUNDLES", "RULES", "SINCE"],
    );
    for snapshot in &page.snapshots {
        grid.row([
            snapshot.snapshot_id.clone(),
            if snapshot.current {
                "yes".to_owned()
            } else {
                String::new()
            },
            snapshot.bundles.len().to_string(),
            snapshot.rule_count.to_string(),
            time(snapshot.create_time.as_ref()),
        ]);
    }
    grid.finish()
}

fn compared(answer: &GetSnapshotResponse, paint: Paint) -> String {
    if answer.changes.is_empty() {
        return "nothing is different\n".to_owned();
    }
    let mut text = String::new();
    for change in &answer.changes {
        text.push_str(&format!("{}\n", paint.bold(&clean(&change.bundle_id))));
        for line in &change.changes {
            text.push_str(&format!("  {}\n", clean(line)));
        }
    }
    text
}

fn audit(page: &ListPolicyAuditResponse, paint: Paint) -> String {
    let mut grid = Grid::new(
        paint,
        &["NO", "TIME", "WHO", "WHAT", "AFTER", "BUNDLES", "NOTE"],
    );
    for entry in &page.entries {
        grid.row([
            entry.sequence.to_string(),
            time(entry.time.as_ref()),
            entry.principal_id.clone(),
            entry.action.clone(),
            entry.after_snapshot_id.clone(),
            entry.bundle_ids.join(","),
            entry.note.clone(),
        ]);
    }
    grid.finish()
}
