//! The `match` of a rule: what it asks of a job without an expression.
//!
//! All criteria that a rule has must fit; of a list, one entry has to. A fact that nobody can be
//! sure of (two different MCP tools, an artifact that may hold secrets) gives [`Fit::Unknown`].

use std::collections::BTreeMap;

use super::glob::TextGlob;
use super::mcp::PARTS;
use super::secrets::Secrets;
use super::subject::{InputApart, Subject};
use crate::document::{Field, Object};
use crate::job::ActorType;
use crate::routing::pattern::TopicPattern;

/// The most entries of each list of a rule.
pub(super) const MAX_ENTRIES: usize = 200;

/// Whether something is as a rule wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Nobody can say.
    Unknown,
}

impl Fit {
    fn of(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}

/// One of the things that a rule may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Criterion {
    Tenants,
    Topics,
    Teams,
    Capabilities,
    RiskTags,
    Requires,
    PackIds,
    ActorIds,
    ActorTypes,
    Labels,
    /// A part of the MCP call, by its place.
    Mcp(usize),
    Secrets,
}

impl Criterion {
    /// In the order of trying: the cheap ones first, what reads the input last.
    const ALL: [Self; 15] = [
        Self::Tenants,
        Self::Topics,
        Self::Teams,
        Self::Capabilities,
        Self::RiskTags,
        Self::Requires,
        Self::PackIds,
        Self::ActorIds,
        Self::ActorTypes,
        Self::Labels,
        Self::Mcp(0),
        Self::Mcp(1),
        Self::Mcp(2),
        Self::Mcp(3),
        Self::Secrets,
    ];

    /// Its key in a rule.
    pub(super) fn name(self) -> String {
        match self {
            Self::Tenants => "tenants",
            Self::Topics => "topics",
            Self::Teams => "teams",
            Self::Capabilities => "capabilities",
            Self::RiskTags => "risk_tags",
            Self::Requires => "requires",
            Self::PackIds => "pack_ids",
            Self::ActorIds => "actor_ids",
            Self::ActorTypes => "actor_types",
            Self::Labels => "labels",
            Self::Mcp(part) => {
                let part = PARTS.get(part).copied().unwrap_or_default();
                return format!("mcp.{part}{}", if part.is_empty() { "" } else { "s" });
            }
            Self::Secrets => "secrets_present",
        }
        .to_owned()
    }
}

/// What a rule asks of a job; empty lists ask for nothing.
#[derive(Clone, Debug, Default)]
pub struct Match {
    pub(super) tenants: Vec<TextGlob>,
    pub(super) teams: Vec<TextGlob>,
    pub(super) topics: Vec<TopicPattern>,
    pub(super) capabilities: Vec<TextGlob>,
    pub(super) risk_tags: Vec<TextGlob>,
    pub(super) requires: Vec<TextGlob>,
    pub(super) pack_ids: Vec<TextGlob>,
    pub(super) actor_ids: Vec<TextGlob>,
    pub(super) actor_types: Vec<ActorType>,
    pub(super) labels: BTreeMap<String, Vec<TextGlob>>,
    pub(super) secrets_present: Option<bool>,
    pub(super) mcp: [Vec<TextGlob>; 4],
    /// Which criteria the rule has, as a bit for each in [`Criterion::ALL`].
    asked: u16,
}

fn any(globs: &[TextGlob], text: &str) -> bool {
    globs.iter().any(|glob| glob.matches(text))
}

fn one(globs: &[TextGlob], text: &str) -> Fit {
    Fit::of(globs.is_empty() || any(globs, text))
}

fn some<'t>(globs: &[TextGlob], mut texts: impl Iterator<Item = &'t String>) -> Fit {
    Fit::of(globs.is_empty() || texts.any(|text| any(globs, text)))
}

