//! The names that tokens use, with the imports of the file resolved.

use std::collections::HashMap;

use super::tokens::{Token, TokenKind, group_end, next_is};

/// A use of a name: `std::time::Instant::now`, `env!`, `.elapsed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Segments with imports resolved; `core` and `alloc` are written `std`, a glob
    /// import ends with `*`.
    pub path: Vec<String>,
    /// How it is used.
    pub role: Role,
    /// The line of its first segment.
    pub line: usize,
}

/// How a name is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A path in code, or the target of an import.
    Path,
    /// A macro call with its first token, if that is a literal.
    Macro(Option<String>),
    /// A method call: the path is the one name.
    Method,
}

/// The names used in `tokens`, resolved through the imports in `scope` (the same
/// tokens, or those of the whole file where a module imports from its parent).
#[must_use]
pub fn uses(tokens: &[Token], scope: &[&[Token]]) -> Vec<Use> {
    let mut imports: HashMap<String, Vec<Vec<String>>> = HashMap::new();
    for tokens in scope {
        for import in declarations(tokens) {
            imports.entry(import.name).or_default().push(import.path);
        }
    }
    let mut found: Vec<Use> = declarations(tokens)
        .into_iter()
        .map(|import| Use {
            path: normal(import.path),
            role: Role::Path,
            line: import.line,
        })
        .collect();
    for raw in raw_uses(tokens) {
        let targets = imports.get(&raw.path[0]).filter(|_| raw.role == Role::Path);
        for target in targets.into_iter().flatten() {
            let path = target.iter().chain(&raw.path[1..]).cloned().collect();
            found.push(Use {
                path: normal(path),
                ..raw.clone()
            });
        }
        if targets.is_none() {
            found.push(Use {
                path: normal(raw.path),
                ..raw
            });
        }
    }
    found
}

struct Import {
    name: String,
    path: Vec<String>,
    line: usize,
}

/// Every leaf of every `use` declaration, under the name it gets here.
fn declarations(tokens: &[Token]) -> Vec<Import> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        // `use<'a>` is a capture list and `r#use` spells differently.
        if token.is_ident("use") && !next_is(tokens, at, &TokenKind::Punct('<')) {
            use_tree(tokens, at + 1, &[], &mut found);
        }
    }
    found
}

/// Reads one use tree and returns the index after it.
fn use_tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Import>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match &token.kind {
            TokenKind::Punct(':') => at += 1,
            TokenKind::Punct('*') => {
                path.push("*".to_owned());
                at += 1;
            }
            TokenKind::Ident(word) if word == "as" => {
                let name = tokens
                    .get(at + 1)
                    .and_then(Token::ident)
                    .unwrap_or_default();
                found.push(Import {
                    name: name.to_owned(),
                    path,
                    line,
                });
                return at + 2;
            }
            // `{self}` names the module itself; `self::` at the start is the way to it.
            TokenKind::Ident(word) if word == "self" && !path.is_empty() => at += 1,
            TokenKind::Ident(word) => {
                path.push(word.clone());
                at += 1;
            }
            TokenKind::Open('{') => {
                let end = group_end(tokens, at);
                at += 1;
                while at + 1 < end {
                    if tokens[at].is(&TokenKind::Punct(',')) {
                        at += 1;
                        continue;
                    }
                    let next = use_tree(tokens, at, &path, found);
                    // What is no use tree (`$name` in a macro) is stepped over.
                    at = next.max(at + 1);
                }
                return end;
            }
            _ => break,
        }
    }
    if let Some(name) = path.last().cloned() {
        found.push(Import { name, path, line });
    }
    at
}

/// Paths, macro calls and method calls outside of `use` declarations, as written.
fn raw_uses(tokens: &[Token]) -> Vec<Use> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        if token.is_ident("use") && !next_is(tokens, at, &TokenKind::Punct('<')) {
            at = use_tree(tokens, at + 1, &[], &mut Vec::new());
            continue;
        }
        let Some(first) = token.ident() else {
            at += 1;
            continue;
        };
        let is_method = at > 0
            && tokens[at - 1].is(&TokenKind::Punct('.'))
            && !(at > 1 && tokens[at - 2].is(&TokenKind::Punct('.')));
        let line = token.line;
        let mut path = vec![first.to_owned()];
        at += 1;
        if is_method {
            found.push(Use {
                path,
                role: Role::Method,
                line,
            });
            continue;
        }
        while at + 2 < tokens.len()
            && tokens[at].is(&TokenKind::Punct(':'))
            && tokens[at + 1].is(&TokenKind::Punct(':'))
        {
            let Some(segment) = tokens[at + 2].ident() else {
                break;
            };
            path.push(segment.to_owned());
            at += 3;
        }
        let is_macro = tokens
            .get(at)
            .is_some_and(|token| token.is(&TokenKind::Punct('!')))
            && matches!(
                tokens.get(at + 1),
                Some(Token {
                    kind: TokenKind::Open(_),
                    ..
                })
            );
        let role = if is_macro {
            let argument = tokens.get(at + 2).map(|token| &token.kind);
            Role::Macro(match argument {
                Some(TokenKind::Literal(literal)) => Some(literal.trim_matches('"').to_owned()),
                _ => None,
            })
        } else {
            Role::Path
        };
        found.push(Use { path, role, line });
    }
    found
}

/// One spelling for the three standard crates.
fn normal(mut path: Vec<String>) -> Vec<String> {
    if path.len() > 1 && matches!(path[0].as_str(), "core" | "alloc") {
        "std".clone_into(&mut path[0]);
    }
    path
}
