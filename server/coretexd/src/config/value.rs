//! The forms that values take in a file, in a variable and in a flag.
//!
//! Every type reads from both a text (variables, flags) and a TOML value, and prints itself as
//! TOML that reads back equal. Errors say what would be right and never repeat the value: it may
//! be a secret that was written at the wrong place.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

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
fn quoted(text: &str) -> String {
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

/// The units of a duration, largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const DURATION: &str = "a duration such as `250ms`, `5m` or `1h30m`";

/// Parses `1h30m`. A library would also take `5M` for five months, which nobody means here.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0_u64;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(*factor)?;
        millis = millis.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(millis))
}

/// The shortest form that [`parse_duration`] reads back.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in UNITS {
        if millis >= factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    text
}

impl Field for Duration {
    const FORM: &'static str = "duration (`250ms`, `5m`, `1h30m`)";

    fn read(input: Input<'_>) -> Result<Self, String> {
        from_text(input, DURATION, |text| {
            parse_duration(text).ok_or_else(|| format!("must be {DURATION}"))
        })
    }

    fn toml(&self) -> Option<String> {
        Some(quoted(&show_duration(*self)))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// That many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// That many mebibytes.
    #[must_use]
    pub const fn mebibytes(mebibytes: u64) -> Self {
        Self(mebibytes * 1024 * 1024)
    }

    /// The bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The bytes, as far as memory can hold them.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Binary units first: they are what is printed.
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in &SIZES[..4] {
            if self.0 >= *factor && self.0.is_multiple_of(*factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl Field for Size {
    const FORM: &'static str = "size (`64KiB`, `16MiB`, `2GB`)";

    fn read(input: Input<'_>) -> Result<Self, String> {
        let must = || "must be a size such as `64KiB`, `16MiB` or `2GB`".to_owned();
        if let Some(bytes) = whole(input) {
            return Ok(Self(bytes));
        }
        let text = match input {
            Input::Text(text) => text,
            Input::Toml(DeValue::String(text)) => text.as_ref(),
            Input::Toml(_) => return Err(must()),
        };
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim_start() {
            "" => Some(1),
            unit => SIZES
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, factor)| *factor),
        };
        number
            .parse::<u64>()
            .ok()
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(must)
    }

    fn toml(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
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

fn show_list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
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
    /// What an acknowledged commit of the embedded store has survived.
    Durability {
        /// It is on disk.
        Fsync = "fsync",
        /// It is on disk within about a second.
        Async = "async",
    }
    "`fsync` or `async`"
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
mod tests {
    use super::*;

    fn read<T: Field>(text: &str) -> Result<T, String> {
        T::read(Input::Text(text))
    }

    fn round_trip<T: Field + PartialEq + fmt::Debug>(text: &str) {
        let value: T = read(text).unwrap();
        let document = format!("x = {}", value.toml().unwrap());
        let table = toml::de::DeTable::parse(&document).unwrap();
        let again = T::read(Input::Toml(table.get_ref().get("x").unwrap().get_ref())).unwrap();
        assert_eq!(again, value, "{text}");
    }

    #[test]
    fn durations_and_sizes_read_what_people_write() {
        for (text, millis) in [
            ("250ms", 250),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(read(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "5",
            "5M",
            "m",
            "-1s",
            "1.5s",
            "5 m",
            "99999999999999999d",
        ] {
            assert!(read::<Duration>(bad).is_err(), "{bad}");
        }
        for (text, bytes) in [
            ("16MiB", 16 << 20),
            ("64 KiB", 64 << 10),
            ("2GB", 2_000_000_000),
            ("1_000", 1_000),
            ("0", 0),
        ] {
            assert_eq!(read(text), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "MiB", "1.5MiB", "16mib", "-1", "99999999999TiB"] {
            assert!(read::<Size>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_equal() {
        for text in ["250ms", "90s", "36h", "7d", "0"] {
            round_trip::<Duration>(text);
        }
        for text in ["0", "1", "1536", "16MiB", "3GB"] {
            round_trip::<Size>(text);
        }
        round_trip::<SocketAddr>("localhost:1");
        round_trip::<SocketAddr>("[::1]:50051");
        round_trip::<Vec<String>>("a, \"b\",c");
        round_trip::<Headers>("Authorization=Bearer x=y,a=b");
        round_trip::<Backend>("redis://user:pass@host/0");
        round_trip::<String>("quote \" backslash \\ newline \n");
        round_trip::<f64>("1");
        round_trip::<LogFormat>("json");
    }

    #[test]
    fn secrets_show_neither_masked_nor_in_debug() {
        for (url, masked) in [
            (
                "redis://user:s3@c/ret@host:1/0",
                "redis://user:********@host:1/0",
            ),
            ("redis://:s3cret@host", "redis://:********@host"),
            ("nats://s3cret@host", "nats://********@host"),
            ("redis://host", "redis://host"),
        ] {
            let backend: Backend = read(url).unwrap();
            assert_eq!(format!("{backend:?}"), masked);
            assert_eq!(backend.masked(), Some(quoted(masked)));
        }
        let headers: Headers = read("authorization=Bearer s3cret").unwrap();
        assert!(!format!("{headers:?}").contains("s3cret"));
        assert!(!headers.masked().unwrap().contains("s3cret"));
        let error = read::<Headers>("s3cret").unwrap_err();
        assert!(!error.contains("s3cret"));
    }
}
