//! Store and bus: which settings go with which engine, and with each other.

use std::time::Duration;

use coretex_bus::nats::NatsOptions;

use super::Checker;
use crate::config::value::{Backend, Durability, Size};
use crate::config::{BackendTls, Bus, Store};

/// Shorter is no time for a server to answer, on any network.
const SHORTEST: Duration = Duration::from_millis(10);
/// Whoever waits longer for a server than this is better told that it does not answer.
const LONGEST: Duration = Duration::from_secs(60);
/// What is sent again needs time for that before its caller gives up.
const LONGEST_COMMIT: Duration = Duration::from_secs(5);

/// How to log in, as far as it is set.
type Logins<'a> = [(&'a str, bool)];

impl Checker<'_> {
    pub(super) fn store(&mut self, store: &Store, ephemeral: bool) {
        let (url, wanted) = (&store.url, store.durability);
        if !["embedded", "redis"].contains(&url.engine()) {
            self.wrong(
                "store.url",
                "must be `embedded`, `redis://...`, `rediss://...` or `redis+unix://...`",
                None,
            );
            return;
        }
        if store.cache_size < Size::mebibytes(1) {
            self.wrong("store.cache_size", "must be at least 1MiB", None);
        }
        let logins = [
            ("store.user", store.user.is_some()),
            ("store.password_file", store.password_file.is_some()),
        ];
        let Backend::Url(text) = url else {
            self.not_of("store", "a Redis server", &logins, &store.tls);
            match wanted {
                Durability::Ephemeral => self.wrong(
                    "store.durability",
                    "is not `ephemeral` with the embedded store",
                    Some("`ephemeral = true` keeps it in memory"),
                ),
                Durability::Replicated => self.wrong(
                    "store.durability",
                    "is not `replicated` with the embedded store, which has no replicas",
                    Some("give the URL of a Redis server as `store.url`, or ask for `fsync`"),
                ),
                Durability::Fsync | Durability::Async => {}
            }
            return;
        };
        if ephemeral {
            self.wrong(
                "ephemeral",
                "is about the embedded store only",
                Some("`store.durability = \"ephemeral\"` takes a Redis server that keeps nothing"),
            );
        }
        if text.contains('#') {
            self.wrong(
                "store.url",
                "must have no `#`: certificates are always checked",
                Some("name the authority in `store.tls_ca`; a `#` in a password is written `%23`"),
            );
        }
        let in_url = text.contains('@') || text.contains("user=") || text.contains("pass=");
        self.login("store", store.user.is_some(), store.password_file.is_some());
        if in_url && logins.iter().any(|(_, set)| *set) {
            self.wrong(
                "store.url",
                "holds a login, and `store.password_file` is another one",
                Some("leave one of them out"),
            );
        }
        self.pair("store", &store.tls);
        if url.scheme() != "rediss" && store.tls != BackendTls::default() {
            self.wrong(
                "store.url",
                format!(
                    "is without TLS (`{}://`), and `store.tls_*` is set",
                    url.scheme()
                ),
                Some("write `rediss://`, or leave `store.tls_*` out"),
            );
        }
        self.store_times(store);
    }

    fn store_times(&mut self, store: &Store) {
        for (key, value, most) in [
            ("store.connect_timeout", store.connect_timeout, LONGEST),
            ("store.read_timeout", store.read_timeout, LONGEST),
            ("store.commit_timeout", store.commit_timeout, LONGEST_COMMIT),
            ("store.replica_timeout", store.replica_timeout, LONGEST),
        ] {
            self.within(key, value, SHORTEST, most);
        }
        if store.connections == 0 || store.connections > 1_000 {
            self.wrong("store.connections", "must be from 1 to 1000", None);
        }
        if store.durability == Durability::Replicated {
            if store.replicas == 0 || store.replicas > 100 {
                self.wrong("store.replicas", "must be from 1 to 100", None);
            }
            if store.replica_timeout >= store.commit_timeout {
                self.wrong(
                    "store.replica_timeout",
                    "must be shorter than `store.commit_timeout`",
                    None,
                );
            }
        } else if store.replicas != 1 {
            self.wrong(
                "store.replicas",
                "is waited for with `replicated` only",
                Some("set `store.durability = \"replicated\"`, or leave `store.replicas` out"),
            );
        }
    }

    pub(super) fn bus(&mut self, bus: &Bus) {
        let logins = [
            ("bus.user", bus.user.is_some()),
            ("bus.password_file", bus.password_file.is_some()),
            ("bus.credentials_file", bus.credentials_file.is_some()),
            ("bus.nkey_file", bus.nkey_file.is_some()),
        ];
        let text = match &bus.url {
            Backend::Builtin("inproc") => {
                self.not_of("bus", "a NATS server", &logins, &bus.tls);
                return;
            }
            Backend::Url(text) if bus.url.engine() == "nats" => text,
            Backend::Builtin(_) | Backend::Url(_) => {
                self.wrong(
                    "bus.url",
                    "must be `inproc`, `nats://...` or `tls://...`",
                    None,
                );
                return;
            }
        };
        if let Err(error) = NatsOptions::new(text) {
            self.wrong("bus.url", format!("cannot be used: {error}"), None);
        }
        self.login("bus", bus.user.is_some(), bus.password_file.is_some());
        let mut ways = vec![("bus.url", text.contains('@'))];
        ways.extend(logins.into_iter().filter(|(key, _)| *key != "bus.user"));
        let ways: Vec<&str> = ways
            .into_iter()
            .filter_map(|(key, set)| set.then_some(key))
            .collect();
        if let [first, _, ..] = ways.as_slice() {
            self.wrong(
                first,
                format!("is one of several logins: {}", ways.join(", ")),
                Some("leave all but one of them out"),
            );
        }
        self.pair("bus", &bus.tls);
        for (key, value) in [
            ("bus.connect_timeout", bus.connect_timeout),
            ("bus.ping_interval", bus.ping_interval),
            ("bus.max_backoff", bus.max_backoff),
        ] {
            self.within(key, value, SHORTEST, LONGEST);
        }
        self.within(
            "bus.startup_timeout",
            bus.startup_timeout,
            SHORTEST,
            Duration::from_secs(3_600),
        );
    }

    /// What is about a server is refused without one: who names a file with a password believes
    /// that it is used.
    fn not_of(&mut self, section: &str, server: &str, logins: &Logins<'_>, tls: &BackendTls) {
        let tls = [
            ("tls_ca", tls.ca.is_some()),
            ("tls_cert", tls.cert.is_some()),
            ("tls_key", tls.key.is_some()),
        ];
        let tls = tls.map(|(name, set)| (format!("{section}.{name}"), set));
        let logins = logins.iter().map(|(key, set)| ((*key).to_owned(), *set));
        let set: Vec<String> = logins
            .chain(tls)
            .filter_map(|(key, set)| set.then_some(key))
            .collect();
        for key in set {
            self.wrong(
                &key,
                format!("is about {server}, and `{section}.url` names none"),
                Some("give its URL, or leave this out"),
            );
        }
    }

    fn login(&mut self, section: &str, user: bool, password: bool) {
        if user && !password {
            self.wrong(
                &format!("{section}.user"),
                format!("needs `{section}.password_file`"),
                None,
            );
        }
    }

    /// A certificate and its key come together.
    fn pair(&mut self, section: &str, tls: &BackendTls) {
        let (cert, key) = (format!("{section}.tls_cert"), format!("{section}.tls_key"));
        match (&tls.cert, &tls.key) {
            (Some(_), None) => self.wrong(&cert, format!("needs `{key}`"), None),
            (None, Some(_)) => self.wrong(&key, format!("needs `{cert}`"), None),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}
