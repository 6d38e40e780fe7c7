//! Which function runs which job.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use coretex_proto::v1::Job;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Context, JobFailure, Output};

type Run = dyn Fn(Context, Job) -> BoxFuture<'static, Result<Output, JobFailure>> + Send + Sync;

/// A handler with its types forgotten.
#[derive(Clone)]
pub(super) struct Handler(Arc<Run>);

impl Handler {
    pub(super) fn new<F, Fut, O>(handler: F) -> Self
    where
        F: Fn(Context, Job) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, JobFailure>> + Send + 'static,
        O: Into<Output>,
    {
        Self(Arc::new(move |context, job| {
            let work = handler(context, job);
            async move { work.await.map(Into::into) }.boxed()
        }))
    }

    pub(super) fn run(
        &self,
        context: Context,
        job: Job,
    ) -> BoxFuture<'static, Result<Output, JobFailure>> {
        (self.0)(context, job)
    }
}

/// Topics and their handlers.
#[derive(Default)]
pub(super) struct Router {
    default: Option<Handler>,
    /// `None`: served by the default.
    topics: BTreeMap<String, Option<Handler>>,
}

impl Router {
    pub(super) fn add_topic(&mut self, topic: String) {
        self.topics.entry(topic).or_default();
    }

    pub(super) fn add_route(&mut self, topic: String, handler: Handler) {
        self.topics.insert(topic, Some(handler));
    }

    pub(super) fn set_default(&mut self, handler: Handler) {
        self.default = Some(handler);
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &String> {
        self.topics.keys()
    }

    pub(super) fn find(&self, topic: &str) -> Option<&Handler> {
        match self.topics.get(topic) {
            Some(Some(own)) => Some(own),
            // The server may route a topic that was not declared, by its topic table.
            Some(None) | None => self.default.as_ref(),
        }
    }

    /// Whether every topic has somebody to serve it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.topics.is_empty() {
            return Err("a worker needs at least one topic".to_owned());
        }
        let unserved = self.topics.iter().find(|(_, handler)| handler.is_none());
        match unserved {
            Some((topic, _)) if self.default.is_none() => {
                Err(format!("topic {topic} has no handler"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.topics.keys()).finish()
    }
}
