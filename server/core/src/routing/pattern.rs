//! Patterns of topics: `*` stands for one token, `>` at the end for one or more. The most specific
//! pattern that matches wins: from the left, a token goes before `*`, and `*` before `>`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{MAX_TOPIC_LEN, Topic};

/// A topic, or a pattern of topics.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicPattern(Arc<str>);

/// Why a text is not a pattern of topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than a topic may be.
    #[error("must be at most {MAX_TOPIC_LEN} characters long")]
    TooLong,
    /// `>` stands elsewhere than at the end.
    #[error("may have `>` only as its last token")]
    RestNotLast,
    /// A wildcard is part of a token, or a token is not one.
    #[error(
        "must be `job.` followed by dotted tokens of letters, digits, `_` and `-`, `*` for any one \
         token, or `>` at the end for the rest"
    )]
    Malformed,
}

impl TopicPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_TOPIC_LEN {
            return Err(PatternError::TooLong);
        }
        let rest = text.strip_prefix("job.").ok_or(PatternError::Malformed)?;
        let mut tokens = rest.split('.').peekable();
        while let Some(token) = tokens.next() {
            match token {
                ">" if tokens.peek().is_some() => return Err(PatternError::RestNotLast),
                ">" | "*" => {}
                _ if Topic::parse(&format!("job.{token}")).is_ok() => {}
                _ => return Err(PatternError::Malformed),
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches a topic.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut tokens = topic.as_str().split('.');
        for wanted in self.0.split('.') {
            match (wanted, tokens.next()) {
                (">", found) => return found.is_some(),
                ("*", Some(_)) => {}
                (wanted, Some(found)) if wanted == found => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether it matches every topic that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.and(other).as_ref() == Some(other)
    }

    /// The pattern that matches what both match; `None` when nothing is.
    #[must_use]
    pub fn and(&self, other: &Self) -> Option<Self> {
        let (mut left, mut right) = (self.0.split('.'), other.0.split('.'));
        let mut tokens = Vec::new();
        loop {
            match (left.next(), right.next()) {
                (None, None) => return Some(Self(tokens.join(".").into())),
                (Some(">"), Some(token)) => {
                    tokens.push(token);
                    tokens.extend(right);
                    return Some(Self(tokens.join(".").into()));
                }
                (Some(token), Some(">")) => {
                    tokens.push(token);
                    tokens.extend(left);
                    return Some(Self(tokens.join(".").into()));
                }
                (Some("*"), Some(token)) | (Some(token), Some("*")) => tokens.push(token),
                (Some(token), Some(same)) if token == same => tokens.push(token),
                _ => return None,
            }
        }
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Values by pattern, found by topic: a tree of tokens, so that a look costs steps by tokens and not
/// by patterns.
#[derive(Clone, Debug, PartialEq)]
pub struct PatternMap<T> {
    entries: Vec<(TopicPattern, T)>,
    root: Node,
}

impl<T> Default for PatternMap<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            root: Node::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    tokens: BTreeMap<String, Node>,
    any: Option<Box<Node>>,
    /// The pattern that ends here with `>`.
    rest: Option<usize>,
    /// The pattern that ends here.
    end: Option<usize>,
}

impl Node {
    fn find(&self, tokens: &[&str]) -> Option<usize> {
        let Some((first, others)) = tokens.split_first() else {
            return self.end;
        };
        let exact = self.tokens.get(*first).and_then(|node| node.find(others));
        exact
            .or_else(|| self.any.as_ref().and_then(|node| node.find(others)))
            .or(self.rest)
    }
}

impl<T> PatternMap<T> {
    /// Whether there is no pattern.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The most specific pattern that matches, and its value.
    #[must_use]
    pub fn find(&self, topic: &Topic) -> Option<(&TopicPattern, &T)> {
        let tokens: Vec<&str> = topic.as_str().split('.').collect();
        let (pattern, value) = &self.entries[self.root.find(&tokens)?];
        Some((pattern, value))
    }

    /// Every pattern and its value, in the order of the patterns.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPattern, &T)> {
        self.entries.iter().map(|(pattern, value)| (pattern, value))
    }
}

impl<T> FromIterator<(TopicPattern, T)> for PatternMap<T> {
    /// The last value of a pattern counts.
    fn from_iter<I: IntoIterator<Item = (TopicPattern, T)>>(entries: I) -> Self {
        let entries: BTreeMap<TopicPattern, T> = entries.into_iter().collect();
        let entries: Vec<_> = entries.into_iter().collect();
        let mut root = Node::default();
        for (place, (pattern, _)) in entries.iter().enumerate() {
            let mut node = &mut root;
            let mut ended = false;
            for token in pattern.as_str().split('.') {
                match token {
                    ">" => {
                        node.rest = Some(place);
                        ended = true;
                    }
                    "*" => node = node.any.get_or_insert_default(),
                    token => node = node.tokens.entry(token.to_owned()).or_default(),
                }
            }
            if !ended {
                node.end = Some(place);
            }
        }
        Self { entries, root }
    }
}
