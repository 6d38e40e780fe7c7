//! Tokens to a syntax tree, by recursive descent with bounded depth and a bounded number of nodes.
//!
//! The grammar is that of CEL without message literals, bytes and optional fields. The first
//! error ends the parse; names are looked at later, by `check`.

use super::ast::{BinaryOp, Expr, ExprKind};
use super::error::CompileErrorKind;
use super::lexer::{Lexer, SyntaxError, Token, TokenKind};
use super::limits::{MAX_DEPTH, MAX_NESTING, MAX_NODES};

/// Words that CEL keeps free; they may name fields but not variables.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Small, because a result lies on the stack for every level of nesting.
type Parsed = Result<Box<Expr>, Box<SyntaxError>>;

/// Parses a source that is one expression and nothing else.
pub(super) fn parse(source: &str) -> Parsed {
    let mut parser = Parser::new(source, 0)?;
    let expr = parser.expr()?;
    match parser.token.kind {
        TokenKind::End => Ok(expr),
        _ => Err(parser.unexpected("the end")),
    }
}

/// Finds the end of an expression that starts at `start` and is closed by `}`: the offset of that
/// brace. Braces in strings and maps do not count.
pub(super) fn closing_brace(source: &str, start: usize) -> Result<usize, Box<SyntaxError>> {
    let mut lexer = Lexer::new(source, start);
    let mut open = 0_usize;
    loop {
        let token = lexer.next()?;
        match token.kind {
            TokenKind::Mark("{") => open += 1,
            TokenKind::Mark("}") if open == 0 => return Ok(token.start),
            TokenKind::Mark("}") => open -= 1,
            TokenKind::End => return Err(SyntaxError::new(start, "`${` without its `}`")),
            _ => {}
        }
    }
}

struct Parser<'s> {
    lexer: Lexer<'s>,
    token: Token<'s>,
    /// End of the token before, where a finished node ends.
    last_end: usize,
    nodes: usize,
    nesting: usize,
}

impl<'s> Parser<'s> {
    fn new(source: &'s str, at: usize) -> Result<Self, Box<SyntaxError>> {
        let mut lexer = Lexer::new(source, at);
        let token = lexer.next()?;
        Ok(Self {
            lexer,
            token,
            last_end: at,
            nodes: 0,
            nesting: 0,
        })
    }

    fn advance(&mut self) -> Result<Token<'s>, Box<SyntaxError>> {
        let next = self.lexer.next()?;
        self.last_end = self.token.end;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn is(&self, mark: &str) -> bool {
        matches!(self.token.kind, TokenKind::Mark(found) if found == mark)
    }

