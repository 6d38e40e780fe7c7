//! How to reach NATS servers and who to be there. Everything is checked before the first connection,
//! and no secret is ever shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;

use super::NatsError;
use crate::bus::QUEUE_CAPACITY;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who to be at the servers. Files are read again for every connection, so that they may be
/// replaced while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    Password { user: String, password: Secret },
    Token(Secret),
    File(PathBuf),
    Nkey(PathBuf),
}

/// How to use NATS servers.
///
/// Only the servers named here are used: what a cluster tells about further ones is ignored, so that
/// credentials go nowhere else and the list does not grow. Name a DNS entry with several addresses,
/// or several servers.
///
/// ```
/// use coretex_bus::nats::NatsOptions;
///
/// let options = NatsOptions::new("nats://replica:secret@one:4222,nats://two")?;
/// assert_eq!(options.endpoint(), "nats://one:4222,nats://two:4222");
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), coretex_bus::nats::NatsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct NatsOptions {
    pub(super) servers: Vec<ServerAddr>,
    credentials: Vec<Credentials>,
    pub(super) tls: bool,
    pub(super) root_certificates: Option<PathBuf>,
    pub(super) client_certificate: Option<(PathBuf, PathBuf)>,
    pub(super) name: String,
    pub(super) startup_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) ping_interval: Duration,
    pub(super) max_backoff: Duration,
    pub(super) queue_capacity: usize,
    pub(super) seed: u64,
}

impl NatsOptions {
    /// Reads server addresses, separated by commas: `nats://host:port`, `tls://host:port`, with
    /// `user:password@` or `token@` before the host (the same for all of them). The port is 4222
    /// unless given. One `tls://` means TLS for all.
    ///
    /// # Errors
    /// [`NatsError::Options`], which never repeats an address.
    pub fn new(addresses: &str) -> Result<Self, NatsError> {
        let mut options = Self {
            servers: Vec::new(),
            credentials: Vec::new(),
            tls: false,
            root_certificates: None,
            client_certificate: None,
            name: "coretex".to_owned(),
            startup_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(2),
            max_backoff: Duration::from_secs(2),
            queue_capacity: QUEUE_CAPACITY,
            seed: 0,
        };
        for (number, address) in (1..).zip(addresses.split(',')) {
            options
                .add_server(address.trim())
                .map_err(|why| NatsError::Options(format!("server address {number}: {why}")))?;
        }
        Ok(options)
    }

    fn add_server(&mut self, address: &str) -> Result<(), String> {
        let parsed: ServerAddr = address.parse().map_err(|_| {
            "not of the form nats://[user:password@]host[:port] or tls://...".to_owned()
        })?;
        let scheme = parsed.scheme().to_owned();
        if !matches!(scheme.as_str(), "nats" | "tls") {
            return Err(format!("the scheme is nats or tls, not {scheme:?}"));
        }
        if parsed.host().is_empty() {
            return Err("the host is missing".to_owned());
        }
        if let Some(credentials) = credentials_of(&parsed)? {
            self.add_credentials(credentials);
        }
        self.tls |= scheme == "tls";
        let host = match parsed.host() {
            ip if ip.contains(':') => format!("[{ip}]"),
            name => name.to_owned(),
        };
        let plain = format!("{scheme}://{host}:{}", parsed.port());
        let url = parsed.into_inner();
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("nothing may follow the port".to_owned());
        }
        // The client logs the addresses it is given; this one has no secret in it.
        let plain = plain.parse().map_err(|_| "the host is not valid")?;
        self.servers.push(plain);
        Ok(())
    }

    fn add_credentials(&mut self, credentials: Credentials) {
        if !self.credentials.contains(&credentials) {
            self.credentials.push(credentials);
        }
    }

    /// Logs in with a user name and a password.
    #[must_use]
    pub fn password(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.add_credentials(Credentials::Password {
            user: user.into(),
            password: Secret(password.into()),
        });
        self
    }

    /// Logs in with a token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.add_credentials(Credentials::Token(Secret(token.into())));
        self
    }

    /// Logs in with a credentials file (`.creds`: a user's JWT and seed).
    #[must_use]
    pub fn credentials_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.add_credentials(Credentials::File(file.into()));
        self
    }

    /// Logs in with the seed in a file (nkey).
    #[must_use]
    pub fn nkey_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.add_credentials(Credentials::Nkey(file.into()));
        self
    }

    /// Trusts the certificates of this PEM file instead of those of the system, and asks for TLS.
    #[must_use]
    pub fn root_certificates(mut self, file: impl Into<PathBuf>) -> Self {
        self.root_certificates = Some(file.into());
        self.tls = true;
        self
    }

    /// Shows this certificate (PEM files of the chain and its key) to the servers, and asks for TLS.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.client_certificate = Some((certificate.into(), key.into()));
        self.tls = true;
        self
    }

    /// The name that the servers show for this connection. Default: `coretex`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long the start waits for a server that does not answer. Default: 10 s.
    #[must_use]
    pub fn startup_timeout(mut self, timeout: Duration) -> Self {
        self.startup_timeout = timeout;
        self
    }

    /// How long one try to connect may take. Default: 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How often a silent server is asked whether it is there. A server that stops answering
    /// without closing the connection is found out after three intervals. Default: 2 s.
    #[must_use]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval.max(Duration::from_millis(10));
        self
    }

    /// The longest pause between two tries to reconnect. Default: 2 s.
    #[must_use]
    pub fn max_backoff(mut self, pause: Duration) -> Self {
        self.max_backoff = pause;
        self
    }

    /// How many messages one subscription holds (at least 1). Default: as in every engine.
    #[must_use]
    pub fn queue_capacity(mut self, messages: usize) -> Self {
        self.queue_capacity = messages.max(1);
        self
    }

    /// Decides the jitter of the pauses and which server is tried first. Replicas that share a seed
    /// reconnect in step, so give each its own.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The servers, without credentials, for logs and status pages.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(endpoint_of).collect();
        servers.join(",")
    }

    /// Finds what can be found wrong without a server.
    pub(super) async fn check(&self) -> Result<(), NatsError> {
        if self.credentials.len() > 1 {
            return Err(NatsError::Options(
                "several different credentials are given; one is needed".to_owned(),
            ));
        }
        let mut files: Vec<(&Path, &str)> = Vec::new();
        files.extend(pem(self.root_certificates.as_ref(), "CERTIFICATE-----"));
        if let Some((certificate, key)) = &self.client_certificate {
            files.extend(pem(Some(certificate), "CERTIFICATE-----"));
            files.extend(pem(Some(key), "PRIVATE KEY-----"));
        }
        match self.credentials() {
            Some(Credentials::File(file)) => files.push((file, "NKEY SEED-----")),
            Some(Credentials::Nkey(file)) => files.push((file, "S")),
            Some(Credentials::Password { .. } | Credentials::Token(_)) | None => {}
        }
        for (file, must_contain) in files {
            let text = read(file).await?;
            if !text.contains(must_contain) {
                return Err(NatsError::Options(format!(
                    "{} does not contain what it should",
                    file.display()
                )));
            }
        }
        Ok(())
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.first()
    }
}

