//! Subjects: the names the product rings, what a valid subject is, and how patterns match.

use std::borrow::Cow;

use crate::BusError;

/// The longest subject or pattern, in bytes. Network engines put the subject into one protocol
/// line; this keeps every name of the contract (128 bytes, escaped at worst) well inside it.
pub const MAX_SUBJECT_LEN: usize = 512;

const READY: &str = "coretex.ready.";
const CLAIM: &str = "coretex.claim.";
const EVENT: &str = "coretex.event.";
const OUTPUT: &str = "coretex.output.";

/// Matches the ready doorbells of all queues.
pub const READY_ALL: &str = "coretex.ready.*";
/// Matches the event doorbells of all tenants.
pub const EVENT_ALL: &str = "coretex.event.*";
/// Matches the output doorbells of all tenants.
pub const OUTPUT_ALL: &str = "coretex.output.*";

/// "Something may be claimed in this queue."
#[must_use]
pub fn ready(queue: &str) -> String {
    format!("{READY}{}", token(queue))
}

/// "This replica is asked to claim, or is handed something directly."
#[must_use]
pub fn claim(replica: &str) -> String {
    format!("{CLAIM}{}", token(replica))
}

/// "The log of this tenant has new entries."
#[must_use]
pub fn event(tenant: &str) -> String {
    format!("{EVENT}{}", token(tenant))
}

/// "A job of this tenant has streamed more."
#[must_use]
pub fn output(tenant: &str) -> String {
    format!("{OUTPUT}{}", token(tenant))
}

/// The queue a ready subject names; `None` for any other subject.
#[must_use]
pub fn queue_of(subject: &str) -> Option<Cow<'_, str>> {
    subject.strip_prefix(READY).and_then(name)
}

/// The replica a claim subject names; `None` for any other subject.
#[must_use]
pub fn replica_of(subject: &str) -> Option<Cow<'_, str>> {
    subject.strip_prefix(CLAIM).and_then(name)
}

/// The tenant an event subject names; `None` for any other subject.
#[must_use]
pub fn tenant_of(subject: &str) -> Option<Cow<'_, str>> {
    subject.strip_prefix(EVENT).and_then(name)
}

/// The tenant an output subject names; `None` for any other subject.
#[must_use]
pub fn tenant_of_output(subject: &str) -> Option<Cow<'_, str>> {
    subject.strip_prefix(OUTPUT).and_then(name)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Makes any name one subject token. Names of the contract's alphabet stay as they are; other bytes
/// become `%` and two hex digits, and the empty name becomes a lone `%`, so two names never meet.
fn token(name: &str) -> Cow<'_, str> {
    if !name.is_empty() && name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    if name.is_empty() {
        return Cow::Borrowed("%");
    }
    let mut out = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Cow::Owned(out)
}

/// The inverse of [`token`]; `None` for a text that it cannot have made.
fn name(token: &str) -> Option<Cow<'_, str>> {
    if token == "%" {
        return Some(Cow::Borrowed(""));
    }
    if !token.is_empty() && token.bytes().all(is_plain) {
        return Some(Cow::Borrowed(token));
    }
    let mut out = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            plain if is_plain(plain) => out.push(plain),
            _ => return None,
        }
    }
    if out.is_empty() {
        return None;
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn invalid(subject: &str, why: &'static str) -> BusError {
    BusError::InvalidSubject {
        subject: subject.to_owned(),
        why,
    }
}

fn check_tokens(subject: &str) -> Result<(), BusError> {
    if subject.is_empty() {
        return Err(invalid(subject, "it is empty"));
    }
    if subject.len() > MAX_SUBJECT_LEN {
        return Err(invalid(subject, "it is longer than 512 bytes"));
    }
    if subject.split('.').any(str::is_empty) {
        return Err(invalid(subject, "a token is empty"));
    }
    // Spaces and control characters end a protocol line in network engines.
    if !subject.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            subject,
            "only printable ascii without spaces is allowed",
        ));
    }
    Ok(())
}

