//! A rule of a bundle, and how it is read.

use std::collections::BTreeSet;
use std::time::Duration;

use super::matching::{MAX_ENTRIES, Match};
use super::terms::{ApprovalTerms, OnExpire, ROLES};
use super::{Constraints, Decision, Remediation};
use crate::document::{Field, Object};
use crate::expression::{Expression, Scope};
use crate::id::{Topic, check_id};
use crate::routing::Rate;

/// The longest reason.
const MAX_REASON: usize = 1_024;
/// The most remediations of one rule.
const MAX_REMEDIATIONS: usize = 20;
/// The longest period of a rate, and the longest that an approval may take.
const MAX_PERIOD: Duration = Duration::from_secs(31_557_600);
/// The most permits.
const MAX_PERMITS: u32 = 1_000_000;

/// What the jobs of a rate are told apart by, within their tenant.
#[derive(Debug)]
pub enum RateKey {
    /// Nothing: one rate for the tenant.
    Tenant,
    /// Who asks.
    Principal,
    /// What the job is about.
    Topic,
    /// The value of an expression.
    Expression(Expression),
}

/// How often the jobs of a rule may run.
#[derive(Debug)]
pub struct RateTerms {
    /// How often.
    pub rate: Rate,
    /// For which jobs together.
    pub key: RateKey,
}

/// The names that the expressions of a rule may use.
#[derive(Debug)]
pub(super) struct Scopes {
    pub(super) conditions: Scope,
    pub(super) keys: Scope,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Its id, unique in the bundle.
    pub id: String,
    /// Rules with a higher number are tried first; 0 unless said.
    pub priority: i32,
    /// What it asks of a job.
    pub matches: Match,
    /// What it asks beside, as an expression.
    pub when: Option<Expression>,
    /// Ids of the counters that `when` reads.
    pub history: Vec<String>,
    /// What it says about a job that it matches.
    pub decision: Decision,
    /// Why, for people; empty = unsaid.
    pub reason: String,
    /// What jobs that it matches have to keep.
    pub constraints: Option<Constraints>,
    /// What a denied caller could do instead.
    pub remediations: Vec<Remediation>,
    /// For `throttle`.
    pub rate: Option<RateTerms>,
    /// For `require_approval`.
    pub approval: Option<ApprovalTerms>,
    /// Its first line in the bundle, from 1.
    pub line: usize,
}

impl Rule {
    /// How many regular expressions its conditions and keys keep compiled.
    pub(super) fn patterns(&self) -> usize {
        let key = self.rate.as_ref().map(|terms| match &terms.key {
            RateKey::Expression(expression) => expression.patterns(),
            RateKey::Tenant | RateKey::Principal | RateKey::Topic => 0,
        });
        let when = self.when.as_ref().map(Expression::patterns);
        key.unwrap_or_default() + when.unwrap_or_default()
    }

    /// Reads a rule. What is wrong goes to the reader of the field; `None` when not even its
    /// decision can be read.
    pub(super) fn read(field: &Field<'_>, scopes: &Scopes) -> Option<Self> {
        let mut object = field.object()?;
        let id = object
            .require("id")
            .and_then(|field| field.parsed(|text| check_id(text).map(|()| text.to_owned())));
        let priority = object
            .get("priority")
            .and_then(|field| field.whole(i64::from(i32::MIN), i64::from(i32::MAX)))
            .and_then(|priority| i32::try_from(priority).ok())
            .unwrap_or_default();
        let matches = object
            .get("match")
            .map(|field| Match::read(&field))
            .unwrap_or_default();
        let when = object
            .get("when")
            .and_then(|field| field.expression(&scopes.conditions));
        let decision = object
            .require("decision")
            .and_then(|field| field.word(&Decision::WORDS));
        let reason = object
            .get("reason")
            .and_then(|field| field.line(MAX_REASON))
            .unwrap_or_default();
        let constraints = object.get("constraints");
        let remediations = object.get("remediations");
        let rate = object.get("rate");
        let approval = object.get("approval");
        if let Some(decision) = decision {
            belongs(&object, decision, "rate", rate.as_ref());
            belongs(&object, decision, "approval", approval.as_ref());
            belongs(&object, decision, "constraints", constraints.as_ref());
            belongs(&object, decision, "remediations", remediations.as_ref());
        }
        let rule = Self {
            history: when.as_ref().map(counters).unwrap_or_default(),
            priority,
            matches,
            when,
            reason,
            constraints: constraints.and_then(|field| Constraints::read(&field)),
            remediations: remediations
                .map(|field| read_remediations(&field))
                .unwrap_or_default(),
            rate: rate.and_then(|field| read_rate(&field, &scopes.keys)),
            approval: approval.and_then(|field| read_approval(&field)),
            line: field.position().0,
            id: id.unwrap_or_default(),
            decision: decision.unwrap_or(Decision::Deny),
        };
        object.finish();
        Some(rule)
    }
}