fn pem<'a>(file: Option<&'a PathBuf>, kind: &'static str) -> Option<(&'a Path, &'static str)> {
    file.map(|file| (file.as_path(), kind))
}

/// Reads a file of the options; the error names the file and never its contents.
pub(super) async fn read(file: &Path) -> Result<String, NatsError> {
    let read = tokio::fs::read_to_string(file).await;
    read.map_err(|error| NatsError::Options(format!("cannot read {}: {error}", file.display())))
}

/// `scheme://host:port`.
pub(super) fn endpoint_of(server: &ServerAddr) -> String {
    server.as_url_str().trim_end_matches('/').to_owned()
}

fn credentials_of(address: &ServerAddr) -> Result<Option<Credentials>, String> {
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_| "the credentials are not UTF-8".to_owned())
    };
    let Some(user) = address.username() else {
        return match address.password() {
            Some(_) => Err("a password needs a user name".to_owned()),
            None => Ok(None),
        };
    };
    let user = decode(user)?;
    Ok(Some(match address.password() {
        Some(password) => Credentials::Password {
            user,
            password: Secret(decode(password)?),
        },
        None => Credentials::Token(Secret(user)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_what_they_say_about_credentials() -> Result<(), NatsError> {
        let options = NatsOptions::new("nats://me:a%40b@one, tls://me:a%40b@[::1]:5000,three")?;
        assert_eq!(
            options.endpoint(),
            "nats://one:4222,tls://[::1]:5000,nats://three:4222"
        );
        assert!(options.tls);
        let password = Secret("a@b".to_owned());
        let user = "me".to_owned();
        assert_eq!(
            options.credentials,
            [Credentials::Password { user, password }]
        );
        let options = NatsOptions::new("nats://t0ken@one")?;
        let token = Credentials::Token(Secret("t0ken".to_owned()));
        assert_eq!(options.credentials, [token]);
        Ok(())
    }

    #[test]
    fn bad_addresses_are_refused_without_being_repeated() {
        for bad in [
            "",
            "nats://",
            "http://hidden@a",
            "ws://hidden@a",
            "nats://me:hidden@",
            "nats://me:hidden@a:port",
            "nats://me:hidden@a/path",
            "nats://me:hidden@a?b",
            "nats://:hidden@a",
            "nats://me:hidden@a,,b",
        ] {
            let Err(error) = NatsOptions::new(bad) else {
                panic!("{bad:?} was accepted");
            };
            assert!(!error.to_string().contains("hidden"), "{error}");
        }
    }

    #[tokio::test]
    async fn options_that_cannot_work_are_refused_before_connecting() -> Result<(), NatsError> {
        let two = NatsOptions::new("nats://a:hidden@one,nats://b:hidden@two")?;
        assert!(two.check().await.is_err());
        let both = NatsOptions::new("nats://a:hidden@one")?.token("hidden");
        assert!(both.check().await.is_err());
        assert!(!format!("{both:?}").contains("hidden"));
        let missing = NatsOptions::new("nats://a")?.root_certificates("/nowhere/ca.pem");
        let Err(error) = missing.check().await else {
            panic!("a missing file was accepted");
        };
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
        let wrong = NatsOptions::new("nats://a")?
            .root_certificates(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(wrong.check().await.is_err());
        Ok(())
    }
}
