//! Finds secrets in what a job carries: references `secret://...`, and credentials of common shapes.
//!
//! Text of strangers is searched in time that grows with its length alone. JSON may write any
//! character as an escape, so text with backslashes is searched as it is and with its escapes
//! resolved.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexSet};

use crate::job::JobSpec;
use crate::payload::{Content, Payload};

/// Shapes of credentials that are told from other text by how they begin.
const SHAPES: [(&str, &str); 17] = [
    ("a secret:// reference", r"(?i-u)secret://"),
    (
        "an AWS access key",
        r"(?-u)\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    ),
    ("a GitHub token", r"(?-u)\bgh[pousr]_[A-Za-z0-9]{36}"),
    ("a GitHub token", r"(?-u)\bgithub_pat_[A-Za-z0-9_]{22}"),
    (
        "a GitLab token",
        r"(?-u)\bgl(?:pat|dt|ptt|rt|soat)-[A-Za-z0-9_-]{20}",
    ),
    ("a Slack token", r"(?-u)\bxox[abceoprs]-[A-Za-z0-9-]{10}"),
    ("a Slack token", r"(?-u)\bxapp-[0-9]-[A-Za-z0-9-]{10}"),
    (
        "a Slack webhook",
        r"(?-u)hooks\.slack\.com/services/T[A-Za-z0-9]+/B[A-Za-z0-9]+/[A-Za-z0-9]{8}",
    ),
    (
        "a private key",
        r"(?-u)-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----",
    ),
    (
        "a JSON web token",
        r"(?-u)\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8}",
    ),
    (
        "a bearer token",
        r"(?i-u)\bbearer[ \t]+[A-Za-z0-9._~+/=-]{20}",
    ),
    ("a Google API key", r"(?-u)\bAIza[A-Za-z0-9_-]{35}"),
    ("a Google OAuth token", r"(?-u)\bya29\.[A-Za-z0-9_-]{20}"),
    (
        "a Stripe key",
        r"(?-u)\b[rs]k_(?:live|test)_[A-Za-z0-9]{16}",
    ),
    (
        "a model provider's key",
        r"(?-u)\bsk-(?:[a-z]{2,8}[0-9]{0,2}-)*[A-Za-z0-9_]{20}",
    ),
    ("an npm token", r"(?-u)\bnpm_[A-Za-z0-9]{36}"),
    (
        "a password in an address",
        r"(?-u)\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/:@'\x22$<{]{1,128}:[^\s/:@'\x22$<{*]{3,128}@",
    ),
];

/// A name that promises a secret, and what it is given: `password=...`, `"api_key": "..."`.
const PAIR: &str = r#"(?ix-u)
    (?: passw(?:or)?d | passphrase | pwd | secret | credentials? | token
      | (?: api | access | account | auth | private | secret | client | signing | encryption )
        [_\ -]? (?: key | token | secret ) )
    [A-Za-z0-9_-]{0,16}
    \\? ["']? [\ \t]* (?: := | => | = | : ) [\ \t\r\n]* \\? ["']?
    ( [^\s"',;&<>(){}\[\]\\$*]{8,256} )"#;

/// The searches, compiled when they are first needed. All patterns are constants that a test
/// compiles.
struct Searches {
    shapes: RegexSet,
    pair: Regex,
}

static SEARCHES: LazyLock<Option<Searches>> = LazyLock::new(|| {
    Some(Searches {
        shapes: RegexSet::new(SHAPES.map(|(_, pattern)| pattern)).ok()?,
        pair: Regex::new(PAIR).ok()?,
    })
});

/// What was found of secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// None.
    Absent,
    /// At least one; of which kind, for people.
    Present(&'static str),
    /// Nobody can say, because the input is an artifact.
    Unknown,
}

/// Searches a text for the first secret, and names its kind.
#[must_use]
pub fn find(text: &[u8]) -> Option<&'static str> {
    found_in(text).or_else(|| {
        let resolved = text.contains(&b'\\').then(|| resolve_escapes(text))?;
        found_in(&resolved)
    })
}

/// Searches what a job carries: its input, labels and metadata. An input that stands apart is not
/// searched; the caller has to bring it.
#[must_use]
pub fn in_job(spec: &JobSpec, input: Option<&Payload>) -> Secrets {
    if let Some(kind) = find(claims(spec).as_bytes()) {
        return Secrets::Present(kind);
    }
    match input.map(|payload| &payload.content) {
        Some(Content::Json(bytes) | Content::Raw(bytes)) => {
            find(bytes).map_or(Secrets::Absent, Secrets::Present)
        }
        Some(Content::Artifact(_) | Content::Apart { .. }) => Secrets::Unknown,
        None => Secrets::Absent,
    }
}

/// Labels and metadata as one text, a line for each.
fn claims(spec: &JobSpec) -> String {
    let metadata = &spec.metadata;
    let mut text = String::new();
    let mut line = |parts: &[&str]| {
        for part in parts {
            text.push_str(part);
        }
        text.push('\n');
    };
    for (key, value) in &spec.labels {
        line(&[key, "=", value]);
    }
    for value in [&metadata.capability, &metadata.pack_id, &metadata.actor_id] {
        line(&[value]);
    }
    for value in metadata.risk_tags.iter().chain(&metadata.requires) {
        line(&[value]);
    }
    if let Some(mcp) = &metadata.mcp {
        for value in [&mcp.server, &mcp.tool, &mcp.resource, &mcp.action] {
            line(&[value]);
        }
    }
    text
}

fn found_in(text: &[u8]) -> Option<&'static str> {
    let Some(searches) = &*SEARCHES else {
        // Without patterns nothing could be ruled out.
        return Some("something that could not be searched");
    };
    if let Some(shape) = searches.shapes.matches(text).into_iter().next() {
        return SHAPES.get(shape).map(|(kind, _)| *kind);
    }
    searches
        .pair
        .captures_iter(text)
        .filter_map(|found| found.get(1))
        .any(|value| is_random(value.as_bytes()))
        .then_some("a named credential")
}

/// Whether a text looks drawn rather than written: letters and digits mixed, and few of them twice.
fn is_random(text: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    let (mut letters, mut others) = (0, 0);
    for byte in text {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
        if byte.is_ascii_alphabetic() {
            letters += 1;
        } else {
            others += 1;
        }
    }
    let length = text.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / length;
            -share * share.log2()
        })
        .sum();
    // Eight different characters have three bits each.
    letters > 0 && others > 0 && entropy >= 2.5
}

/// Resolves the escapes of JSON texts wherever they stand; what is none stays.
fn resolve_escapes(text: &[u8]) -> Vec<u8> {
    let mut resolved = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            resolved.push(*first);
            continue;
        }
        let Some((escape, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        match escape {
            b'n' | b'r' | b't' | b'b' | b'f' => resolved.push(b'\n'),
            b'u' => match hex(rest) {
                Some(code) => {
                    rest = rest.get(4..).unwrap_or_default();
                    let unit = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                    let mut buffer = [0; 4];
                    resolved.extend_from_slice(unit.encode_utf8(&mut buffer).as_bytes());
                }
                None => resolved.extend_from_slice(b"\\u"),
            },
            other => resolved.push(*other),
        }
    }
    resolved
}

fn hex(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.get(..4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert!(SEARCHES.is_some());
    }
}
