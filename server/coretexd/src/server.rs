//! The server put together: engines, use cases, ports; and taken apart again in order.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coretex_bus::Bus;
use coretex_core::time::{Clock, IdGen};
use coretex_engine::{Engine, EngineOptions, PolicyKernel, Signatures};
use coretex_store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::Signal;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::access::{self, Access};
use crate::admin::{self, Admin};
use crate::backends::{self, Backends, Servers, Sources};
use crate::banner;
use crate::config::load::default_data_dir;
use crate::config::{Backend, Config, Environment, Source};
use crate::datadir;
use crate::error::StartError;
use crate::grpc::Grpc;
use crate::notify::Webhooks;
use crate::policy::{self, PolicyFiles};
use crate::readiness::Readiness;
use crate::reload::Reload;
use crate::source::{RandomIds, SystemClock};
use crate::telemetry::metrics::Metrics;

/// How often the health service learns what `/readyz` would say.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);
/// How often the size of the store is asked for.
const USAGE_PERIOD: Duration = Duration::from_secs(10);
/// The end of the drain that is kept for closing the store.
pub(crate) const CLOSING: Duration = Duration::from_secs(3);
/// What of the drain of the engine is kept for signing off in the store, which may be away.
const SIGNING_OFF: Duration = Duration::from_secs(2);
/// How long the bus may take to send what it was given last.
const LAST_MESSAGES: Duration = Duration::from_millis(200);

/// A running server. Dropping it without [`Server::stop`] ends the admin port and leaves the rest
/// to the end of the process.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listen: SocketAddr,
    admin: SocketAddr,
    access: Access,
    engine: Engine,
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    servers: Arc<Servers>,
    grpc: Grpc,
    readiness: Arc<Readiness>,
    /// Admin port and upkeep: they outlive the drain.
    background: TaskTracker,
    stop: CancellationToken,
    background_stop: DropGuard,
}

impl Server {
    /// Starts a server. When it returns, jobs are served.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        check_built(&config)?;
        let signatures =
            policy::signatures(&config.policy).map_err(|reason| StartError::Setting {
                key: "policy.trusted_keys",
                reason,
            })?;
        let tls = crate::grpc::tls(&config.tls)?;
        let webhooks = Webhooks::load(&config.notify)?;
        let (listener, listen) = bind("listen", config.listen).await?;
        let (admin_listener, admin) = bind("admin_listen", config.admin_listen).await?;

