//! Prometheus metrics: the recorder behind the `metrics` macros of all crates, and the page.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::process;

/// Histograms of seconds: from a hundred microseconds, below the quickest job, to an hour.
const SECONDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    15.0, 60.0, 300.0, 3_600.0,
];
/// Histograms of anything else: counts and bytes.
const COUNTS: [f64; 12] = [
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
    64.0,
    128.0,
    256.0,
    1_024.0,
    65_536.0,
    1_048_576.0,
];
/// Histograms hold every observation until somebody counts them; nobody may ever scrape.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder is one for the process, however many servers a test starts in it.
static RECORDER: OnceLock<Arc<PrometheusHandle>> = OnceLock::new();

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: Arc<PrometheusHandle>,
    build: Arc<str>,
    started: Instant,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics")
            .field("build", &self.build)
            .finish_non_exhaustive()
    }
}

impl Metrics {
    /// Installs the recorder, unless it is there. `labels` describe the server, for example which
    /// engines it uses.
    #[must_use]
    pub fn install(labels: &[(&str, &str)]) -> Self {
        let handle = RECORDER.get_or_init(|| {
            let recorder = PrometheusBuilder::new();
            let recorder = recorder
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
                .and_then(|recorder| recorder.set_buckets(&COUNTS))
                // Only an empty list of buckets is refused.
                .unwrap_or_else(|_| PrometheusBuilder::new())
                .build_recorder();
            let handle = Arc::new(recorder.handle());
            // Somebody else's recorder stays; then this page shows what is ours without it.
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed");
            }
            handle
        });
        let mut build = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
        for (name, value) in labels {
            build.push_str(&format!(",{name}=\"{value}\""));
        }
        Self {
            handle: Arc::clone(handle),
            build: build.into(),
            started: Instant::now(),
        }
    }

    /// The page, in the text format of Prometheus.
    #[must_use]
    pub fn render(&self, ready: bool) -> String {
        let mut text = self.handle.render();
        let build = &self.build;
        text.push_str(&format!(
            "# HELP coretex_build_info The program and what it uses.\n\
             # TYPE coretex_build_info gauge\ncoretex_build_info{{{build}}} 1\n\n"
        ));
        let ready = if ready { 1.0 } else { 0.0 };
        let up = self.started.elapsed().as_secs_f64();
        let mut gauge = |name, help, value| process::metric(&mut text, name, "gauge", help, value);
        gauge("coretex_ready", "Whether /readyz says so.", ready);
        gauge("coretex_uptime_seconds", "Time since the start.", up);
        process::render(&mut text);
        text
    }

    /// Counts what histograms have collected, again and again, until `stop`.
    pub async fn keep_up(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(UPKEEP);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.handle.run_upkeep();
        }
    }
}

/// Says in every log what panicked, then does what was done before.
pub fn log_panics() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let place = info.location().map(ToString::to_string);
            tracing::error!(
                thread = thread.name().unwrap_or_default(),
                place,
                message = info.payload_as_str().unwrap_or_default(),
                "panic"
            );
            metrics::counter!("coretex_panics_total").increment(1);
            previous(info);
        }));
    });
}