    fn eat(&mut self, mark: &str) -> Result<bool, Box<SyntaxError>> {
        let found = self.is(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, mark: &str) -> Result<(), Box<SyntaxError>> {
        if self.eat(mark)? {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{mark}`")))
    }

    fn unexpected(&self, expected: &str) -> Box<SyntaxError> {
        let found = match &self.token.kind {
            TokenKind::End => "the end".to_owned(),
            TokenKind::Name(name) | TokenKind::Escaped(name) => format!("`{name}`"),
            TokenKind::Mark(mark) => format!("`{mark}`"),
            TokenKind::Int(_) | TokenKind::Double(_) => "a number".to_owned(),
            TokenKind::Text(_) => "a string".to_owned(),
        };
        SyntaxError::new(
            self.token.start,
            format!("expected {expected}, found {found}"),
        )
    }

    /// Makes a node over `start..` the last token read; `depth` is that of its deepest child.
    fn node(&mut self, start: usize, depth: usize, kind: ExprKind) -> Parsed {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(SyntaxError::of(
                CompileErrorKind::TooComplex,
                start,
                format!("more than {MAX_NODES} nodes"),
            ));
        }
        if depth >= MAX_DEPTH {
            return Err(too_deep(start, MAX_DEPTH));
        }
        Ok(Box::new(Expr {
            start,
            end: self.last_end,
            depth: depth + 1,
            kind,
        }))
    }

    /// Conditional, the loosest level.
    fn expr(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(too_deep(self.token.start, MAX_NESTING));
        }
        let start = self.token.start;
        let mut expr = self.chain(true)?;
        if self.eat("?")? {
            let yes = self.chain(true)?;
            self.expect(":")?;
            let no = self.expr()?;
            let depth = expr.depth.max(yes.depth).max(no.depth);
            let parts = Box::new([*expr, *yes, *no]);
            expr = self.node(start, depth, ExprKind::Conditional(parts))?;
        }
        self.nesting -= 1;
        Ok(expr)
    }

    /// A chain of `||` or, one level tighter, of `&&`.
    fn chain(&mut self, or: bool) -> Parsed {
        let mark = if or { "||" } else { "&&" };
        let start = self.token.start;
        let first = self.chain_term(or)?;
        if !self.is(mark) {
            return Ok(first);
        }
        let mut terms = vec![*first];
        while self.eat(mark)? {
            terms.push(*self.chain_term(or)?);
        }
        let depth = deepest(&terms);
        let kind = if or {
            ExprKind::Or(terms)
        } else {
            ExprKind::And(terms)
        };
        self.node(start, depth, kind)
    }

    fn chain_term(&mut self, or: bool) -> Parsed {
        if or {
            self.chain(false)
        } else {
            self.binary(0)
        }
    }

    /// The binary operator at hand, with how tightly it binds.
    fn operator(&self) -> Option<(BinaryOp, u8)> {
        Some(match self.token.kind {
            TokenKind::Name("in") => (BinaryOp::In, 0),
            TokenKind::Mark("==") => (BinaryOp::Equal, 0),
            TokenKind::Mark("!=") => (BinaryOp::NotEqual, 0),
            TokenKind::Mark("<") => (BinaryOp::Less, 0),
            TokenKind::Mark("<=") => (BinaryOp::LessOrEqual, 0),
            TokenKind::Mark(">") => (BinaryOp::Greater, 0),
            TokenKind::Mark(">=") => (BinaryOp::GreaterOrEqual, 0),
            TokenKind::Mark("+") => (BinaryOp::Add, 1),
            TokenKind::Mark("-") => (BinaryOp::Subtract, 1),
            TokenKind::Mark("*") => (BinaryOp::Multiply, 2),
            TokenKind::Mark("/") => (BinaryOp::Divide, 2),
            TokenKind::Mark("%") => (BinaryOp::Modulo, 2),
            _ => return None,
        })
    }

    /// Relations and arithmetic, by precedence; all of them group to the left.
    fn binary(&mut self, loosest: u8) -> Parsed {
        let start = self.token.start;
        let mut left = self.unary()?;
        while let Some((operator, level)) = self.operator() {
            if level < loosest {
                break;
            }
            self.advance()?;
            let right = self.binary(level + 1)?;
            let depth = left.depth.max(right.depth);
            let kind = ExprKind::Binary(operator, left, right);
            left = self.node(start, depth, kind)?;
        }
        Ok(left)
    }

    /// A run of `!` or of `-`; an even run of either cancels out to nothing but the type check.
    fn unary(&mut self) -> Parsed {
        let mut starts = Vec::new();
        let not = self.is("!");
        let mark = if not { "!" } else { "-" };
        while self.is(mark) {
            starts.push(self.advance()?.start);
        }
        let negative = !not && matches!(self.token.kind, TokenKind::Int(_) | TokenKind::Double(_));
        let sign = if negative { starts.pop() } else { None };
        let mut expr = self.member(sign)?;
        while let Some(start) = starts.pop() {
            let depth = expr.depth;
            let kind = if not {
                ExprKind::Not(expr)
            } else {
                ExprKind::Negate(expr)
            };
            expr = self.node(start, depth, kind)?;
        }
        Ok(expr)
    }

    /// A primary with its fields, indexes and method calls. `sign` is where the minus of a number
    /// stands.
    fn member(&mut self, sign: Option<usize>) -> Parsed {
        let start = sign.unwrap_or(self.token.start);
        let mut expr = self.primary(sign)?;
        loop {
            if self.eat(".")? {
                expr = self.field(start, expr)?;
            } else if self.eat("[")? {
                if self.is("?") {
                    return Err(unsupported(self.token.start, "optional fields"));
                }
                let index = self.expr()?;
                self.expect("]")?;
                let depth = expr.depth.max(index.depth);
                let kind = ExprKind::Index(expr, index);
                expr = self.node(start, depth, kind)?;
            } else if self.is("{") && matches!(expr.kind, ExprKind::Name(_) | ExprKind::Field(..)) {
                return Err(unsupported(self.token.start, "message literals"));
            } else {
                return Ok(expr);
            }
        }
    }

    fn field(&mut self, start: usize, operand: Box<Expr>) -> Parsed {
        if self.is("?") {
            return Err(unsupported(self.token.start, "optional fields"));
        }
        let (name, escaped) = match self.token.kind {
            TokenKind::Name(name) if !matches!(name, "true" | "false" | "null" | "in") => {
                (name, false)
            }
            TokenKind::Escaped(name) => (name, true),
            _ => return Err(self.unexpected("a field name")),
        };
        self.advance()?;
        if !escaped && self.eat("(")? {
            let arguments = self.items(")")?;
            let depth = operand.depth.max(deepest(&arguments));
            let kind = ExprKind::Call {
                target: Some(operand),
                name: name.to_owned(),
                arguments,
            };
            return self.node(start, depth, kind);
        }
        let depth = operand.depth;
        let kind = ExprKind::Field(operand, name.to_owned());
        self.node(start, depth, kind)
    }

    fn primary(&mut self, sign: Option<usize>) -> Parsed {
        let start = sign.unwrap_or(self.token.start);
        match &mut self.token.kind {
            TokenKind::Int(magnitude) => {
                let magnitude = i128::from(*magnitude);
                let value = if sign.is_some() {
                    -magnitude
                } else {
                    magnitude
                };
                let value = i64::try_from(value)
                    .map_err(|_| SyntaxError::new(start, "not a number of 64 bits"))?;
                self.literal(start, ExprKind::Int(value))
            }
            TokenKind::Double(value) => {
                let value = if sign.is_some() { -*value } else { *value };
                self.literal(start, ExprKind::Double(value))
            }
            TokenKind::Text(text) => {
                let text = std::mem::take(text);
                self.literal(start, ExprKind::Text(text))
            }
            TokenKind::Name(name) => {
                let name = *name;
                self.name(start, name)
            }
            TokenKind::Mark("(") => {
                self.advance()?;
                let mut expr = self.expr()?;
                self.expect(")")?;
                expr.start = start;
                expr.end = self.last_end;
                Ok(expr)
            }
            TokenKind::Mark("[") => {
                self.advance()?;
                let items = self.items("]")?;
                let depth = deepest(&items);
                self.node(start, depth, ExprKind::List(items))
            }
            TokenKind::Mark("{") => self.map(start),
            TokenKind::Mark(_) | TokenKind::Escaped(_) | TokenKind::End => {
                Err(self.unexpected("a value"))
            }
        }
    }

    fn literal(&mut self, start: usize, kind: ExprKind) -> Parsed {
        self.advance()?;
        self.node(start, 0, kind)
    }

    fn name(&mut self, start: usize, name: &str) -> Parsed {
        match name {
            "null" => return self.literal(start, ExprKind::Null),
            "true" => return self.literal(start, ExprKind::Bool(true)),
            "false" => return self.literal(start, ExprKind::Bool(false)),
            "in" => return Err(self.unexpected("a value")),
            _ if RESERVED.contains(&name) => {
                return Err(SyntaxError::new(
                    start,
                    format!("`{name}` is a reserved word"),
                ));
            }
            _ => {}
        }
        self.advance()?;
        if self.eat("(")? {
            let arguments = self.items(")")?;
            let depth = deepest(&arguments);
            let kind = ExprKind::Call {
                target: None,
                name: name.to_owned(),
                arguments,
            };
            return self.node(start, depth, kind);
        }
        self.node(start, 0, ExprKind::Name(name.to_owned()))
    }

    /// Expressions up to the closing bracket, which is read too. A list may end in a comma.
    fn items(&mut self, close: &str) -> Result<Vec<Expr>, Box<SyntaxError>> {
        let mut items = Vec::new();
        loop {
            if (items.is_empty() || close == "]") && self.eat(close)? {
                return Ok(items);
            }
            if close == "]" && self.is("?") {
                return Err(unsupported(self.token.start, "optional elements"));
            }
            items.push(*self.expr()?);
            if !self.eat(",")? {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }

    fn map(&mut self, start: usize) -> Parsed {
        self.advance()?;
        let mut entries = Vec::new();
        let mut depth = 0;
        while !self.eat("}")? {
            if self.is("?") {
                return Err(unsupported(self.token.start, "optional entries"));
            }
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            depth = depth.max(key.depth).max(value.depth);
            entries.push((*key, *value));
            if !self.eat(",")? {
                self.expect("}")?;
                break;
            }
        }
        self.node(start, depth, ExprKind::Map(entries))
    }
}

fn deepest(items: &[Expr]) -> usize {
    items.iter().map(|item| item.depth).max().unwrap_or(0)
}

fn too_deep(offset: usize, levels: usize) -> Box<SyntaxError> {
    SyntaxError::of(
        CompileErrorKind::TooComplex,
        offset,
        format!("nested more than {levels} levels deep"),
    )
}

fn unsupported(offset: usize, what: &str) -> Box<SyntaxError> {
    SyntaxError::of(
        CompileErrorKind::Unsupported,
        offset,
        format!("{what} are not supported"),
    )
}
