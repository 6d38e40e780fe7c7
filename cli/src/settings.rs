//! What the command line, the environment and the configuration file say about the server, and
//! which key is used.
//!
//! A key comes from the flag, else the environment, else the profile, else from the file that a
//! server on this machine has written for its first administrator. The last is sent to no other
//! machine.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coretex::Client;
use serde::Deserialize;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Ui;

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
/// The profile that is used when none is named, if it exists.
const DEFAULT_PROFILE: &str = "default";
/// A key is some dozens of bytes; whatever is larger is not one.
const MAX_KEY_FILE: u64 = 4_096;

/// The configuration file, `$XDG_CONFIG_HOME/coretex/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    /// The profile to use when none is named.
    default_profile: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// How to reach one server.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    server: Option<String>,
    api_key: Option<String>,
    ca_file: Option<PathBuf>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("Profile")
            .field("server", &self.server)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// Where the key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    None,
    /// The flag or the environment.
    Given,
    Profile(String),
    AdminKey(PathBuf),
}

/// What a command needs to talk to the server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) server: String,
    pub(crate) key: KeySource,
}

impl Connection {
    /// Adds to a failure about the credential where the credential came from.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let reason = failure.reason().to_owned();
        failure.or_hint(|| match (reason.as_str(), &self.key) {
            ("CREDENTIAL_MISSING", _) => Some(
                "give a key with --api-key, CORETEX_API_KEY or a profile; a server writes its \
                 first one to admin.key in its data directory"
                    .to_owned(),
            ),
            ("CREDENTIAL_INVALID", KeySource::AdminKey(path)) => Some(format!(
                "the key was taken from {}; another server may have written it, so give one \
                 with --api-key or CORETEX_API_KEY",
                path.display()
            )),
            ("CREDENTIAL_INVALID", KeySource::Profile(name)) => {
                Some(format!("the key was taken from the profile {name}"))
            }
            _ => None,
        })
    }
}

/// Works out how to reach the server. Must be called inside a runtime.
pub(crate) fn connect(global: &Global, ui: &Ui) -> Result<Connection, Failure> {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let (name, profile) = profile(given(&global.profile), ui)?;
    let server = given(&global.server).or_else(|| profile.server.clone());
    let server = server.unwrap_or_else(|| DEFAULT_SERVER.to_owned());
    let (api_key, source) = match (given(&global.api_key), profile.api_key) {
        (Some(key), _) => (Some(key), KeySource::Given),
        (None, Some(key)) => (Some(key), KeySource::Profile(name)),
        (None, None) => match admin_key(&server)? {
            Some((key, path)) => (Some(key), KeySource::AdminKey(path)),
            None => (None, KeySource::None),
        },
    };
    let mut builder = Client::builder()
        .server(server.as_str())
        .user_agent(concat!("coretexctl/", env!("CARGO_PKG_VERSION")));
    if let Some(key) = api_key {
        builder = builder.api_key(key);
    }
    if let Some(path) = global.ca_file.as_ref().or(profile.ca_file.as_ref()) {
        let pem = fs::read(path).map_err(|error| cannot_read(path, &error))?;
        builder = builder.ca_certificate(pem);
    }
    Ok(Connection {
        client: builder.build()?,
        server,
        key: source,
    })
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}", path.display())).cause(error)
}

/// A folder of the XDG kind: the variable if it is set to something absolute, else below home.
fn xdg(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home)))
}

fn profile(named: Option<String>, ui: &Ui) -> Result<(String, Profile), Failure> {
    let path = xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("coretex/config.toml"));
    let mut config = ConfigFile::default();
    if let Some(path) = &path {
        match fs::read_to_string(path) {
            Ok(text) => config = parse(path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot_read(path, &error)),
        }
    }
    let asked = named.or_else(|| config.default_profile.clone());
    let name = asked.clone().unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
    let Some(profile) = config.profiles.remove(&name) else {
        if asked.is_none() {
            return Ok((name, Profile::default()));
        }
        let known: Vec<&str> = config.profiles.keys().map(String::as_str).collect();
        let file = path.map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
        let failure = Failure::usage(format!("there is no profile {name}"));
        return Err(failure.hint(if known.is_empty() {
            format!("describe it in {file}: [profiles.{name}]")
        } else {
            format!("{file} describes {}", known.join(", "))
        }));
    };
    if let (Some(_), Some(path)) = (&profile.api_key, &path)
        && let Ok(metadata) = fs::metadata(path)
        && metadata.mode() & 0o077 != 0
    {
        ui.note(&format!(
            "warning: {} holds an api key and can be read by others: chmod 600 it",
            path.display()
        ));
    }
    Ok((name, profile))
}

fn parse(path: &Path, text: &str) -> Result<ConfigFile, Failure> {
    toml::from_str(text).map_err(|error| {
        // The message alone: the excerpt of the file that goes with it may show a key.
        let line = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or_default();
            format!(":{}", before.matches('\n').count() + 1)
        });
        let place = format!("{}{}", path.display(), line.unwrap_or_default());
        Failure::usage(format!("{place}: {}", error.message()))
    })
}

/// Whether a server address means this machine.
fn is_local(server: &str) -> bool {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The key that a server on this machine has left for its administrator.
fn admin_key(server: &str) -> Result<Option<(String, PathBuf)>, Failure> {
    if !is_local(server) {
        return Ok(None);
    }
    let data_dir = match env::var_os("CORETEX_DATA_DIR") {
        Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir)),
        _ => xdg("XDG_DATA_HOME", ".local/share").map(|dir| dir.join("coretex")),
    };
    let Some(path) = data_dir.map(|dir| dir.join("admin.key")) else {
        return Ok(None);
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        // Another user's server, or none: the call will say whether a key is needed.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(cannot_read(&path, &error)),
    };
    // Asked of the open file, so that it is the one that is read.
    let metadata = file
        .metadata()
        .map_err(|error| cannot_read(&path, &error))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("{} can be read by others (mode {mode:03o})", path.display());
        return Err(Failure::usage(message).hint(format!(
            "chmod 600 {}; if others had access, revoke the key",
            path.display()
        )));
    }
    let mut key = String::new();
    file.take(MAX_KEY_FILE)
        .read_to_string(&mut key)
        .map_err(|error| cannot_read(&path, &error))?;
    let key = key.trim().to_owned();
    Ok((!key.is_empty()).then_some((key, path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_local() {
        for local in [
            "http://127.0.0.1:50051",
            "127.0.0.1:1",
            "http://localhost",
            "https://[::1]:5/",
            "LOCALHOST:7",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "http://10.0.0.1:50051",
            "https://localhost.example.com",
            "example.com:1",
            "http://[2001:db8::1]:1",
            "",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_keys_stay_out_of_messages() {
        let path = Path::new("config.toml");
        let bad = "[profiles.a]\napi_key = \"secret\"\nsrever = \"x\"\n";
        let failure = parse(path, bad).err();
        let text = format!("{failure:?}");
        assert!(text.contains("config.toml:3"), "{text}");
        assert!(
            text.contains("srever") && !text.contains("secret"),
            "{text}"
        );
        let torn = parse(path, "[profiles.a]\napi_key = secret\n").err();
        assert!(torn.is_some() && !format!("{torn:?}").contains("secret"));
        let good = parse(
            path,
            "default_profile = \"a\"\n[profiles.a]\nserver = \"x:1\"\n",
        );
        assert!(good.is_ok_and(|config| config.profiles.contains_key("a")));
    }
}