/// Checks a subject to publish on.
///
/// # Errors
/// [`BusError::InvalidSubject`]: empty, too long, an empty token, a character outside printable
/// ASCII, or a wildcard.
pub fn check_subject(subject: &str) -> Result<(), BusError> {
    check_tokens(subject)?;
    if subject.contains(['*', '>']) {
        return Err(invalid(subject, "a published subject has no wildcards"));
    }
    Ok(())
}

/// Checks a subject or pattern to subscribe to.
///
/// # Errors
/// [`BusError::InvalidSubject`]: as [`check_subject`], but `*` may stand as a whole token and `>`
/// as the whole last token.
pub fn check_pattern(pattern: &str) -> Result<(), BusError> {
    check_tokens(pattern)?;
    let mut tokens = pattern.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "*" => {}
            ">" if tokens.peek().is_some() => {
                return Err(invalid(pattern, "`>` may only be the last token"));
            }
            ">" => {}
            other if other.contains(['*', '>']) => {
                return Err(invalid(pattern, "a wildcard must be a whole token"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the name of a group.
///
/// # Errors
/// [`BusError::InvalidSubject`]: empty, longer than 512 bytes, or a character outside printable
/// ASCII (a network engine writes the name between spaces).
pub fn check_group(group: &str) -> Result<(), BusError> {
    if group.is_empty() || group.len() > MAX_SUBJECT_LEN {
        return Err(invalid(group, "a group name has 1 to 512 bytes"));
    }
    if !group.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            group,
            "a group name is printable ascii without spaces",
        ));
    }
    Ok(())
}

/// Whether a valid pattern matches a valid subject.
#[must_use]
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (exact, Some(given)) if exact == given => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constructors_name_what_they_ring_and_can_be_read_back() {
        assert_eq!(ready("default"), "coretex.ready.default");
        assert_eq!(claim("r-1"), "coretex.claim.r-1");
        assert_eq!(event("acme"), "coretex.event.acme");
        assert_eq!(
            queue_of("coretex.ready.default").as_deref(),
            Some("default")
        );
        assert_eq!(replica_of("coretex.claim.r-1").as_deref(), Some("r-1"));
        assert_eq!(tenant_of("coretex.event.acme").as_deref(), Some("acme"));
        assert_eq!(tenant_of("coretex.ready.acme"), None);
    }

    #[test]
    fn any_name_becomes_one_token_and_no_two_names_meet() {
        let names = [
            "", "a", "a.b", "a*", ">", "a b", "%", "%41", "A", "ä", "a%2Eb",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for given in names {
            let subject = ready(given);
            assert_eq!(check_subject(&subject), Ok(()), "{subject}");
            assert!(matches(READY_ALL, &subject), "{subject}");
            assert_eq!(queue_of(&subject).as_deref(), Some(given));
            assert!(
                seen.insert(subject.clone()),
                "{subject} stands for two names"
            );
        }
        for foreign in ["a.b", "a%", "a%4", "a%zz", "%FF", ""] {
            assert_eq!(name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn wildcards_match_whole_tokens() {
        let table = [
            ("a.b", "a.b", true),
            ("a.b", "a", false),
            ("a", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.*.c", "a.b.c", true),
            ("*.*", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("a.b", "a.bc", false),
        ];
        for (pattern, subject, expected) in table {
            assert_eq!(
                matches(pattern, subject),
                expected,
                "{pattern} on {subject}"
            );
        }
    }

    #[test]
    fn bad_subjects_are_refused() {
        for bad in [
            "", ".", "a.", ".a", "a..b", "a b", "a\tb", "ä", "a.*", "a.>",
        ] {
            assert!(check_subject(bad).is_err(), "{bad:?}");
        }
        for bad in ["a.>.b", "a.b*", "a.>b", "*a", "a..*"] {
            assert!(check_pattern(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a.*", "a.>", "*.b.>", ">"] {
            assert_eq!(check_pattern(good), Ok(()), "{good:?}");
        }
        assert!(check_subject(&"a".repeat(MAX_SUBJECT_LEN + 1)).is_err());
        assert_eq!(check_group("workers.1"), Ok(()));
        for bad in ["", "a b", "a\r\nb", "ä"] {
            assert!(check_group(bad).is_err(), "{bad:?}");
        }
    }
}