impl Match {
    pub(super) fn read(field: &Field<'_>) -> Self {
        let Some(mut object) = field.object() else {
            return Self::default();
        };
        let mut read = Self {
            tenants: globs(&mut object, "tenants"),
            teams: globs(&mut object, "teams"),
            topics: list(&mut object, "topics", |item| {
                item.parsed(TopicPattern::parse)
            }),
            capabilities: globs(&mut object, "capabilities"),
            risk_tags: globs(&mut object, "risk_tags"),
            requires: globs(&mut object, "requires"),
            pack_ids: globs(&mut object, "pack_ids"),
            actor_ids: globs(&mut object, "actor_ids"),
            actor_types: list(&mut object, "actor_types", |item| {
                item.word(&[("human", 0_u8), ("service", 1)])
            })
            .into_iter()
            .map(|kind| match kind {
                0 => ActorType::Human,
                _ => ActorType::Service,
            })
            .collect(),
            labels: object
                .get("labels")
                .map(|field| labels(&field))
                .unwrap_or_default(),
            secrets_present: object.get("secrets_present").and_then(|field| field.bool()),
            mcp: Default::default(),
            asked: 0,
        };
        if let Some(mut mcp) = object.get("mcp").and_then(|field| field.object()) {
            let keys = ["servers", "tools", "resources", "actions"];
            for (part, key) in read.mcp.iter_mut().zip(keys) {
                *part = globs(&mut mcp, key);
            }
            mcp.finish();
        }
        object.finish();
        for (place, criterion) in Criterion::ALL.into_iter().enumerate() {
            read.asked |= u16::from(read.has(criterion)) << place;
        }
        read
    }

    /// What the rule asks for, in the order of trying.
    pub(super) fn asked(&self) -> impl Iterator<Item = Criterion> + use<> {
        let mut left = self.asked;
        std::iter::from_fn(move || {
            let place = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            Criterion::ALL.get(place as usize).copied()
        })
    }

    fn has(&self, criterion: Criterion) -> bool {
        match criterion {
            Criterion::Tenants => !self.tenants.is_empty(),
            Criterion::Topics => !self.topics.is_empty(),
            Criterion::Teams => !self.teams.is_empty(),
            Criterion::Capabilities => !self.capabilities.is_empty(),
            Criterion::RiskTags => !self.risk_tags.is_empty(),
            Criterion::Requires => !self.requires.is_empty(),
            Criterion::PackIds => !self.pack_ids.is_empty(),
            Criterion::ActorIds => !self.actor_ids.is_empty(),
            Criterion::ActorTypes => !self.actor_types.is_empty(),
            Criterion::Labels => !self.labels.is_empty(),
            Criterion::Mcp(part) => self.mcp.get(part).is_some_and(|globs| !globs.is_empty()),
            Criterion::Secrets => self.secrets_present.is_some(),
        }
    }

    /// How the rule fits a job: the first criterion that does not, else the first that nobody can
    /// be sure of.
    pub(super) fn fit(
        &self,
        subject: &Subject<'_>,
    ) -> Result<(Fit, Option<Criterion>), InputApart> {
        let mut unsure = None;
        for criterion in self.asked() {
            match self.test(criterion, subject)? {
                Fit::Yes => {}
                Fit::No => return Ok((Fit::No, Some(criterion))),
                Fit::Unknown => unsure = unsure.or(Some(criterion)),
            }
        }
        let fit = if unsure.is_some() {
            Fit::Unknown
        } else {
            Fit::Yes
        };
        Ok((fit, unsure))
    }

    fn test(&self, criterion: Criterion, subject: &Subject<'_>) -> Result<Fit, InputApart> {
        let spec = subject.spec;
        let metadata = &spec.metadata;
        Ok(match criterion {
            Criterion::Tenants => one(&self.tenants, subject.tenant.as_str()),
            Criterion::Topics => Fit::of(
                self.topics.is_empty() || self.topics.iter().any(|t| t.matches(&spec.topic)),
            ),
            Criterion::Teams => one(&self.teams, &spec.team_id),
            Criterion::Capabilities => one(&self.capabilities, &metadata.capability),
            Criterion::RiskTags => some(&self.risk_tags, metadata.risk_tags.iter()),
            Criterion::Requires => some(&self.requires, metadata.requires.iter()),
            Criterion::PackIds => one(&self.pack_ids, &metadata.pack_id),
            Criterion::ActorIds => one(&self.actor_ids, &metadata.actor_id),
            Criterion::ActorTypes => Fit::of(
                self.actor_types.is_empty()
                    || metadata
                        .actor_type
                        .is_some_and(|kind| self.actor_types.contains(&kind)),
            ),
            Criterion::Labels => Fit::of(self.labels.iter().all(|(key, globs)| {
                let value = spec.labels.get(key);
                value.is_some_and(|value| any(globs, value))
            })),
            Criterion::Mcp(part) => self.mcp_part(part, subject),
            Criterion::Secrets => match self.secrets_present {
                None => Fit::Yes,
                Some(wanted) => match subject.secrets()? {
                    Secrets::Unknown => Fit::Unknown,
                    Secrets::Present(_) => Fit::of(wanted),
                    Secrets::Absent => Fit::of(!wanted),
                },
            },
        })
    }

