//! The forms that values take in a file, in a variable and in a flag.
//!
//! Every type reads from both a text (variables, flags) and a TOML value, and prints itself as
//! TOML that reads back equal. Errors say what would be right and never repeat the value: it may
//! be a secret that was written at the wrong place.

mod secret;
mod units;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use toml::de::DeValue;

pub use secret::{Backend, Headers};
pub use units::Size;
pub(crate) use units::{parse_rate, show_duration, show_rate};

/// A value as it was written.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// From a variable or a flag.
    Text(&'a str),
    /// From a file.
    Toml(&'a DeValue<'a>),
}

/// A type that a key can have.
pub trait Field: Sized {
    /// Its form, for the reference.
    const FORM: &'static str;

    /// Reads a value.
    ///
    /// # Errors
    /// What the value must be.
    fn read(input: Input<'_>) -> Result<Self, String>;

    /// The value as TOML; `None` = not set.
    fn toml(&self) -> Option<String>;

    /// The value as TOML without what must stay secret. Still reads back.
    fn masked(&self) -> Option<String> {
        self.toml()
    }
}

/// A text as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Reads a type that is a text in every source.
fn from_text<T>(
    input: Input<'_>,
    must: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, String> {
    match input {
        Input::Text(text) => parse(text),
        Input::Toml(DeValue::String(text)) => parse(text),
        Input::Toml(_) => Err(format!("must be {must}, in quotes")),
    }
}

impl Field for bool {
    const FORM: &'static str = "true or false";

    fn read(input: Input<'_>) -> Result<Self, String> {
        match input {
            Input::Toml(DeValue::Boolean(value)) => Ok(*value),
            Input::Text("true" | "1" | "yes" | "on") => Ok(true),
            Input::Text("false" | "0" | "no" | "off") => Ok(false),
            Input::Text(_) | Input::Toml(_) => Err("must be `true` or `false`".to_owned()),
        }
    }

    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Reads a whole number. TOML allows `100_000`; so do variables and flags here.
fn whole(input: Input<'_>) -> Option<u64> {
    match input {
        Input::Text(text) => text.replace('_', "").parse().ok(),
        Input::Toml(DeValue::Integer(number)) => {
            u64::from_str_radix(number.as_str(), number.radix()).ok()
        }
        Input::Toml(_) => None,
    }
}

impl Field for u64 {
    const FORM: &'static str = "number";

    fn read(input: Input<'_>) -> Result<Self, String> {
        whole(input).ok_or_else(|| "must be a whole number".to_owned())
    }

    fn toml(&self) -> Option<String> {
        // TOML readers promise 63 bits only.
        i64::try_from(*self).ok().map(|number| number.to_string())
    }
}

impl Field for u32 {
    const FORM: &'static str = "number";

    fn read(input: Input<'_>) -> Result<Self, String> {
        whole(input)
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| format!("must be a whole number up to {}", Self::MAX))
    }

    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Field for f64 {
    const FORM: &'static str = "number from 0 to 1";

    fn read(input: Input<'_>) -> Result<Self, String> {
        let number = match input {
            Input::Text(text) => text.parse().ok(),
            Input::Toml(DeValue::Float(number)) => number.as_str().parse().ok(),
            Input::Toml(DeValue::Integer(number)) => number.as_str().parse().ok(),
            Input::Toml(_) => None,
        };
        number
            .filter(|number| (0.0..=1.0).contains(number))
            .ok_or_else(|| "must be a number from 0 to 1".to_owned())
    }

    fn toml(&self) -> Option<String> {
        // `{:?}` keeps the point, so that it stays a float: `1.0`.
        Some(format!("{self:?}"))
    }
}
impl Field for SocketAddr {
    const FORM: &'static str = "address and port";

    fn read(input: Input<'_>) -> Result<Self, String> {
        let must = "an IP address and a port such as `127.0.0.1:50051`";
        from_text(input, must, |text| {
            let local = text
                .strip_prefix("localhost:")
                .and_then(|port| port.parse().ok())
                .map(|port| Self::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
            local
                .or_else(|| text.parse().ok())
                .ok_or_else(|| format!("must be {must}"))
        })
    }

    fn toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl Field for String {
    const FORM: &'static str = "text";

    fn read(input: Input<'_>) -> Result<Self, String> {
        from_text(input, "a text", |text| Ok(text.to_owned()))
    }

    fn toml(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Field for PathBuf {
    const FORM: &'static str = "path";

    fn read(input: Input<'_>) -> Result<Self, String> {
        from_text(input, "a path", |text| {
            if text.is_empty() {
                return Err("must not be empty".to_owned());
            }
            Ok(Self::from(text))
        })
    }

    fn toml(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl<T: Field> Field for Option<T> {
    const FORM: &'static str = T::FORM;

    fn read(input: Input<'_>) -> Result<Self, String> {
        T::read(input).map(Some)
    }

    fn toml(&self) -> Option<String> {
        self.as_ref().and_then(Field::toml)
    }

    fn masked(&self) -> Option<String> {
        self.as_ref().and_then(Field::masked)
    }
}

/// Reads a list: comma-separated outside of files.
fn list(input: Input<'_>) -> Result<Vec<String>, String> {
    let must = || "must be a list of texts".to_owned();
    match input {
        Input::Text(text) => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(ToOwned::to_owned)
            .collect()),
        Input::Toml(DeValue::Array(items)) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err(must()),
            })
            .collect(),
        Input::Toml(_) => Err(must()),
    }
}

/// A list of texts as TOML.
pub(super) fn show_list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<_> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

impl Field for Vec<String> {
    const FORM: &'static str = "list (outside of files: comma-separated)";

    fn read(input: Input<'_>) -> Result<Self, String> {
        list(input)
    }

    fn toml(&self) -> Option<String> {
        Some(show_list(self.iter().map(String::as_str)))
    }
}
/// A closed set of words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ } $form:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// The word for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Field for $name {
            const FORM: &'static str = $form;

            fn read(input: Input<'_>) -> Result<Self, String> {
                from_text(input, concat!("one of ", $form), |text| match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(concat!("must be ", $form).to_owned()),
                })
            }

            fn toml(&self) -> Option<String> {
                Some(quoted(self.name()))
            }
        }
    };
}

words! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Pretty = "pretty",
        /// One JSON object a line.
        Json = "json",
    }
    "`pretty` or `json`"
}

words! {
    /// What an acknowledged commit has survived.
    Durability {
        /// It is on disk.
        Fsync = "fsync",
        /// Replicas of the store's server have it.
        Replicated = "replicated",
        /// It is on disk within about a second.
        Async = "async",
        /// Nothing.
        Ephemeral = "ephemeral",
    }
    "`fsync`, `replicated`, `async` or `ephemeral`"
}
#[cfg(test)]
mod tests;