        let readiness = Arc::new(Readiness::starting());
        let background = TaskTracker::new();
        let stop = CancellationToken::new();
        let metrics = Metrics::install(&[
            ("store", config.store.url.engine()),
            (
                "durability",
                banner::durability(backends::durability(&config)),
            ),
            ("bus", config.bus.url.engine()),
        ]);
        background.spawn(metrics.clone().keep_up(stop.clone()));
        let page = Arc::new(Admin {
            readiness: Arc::clone(&readiness),
            metrics,
        });
        background.spawn(admin::serve(admin_listener, page, stop.clone()));
        // From here on a failure ends them.
        let background_stop = stop.clone().drop_guard();

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ids: Arc<dyn IdGen> = Arc::new(RandomIds);
        prepare_data_dir(&config)?;
        let sources = Sources {
            clock: &clock,
            ids: &ids,
            readiness: &readiness,
        };
        let Backends {
            store,
            bus,
            servers,
        } = backends::open(&config, &sources).await?;
        readiness.progress("taking up the jobs that are under way");
        let engine =
            match Engine::start(engine_options(&config, signatures, &store, &bus, &ids)).await {
                Ok(engine) => engine,
                Err(error) => {
                    bus.drain(Duration::ZERO).await;
                    store.close(CLOSING).await;
                    return Err(error.into());
                }
            };
        let prepared = async {
            let policy = PolicyFiles::start(&config.policy, config.dev, &engine);
            let policy = policy.await.map_err(|reason| StartError::Setting {
                key: "policy.directory",
                reason,
            })?;
            let access = access_of(&config, &engine).await?;
            let backends: Arc<dyn coretex_api::Backends> = servers.clone();
            let grpc = Grpc::start(&config, engine.clone(), ids, backends, listener, tls).await?;
            grpc.health().set_serving(true).await;
            Ok((policy, access, grpc))
        };
        let (policy, access, grpc) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => {
                engine.drain(Duration::ZERO).await;
                store.close(CLOSING).await;
                return Err(error);
            }
        };
        readiness.running(engine.clone());
        background.spawn(policy.run(stop.clone()));
        engine.notify_by(webhooks);
        background.spawn(watch_usage(Arc::clone(&store), stop.clone()));
        background.spawn(watch_bus(Arc::clone(&bus), stop.clone()));
        background.spawn(watch_health(
            Arc::clone(&readiness),
            grpc.health(),
            stop.clone(),
        ));
        Ok(Self {
            config,
            listen,
            admin,
            access,
            engine,
            store,
            bus,
            servers,
            grpc,
            readiness,
            background,
            stop,
            background_stop,
        })
    }

    /// Where gRPC is served.
    #[must_use]
    pub const fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where metrics and probes are served.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The use cases, for tests in the same process.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Tells people on stderr what runs where, and programs on stdout, if they asked for it, the
    /// addresses in one line of JSON.
    ///
    /// # Errors
    /// Nobody reads stdout.
    pub fn announce(&self) -> Result<(), StartError> {
        banner::show(&banner::Facts {
            config: &self.config,
            listen: self.listen,
            admin: self.admin,
            store: self.store.info(),
            bus: self.bus.info(),
            servers: &*self.servers,
            access: &self.access,
            default_data_dir: default_data_dir(&Environment::of_process())
                .is_some_and(|default| default == self.config.data_dir),
        });
        if self.config.ready_json {
            tell_ready(self.listen, self.admin)?;
        }
        Ok(())
    }

    /// Reads the file of `source` again whenever it changes or SIGHUP comes, and puts its routing
    /// tables in force.
    pub fn keep_up_with(&self, source: Source, hangups: Signal) {
        let reload = Reload::new(source, self.config.clone(), self.engine.clone());
        self.background
            .spawn(reload.run(hangups, self.stop.clone()));
    }

    /// Waits until the server fails by itself, and says why. Never returns otherwise.
    pub async fn failed(&mut self) -> String {
        self.grpc.failed().await
    }

    /// Stops: not ready, no new work, workers are told to reconnect elsewhere, calls under way are
    /// answered, what is committed is on disk. Takes at most the configured drain timeout.
    pub async fn stop(self) {
        let timeout = self.config.timing.drain_timeout;
        let closing = CLOSING.min(timeout / 4);
        let work = timeout.saturating_sub(closing);
        self.readiness.stopping();
        self.grpc.health().set_serving(false).await;
        // Workers are told to leave before their connections are.
        let started = tokio::time::Instant::now();
        let told = work.saturating_sub(SIGNING_OFF.min(work / 4));
        let drained = tokio::time::timeout(work, self.engine.drain(told)).await;
        if drained.is_err() {
            tracing::warn!("the store was not told that this replica leaves; its lease runs out");
        }
        self.grpc.stop(work.saturating_sub(started.elapsed())).await;
        // Calls that were answered last may have rung somebody's doorbell.
        self.bus.drain(LAST_MESSAGES).await;
        self.store.close(closing).await;
        drop(self.background_stop);
        self.background.close();
        self.background.wait().await;
        tracing::info!("stopped");
    }
}

