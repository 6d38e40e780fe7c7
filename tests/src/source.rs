//! Reads a Rust file as tokens: product code apart from test code, and in each the
//! paths, macros and methods that are used.
//!
//! Tokens and not a syntax tree, because what is forbidden may stand inside a macro,
//! where a syntax tree ends. Comments are no tokens. Names are resolved through the
//! `use` declarations of the file; what the names mean is decided in [`crate::rules`].

mod tokens;
mod uses;

pub use tokens::{Token, TokenKind};
pub use uses::{Role, Use, uses};

use tokens::{attribute_end, group_end, joined, leading_attributes, next_is};

/// A file split into what is shipped and what only tests see.
#[derive(Debug, Default)]
pub struct Source {
    /// Everything that is compiled without `cfg(test)`.
    pub product: Vec<Token>,
    /// Items under `#[cfg(test)]` and test functions.
    pub test: Vec<Token>,
    /// Names of modules in files of their own that only tests see.
    pub test_modules: Vec<String>,
}

/// Splits a file into product and test code.
///
/// # Errors
/// When the text is not made of Rust tokens.
pub fn parse(text: &str) -> Result<Source, String> {
    let tokens = tokens::tokenize(text)?;
    let mut source = Source::default();
    split(&tokens, &mut source);
    Ok(source)
}

/// Attributes in `tokens`, each as its text without spaces and its line.
#[must_use]
pub fn attributes(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if let Some(end) = attribute_end(tokens, at) {
            found.push((joined(&tokens[at..end]), tokens[at].line));
        }
    }
    found
}

/// A function with all of its tokens.
#[derive(Debug)]
pub struct Function<'a> {
    /// Its name without the path.
    pub name: &'a str,
    /// Its attributes as text without spaces.
    pub attributes: Vec<String>,
    /// From `fn` to the end of its body.
    pub tokens: &'a [Token],
}

/// The functions in `tokens`, methods and nested ones included.
#[must_use]
pub fn functions(tokens: &[Token]) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    let mut attributes: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let (leading, item) = leading_attributes(tokens, at);
        if item > at {
            attributes = leading.into_iter().map(joined).collect();
            at = item;
            continue;
        }
        let name = tokens.get(at + 1).and_then(Token::ident);
        if let (true, Some(name)) = (token.is_ident("fn"), name) {
            let end = item_end(tokens, at);
            let attributes = std::mem::take(&mut attributes);
            found.push(Function {
                name,
                attributes,
                tokens: &tokens[at..end],
            });
        }
        // What belongs to a function is between its attributes and its `fn`.
        if !matches!(
            token.ident(),
            Some("pub" | "async" | "const" | "unsafe" | "crate")
        ) && !matches!(token.kind, TokenKind::Open('(') | TokenKind::Close(')'))
        {
            attributes.clear();
        }
        at += 1;
    }
    found
}

fn split(tokens: &[Token], source: &mut Source) {
    let mut at = 0;
    while at < tokens.len() {
        // `#![cfg(test)]` at the head of a file: all of it is test code.
        if tokens[at].is(&TokenKind::Punct('#')) && next_is(tokens, at, &TokenKind::Punct('!')) {
            let end = group_end(tokens, at + 2);
            if is_test(&tokens[(at + 3).min(end)..end.saturating_sub(1).max(at + 3)]) {
                source.test.extend_from_slice(&tokens[at..]);
                return;
            }
            source.product.extend_from_slice(&tokens[at..end]);
            at = end;
            continue;
        }
        let (attributes, item) = leading_attributes(tokens, at);
        if attributes
            .iter()
            .any(|attribute| is_test(inside(attribute)))
        {
            let end = item_end(tokens, item);
            source
                .test_modules
                .extend(module_in_own_file(&tokens[item..end]));
            source.test.extend_from_slice(&tokens[at..end]);
            at = end;
        } else {
            let end = item.max(at + 1);
            source.product.extend_from_slice(&tokens[at..end]);
            at = end;
        }
    }
}

/// `#[...]` without its punctuation.
fn inside(attribute: &[Token]) -> &[Token] {
    attribute
        .get(2..attribute.len().saturating_sub(1))
        .unwrap_or_default()
}

