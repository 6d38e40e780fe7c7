//! The engines behind store and bus: chosen by the configuration, opened, wrapped in layers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coretex_bus::nats::{NatsBus, NatsOptions};
use coretex_bus::{Bus, InProcBus};
use coretex_core::time::{Clock, IdGen};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, VERIFIED_BYTES};
use coretex_store::layers::{GroupFigures, Metered, Resend, ResendPolicy};
use coretex_store::redis::{RedisOptions, RedisStore, RedisTls};
use coretex_store::{Durability, Store};

use crate::config::{self, Backend, BackendTls, Config};
use crate::error::StartError;
use crate::readiness::Readiness;
use crate::url;

/// What the engines are told that is no setting.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) ids: &'a Arc<dyn IdGen>,
    pub(crate) readiness: &'a Arc<Readiness>,
}

/// Store and bus, ready for use.
#[derive(Debug)]
pub(crate) struct Backends {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) servers: Arc<Servers>,
}

/// The engines that have a server of their own behind them, without layers.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    redis: Option<Arc<RedisStore>>,
    nats: Option<Arc<NatsBus>>,
}

impl coretex_api::Backends for Servers {
    fn store_version(&self) -> String {
        let redis = self.redis.as_ref();
        redis.map_or_else(String::new, |redis| redis.server_version())
    }

    fn bus_version(&self) -> String {
        let nats = self.nats.as_ref();
        nats.map_or_else(String::new, |nats| nats.server_version())
    }
}

/// Opens both.
pub(crate) async fn open(config: &Config, sources: &Sources<'_>) -> Result<Backends, StartError> {
    warn_of_odd_pairs(config);
    // What is wrong with the settings of the bus is found before anything is opened.
    let bus_options = nats_options(config, sources.ids)?;
    let mut servers = Servers::default();
    sources.readiness.progress("opening the store");
    let store: Arc<dyn Store> = match &config.store.url {
        Backend::Builtin(_) => embedded(config, sources).await?,
        Backend::Url(url) => {
            let redis = redis(config, url, sources.ids).await?;
            servers.redis = Some(Arc::clone(&redis));
            redis
        }
    };
    let bus: Arc<dyn Bus> = match bus_options {
        None => Arc::new(InProcBus::new()),
        Some(options) => {
            sources.readiness.progress("connecting to the bus");
            match Box::pin(NatsBus::connect(options)).await {
                Ok(nats) => {
                    let nats = Arc::new(nats);
                    servers.nats = Some(Arc::clone(&nats));
                    nats
                }
                Err(error) => {
                    store.close(crate::server::CLOSING).await;
                    return Err(StartError::nats(&config.bus, error));
                }
            }
        }
    };
    // Figures are of single sends, so they stand inside of what sends again.
    let metered = Metered::new(store);
    Ok(Backends {
        store: Arc::new(Resend::new(Arc::new(metered), ResendPolicy::default())),
        bus,
        servers: Arc::new(servers),
    })
}

/// These work, and are hardly what was meant.
fn warn_of_odd_pairs(config: &Config) {
    match (config.store.url.engine(), config.bus.url.engine()) {
        ("redis", "inproc") => tracing::warn!(
            "the bus is inside this process: other replicas on this store hear nothing from it and \
             find new work by looking, once a second; set `bus.url`"
        ),
        ("embedded", "nats") => tracing::warn!(
            "nobody else can use the embedded store, so nobody listens on the bus; set `store.url` \
             or leave `bus.url` out"
        ),
        _ => {}
    }
}

/// What the store promises, before it is open.
pub(crate) const fn durability(config: &Config) -> Durability {
    if config.ephemeral {
        return Durability::Ephemeral;
    }
    match config.store.durability {
        config::Durability::Fsync => Durability::Fsync,
        config::Durability::Replicated => Durability::Replicated,
        config::Durability::Async => Durability::Async,
        config::Durability::Ephemeral => Durability::Ephemeral,
    }
}

