//! Source text to tokens. Knows literals and punctuation, not grammar.

use super::error::CompileErrorKind;

/// A token and the bytes `start..end` it covers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'s> {
    pub(super) kind: TokenKind<'s>,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'s> {
    /// A whole number without its sign, so that the smallest one can be written.
    Int(u64),
    Double(f64),
    Text(String),
    /// A name or keyword.
    Name(&'s str),
    /// A field name in backticks.
    Escaped(&'s str),
    /// An operator or bracket.
    Mark(&'static str),
    End,
}

/// A text that is not an expression, with the byte where that shows. Boxed by its users: every
/// level of the parser keeps a result on the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) offset: usize,
    pub(super) kind: CompileErrorKind,
    pub(super) message: String,
}

impl SyntaxError {
    pub(super) fn new(offset: usize, message: impl Into<String>) -> Box<Self> {
        Self::of(CompileErrorKind::Syntax, offset, message)
    }

    pub(super) fn of(
        kind: CompileErrorKind,
        offset: usize,
        message: impl Into<String>,
    ) -> Box<Self> {
        Box::new(Self {
            offset,
            kind,
            message: message.into(),
        })
    }
}

/// Longest first, so that `<=` is not read as `<`.
const MARKS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "!", "-",
    "+", "*", "/", "%", "<", ">", "=",
];

#[derive(Clone, Debug)]
pub(super) struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    pub(super) fn new(source: &'s str, at: usize) -> Self {
        Self { source, at }
    }

    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn peek(&self, ahead: usize) -> u8 {
        *self.source.as_bytes().get(self.at + ahead).unwrap_or(&0)
    }

    /// Reads the next token; at the end of the source, [`TokenKind::End`] for ever.
    pub(super) fn next(&mut self) -> Result<Token<'s>, Box<SyntaxError>> {
        self.skip_blank();
        let start = self.at;
        let kind = self.kind()?;
        Ok(Token {
            kind,
            start,
            end: self.at,
        })
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn kind(&mut self) -> Result<TokenKind<'s>, Box<SyntaxError>> {
        let Some(first) = self.rest().chars().next() else {
            return Ok(TokenKind::End);
        };
        match first {
            '"' | '\'' => self.text(false),
            '0'..='9' => self.number(),
            '.' if self.peek(1).is_ascii_digit() => self.number(),
            'a'..='z' | 'A'..='Z' | '_' => self.name_or_prefixed_text(),
            '`' => self.escaped(),
            _ => {
                let rest = self.rest();
                let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) else {
                    return Err(SyntaxError::new(
                        self.at,
                        format!("unexpected character `{}`", first.escape_debug()),
                    ));
                };
                self.at += mark.len();
                Ok(TokenKind::Mark(mark))
            }
        }
    }

    fn name_or_prefixed_text(&mut self) -> Result<TokenKind<'s>, Box<SyntaxError>> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        if after.starts_with(['"', '\'']) {
            match name {
                "r" | "R" => {
                    self.at += length;
                    return self.text(true);
                }
                "b" | "B" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB" => {
                    return Err(SyntaxError::of(
                        CompileErrorKind::Unsupported,
                        self.at,
                        "bytes are not supported, JSON has none",
                    ));
                }
                _ => {}
            }
        }
        self.at += length;
        Ok(TokenKind::Name(name))
    }

    fn escaped(&mut self) -> Result<TokenKind<'s>, Box<SyntaxError>> {
        let rest = self.rest().get(1..).unwrap_or_default();
        let length = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !"_.-/ ".contains(c))
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        if name.is_empty() || !after.starts_with('`') {
            return Err(SyntaxError::new(self.at, "unfinished name in backticks"));
        }
        self.at += length + 2;
        Ok(TokenKind::Escaped(name))
    }

    fn number(&mut self) -> Result<TokenKind<'s>, Box<SyntaxError>> {
        let start = self.at;
        if self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'X') {
            self.at += 2;
            let digits = self.skip_while(|byte| byte.is_ascii_hexdigit());
            let value = u64::from_str_radix(digits, 16);
            return self.whole(start, value.ok());
        }
        let digits = self.skip_while(|byte| byte.is_ascii_digit());
        let mut fractional = false;
        if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
            fractional = true;
            self.at += 1;
            self.skip_while(|byte| byte.is_ascii_digit());
        }
        if matches!(self.peek(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                fractional = true;
                self.at += 1 + sign;
                self.skip_while(|byte| byte.is_ascii_digit());
            }
        }
        if !fractional {
            return self.whole(start, digits.parse().ok());
        }
        let text = self.source.get(start..self.at).unwrap_or_default();
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() && !self.touches_name() => Ok(TokenKind::Double(value)),
            _ => Err(SyntaxError::new(start, "not a number")),
        }
    }

    /// Ends a whole number; the `u` of an unsigned one says nothing here, because JSON has one
    /// kind of whole number.
    fn whole(
        &mut self,
        start: usize,
        value: Option<u64>,
    ) -> Result<TokenKind<'s>, Box<SyntaxError>> {
        if matches!(self.peek(0), b'u' | b'U') {
            self.at += 1;
        }
        match value {
            Some(value) if !self.touches_name() => Ok(TokenKind::Int(value)),
            _ => Err(SyntaxError::new(start, "not a number of 64 bits")),
        }
    }

    fn touches_name(&self) -> bool {
        self.peek(0).is_ascii_alphanumeric() || self.peek(0) == b'_'
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) -> &'s str {
        let start = self.at;
        while keep(self.peek(0)) {
            self.at += 1;
        }
        self.source.get(start..self.at).unwrap_or_default()
    }

    fn text(&mut self, raw: bool) -> Result<TokenKind<'s>, Box<SyntaxError>> {
        let start = self.at;
        let one = if self.peek(0) == b'"' { "\"" } else { "'" };
        let three = one.repeat(3);
        let long = self.rest().starts_with(&three);
        let quote = if long { three.as_str() } else { one };
        self.at += quote.len();
        let mut text = String::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(quote) {
                self.at += quote.len();
                return Ok(TokenKind::Text(text));
            }
            match rest.chars().next() {
                None => return Err(SyntaxError::new(start, "unfinished string")),
                Some('\n' | '\r') if !long => {
                    return Err(SyntaxError::new(start, "unfinished string"));
                }
                Some('\\') if !raw => text.push(self.escape()?),
                Some(character) => {
                    // In a raw string a backslash is a character like any other.
                    text.push(character);
                    self.at += character.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Box<SyntaxError>> {
        let start = self.at;
        let letter = self.rest().chars().nth(1).unwrap_or('\0');
        self.at += 1 + letter.len_utf8().min(self.rest().len().saturating_sub(1));
        let (digits, radix) = match letter {
            'a' => return Ok('\u{7}'),
            'b' => return Ok('\u{8}'),
            'f' => return Ok('\u{c}'),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'v' => return Ok('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => return Ok(letter),
            'x' | 'X' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return Err(SyntaxError::new(start, "unknown escape in a string")),
        };
        let code = self
            .rest()
            .get(..digits)
            .filter(|text| text.chars().all(|c| c.is_digit(radix)))
            .and_then(|text| u32::from_str_radix(text, radix).ok())
            .and_then(char::from_u32)
            .ok_or_else(|| SyntaxError::new(start, "not a character code"))?;
        self.at += digits;
        Ok(code)
    }
}