/// Whether an attribute marks test code: `test`, `tokio::test(...)`, `cfg(test)`.
fn is_test(attribute: &[Token]) -> bool {
    let name_end = attribute
        .iter()
        .position(|token| token.ident().is_none() && !token.is(&TokenKind::Punct(':')))
        .unwrap_or(attribute.len());
    match attribute[..name_end].last() {
        Some(name) if name.is_ident("cfg") => requires_test(inside_group(&attribute[name_end..])),
        Some(name) => name.is_ident("test"),
        None => false,
    }
}

/// Whether a `cfg` predicate holds in tests only.
fn requires_test(predicate: &[Token]) -> bool {
    match predicate.first().and_then(Token::ident) {
        Some("test") => predicate.len() == 1,
        Some("all") => arguments(&predicate[1..]).into_iter().any(requires_test),
        Some("any") => {
            let parts = arguments(&predicate[1..]);
            !parts.is_empty() && parts.into_iter().all(requires_test)
        }
        _ => false,
    }
}

/// What is inside a group that spans all of `tokens`.
fn inside_group(tokens: &[Token]) -> &[Token] {
    tokens
        .get(1..tokens.len().saturating_sub(1))
        .unwrap_or_default()
}

/// The parts of a group between its own commas.
fn arguments(group: &[Token]) -> Vec<&[Token]> {
    let mut depth = 0;
    inside_group(group)
        .split(|token| {
            match token.kind {
                TokenKind::Open(_) => depth += 1,
                TokenKind::Close(_) => depth -= 1,
                _ => {}
            }
            depth == 0 && token.is(&TokenKind::Punct(','))
        })
        .filter(|part| !part.is_empty())
        .collect()
}

