//! The first lines on stderr: what runs where, and what to try next.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use coretex_api::Backends;
use coretex_bus::BusInfo;
use coretex_store::{Durability, StoreInfo};

use crate::access::Access;
use crate::config::{Backend, Config, LogFormat};

/// What is known once the server is up.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) store: StoreInfo,
    pub(crate) bus: BusInfo,
    pub(crate) servers: &'a dyn Backends,
    pub(crate) access: &'a Access,
    /// The data directory is where clients look by themselves.
    pub(crate) default_data_dir: bool,
}

pub(crate) const fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Ephemeral => "ephemeral",
        Durability::Async => "async",
        Durability::Replicated => "replicated",
        Durability::Fsync => "fsync",
    }
}

/// Says it: as a few lines for people, or as one event for machines.
pub(crate) fn show(facts: &Facts<'_>) {
    let config = facts.config;
    if config.log.format == LogFormat::Pretty {
        // Who wants warnings only wants no banner either.
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        // Nobody to tell is no reason to stop.
        let _told = io::stderr().write_all(lines(facts).as_bytes());
        return;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %facts.listen,
        admin = %facts.admin,
        tls = config.tls.enabled(),
        dev = config.dev,
        data_dir = %config.data_dir.display(),
        store = facts.store.engine,
        store_version = facts.servers.store_version(),
        durability = durability(facts.store.durability),
        bus = facts.bus.engine,
        bus_version = facts.servers.bus_version(),
        "ready"
    );
}

fn lines(facts: &Facts<'_>) -> String {
    let scheme = if facts.config.tls.enabled() {
        "https"
    } else {
        "http"
    };
    let (listen, admin) = (facts.listen, facts.admin);
    let (store, bus) = (store(facts), bus(facts));
    let mut text = format!("\n  coretexd {} is ready\n\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: &str| {
        let _written = writeln!(text, "  {name:<8}{value}");
    };
    line("grpc", &format!("{scheme}://{listen}"));
    line(
        "admin",
        &format!("http://{admin} (/metrics /livez /readyz)"),
    );
    line("store", &store);
    line("bus", &bus);
    match facts.access {
        Access::Open => line(
            "access",
            "development mode: no credentials, every job is allowed",
        ),
        Access::Key { path, .. } => line("access", &format!("admin key in {}", path.display())),
        Access::Elsewhere { path } => line(
            "access",
            &format!("API keys; the first admin key is not in {}", path.display()),
        ),
    }
    if let Access::Key {
        shown: Some(secret),
        ..
    } = facts.access
    {
        line("", secret);
    }
    // The client knows the default port and looks for the key in the default directory.
    let server = if listen.port() == 50_051 && !facts.config.tls.enabled() {
        String::new()
    } else {
        format!(" --server {scheme}://{listen}")
    };
    let key = match facts.access {
        Access::Key { path, .. } if !facts.default_data_dir => {
            format!(" --api-key \"$(cat '{}')\"", path.display())
        }
        Access::Open | Access::Key { .. } | Access::Elsewhere { .. } => String::new(),
    };
    text.push_str("\n  try it:\n");
    for command in [
        "worker exec --topic job.wc -- wc -w",
        "job submit --topic job.wc --input '\"to be or not to be\"' --wait",
        "status",
    ] {
        let _written = writeln!(text, "    coretexctl{server}{key} {command}");
    }
    text.push('\n');
    text
}

fn store(facts: &Facts<'_>) -> String {
    let url = &facts.config.store.url;
    let (engine, version) = (facts.store.engine, facts.servers.store_version());
    match (url, facts.store.durability) {
        (Backend::Url(_), kept) => {
            format!("{engine} {version}, {}, {}", durability(kept), url.hidden())
        }
        (Backend::Builtin(_), Durability::Ephemeral) => {
            "embedded, in memory: gone when the server stops".to_owned()
        }
        (Backend::Builtin(_), kept) => {
            let folder = facts.config.data_dir.display();
            format!("{engine}, {}, in {folder}", durability(kept))
        }
    }
}

fn bus(facts: &Facts<'_>) -> String {
    let BusInfo {
        engine, endpoint, ..
    } = &facts.bus;
    match endpoint.as_str() {
        "" => (*engine).to_owned(),
        endpoint => format!("{engine} {}, {endpoint}", facts.servers.bus_version()),
    }
}
