//! Turns a syntax tree into a plan, or lists everything that is wrong with its names and calls.

use super::ast::{Expr, ExprKind};
use super::error::{CompileError, CompileErrorKind, Position};
use super::function::{FUNCTIONS, Form, Function, Signature, signature};
use super::limits::{MAX_LOOPS, MAX_PATTERN_BYTES, MAX_PATTERN_PROGRAM, MAX_PATTERNS};
use super::plan::{Loop, LoopKind, Node, Op, Plan};
use super::scope::Scope;

/// Most similar a name must be to be suggested, from 0 (different) to 1 (equal).
const SIMILAR: f64 = 0.75;

/// Checks a parsed expression.
pub(super) fn check(source: &str, expr: Expr, scope: &Scope) -> Result<Plan, Vec<CompileError>> {
    let mut checker = Checker {
        source,
        scope,
        variables: Vec::new(),
        locals: Vec::new(),
        patterns: 0,
        errors: Vec::new(),
    };
    let root = checker.node(expr);
    let mut errors = checker.errors;
    if errors.is_empty() {
        return Ok(Plan {
            root,
            variables: checker.variables,
            patterns: checker.patterns,
        });
    }
    errors.sort_by_key(|error| error.position);
    Err(errors)
}

/// Compiles a pattern within the bounds of this module.
pub(super) fn pattern(text: &str) -> Result<regex::Regex, String> {
    if text.len() > MAX_PATTERN_BYTES {
        return Err(format!("a pattern longer than {MAX_PATTERN_BYTES} bytes"));
    }
    regex::RegexBuilder::new(text)
        .size_limit(MAX_PATTERN_PROGRAM)
        .dfa_size_limit(MAX_PATTERN_PROGRAM)
        .nest_limit(50)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "a pattern that needs too much memory".to_owned(),
            // The library draws the pattern with a caret in several lines; the last one says why.
            other => {
                let text = other.to_string();
                let reason = text.lines().last().unwrap_or_default();
                let reason = reason.trim_start_matches("error:").trim();
                format!("not a regular expression: {reason}")
            }
        })
}

struct Checker<'s> {
    source: &'s str,
    scope: &'s Scope,
    variables: Vec<String>,
    /// Names of the loops around the current node, outermost first.
    locals: Vec<String>,
    /// Constant patterns so far.
    patterns: usize,
    errors: Vec<CompileError>,
}