/// Where the item, statement, field, variant or arm at `start` ends. If in doubt too
/// early, so that test code is taken for product code and not the other way round.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    if tokens.get(at).is_some_and(|token| token.is_ident("pub")) {
        at += 1;
        if tokens
            .get(at)
            .is_some_and(|token| token.is(&TokenKind::Open('(')))
        {
            at = group_end(tokens, at);
        }
    }
    let word = tokens.get(at).and_then(Token::ident).unwrap_or_default();
    let following = tokens
        .get(at + 1)
        .and_then(Token::ident)
        .unwrap_or_default();
    let is_function = matches!(following, "fn" | "unsafe" | "async" | "extern");
    let ends_with_semicolon = matches!(word, "use" | "static" | "type" | "let")
        || (word == "const" && !is_function)
        || (word == "extern" && following == "crate");
    let is_item = ends_with_semicolon
        || matches!(
            word,
            "mod" | "fn" | "async" | "unsafe" | "extern" | "const" | "impl"
        )
        || matches!(word, "struct" | "enum" | "union" | "trait" | "macro_rules");
    while let Some(token) = tokens.get(at) {
        match token.kind {
            TokenKind::Open(open) => {
                at = group_end(tokens, at);
                if open == '{' && !ends_with_semicolon {
                    let comma = tokens
                        .get(at)
                        .is_some_and(|next| next.is(&TokenKind::Punct(',')));
                    return if comma && !is_item { at + 1 } else { at };
                }
                continue;
            }
            TokenKind::Close(_) => return at,
            TokenKind::Punct(';') => return at + 1,
            TokenKind::Punct(',') if !is_item => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// `mod name;` is a module in a file of its own.
fn module_in_own_file(item: &[Token]) -> Option<String> {
    let at = item.iter().position(|token| token.is_ident("mod"))?;
    let name = item.get(at + 1)?.ident()?;
    item.get(at + 2)?
        .is(&TokenKind::Punct(';'))
        .then(|| name.to_owned())
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let source = parse(text).unwrap();
        uses(&source.product, &[&source.product])
            .iter()
            .map(|u| u.path.join("::"))
            .collect()
    }

    fn test_code(text: &str) -> String {
        joined(&parse(text).unwrap().test)
    }

    fn product_code(text: &str) -> String {
        joined(&parse(text).unwrap().product)
    }

    #[test]
    fn imports_are_resolved() {
        let found =
            paths("use std::{time::{self as t, Instant}, fmt}; fn f() { t::X; Instant::now() }");
        for path in [
            "std::time",
            "std::time::Instant",
            "std::fmt",
            "std::time::X",
        ] {
            assert!(
                found.iter().any(|found| found == path),
                "{path} not in {found:?}"
            );
        }
        assert!(found.iter().any(|path| path == "std::time::Instant::now"));
    }

    #[test]
    fn the_module_itself_and_globs_are_imports() {
        assert_eq!(
            paths("use core::env::{self, consts::*};"),
            ["std::env", "std::env::consts::*"]
        );
        let found = paths("use std::env::{self}; fn f() { env::var(1) }");
        assert!(found.contains(&"std::env::var".to_owned()), "{found:?}");
    }

    #[test]
    fn code_inside_macros_is_seen_and_comments_are_not() {
        let found =
            paths("fn f() { m!(a, ::x::y::z(1)) } /// p::q::r\nfn g() {} // s::t\n/* u::v */");
        assert!(found.contains(&"x::y::z".to_owned()), "{found:?}");
        assert!(
            !found
                .iter()
                .any(|path| path.contains("q::r") || path.contains("s::t"))
        );
    }

    #[test]
    fn methods_macros_and_ranges_are_told_apart() {
        let source = parse("fn f() { a.now(); env!(\"X\"); 0..b::c(); x != y }").unwrap();
        let found = uses(&source.product, &[]);
        let role = |name: &str| {
            found
                .iter()
                .find(|u| u.path.join("::") == name)
                .map(|u| &u.role)
        };
        assert_eq!(role("now"), Some(&Role::Method));
        assert_eq!(role("env"), Some(&Role::Macro(Some("X".to_owned()))));
        assert_eq!(role("b::c"), Some(&Role::Path));
        assert_eq!(role("x"), Some(&Role::Path));
    }

    #[test]
    fn test_items_are_split_off_whatever_they_are() {
        let text = "fn a() {} #[cfg(test)] mod t { fn b() {} } fn c() {} #[test] fn d() {} \
                    #[cfg(all(test, unix))] use x::{y, z}; #[tokio::test(flavor = \"x\")] async fn e() {} \
                    #[cfg(test)] const F: [u8; 2] = [1; 2]; fn g() {} #[cfg(test)] mod h;";
        let product = product_code(text);
        assert_eq!(product, "fna(){}fnc(){}fng(){}");
        assert_eq!(parse(text).unwrap().test_modules, ["h"]);
    }

    #[test]
    fn what_is_not_only_for_tests_stays() {
        for text in [
            "#[cfg(not(test))] fn a() {}",
            "#[cfg(any(test, feature = \"x\"))] fn a() {}",
            "#[cfg_attr(test, derive(Debug))] struct A;",
            "#![cfg_attr(test, allow(x))] fn a() {}",
        ] {
            assert_eq!(test_code(text), "", "{text}");
        }
        assert_ne!(test_code("#![cfg(test)] fn a() {}"), "");
    }

    #[test]
    fn a_field_an_arm_and_a_statement_end_where_they_end() {
        assert_eq!(
            product_code("struct A { #[cfg(test)] b: u8, c: u8 }"),
            "structA{c:u8}"
        );
        assert_eq!(
            product_code("match a { #[cfg(test)] B => { 1 } C => { 2 } }"),
            "matcha{C=>{2}}"
        );
        assert_eq!(
            product_code("fn f() { #[cfg(test)] hook(1); now() }"),
            "fnf(){now()}"
        );
        assert_eq!(
            product_code("fn f() { #[cfg(test)] { hook() } now() }"),
            "fnf(){now()}"
        );
    }

    #[test]
    fn functions_come_with_their_attributes() {
        let text =
            "#[a] #[b(c)] pub(crate) async fn f() { g() } #[d] struct S; impl S { fn g() {} }";
        let source = parse(text).unwrap();
        let found: Vec<_> = functions(&source.product)
            .into_iter()
            .map(|function| {
                (
                    function.name,
                    function.attributes.join(" "),
                    joined(function.tokens),
                )
            })
            .collect();
        let expected = [("f", "#[a] #[b(c)]", "fnf(){g()}"), ("g", "", "fng(){}")];
        let expected =
            expected.map(|(name, attributes, text)| (name, attributes.into(), text.into()));
        assert_eq!(found, expected);
        assert_eq!(attributes(&source.product).len(), 3);
    }
}
