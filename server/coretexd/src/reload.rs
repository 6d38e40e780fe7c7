//! The configuration file while the server runs: looked at once a second and on SIGHUP. Its routing
//! tables are put in force; a file that cannot be used changes nothing, and everybody is told.

use std::sync::Arc;
use std::time::Duration;

use coretex_engine::Engine;
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::reload::{Content, content, differing};
use crate::config::{Config, Source};

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Whoever writes the file in place may be caught in the middle; what counts is what two looks agree
/// on that are this far apart.
const SETTLE: Duration = Duration::from_millis(100);

/// Keeps the routing tables of an engine what the file says.
pub(crate) struct Reload {
    source: Arc<Source>,
    /// The configuration that the server was started with.
    running: Config,
    engine: Engine,
    /// What was last acted on.
    seen: Content,
    /// Changed settings that somebody has been told of.
    told: Vec<&'static str>,
}

impl Reload {
    pub(crate) fn new(source: Source, running: Config, engine: Engine) -> Self {
        let seen = Ok(source.text().to_owned());
        metrics::gauge!("coretex_config_ok").set(1.0);
        metrics::counter!("coretex_config_reload_failures_total").increment(0);
        Self {
            source: Arc::new(source),
            running,
            engine,
            seen,
            told: Vec::new(),
        }
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, mut hangups: Signal, stop: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => false,
                _ = hangups.recv() => true,
            };
            if stop.run_until_cancelled(self.look(asked)).await.is_none() {
                return;
            }
        }
    }

    /// Acts on what the file holds, if that is news or somebody has asked.
    async fn look(&mut self, asked: bool) {
        let Some(now) = self.content().await else {
            return;
        };
        if now == self.seen && !asked {
            return;
        }
        if now != self.seen {
            sleep(SETTLE).await;
            if self.content().await.as_ref() != Some(&now) {
                // The next look is soon.
                return;
            }
        }
        match &now {
            Ok(text) => self.read(text.clone()).await,
            Err(reason) => self.keep(reason.clone()),
        }
        self.seen = now;
    }

    /// `None` while the program ends.
    async fn content(&self) -> Option<Content> {
        let path = self.source.path().to_owned();
        let read = tokio::task::spawn_blocking(move || content(&path));
        read.await.ok()
    }

    async fn read(&mut self, text: String) {
        let source = Arc::clone(&self.source);
        // A large file is work for a moment.
        let loaded = tokio::task::spawn_blocking(move || source.load(text));
        match loaded.await {
            Ok(Ok(loaded)) => self.apply(loaded.config),
            Ok(Err(error)) => self.keep(error.brief()),
            Err(error) => self.keep(format!("the file could not be read: {error}")),
        }
    }

    fn apply(&mut self, config: Config) {
        let others = differing(&self.running, &config);
        let changed = *self.engine.routing() != config.routing;
        let recovered = self.engine.routing_problem().is_some();
        if changed || recovered {
            let topics = config.routing.topics().count();
            let pools = config.routing.pools().count();
            let tenants = config.routing.tenants().count();
            self.engine.set_routing(config.routing);
            metrics::gauge!("coretex_config_ok").set(1.0);
            if changed {
                tracing::info!(topics, pools, tenants, "new routing tables are in force");
            } else {
                tracing::info!(
                    "the configuration file is good again, its routing tables as before"
                );
            }
        } else {
            tracing::info!("the configuration file was read again, its routing tables as before");
        }
        if !others.is_empty() && others != self.told {
            let settings = others.join(", ");
            tracing::warn!(settings, "a change of these settings needs a restart");
        }
        self.told = others;
    }

    fn keep(&self, problem: String) {
        metrics::gauge!("coretex_config_ok").set(0.0);
        metrics::counter!("coretex_config_reload_failures_total").increment(1);
        tracing::error!(
            problem,
            "the configuration file cannot be used; the routing tables stay as they are"
        );
        self.engine.keep_routing(problem);
    }
}