impl Checker<'_> {
    /// Notes an error; the node it returns is never evaluated.
    fn refuse(&mut self, at: usize, kind: CompileErrorKind, message: impl Into<String>) -> Op {
        self.errors.push(CompileError {
            position: Position::of(self.source, at),
            kind,
            message: message.into(),
        });
        Op::Null
    }

    fn boxed(&mut self, expr: Expr) -> Box<Node> {
        Box::new(self.node(expr))
    }

    /// A plain loop, here and below: the frames of an iterator chain would lie on the stack for
    /// every level of the tree.
    fn all(&mut self, exprs: Vec<Expr>) -> Vec<Node> {
        let mut nodes = Vec::with_capacity(exprs.len());
        for expr in exprs {
            nodes.push(self.node(expr));
        }
        nodes
    }

    fn entries(&mut self, entries: Vec<(Expr, Expr)>) -> Vec<(Node, Node)> {
        let mut nodes = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            nodes.push((self.node(key), self.node(value)));
        }
        nodes
    }

    fn node(&mut self, expr: Expr) -> Node {
        let (start, end) = (expr.start, expr.end);
        let op = match expr.kind {
            ExprKind::Null => Op::Null,
            ExprKind::Bool(value) => Op::Bool(value),
            ExprKind::Int(value) => Op::Int(value),
            ExprKind::Double(value) => Op::Double(value),
            ExprKind::Text(text) => Op::Text(text.into()),
            ExprKind::Name(name) => self.name(start, &name),
            ExprKind::Field(operand, name) => Op::Field(self.operand(*operand, &name), name.into()),
            ExprKind::Index(operand, index) => Op::Index(self.boxed(*operand), self.boxed(*index)),
            ExprKind::List(items) => Op::List(self.all(items)),
            ExprKind::Map(entries) => Op::Map(self.entries(entries)),
            ExprKind::Not(operand) => Op::Not(self.boxed(*operand)),
            ExprKind::Negate(operand) => Op::Negate(self.boxed(*operand)),
            ExprKind::Binary(op, left, right) => {
                Op::Binary(op, self.boxed(*left), self.boxed(*right))
            }
            ExprKind::And(terms) => Op::And(self.all(terms)),
            ExprKind::Or(terms) => Op::Or(self.all(terms)),
            ExprKind::Conditional(parts) => {
                let [condition, yes, no] = *parts;
                let parts = [self.node(condition), self.node(yes), self.node(no)];
                Op::Conditional(Box::new(parts))
            }
            ExprKind::Call {
                target,
                name,
                arguments,
            } => self.call(start, target, &name, arguments),
        };
        Node { start, end, op }
    }

    fn name(&mut self, at: usize, name: &str) -> Op {
        if let Some(local) = self.locals.iter().rposition(|local| local == name) {
            return Op::Local(local);
        }
        if self.scope.fields(name).is_some() {
            let message = format!("`{name}` is used by its fields, as in `{name}.x`");
            return self.refuse(at, CompileErrorKind::Arguments, message);
        }
        if !self.scope.has_variable(name) {
            let hint = nearest(name, self.scope.variable_names());
            let message = format!("unknown variable `{name}`{hint}");
            return self.refuse(at, CompileErrorKind::UnknownVariable, message);
        }
        self.variable(name)
    }

    fn variable(&mut self, name: &str) -> Op {
        let known = self.variables.iter().position(|known| known == name);
        Op::Variable(known.unwrap_or_else(|| {
            self.variables.push(name.to_owned());
            self.variables.len() - 1
        }))
    }

    /// What a field is taken of; a record has to have the field.
    fn operand(&mut self, operand: Expr, field: &str) -> Box<Node> {
        if let ExprKind::Name(name) = &operand.kind
            && !self.locals.contains(name)
            && let Some(fields) = self.scope.fields(name)
        {
            let op = if fields.contains(field) {
                self.variable(name)
            } else {
                let hint = nearest(field, fields.iter().map(String::as_str));
                let message = format!("`{name}` has no `{field}`{hint}");
                self.refuse(operand.start, CompileErrorKind::UnknownVariable, message)
            };
            let (start, end) = (operand.start, operand.end);
            return Box::new(Node { start, end, op });
        }
        self.boxed(operand)
    }

    /// Resolves a call. What it needs for messages is in other functions, because its frame is on
    /// the stack for every call around a call.
    fn call(
        &mut self,
        at: usize,
        target: Option<Box<Expr>>,
        name: &str,
        mut arguments: Vec<Expr>,
    ) -> Op {
        // A method is named after its receiver, so the error points there.
        let named_at = target.as_ref().map_or(at, |target| target.end);
        let loop_kind = LoopKind::named(name);
        let row = signature(name);
        let known = loop_kind.is_some() || name == "has" || row.is_some();
        if !known || !self.scope.has_function(name) {
            self.unknown_function(named_at, name);
            // The arguments may have errors of their own, but those of a misspelt loop would only
            // complain about its variable.
            if target.is_none() {
                self.all(arguments);
            }
            if let Some(target) = target {
                self.node(*target);
            }
            return Op::Null;
        }
        if let Some(kind) = loop_kind {
            return self.loop_macro(named_at, kind, name, target, arguments);
        }
        let Some(row) = row else {
            return self.has(at, target.is_none(), arguments);
        };
        let method = target.is_some();
        if let Some(target) = target {
            arguments.insert(0, *target);
        }
        self.check_form(named_at, row, method, arguments.len());
        let arguments = self.all(arguments);
        if row.function == Function::Matches {
            return self.matches(arguments);
        }
        Op::Call(row.function, arguments)
    }

    fn unknown_function(&mut self, at: usize, name: &str) {
        let names = FUNCTIONS
            .iter()
            .map(|row| row.name)
            .chain(["has", "all", "exists", "exists_one", "filter", "map"])
            .filter(|candidate| self.scope.has_function(candidate));
        let hint = nearest(name, names);
        let message = format!("unknown function `{name}`{hint}");
        self.refuse(at, CompileErrorKind::UnknownFunction, message);
    }

    /// Checks how a function is called; `count` includes the receiver of a method.
    fn check_form(&mut self, at: usize, row: &Signature, method: bool, count: usize) {
        let name = row.name;
        let form = match row.form {
            Form::Global if method => Some(format!("`{name}(x)`")),
            Form::Method if !method => Some(format!("`x.{name}(...)`")),
            Form::Global | Form::Method | Form::Either => None,
        };
        if let Some(form) = form {
            let message = format!("`{name}` is called as {form}");
            self.refuse(at, CompileErrorKind::Arguments, message);
            return;
        }
        let (fewest, most) = row.arguments;
        if count < fewest || count > most {
            let receiver = usize::from(method);
            let message = format!(
                "`{name}` takes {}, not {}",
                range(fewest.saturating_sub(receiver), most - receiver),
                count - receiver,
            );
            self.refuse(at, CompileErrorKind::Arguments, message);
        }
    }

    /// `matches`; a constant pattern is compiled here once.
    fn matches(&mut self, mut arguments: Vec<Node>) -> Op {
        let [
            _,
            Node {
                start,
                op: Op::Text(text),
                ..
            },
        ] = arguments.as_slice()
        else {
            return Op::Call(Function::Matches, arguments);
        };
        let start = *start;
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            let message = format!("more than {MAX_PATTERNS} regular expressions");
            return self.refuse(start, CompileErrorKind::TooComplex, message);
        }
        match pattern(text) {
            Ok(regex) => Op::Matches(Box::new(arguments.swap_remove(0)), Box::new(regex)),
            Err(message) => self.refuse(start, CompileErrorKind::Arguments, message),
        }
    }

    fn has(&mut self, at: usize, global: bool, mut arguments: Vec<Expr>) -> Op {
        if global
            && arguments.len() == 1
            && let Some(Expr {
                kind: ExprKind::Field(operand, name),
                ..
            }) = arguments.pop()
        {
            return Op::Has(self.operand(*operand, &name), name.into());
        }
        self.refuse(
            at,
            CompileErrorKind::Arguments,
            "`has` takes one field, as in `has(input.order)`",
        )
    }

    fn loop_macro(
        &mut self,
        at: usize,
        kind: LoopKind,
        name: &str,
        target: Option<Box<Expr>>,
        arguments: Vec<Expr>,
    ) -> Op {
        let over = target.map(|target| self.node(*target));
        let count = arguments.len();
        let most = if kind == LoopKind::Map { 3 } else { 2 };
        let mut parts = arguments.into_iter();
        let (Some(over), Some(variable), true) = (over, parts.next(), (2..=most).contains(&count))
        else {
            let message = format!(
                "`{name}` is called as `list.{name}(x, ...)` with {}",
                range(2, most)
            );
            return self.refuse(at, CompileErrorKind::Arguments, message);
        };
        let ExprKind::Name(variable_name) = variable.kind else {
            return self.refuse(
                variable.start,
                CompileErrorKind::Arguments,
                format!("the first argument of `{name}` is the name of its variable"),
            );
        };
        let local = self.locals.len();
        if local >= MAX_LOOPS {
            self.refuse(
                at,
                CompileErrorKind::TooComplex,
                format!("loops nested more than {MAX_LOOPS} deep"),
            );
        }
        self.locals.push(variable_name);
        let mut bodies = self.all(parts.collect());
        self.locals.pop();
        let output = (kind == LoopKind::Map).then(|| bodies.pop()).flatten();
        Op::Loop(Box::new(Loop {
            kind,
            over,
            local,
            test: bodies.pop(),
            output,
        }))
    }
}

fn range(fewest: usize, most: usize) -> String {
    match (fewest, most) {
        (0, 0) => "no arguments".to_owned(),
        (1, 1) => "1 argument".to_owned(),
        _ if fewest == most => format!("{most} arguments"),
        _ => format!("{fewest} or {most} arguments"),
    }
}

/// `, did you mean ...` for the most similar name, or nothing.
fn nearest<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> String {
    candidates
        .map(|candidate| (strsim::jaro(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map_or_else(String::new, |(_, candidate)| {
            format!(", did you mean `{candidate}`?")
        })
}