    fn mcp_part(&self, part: usize, subject: &Subject<'_>) -> Fit {
        let globs = self.mcp.get(part).map_or(&[][..], Vec::as_slice);
        if globs.is_empty() {
            return Fit::Yes;
        }
        let (mut fitting, mut values) = (0, 0);
        for value in subject.mcp().values(part) {
            values += 1;
            fitting += usize::from(any(globs, value));
        }
        match fitting {
            0 => Fit::No,
            _ if fitting == values => Fit::Yes,
            _ => Fit::Unknown,
        }
    }

    /// What a criterion wants, and what the job has, for people.
    pub(super) fn describe(&self, criterion: Criterion, subject: &Subject<'_>) -> (String, String) {
        let spec = subject.spec;
        let metadata = &spec.metadata;
        match criterion {
            Criterion::Tenants => (listed(&self.tenants), subject.tenant.to_string()),
            Criterion::Topics => (listed(&self.topics), spec.topic.to_string()),
            Criterion::Teams => (listed(&self.teams), spec.team_id.clone()),
            Criterion::Capabilities => (listed(&self.capabilities), metadata.capability.clone()),
            Criterion::RiskTags => (listed(&self.risk_tags), listed(&metadata.risk_tags)),
            Criterion::Requires => (listed(&self.requires), listed(&metadata.requires)),
            Criterion::PackIds => (listed(&self.pack_ids), metadata.pack_id.clone()),
            Criterion::ActorIds => (listed(&self.actor_ids), metadata.actor_id.clone()),
            Criterion::ActorTypes => {
                let word = |kind: &ActorType| match kind {
                    ActorType::Human => "human",
                    ActorType::Service => "service",
                };
                let wanted: Vec<&str> = self.actor_types.iter().map(word).collect();
                let found = metadata.actor_type.as_ref().map_or("", word);
                (wanted.join(", "), found.to_owned())
            }
            Criterion::Labels => {
                let wanted = self.labels.iter();
                let wanted: Vec<String> = wanted
                    .map(|(key, globs)| format!("{key}: {}", listed(globs)))
                    .collect();
                let found: Vec<String> = self
                    .labels
                    .keys()
                    .filter_map(|key| Some(format!("{key}: {}", spec.labels.get(key)?)))
                    .collect();
                (wanted.join("; "), found.join("; "))
            }
            Criterion::Mcp(part) => {
                let found: Vec<&str> = subject.mcp().values(part).collect();
                let wanted = self.mcp.get(part).map_or(&[][..], Vec::as_slice);
                (listed(wanted), found.join(", "))
            }
            Criterion::Secrets => {
                let found = match subject.secrets() {
                    Ok(Secrets::Present(kind)) => kind.to_owned(),
                    Ok(Secrets::Absent) => "none".to_owned(),
                    Ok(Secrets::Unknown) => "an artifact that was not searched".to_owned(),
                    Err(InputApart) => "an input that was not read".to_owned(),
                };
                let wanted = if self.secrets_present == Some(true) {
                    "secrets"
                } else {
                    "no secrets"
                };
                (wanted.to_owned(), found)
            }
        }
    }
}

fn listed<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

fn list<T: Ord + Clone>(
    object: &mut Object<'_>,
    key: &'static str,
    read: impl Fn(&Field<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(field) = object.get(key) else {
        return Vec::new();
    };
    if field.is_empty_list() {
        field.problem("must not be empty: leave it out to match everything");
    }
    field.list(MAX_ENTRIES, read)
}

fn globs(object: &mut Object<'_>, key: &'static str) -> Vec<TextGlob> {
    list(object, key, |item| item.parsed(TextGlob::parse))
}

/// Labels: a glob for each key, or a list of which one has to match.
fn labels(field: &Field<'_>) -> BTreeMap<String, Vec<TextGlob>> {
    let entries = field.entries(MAX_ENTRIES).into_iter();
    entries
        .map(|(key, value)| {
            let globs = if value.is_list() {
                if value.is_empty_list() {
                    value.problem("must not be empty");
                }
                value.list(MAX_ENTRIES, |item| item.parsed(TextGlob::parse))
            } else {
                value.parsed(TextGlob::parse).into_iter().collect()
            };
            (key.to_owned(), globs)
        })
        .collect()
}
