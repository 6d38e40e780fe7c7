//! Globs of texts: `*` stands for any run of characters, also none. Patterns of topics are in
//! [`routing::pattern`](crate::routing::pattern).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The most bytes of a glob.
pub const MAX_GLOB_BYTES: usize = 256;

/// A text, or a glob of texts. Matched in time that grows with the text alone, not with the number
/// of stars times the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TextGlob(Arc<str>);

/// Why a text is not a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// It matches nothing.
    #[error("must not be empty")]
    Empty,
    /// Longer than [`MAX_GLOB_BYTES`].
    #[error("must be at most {MAX_GLOB_BYTES} bytes long")]
    TooLong,
    /// It has a control character, which nothing that it is compared with has.
    #[error("must not have control characters")]
    Control,
}

impl TextGlob {
    /// Parses a glob.
    ///
    /// # Errors
    /// [`GlobError`].
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > MAX_GLOB_BYTES {
            return Err(GlobError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(GlobError::Control);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches a text.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, others)) = self.0.split_once('*') else {
            return &*self.0 == text;
        };
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        // What stands between two stars is taken where it comes first: that leaves the most for
        // what follows. The last part has to be at the end.
        let (middle, last) = others.rsplit_once('*').unwrap_or(("", others));
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            match rest.find(part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for TextGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TextGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
