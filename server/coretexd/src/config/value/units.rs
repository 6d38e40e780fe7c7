//! Durations and sizes.

use std::fmt;
use std::time::Duration;

use toml::de::DeValue;

use super::{Field, Input, from_text, quoted, whole};

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

/// Parses `100/s` or `1/10s`: how many, and in which time.
pub(crate) fn parse_rate(text: &str) -> Option<(u32, Duration)> {
    let (permits, per) = text.split_once('/')?;
    let permits = permits.replace('_', "");
    if !permits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        parse_duration(per)?
    } else {
        parse_duration(&format!("1{per}"))?
    };
    Some((permits.parse().ok()?, per))
}

/// The shortest form that [`parse_rate`] reads back.
pub(crate) fn show_rate(permits: u32, per: Duration) -> String {
    let per = show_duration(per);
    let unit = per
        .strip_prefix('1')
        .filter(|unit| unit.bytes().all(|byte| byte.is_ascii_alphabetic()));
    format!("{permits}/{}", unit.unwrap_or(&per))
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
