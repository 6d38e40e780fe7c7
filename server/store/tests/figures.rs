//! The figures that the metered layer and the group observer record.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coretex_store::Store;
use coretex_store::conformance::ManualClock;
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use coretex_store::layers::{GroupFigures, Metered};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use parking_lot::Mutex;

use common::{SHARD, b, creation};

/// Remembers how often each figure was touched, by name and label.
#[derive(Clone, Debug, Default)]
struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

struct Touch(Tally, String);

impl Touch {
    fn touch(&self) {
        *self.0.0.lock().entry(self.1.clone()).or_default() += 1;
    }
}

impl CounterFn for Touch {
    fn increment(&self, _: u64) {
        self.touch();
    }
    fn absolute(&self, _: u64) {
        self.touch();
    }
}

impl GaugeFn for Touch {
    fn increment(&self, _: f64) {
        self.touch();
    }
    fn decrement(&self, _: f64) {
        self.touch();
    }
    fn set(&self, _: f64) {
        self.touch();
    }
}

impl HistogramFn for Touch {
    fn record(&self, _: f64) {
        self.touch();
    }
}

impl Tally {
    fn figure(&self, key: &Key) -> Arc<Touch> {
        let labels = key.labels().map(|label| format!("/{}", label.value()));
        let name = format!("{}{}", key.name(), labels.collect::<String>());
        Arc::new(Touch(self.clone(), name))
    }

    /// Of a figure of the embedded engine: its name, and what its second label says.
    fn of(&self, name: &str) -> u64 {
        let (name, label) = name.split_once('/').unwrap_or((name, ""));
        let label = if label.is_empty() {
            String::new()
        } else {
            format!("/{label}")
        };
        let name = format!("coretex_store_{name}/embedded{label}");
        self.0.lock().get(&name).copied().unwrap_or(0)
    }
}

impl Recorder for Tally {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.figure(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.figure(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.figure(key))
    }
}

#[tokio::test]
async fn figures_follow_the_calls() {
    let tally = Tally::default();
    let mut options = EmbeddedOptions::memory(Arc::new(ManualClock::default()), 1);
    options.writer = WriterMode::Inline;
    let store = metrics::with_local_recorder(&tally, || {
        options.observer = Some(Arc::new(GroupFigures::new("embedded")));
        Metered::new(Arc::new(EmbeddedStore::open(options).unwrap()))
    });
    store.commit(creation("key", "1")).await.unwrap();
    store.commit(creation("key", "2")).await.unwrap_err();
    store.get(SHARD, &[b("key")]).await.unwrap();
    store.usage().await.unwrap();
    assert_eq!(tally.of("commit_seconds/applied"), 1);
    assert_eq!(tally.of("commit_seconds/conflict"), 1);
    assert_eq!(tally.of("call_seconds/get"), 1);
    assert_eq!(tally.of("bytes"), 1);
    assert_eq!(tally.of("group_commits"), 2);
    assert_eq!(tally.of("call_failures_total/get"), 0);
    store.close(Duration::from_secs(1)).await;
    store.get(SHARD, &[b("key")]).await.unwrap_err();
    store.commit(creation("key", "3")).await.unwrap_err();
    assert_eq!(tally.of("call_failures_total/get"), 1);
    assert_eq!(tally.of("commit_seconds/unavailable"), 1);
}
