//! What values must keep, alone and together. Each complaint names the key and its origin.

use std::time::Duration;

use coretex_engine::{MAX_CANCEL_GRACE, MAX_PAYLOAD_LIMIT};
use tracing_subscriber::EnvFilter;

use super::error::Problem;
use super::load::{Origin, Origins};
use super::value::{Size, show_duration};
use super::{Config, Limits, Timing};

mod backends;

/// Everything that is wrong with `config`.
pub(super) fn check(config: &Config, origins: &Origins) -> Vec<Problem> {
    let mut checker = Checker {
        origins,
        problems: Vec::new(),
    };
    checker.addresses(config);
    checker.store(&config.store, config.ephemeral);
    checker.bus(&config.bus);
    checker.tls(config);
    checker.clients(config);
    checker.limits(&config.limits);
    checker.timing(config);
    checker.policy(config);
    checker.problems
}

struct Checker<'a> {
    origins: &'a Origins,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    /// The complaint, at the origin of `key`.
    fn wrong(&mut self, key: &str, message: impl AsRef<str>, hint: Option<&str>) {
        let place = match self.origins.get(key) {
            None | Some(Origin::Default) => String::new(),
            Some(Origin::Env(name)) => (*name).to_owned(),
            Some(origin) => origin.to_string(),
        };
        let problem = Problem::new(place, format!("`{key}` {}", message.as_ref()));
        self.problems.push(match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    }

    fn within(&mut self, key: &str, value: Duration, least: Duration, most: Duration) {
        if value < least || value > most {
            let (least, most) = (show_duration(least), show_duration(most));
            self.wrong(key, format!("must be from {least} to {most}"), None);
        }
    }

    fn policy(&mut self, config: &Config) {
        let policy = &config.policy;
        if policy.require_signatures && policy.trusted_keys.is_none() {
            self.wrong(
                "policy.require_signatures",
                "needs `policy.trusted_keys`",
                Some("without keys no signature counts, and every job would wait"),
            );
        }
        if policy.require_signatures && config.dev {
            self.wrong(
                "policy.require_signatures",
                "cannot be used with `dev`, whose own bundle has no signature",
                None,
            );
        }
    }

    fn addresses(&mut self, config: &Config) {
        if config.data_dir.as_os_str().is_empty() {
            self.wrong(
                "data_dir",
                "has no default here, because neither XDG_DATA_HOME nor HOME is set",
                Some("give --data-dir DIR"),
            );
        }
        if config.listen == config.admin_listen && config.listen.port() != 0 {
            self.wrong("admin_listen", "must differ from `listen`", None);
        }
        if config.listen.ip().is_loopback() {
            return;
        }
        if config.dev {
            self.wrong(
                "dev",
                format!(
                    "is refused on {}: without credentials only loopback is served",
                    config.listen
                ),
                Some("listen on 127.0.0.1, or leave --dev out and use API keys"),
            );
        }
        if !config.tls.enabled() && !config.allow_plaintext {
            self.wrong(
                "listen",
                format!("is not loopback ({}), and TLS is off", config.listen),
                Some(
                    "set tls.cert and tls.key, or allow_plaintext = true when something in front \
                     of the server ends TLS",
                ),
            );
        }
    }

    fn tls(&mut self, config: &Config) {
        let tls = &config.tls;
        match (&tls.cert, &tls.key) {
            (Some(_), None) => self.wrong("tls.cert", "needs `tls.key`", None),
            (None, Some(_)) => self.wrong("tls.key", "needs `tls.cert`", None),
            (None, None) if tls.client_ca.is_some() => {
                self.wrong("tls.client_ca", "needs `tls.cert` and `tls.key`", None);
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    fn clients(&mut self, config: &Config) {
        for origin in &config.cors.origins {
            let host = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"));
            let good = host.is_some_and(|host| {
                !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ', '*'])
            });
            if !good {
                self.wrong(
                    "cors.origins",
                    "must hold origins such as `https://console.example.com`, without a path",
                    None,
                );
            }
        }
        if let Err(error) = EnvFilter::try_new(&config.log.filter) {
            self.wrong("log.filter", format!("is not a filter: {error}"), None);
        }
        if let Some(endpoint) = &config.otlp.endpoint {
            let scheme = endpoint.starts_with("http://") || endpoint.starts_with("https://");
            if !scheme || endpoint.parse::<http::Uri>().is_err() {
                self.wrong(
                    "otlp.endpoint",
                    "must be a URL such as `http://127.0.0.1:4317`",
                    None,
                );
            }
        }
    }

    fn limits(&mut self, limits: &Limits) {
        let payload = limits.max_payload;
        let most = Size::bytes(MAX_PAYLOAD_LIMIT as u64);
        if payload < Size::bytes(1024) || payload > most {
            self.wrong(
                "limits.max_payload",
                format!("must be from 1KiB to {most}"),
                Some("an answer may hold an input and an output, and stays below 3.5MiB"),
            );
        }
        let counts = [
            (
                "limits.max_waiting_jobs",
                limits.max_waiting_jobs,
                100_000_000,
            ),
            ("limits.max_sessions", limits.max_sessions.into(), 1_000_000),
            (
                "limits.max_parallel_jobs",
                limits.max_parallel_jobs.into(),
                100_000,
            ),
            ("limits.max_watches", limits.max_watches.into(), 1_000_000),
            (
                "limits.max_connections",
                limits.max_connections.into(),
                1_000_000,
            ),
        ];
        for (key, value, most) in counts {
            if value == 0 || value > most {
                self.wrong(key, format!("must be from 1 to {most}"), None);
            }
        }
    }

    fn timing(&mut self, config: &Config) {
        let Timing {
            adoption_window,
            heartbeat_interval,
            heartbeat_timeout,
            cancel_grace,
            priority_rise,
            drain_timeout,
        } = config.timing;
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
        self.within("timing.adoption_window", adoption_window, second, hour);
        self.within(
            "timing.heartbeat_interval",
            heartbeat_interval,
            second,
            Duration::from_secs(600),
        );
        self.within(
            "timing.cancel_grace",
            cancel_grace,
            Duration::ZERO,
            MAX_CANCEL_GRACE,
        );
        let week = hour * 24 * 7;
        self.within("timing.priority_rise", priority_rise, Duration::ZERO, week);
        self.within("timing.drain_timeout", drain_timeout, second, hour);
        if heartbeat_timeout < heartbeat_interval * 2 {
            self.wrong(
                "timing.heartbeat_timeout",
                "must be at least twice `timing.heartbeat_interval`",
                None,
            );
        }
        let years = Duration::from_secs(3_650 * 24 * 3_600);
        self.within("retention.jobs", config.retention.jobs, second, years);
        let dead_letters = config.retention.dead_letters;
        self.within("retention.dead_letters", dead_letters, second, years);
        if config.retention.log_entries == 0 {
            self.wrong("retention.log_entries", "must be at least 1", None);
        }
        if config.retention.deletes_per_second == 0 {
            self.wrong("retention.deletes_per_second", "must be at least 1", None);
        }
    }
}
