//! What a configuration does to a job that is submitted: it fills in what its submitter left open,
//! cuts what goes beyond, and refuses what cannot be cut.

use crate::job::JobSpec;
use crate::routing::LeftOpen;

use super::sections::{Limits, Sections, TopicDefaults};

/// A limit that a job does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The field of the job, as in the contract.
    pub field: &'static str,
    /// The key of the configuration: where it stands is found by its pointer.
    pub pointer: &'static str,
    /// The limit.
    pub limit: u64,
    /// What is limited.
    pub unit: &'static str,
}

impl Sections {
    /// Fills in what the configuration says of the job's topic, and what is still open then. Of
    /// several patterns that match, each key is taken from the most specific one that has it; risk
    /// tags come from all of them.
    #[must_use]
    pub fn fill_in_topic(&self, spec: &mut JobSpec, mut open: LeftOpen) -> LeftOpen {
        let rules = self.topics.matching(&spec.topic);
        if let Some(timeout) = first(&rules, open.timeout, |rule| rule.timeout) {
            spec.timeout = timeout;
            open.timeout = false;
        }
        let waits = |rule: &TopicDefaults| rule.schedule_to_start_timeout;
        if let Some(timeout) = first(&rules, open.schedule_to_start_timeout, waits) {
            spec.schedule_to_start_timeout = timeout;
            open.schedule_to_start_timeout = false;
        }
        if let Some(retry) = first(&rules, open.retry, |rule| rule.retry.clone()) {
            spec.retry = retry;
            open.retry = false;
        }
        if let Some(priority) = first(&rules, open.priority, |rule| rule.priority) {
            spec.priority = priority;
            open.priority = false;
        }
        let unnamed = spec.metadata.capability.is_empty();
        if let Some(capability) = first(&rules, unnamed, |rule| rule.capability.clone()) {
            spec.metadata.capability = capability;
        }
        for rule in rules {
            for tag in &rule.risk_tags {
                if !spec.metadata.risk_tags.contains(tag) {
                    spec.metadata.risk_tags.push(tag.clone());
                }
            }
        }
        if spec.placement.preferred_pool.is_none() {
            let pool = self.preferred_pools.find(&spec.topic);
            spec.placement.preferred_pool = pool.map(|(_, pool)| pool.clone());
        }
        open
    }

    /// Fills in the clocks that nobody has said anything about.
    pub fn fill_in_clocks(&self, spec: &mut JobSpec, open: LeftOpen) {
        if let Some(timeout) = self.timeouts.job.filter(|_| open.timeout) {
            spec.timeout = timeout;
        }
        let waits = self.timeouts.schedule_to_start;
        if let Some(timeout) = waits.filter(|_| open.schedule_to_start_timeout) {
            spec.schedule_to_start_timeout = timeout;
        }
    }

    /// Cuts what goes beyond the limits and can be cut: attempts, and how long each may take.
    pub fn cut(&self, spec: &mut JobSpec) {
        if let Some(most) = self.timeouts.max_job {
            spec.timeout = spec.timeout.min(most);
        }
        if let Some(most) = self.limits.max_attempts {
            spec.retry.max_attempts = spec.retry.max_attempts.min(most);
        }
    }

    /// The limits that a job with an input of so many bytes does not keep.
    #[must_use]
    pub fn exceeded(&self, spec: &JobSpec, input_bytes: u64) -> Vec<Exceeded> {
        let Limits {
            max_payload_bytes,
            max_labels,
            ..
        } = self.limits;
        let labels = spec.labels.len() as u64;
        let limits = [
            (
                max_payload_bytes,
                input_bytes,
                "input",
                "/limits/max_payload_bytes",
                "bytes",
            ),
            (
                max_labels.map(u64::from),
                labels,
                "labels",
                "/limits/max_labels",
                "labels",
            ),
        ];
        let mut exceeded = Vec::new();
        for (limit, is, field, pointer, unit) in limits {
            if let Some(limit) = limit.filter(|limit| is > *limit) {
                exceeded.push(Exceeded {
                    field,
                    pointer,
                    limit,
                    unit,
                });
            }
        }
        exceeded
    }
}

/// What the first of the rules that says anything says, if it is asked for.
fn first<T>(
    rules: &[&TopicDefaults],
    asked: bool,
    said: impl Fn(&TopicDefaults) -> Option<T>,
) -> Option<T> {
    rules.iter().filter(|_| asked).find_map(|rule| said(rule))
}