/// What the configuration may say and this build cannot do is refused, never ignored.
fn check_built(config: &Config) -> Result<(), StartError> {
    if config.otlp.endpoint.is_some() {
        return Err(StartError::NotBuilt {
            key: "otlp.endpoint",
            what: "the export of traces".to_owned(),
        });
    }
    Ok(())
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen {
        key,
        address,
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Without a store and without a key nothing is written there.
fn prepare_data_dir(config: &Config) -> Result<(), StartError> {
    let elsewhere = matches!(config.store.url, Backend::Url(_));
    if (config.ephemeral || elsewhere) && config.dev {
        return Ok(());
    }
    datadir::ensure(&config.data_dir).map_err(|error| StartError::Io {
        what: format!(
            "cannot use the data directory {}",
            config.data_dir.display()
        ),
        error,
    })
}

fn engine_options(
    config: &Config,
    signatures: Signatures,
    store: &Arc<dyn Store>,
    bus: &Arc<dyn Bus>,
    ids: &Arc<dyn IdGen>,
) -> EngineOptions {
    let Config {
        limits,
        retention,
        timing,
        ..
    } = config;
    EngineOptions {
        store: Arc::clone(store),
        bus: Arc::clone(bus),
        ids: Arc::clone(ids),
        kernel: Arc::new(PolicyKernel::default()),
        signatures,
        limits: coretex_engine::Limits {
            max_payload_bytes: limits.max_payload.as_usize(),
            max_waiting_jobs: limits.max_waiting_jobs,
            max_parallel_jobs: limits.max_parallel_jobs,
            max_sessions: limits.max_sessions as usize,
            max_watches: limits.max_watches as usize,
            ..coretex_engine::Limits::default()
        },
        retention: coretex_engine::Retention {
            jobs: retention.jobs,
            dead_letters: retention.dead_letters,
            byte_budget: retention.byte_budget.get(),
            log_entries: retention.log_entries,
            deletes_per_second: retention.deletes_per_second,
        },
        timing: coretex_engine::Timing {
            adoption_window: timing.adoption_window,
            heartbeat_interval: timing.heartbeat_interval,
            session_silence: timing.heartbeat_timeout,
            cancel_grace: timing.cancel_grace,
            rise_after: timing.priority_rise,
            ..coretex_engine::Timing::default()
        },
        routing: config.routing.clone(),
        dev: config.dev,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

async fn access_of(config: &Config, engine: &Engine) -> Result<Access, StartError> {
    if config.dev {
        tracing::warn!(
            "development mode: no credentials are needed, and a bundle allows every job"
        );
        return Ok(Access::Open);
    }
    access::ensure(engine, &config.data_dir, config.ephemeral).await
}

/// The one line that stdout carries.
fn tell_ready(listen: SocketAddr, admin: SocketAddr) -> Result<(), StartError> {
    let line = serde_json::json!({
        "listen": listen.to_string(),
        "admin": admin.to_string(),
    });
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .map_err(|error| StartError::Io {
            what: "cannot write to stdout".to_owned(),
            error,
        })
}

/// Keeps the figures of the store's size current, which it takes whenever somebody asks for it.
async fn watch_usage(store: Arc<dyn Store>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(USAGE_PERIOD);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = store.usage().await {
            tracing::debug!(%error, "the size of the store is not known");
        }
    }
}

/// Keeps the figure of the bus current. It says nothing about readiness: a server without its bus
/// works on.
async fn watch_bus(bus: Arc<dyn Bus>, stop: CancellationToken) {
    let connected = metrics::gauge!("coretex_bus_connected", "engine" => bus.info().engine);
    let mut ticks = tokio::time::interval(HEALTH_PERIOD);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        connected.set(if bus.healthy() { 1.0 } else { 0.0 });
    }
}

/// Carries readiness over to the gRPC health service.
async fn watch_health(
    readiness: Arc<Readiness>,
    health: coretex_api::Health,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(HEALTH_PERIOD);
    let mut last = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let problem = readiness.problem().await;
        if problem != last {
            match &problem {
                Some(reason) => tracing::warn!(reason, "not ready"),
                None => tracing::info!("ready again"),
            }
            health.set_serving(problem.is_none()).await;
            last = problem;
        }
    }
}