/// The counters that an expression reads.
fn counters(expression: &Expression) -> Vec<String> {
    let paths = expression.references().into_iter();
    let ids: BTreeSet<String> = paths
        .filter(|path| path.first().is_some_and(|name| name == "history"))
        .filter_map(|path| path.into_iter().nth(1))
        .collect();
    ids.into_iter().collect()
}

/// Complains about a part that does not belong to the decision, and about a missing one that does.
fn belongs(object: &Object<'_>, decision: Decision, key: &'static str, field: Option<&Field<'_>>) {
    let (with, needed): (&[Decision], bool) = match key {
        "rate" => (&[Decision::Throttle], true),
        "approval" => (&[Decision::RequireApproval], false),
        "constraints" => (
            &[
                Decision::AllowWithConstraints,
                Decision::RequireApproval,
                Decision::Throttle,
            ],
            decision == Decision::AllowWithConstraints,
        ),
        _ => (&[Decision::Deny], false),
    };
    match field {
        Some(field) if !with.contains(&decision) => {
            let with: Vec<&str> = with.iter().map(|decision| decision.word()).collect();
            field.problem(format_args!(
                "`{key}` goes with decision {}, not with {}",
                with.join(" or "),
                decision.word()
            ));
        }
        None if needed && with.contains(&decision) => object
            .field()
            .problem(format_args!("decision {} needs `{key}`", decision.word())),
        _ => {}
    }
}

fn read_rate(field: &Field<'_>, scope: &Scope) -> Option<RateTerms> {
    let mut object = field.object()?;
    let permits = object
        .require("permits")
        .and_then(|field| field.count(1, MAX_PERMITS));
    let per = object
        .require("per")
        .and_then(|field| field.duration(Duration::from_millis(1), MAX_PERIOD));
    let burst = object
        .get("burst")
        .and_then(|field| field.count(1, MAX_PERMITS));
    let key = match object.get("key") {
        None => Some(RateKey::Tenant),
        Some(key) if key.is_text() => key
            .word(&[("tenant", 0_u8), ("principal", 1), ("topic", 2)])
            .map(|word| match word {
                0 => RateKey::Tenant,
                1 => RateKey::Principal,
                _ => RateKey::Topic,
            }),
        Some(key) => key.object().and_then(|mut object| {
            let cel = object
                .require("cel")
                .and_then(|field| field.expression(scope));
            object.finish();
            cel.map(RateKey::Expression)
        }),
    };
    object.finish();
    let permits = permits?;
    Some(RateTerms {
        rate: Rate {
            permits,
            per: per?,
            burst: burst.unwrap_or(permits),
        },
        key: key?,
    })
}