async fn embedded(
    config: &Config,
    sources: &Sources<'_>,
) -> Result<Arc<EmbeddedStore>, StartError> {
    let (clock, id) = (Arc::clone(sources.clock), sources.ids.random());
    let mut options = if config.ephemeral {
        EmbeddedOptions::memory(clock, id)
    } else {
        EmbeddedOptions {
            durability: durability(config),
            ..EmbeddedOptions::directory(&config.data_dir, clock, id)
        }
    };
    options.observer = Some(Arc::new(GroupFigures::new("embedded")));
    options.cache_bytes = config.store.cache_size.as_usize();
    let observer = Arc::clone(sources.readiness);
    options.on_repair = Some(Arc::new(move |progress| {
        let percent = (progress.fraction * 100.0) as u32;
        // A small one is verified at every start.
        if progress.file_bytes > VERIFIED_BYTES {
            tracing::info!(
                percent,
                file_bytes = progress.file_bytes,
                "the store was not closed; verifying it"
            );
        }
        observer.progress(format!("verifying the store: {percent} %"));
    }));
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(options));
    match opened.await {
        Ok(Ok(store)) => Ok(Arc::new(store)),
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(StartError::Io {
            what: "opening the store failed".to_owned(),
            error: io::Error::other(error),
        }),
    }
}

async fn redis(
    config: &Config,
    url: &str,
    ids: &Arc<dyn IdGen>,
) -> Result<Arc<RedisStore>, StartError> {
    let settings = &config.store;
    let password = password("store.password_file", settings.password_file.as_deref())?;
    let url = match &password {
        Some(password) => url::with_login(url, settings.user.as_deref(), password),
        None => url.to_owned(),
    };
    let mut options = RedisOptions::new(url, Arc::clone(ids));
    options.tls = redis_tls(&settings.tls)?;
    options.durability = durability(config);
    options.replicas = settings.replicas;
    options.replica_timeout = settings.replica_timeout;
    options.connect_timeout = settings.connect_timeout;
    options.read_timeout = settings.read_timeout;
    options.commit_timeout = settings.commit_timeout;
    options.connections = settings.connections as usize;
    options.observer = Some(Arc::new(GroupFigures::new("redis")));
    match Box::pin(RedisStore::open(options)).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(StartError::redis(settings, error)),
    }
}

fn redis_tls(tls: &BackendTls) -> Result<RedisTls, StartError> {
    let pem = |key, path: &Option<PathBuf>| match path {
        Some(path) => crate::grpc::pem(key, path).map(Some),
        None => Ok(None),
    };
    let certificate = pem("store.tls_cert", &tls.cert)?;
    Ok(RedisTls {
        ca: pem("store.tls_ca", &tls.ca)?,
        identity: certificate.zip(pem("store.tls_key", &tls.key)?),
    })
}

/// How to reach the NATS servers; `None` where the bus is inside this process.
fn nats_options(config: &Config, ids: &Arc<dyn IdGen>) -> Result<Option<NatsOptions>, StartError> {
    let settings = &config.bus;
    let Backend::Url(url) = &settings.url else {
        return Ok(None);
    };
    let refused = |error| StartError::nats(settings, error);
    let mut options = NatsOptions::new(url)
        .map_err(refused)?
        .name(format!("coretexd {}", config.listen))
        .startup_timeout(settings.startup_timeout)
        .connect_timeout(settings.connect_timeout)
        .ping_interval(settings.ping_interval)
        .max_backoff(settings.max_backoff)
        // Replicas that lose a server together come back one after the other.
        .seed(ids.random() as u64);
    let password = password("bus.password_file", settings.password_file.as_deref())?;
    options = match (&settings.user, password) {
        (Some(user), Some(password)) => options.password(user, password),
        (None, Some(token)) => options.token(token),
        (_, None) => options,
    };
    if let Some(file) = &settings.credentials_file {
        options = options.credentials_file(file);
    }
    if let Some(file) = &settings.nkey_file {
        options = options.nkey_file(file);
    }
    if let Some(file) = &settings.tls.ca {
        options = options.root_certificates(file);
    }
    if let (Some(certificate), Some(key)) = (&settings.tls.cert, &settings.tls.key) {
        options = options.client_certificate(certificate, key);
    }
    Ok(Some(options))
}

/// The first line of a file with a password.
fn password(key: &'static str, path: Option<&Path>) -> Result<Option<String>, StartError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let refuse = |reason: String| StartError::Setting {
        key,
        reason: format!("{}: {reason}", path.display()),
    };
    let text = fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(Some(password.to_owned())),
        _ => Err(refuse("the first line, the password, is empty".to_owned())),
    }
}
