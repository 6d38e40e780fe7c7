//! Values that may hold a secret, which shows neither in `Debug` nor when they are printed.

use std::fmt;

use coretex_bus::nats::NatsOptions;

use super::{Field, Input, from_text, list, quoted, show_list};

/// What stands where a secret was.
const MASK: &str = "********";

/// Metadata for another server, `name=value` each. Values are secret: `Debug` and
/// [`Field::masked`] hide them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Field for Headers {
    const FORM: &'static str = "list of `name=value` (outside of files: comma-separated)";

    fn read(input: Input<'_>) -> Result<Self, String> {
        let must = || "must be a list of `name=value`".to_owned();
        list(input)
            .map_err(|_| must())?
            .iter()
            .map(|item| {
                let (name, value) = item.split_once('=').ok_or_else(must)?;
                let good_name = name.parse::<http::HeaderName>().is_ok();
                let good_value = value.parse::<http::HeaderValue>().is_ok();
                if !(good_name && good_value) || name.ends_with("-bin") {
                    return Err(must());
                }
                Ok((name.to_lowercase(), value.to_owned()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn toml(&self) -> Option<String> {
        let items: Vec<_> = self.iter().map(|(n, v)| format!("{n}={v}")).collect();
        Some(show_list(items.iter().map(String::as_str)))
    }

    fn masked(&self) -> Option<String> {
        let items: Vec<_> = self.iter().map(|(n, _)| format!("{n}={MASK}")).collect();
        Some(show_list(items.iter().map(String::as_str)))
    }
}

/// The engine behind the store or the bus.
#[derive(Clone, PartialEq, Eq)]
pub enum Backend {
    /// Inside this process, by its name.
    Builtin(&'static str),
    /// A server, by its URL, which may hold a password: `Debug` and [`Field::masked`] hide it.
    Url(String),
}

impl Backend {
    /// The scheme of the URL, or the name.
    #[must_use]
    pub fn scheme(&self) -> &str {
        match self {
            Self::Builtin(name) => name,
            Self::Url(url) => url.split_once(':').map_or("", |(scheme, _)| scheme),
        }
    }

    /// The engine: several schemes are one.
    #[must_use]
    pub fn engine(&self) -> &str {
        match self.scheme() {
            "redis" | "rediss" | "redis+unix" => "redis",
            "nats" | "tls" => "nats",
            other => other,
        }
    }

    /// The URL with whatever is secret in it hidden, or the name.
    #[must_use]
    pub fn hidden(&self) -> String {
        let Self::Url(url) = self else {
            return self.scheme().to_owned();
        };
        match self.scheme() {
            "redis+unix" => hide_query(url),
            // Several servers, if it can be read as such; else as much as possible is hidden.
            "nats" | "tls" if NatsOptions::new(url).is_ok() => {
                let servers: Vec<_> = url.split(',').map(hide_login).collect();
                servers.join(",")
            }
            _ => hide_login(url),
        }
    }
}

/// `scheme://user:password@host/...`: up to the last `@`, because a password that was not escaped
/// may hold `@` and `/`, and hiding too much is the lesser harm.
fn hide_login(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        // The scheme of a further server may be left out.
        None => (String::new(), url),
    };
    let Some((user, host)) = rest.rsplit_once('@') else {
        return url.to_owned();
    };
    let user = match user.split_once(':') {
        Some((name, _)) => format!("{name}:{MASK}"),
        // A token alone, as NATS takes it.
        None => MASK.to_owned(),
    };
    format!("{scheme}{user}@{host}")
}

/// `redis+unix:///path?user=name&pass=word`: what stands behind `pass=`, to the end if need be,
/// because a password that was not escaped may hold `&`.
fn hide_query(url: &str) -> String {
    match url.split_once("pass=") {
        Some((before, secret)) => {
            let kept = ["&db=", "&user=", "&protocol="];
            let next = kept.iter().filter_map(|name| secret.rfind(name)).min();
            let after = next.map_or("", |at| &secret[at..]);
            format!("{before}pass={MASK}{after}")
        }
        None => url.to_owned(),
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hidden())
    }
}

impl Field for Backend {
    const FORM: &'static str = "name or URL";

    fn read(input: Input<'_>) -> Result<Self, String> {
        const SCHEMES: [&str; 5] = [
            "redis://",
            "rediss://",
            "redis+unix://",
            "nats://",
            "tls://",
        ];
        from_text(input, "a name or a URL", |text| match text {
            "embedded" => Ok(Self::Builtin("embedded")),
            "inproc" => Ok(Self::Builtin("inproc")),
            url if SCHEMES.iter().any(|scheme| url.starts_with(scheme)) => {
                Ok(Self::Url(url.to_owned()))
            }
            _ => Err("must be a known engine or a URL".to_owned()),
        })
    }

    fn toml(&self) -> Option<String> {
        Some(match self {
            Self::Builtin(name) => quoted(name),
            Self::Url(url) => quoted(url),
        })
    }

    fn masked(&self) -> Option<String> {
        Some(quoted(&self.hidden()))
    }
}