fn read_approval(field: &Field<'_>) -> Option<ApprovalTerms> {
    let mut object = field.object()?;
    let role = |item: &Field<'_>| {
        let words = ROLES.map(|role| (role, role.to_owned()));
        item.word(&words)
    };
    let roles = object.get("roles").map_or_else(Vec::new, |field| {
        if field.is_empty_list() {
            field.problem("must not be empty: leave it out for whoever may resolve approvals");
        }
        field.list(ROLES.len(), role)
    });
    let required = object
        .get("required")
        .and_then(|field| field.count(1, 20))
        .unwrap_or(1);
    let expires_after = object
        .get("expires_after")
        .and_then(|field| field.duration(Duration::from_secs(1), MAX_PERIOD));
    let on_expire_field = object.get("on_expire");
    let on_expire = on_expire_field.as_ref().and_then(|field| {
        field.word(&[
            ("reject", OnExpire::Reject),
            ("escalate", OnExpire::Escalate),
        ])
    });
    let escalate_field = object.get("escalate_to");
    let escalate_to = escalate_field
        .as_ref()
        .map(|field| field.list(ROLES.len(), role))
        .unwrap_or_default();
    let reason_required = object
        .get("reason_required")
        .and_then(|field| field.bool())
        .unwrap_or_default();
    if let (Some(field), None) = (&on_expire_field, expires_after) {
        field.problem("needs `expires_after`");
    }
    match (on_expire, &escalate_field) {
        (Some(OnExpire::Escalate), None) => {
            field.problem("`on_expire: escalate` needs `escalate_to`")
        }
        (Some(OnExpire::Escalate), Some(field)) if field.is_empty_list() => {
            field.problem("must not be empty");
        }
        (Some(OnExpire::Reject) | None, Some(field)) => {
            field.problem("`escalate_to` goes with `on_expire: escalate`");
        }
        _ => {}
    }
    object.finish();
    let terms = ApprovalTerms {
        roles,
        required,
        also: Vec::new(),
        expires_after,
        on_expire: on_expire.unwrap_or_default(),
        escalate_to,
        reason_required,
    };
    // In its one form.
    ApprovalTerms::strictest(&[terms])
}

fn read_remediations(field: &Field<'_>) -> Vec<Remediation> {
    let mut ids = BTreeSet::new();
    let items = field.items(MAX_REMEDIATIONS).into_iter();
    items
        .filter_map(|item| {
            let mut object = item.object()?;
            let id = object
                .require("id")
                .and_then(|field| field.parsed(|text| check_id(text).map(|()| text.to_owned())));
            if let Some(id) = &id
                && !ids.insert(id.clone())
            {
                item.problem(format_args!("the id `{id}` stands here twice"));
            }
            let mut line = |key: &'static str, most| {
                object
                    .get(key)
                    .and_then(|field| field.line(most))
                    .unwrap_or_default()
            };
            let (title, summary) = (line("title", 256), line("summary", MAX_REASON));
            let replacement_capability = line("replacement_capability", 256);
            let replacement_topic = object
                .get("replacement_topic")
                .and_then(|field| field.parsed(Topic::parse))
                .map(|topic| topic.to_string())
                .unwrap_or_default();
            let add_labels = object.get("add_labels").map_or_else(Vec::new, |field| {
                let labels = field.entries(MAX_ENTRIES).into_iter();
                labels
                    .filter_map(|(key, value)| Some((key.to_owned(), value.line(256)?)))
                    .collect()
            });
            let remove_labels = object.get("remove_labels").map_or_else(Vec::new, |field| {
                field.list(MAX_ENTRIES, |item| item.line(256))
            });
            object.finish();
            let remediation = Remediation {
                id: id?,
                title,
                summary,
                replacement_topic,
                replacement_capability,
                add_labels: add_labels.into_iter().collect(),
                remove_labels,
            };
            let changes = !remediation.replacement_topic.is_empty()
                || !remediation.replacement_capability.is_empty()
                || !remediation.add_labels.is_empty()
                || !remediation.remove_labels.is_empty();
            if !changes && item.is_clean() {
                item.problem("changes nothing");
            }
            Some(remediation)
        })
        .collect()
}
