//! URLs of servers with a login that stands elsewhere.

use std::fmt::Write as _;

/// The URL of a Redis server with user and password in it, as the client wants them.
pub(crate) fn with_login(url: &str, user: Option<&str>, password: &str) -> String {
    let (user, password) = (escaped(user.unwrap_or_default()), escaped(password));
    match url.split_once("://") {
        Some((scheme @ "redis+unix", rest)) => {
            let mark = if rest.contains('?') { '&' } else { '?' };
            let mut url = format!("{scheme}://{rest}{mark}pass={password}");
            if !user.is_empty() {
                url.push_str("&user=");
                url.push_str(&user);
            }
            url
        }
        Some((scheme, rest)) => format!("{scheme}://{user}:{password}@{rest}"),
        None => url.to_owned(),
    }
}

/// Everything that may mean something in a URL, in percent.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _written = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_put_in_escaped() {
        for (url, user, expected) in [
            (
                "redis://host:1/2",
                None,
                "redis://:p%40%2F%23%C3%A4@host:1/2",
            ),
            (
                "rediss://host",
                Some("me@"),
                "rediss://me%40:p%40%2F%23%C3%A4@host",
            ),
            (
                "redis+unix:///run/r?db=1",
                Some("me"),
                "redis+unix:///run/r?db=1&pass=p%40%2F%23%C3%A4&user=me",
            ),
            (
                "redis+unix:///r",
                None,
                "redis+unix:///r?pass=p%40%2F%23%C3%A4",
            ),
        ] {
            assert_eq!(with_login(url, user, "p@/#ä"), expected);
        }
    }
}
