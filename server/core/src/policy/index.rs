//! Finds the rules that may match a job without looking at the others.
//!
//! Each rule stands in the index under one thing that it asks for, in all its variants: the one that
//! the fewest other rules ask for. A look collects what stands under the job's own facts; whether
//! those rules match is tested afterwards, so the index may only leave out rules that cannot match.

use std::collections::HashMap;

use super::glob::TextGlob;
use super::matching::Match;
use super::rule::Rule;
use super::subject::Subject;
use crate::routing::pattern::TopicPattern;

/// What a rule may be found by, beside its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By {
    Tenant,
    Team,
    Capability,
    RiskTag,
    Requires,
    PackId,
    ActorId,
    McpServer,
    McpTool,
    McpResource,
    McpAction,
}

/// The rules of one bundle by what they ask for. Numbers are ranks: places in the order of trying.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<By, HashMap<String, Vec<u32>>>,
    topics: TopicTree,
    /// Rules that can be found by nothing.
    rest: Vec<u32>,
}

#[derive(Debug, Default)]
struct TopicTree {
    tokens: HashMap<String, TopicTree>,
    any: Option<Box<TopicTree>>,
    /// Patterns that end here with `>`.
    below: Vec<u32>,
    /// Patterns that end here.
    end: Vec<u32>,
}

/// The lists of texts that a rule can be found by: those without globs.
fn literal_lists(matches: &Match) -> Vec<(By, &[TextGlob])> {
    let [server, tool, resource, action] = &matches.mcp;
    [
        (By::Tenant, &matches.tenants),
        (By::Team, &matches.teams),
        (By::Capability, &matches.capabilities),
        (By::RiskTag, &matches.risk_tags),
        (By::Requires, &matches.requires),
        (By::PackId, &matches.pack_ids),
        (By::ActorId, &matches.actor_ids),
        (By::McpServer, server),
        (By::McpTool, tool),
        (By::McpResource, resource),
        (By::McpAction, action),
    ]
    .into_iter()
    .filter(|(_, globs)| !globs.is_empty() && globs.iter().all(TextGlob::is_literal))
    .map(|(by, globs)| (by, globs.as_slice()))
    .collect()
}

impl Index {
    /// Builds the index of rules in the order of trying.
    pub(super) fn new<'r>(rules: impl Iterator<Item = &'r Rule> + Clone) -> Self {
        let mut asked: HashMap<(By, &str), usize> = HashMap::new();
        let mut topics: HashMap<&TopicPattern, usize> = HashMap::new();
        for rule in rules.clone() {
            for (by, globs) in literal_lists(&rule.matches) {
                for glob in globs {
                    *asked.entry((by, glob.as_str())).or_default() += 1;
                }
            }
            for topic in &rule.matches.topics {
                *topics.entry(topic).or_default() += 1;
            }
        }
        let mut index = Self::default();
        for (rank, rule) in (0_u32..).zip(rules) {
            let lists = literal_lists(&rule.matches);
            let cost_of = |by: By, globs: &[TextGlob]| -> usize {
                let costs = globs.iter().map(|glob| asked.get(&(by, glob.as_str())));
                costs.flatten().sum()
            };
            let best = lists
                .iter()
                .map(|(by, globs)| (cost_of(*by, globs), *by, *globs))
                .min_by_key(|(cost, ..)| *cost);
            let by_topic = (!rule.matches.topics.is_empty()).then(|| {
                rule.matches
                    .topics
                    .iter()
                    .filter_map(|t| topics.get(t))
                    .sum()
            });
            match (best, by_topic) {
                (Some((cost, by, globs)), by_topic) if by_topic.is_none_or(|t: usize| cost < t) => {
                    let family = index.exact.entry(by).or_default();
                    for glob in globs {
                        family
                            .entry(glob.as_str().to_owned())
                            .or_default()
                            .push(rank);
                    }
                }
                (_, Some(_)) => {
                    for topic in &rule.matches.topics {
                        index.topics.add(topic, rank);
                    }
                }
                (_, None) => index.rest.push(rank),
            }
        }
        index
    }

    /// The ranks of the rules that may match, in order and each once.
    pub(super) fn candidates<'i>(&'i self, subject: &Subject<'_>) -> Candidates<'i> {
        let spec = subject.spec;
        let metadata = &spec.metadata;
        let mut lists = Vec::with_capacity(8);
        let mut add = |list: &'i [u32]| {
            if !list.is_empty() {
                lists.push(list);
            }
        };
        add(&self.rest);
        let tokens: Vec<&str> = spec.topic.as_str().split('.').collect();
        self.topics.collect(&tokens, &mut add);
        for (by, family) in &self.exact {
            let mut look = |value: &str| {
                if let Some(list) = family.get(value) {
                    add(list);
                }
            };
            match by {
                By::Tenant => look(subject.tenant.as_str()),
                By::Team => look(&spec.team_id),
                By::Capability => look(&metadata.capability),
                By::RiskTag => metadata.risk_tags.iter().for_each(|tag| look(tag)),
                By::Requires => metadata.requires.iter().for_each(|name| look(name)),
                By::PackId => look(&metadata.pack_id),
                By::ActorId => look(&metadata.actor_id),
                By::McpServer => subject.mcp().values(0).for_each(look),
                By::McpTool => subject.mcp().values(1).for_each(look),
                By::McpResource => subject.mcp().values(2).for_each(look),
                By::McpAction => subject.mcp().values(3).for_each(look),
            }
        }
        Candidates { lists }
    }
}

impl TopicTree {
    fn add(&mut self, pattern: &TopicPattern, rank: u32) {
        let mut node = self;
        for token in pattern.as_str().split('.') {
            match token {
                ">" => {
                    node.below.push(rank);
                    return;
                }
                "*" => node = node.any.get_or_insert_default(),
                token => node = node.tokens.entry(token.to_owned()).or_default(),
            }
        }
        node.end.push(rank);
    }

    fn collect<'i>(&'i self, tokens: &[&str], add: &mut impl FnMut(&'i [u32])) {
        let Some((first, others)) = tokens.split_first() else {
            add(&self.end);
            return;
        };
        add(&self.below);
        if let Some(node) = self.tokens.get(*first) {
            node.collect(others, add);
        }
        if let Some(node) = &self.any {
            node.collect(others, add);
        }
    }
}

/// Several sorted lists as one, without repeats.
#[derive(Debug)]
pub(super) struct Candidates<'i> {
    lists: Vec<&'i [u32]>,
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let least = self.lists.iter().filter_map(|list| list.first()).min();
        let least = *least?;
        for list in &mut self.lists {
            while let Some((first, rest)) = list.split_first()
                && *first == least
            {
                *list = rest;
            }
        }
        Some(least)
    }
}
