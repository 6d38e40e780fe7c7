//! Keys by which jobs are counted and limited apart, and the names that come of them.

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::bundle::Counter;
use super::evaluate::{CounterRef, Undecided};
use super::snapshot::Compiled;
use super::subject::{Facts, Subject};
use crate::expression::Expression;

/// The longest value of a key that stands in a name as it is; longer ones are hashed.
const MAX_KEY: usize = 64;

/// The value of a key as text; the inner error says why it has none.
pub(super) fn key_value(
    expression: &Expression,
    subject: &Subject<'_>,
) -> Result<Result<String, String>, Undecided> {
    let facts = Facts::new(subject, json!({}), 0);
    match expression.evaluate(&facts) {
        Ok(Json::String(text)) => Ok(Ok(text)),
        Ok(value @ (Json::Bool(_) | Json::Number(_))) => Ok(Ok(value.to_string())),
        Ok(_) => Ok(Err(
            "a key must be a text, a number or true or false".to_owned()
        )),
        Err(_) if facts.missed_input() => Err(Undecided::NeedsInput),
        Err(error) => Ok(Err(error.to_string())),
    }
}

pub(super) fn counter_ref(
    bundle: &Compiled,
    counter: &Counter,
    subject: &Subject<'_>,
) -> Result<CounterRef, String> {
    let value = key_value(&counter.key, subject).map_err(|undecided| undecided.to_string())??;
    Ok(CounterRef {
        id: format!("{}/{}", bundle.name, counter.id),
        key: format!("{}/{}", subject.tenant, shortened(&value)),
        window: counter.window,
    })
}

/// A value as part of a name: as it is when it is short and plain, else its hash.
pub(super) fn shortened(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@' | b':');
    if value.len() <= MAX_KEY && value.bytes().all(plain) {
        return value.to_owned();
    }
    let hash = Sha256::digest(value.as_bytes());
    // A plain value never begins so.
    format!("#{}", hex_of(&hash))
}

/// The first 128 bits of a hash.
fn hex_of(hash: &[u8]) -> String {
    let bytes = hash.iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
