//! Values that may hold a secret, which shows neither in `Debug` nor when they are printed.

use std::fmt;

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

    fn hidden(&self) -> String {
        let Self::Url(url) = self else {
            return self.scheme().to_owned();
        };
        // scheme://user:password@host/...: up to the last `@`, because a password that was not
        // escaped may hold `@` and `/`, and hiding too much is the lesser harm.
        let Some((scheme, rest)) = url.split_once("://") else {
            return url.clone();
        };
        let Some((user, host)) = rest.rsplit_once('@') else {
            return url.clone();
        };
        let user = match user.split_once(':') {
            Some((name, _)) => format!("{name}:{MASK}"),
            // A token alone, as NATS takes it.
            None => MASK.to_owned(),
        };
        format!("{scheme}://{user}@{host}")
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
        const SCHEMES: [&str; 4] = ["redis://", "rediss://", "nats://", "tls://"];
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
