//! Tokens of a Rust file in one flat list, and how to find one's way in it.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One token with its line (counted from 1).
#[derive(Debug, Clone)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it is.
    pub line: usize,
}

/// Kinds of tokens; groups are flattened into their delimiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKind {
    /// A name or keyword.
    Ident(String),
    /// One character of punctuation.
    Punct(char),
    /// A literal as written.
    Literal(String),
    /// `(`, `[` or `{`.
    Open(char),
    /// `)`, `]` or `}`.
    Close(char),
}

impl Token {
    pub(super) fn is_ident(&self, name: &str) -> bool {
        matches!(&self.kind, TokenKind::Ident(ident) if ident == name)
    }

    pub(super) fn is(&self, kind: &TokenKind) -> bool {
        self.kind == *kind
    }

    pub(super) fn ident(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::Ident(name) => Some(name),
            _ => None,
        }
    }
}

/// The tokens of `text` without comments; documentation is an attribute.
///
/// # Errors
/// When the text is not made of Rust tokens.
pub(super) fn tokenize(text: &str) -> Result<Vec<Token>, String> {
    let stream: TokenStream = text.parse().map_err(|error| format!("not Rust: {error}"))?;
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    Ok(tokens)
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let kind = match tree {
            TokenTree::Ident(ident) => TokenKind::Ident(ident.to_string()),
            TokenTree::Punct(punct) => TokenKind::Punct(punct.as_char()),
            TokenTree::Literal(literal) => TokenKind::Literal(literal.to_string()),
            TokenTree::Group(group) => {
                let ends = match group.delimiter() {
                    Delimiter::Parenthesis => Some(('(', ')')),
                    Delimiter::Brace => Some(('{', '}')),
                    Delimiter::Bracket => Some(('[', ']')),
                    Delimiter::None => None,
                };
                let close = group.span_close().start().line;
                if let Some((open, _)) = ends {
                    tokens.push(Token {
                        kind: TokenKind::Open(open),
                        line,
                    });
                }
                flatten(group.stream(), tokens);
                if let Some((_, close_char)) = ends {
                    tokens.push(Token {
                        kind: TokenKind::Close(close_char),
                        line: close,
                    });
                }
                continue;
            }
        };
        tokens.push(Token { kind, line });
    }
}

/// The index after the group that opens at `open`.
pub(super) fn group_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            TokenKind::Open(_) => depth += 1,
            TokenKind::Close(_) => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

pub(super) fn next_is(tokens: &[Token], at: usize, kind: &TokenKind) -> bool {
    tokens.get(at + 1).is_some_and(|token| token.is(kind))
}

pub(super) fn joined(tokens: &[Token]) -> String {
    let text = |token: &Token| match &token.kind {
        TokenKind::Ident(text) | TokenKind::Literal(text) => text.clone(),
        TokenKind::Punct(char) | TokenKind::Open(char) | TokenKind::Close(char) => char.to_string(),
    };
    tokens.iter().map(text).collect()
}

/// The outer attributes that start at `at`, and where what they belong to starts.
pub(super) fn leading_attributes(tokens: &[Token], mut at: usize) -> (Vec<&[Token]>, usize) {
    let mut attributes = Vec::new();
    while let Some(end) = attribute_end(tokens, at) {
        attributes.push(&tokens[at..end]);
        at = end;
    }
    (attributes, at)
}

/// The end of the outer or inner attribute at `at`, if there is one.
pub(super) fn attribute_end(tokens: &[Token], at: usize) -> Option<usize> {
    if !tokens.get(at)?.is(&TokenKind::Punct('#')) {
        return None;
    }
    let open = if next_is(tokens, at, &TokenKind::Punct('!')) {
        at + 2
    } else {
        at + 1
    };
    tokens
        .get(open)?
        .is(&TokenKind::Open('['))
        .then(|| group_end(tokens, open))
}
