//! Running an ended job again: a new job like it, with edits.

use std::sync::Arc;

use coretex_core::id::JobId;
use coretex_core::job::{Job, JobSpec};
use coretex_core::payload::Payload;
use coretex_core::routing::LeftOpen;

use super::{Intent, MAX_LABELS, fingerprint};
use crate::access::Caller;
use crate::commits::Loaded;
use crate::configs::submit::check_limits;
use crate::engine::Engine;
use crate::types::{JobEdits, Submitted};
use crate::{Error, Result};

impl Engine {
    /// Runs an ended job again as a new, linked job, judged afresh.
    ///
    /// # Errors
    /// `NotFound`, `JobNotEnded`, and those of [`Self::submit_job`].
    pub async fn rerun_job(
        &self,
        caller: &Caller,
        id: &JobId,
        edits: JobEdits,
        idempotency_key: String,
    ) -> Result<Submitted> {
        let before = self.visible(caller, id).await?;
        if !before.job.state.is_terminal() {
            return Err(Error::JobNotEnded);
        }
        let intent = self.again(caller, &before, edits, idempotency_key).await?;
        self.accept(caller, intent).await
    }

    /// A new job like `before`, with edits.
    pub(crate) async fn again(
        &self,
        caller: &Caller,
        before: &Loaded,
        edits: JobEdits,
        idempotency_key: String,
    ) -> Result<Intent> {
        let before = self.join_payloads(&before.job).await?;
        let (mut spec, input) = edited(&before, edits);
        if spec.topic != before.spec.topic {
            // What another topic says of its jobs holds for this one, too.
            self.routing()
                .fill_in(&mut spec, &caller.tenant, LeftOpen::default());
        }
        if spec.labels.len() > MAX_LABELS {
            let rule = format!("would give the job more than {MAX_LABELS} labels");
            return Err(Error::invalid("edits.add_labels", rule));
        }
        self.check_submit(caller, &spec)?;
        // What was rerun is part of what was asked for.
        let fingerprint = fingerprint(Some(&before.id), &spec, input.as_ref())?;
        // After it, as for a new job. What the old one was filled in with stays.
        let config = self.config_of(&caller.tenant, &spec).await?;
        let _ = config.typed.fill_in_topic(&mut spec, LeftOpen::default());
        config.typed.cut(&mut spec);
        check_limits(&spec, input.as_ref(), &config)?;
        Ok(Intent {
            id: JobId::from_trusted(&self.ids().sortable(self.now())),
            named: false,
            spec: Arc::new(spec),
            input,
            key: idempotency_key,
            fingerprint,
            trace_id: before.trace_id.clone(),
            rerun_of: Some(before.id.clone()),
            settles: None,
            config,
        })
    }
}

fn edited(before: &Job, edits: JobEdits) -> (JobSpec, Option<Payload>) {
    let mut spec = before.spec.as_ref().clone();
    // The old start time has passed or meant the old job.
    spec.not_before = None;
    if let Some(topic) = edits.topic {
        spec.topic = topic;
    }
    if let Some(priority) = edits.priority {
        spec.priority = priority;
    }
    if let Some(placement) = edits.placement {
        spec.placement = placement;
    }
    if let Some(retry) = edits.retry {
        spec.retry = retry;
    }
    if let Some(timeout) = edits.timeout {
        spec.timeout = timeout;
    }
    for label in &edits.remove_labels {
        spec.labels.remove(label);
    }
    spec.labels.extend(edits.add_labels);
    (spec, edits.input.or_else(|| before.input.clone()))
}
