//! Expressions: CEL over JSON, for conditions of policy and for values of workflows.
//!
//! An [`Expression`] is checked when it is saved and has a [`Budget`] when it is evaluated, so
//! that one written by a stranger neither names what it may not see nor runs for long. A
//! [`Template`] is JSON whose strings hold expressions. Which variables there are is not decided
//! here: policy and workflows bring their own [`Scope`] and [`Variables`].
//!
//! The language is CEL with these differences. JSON has one kind of number, so whole ones up to
//! 2^53 are ints however they are written, ints and doubles mix, and there is no unsigned type.
//! There are no bytes, messages or optional fields. Times have microseconds and fixed offsets.
//!
//! ```
//! use coretex_core::expression::{Bindings, Expression, Scope};
//!
//! let scope = Scope::new().variable("input");
//! let expression = Expression::compile("input.items.filter(i, i.price > 10).size() + 0.5", &scope)?;
//! let input = r#"{"items": [{"price": 12.5}, {"price": 8}]}"#;
//! let result = expression.evaluate(&Bindings::new().text("input", input))?;
//! assert_eq!(result, serde_json::json!(1.5));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ast;
mod call;
mod check;
mod error;
mod eval;
mod function;
mod lexer;
mod limits;
mod operator;
mod parser;
mod plan;
mod scope;
mod template;
mod temporal;
mod value;
mod wanted;

use std::cell::OnceCell;
use std::fmt;

use serde_json::Value as Json;

use self::error::Fault;
pub use self::error::{
    CompileError, CompileErrorKind, CompileErrors, EvalError, EvalErrorKind, Position,
};
use self::eval::Machine;
use self::lexer::SyntaxError;
use self::limits::Meter;
pub use self::limits::{
    Budget, MAX_DEPTH, MAX_LOOPS, MAX_NESTING, MAX_NODES, MAX_PATTERN_BYTES, MAX_PATTERNS,
    MAX_SOURCE_BYTES, Usage,
};
use self::plan::Plan;
pub use self::scope::{Bindings, Scope, Source, Variables};
pub use self::template::{MAX_TEMPLATE_EXPRESSIONS, Template, TemplateError, TemplateEvalError};
pub(crate) use self::temporal::timestamp as parse_timestamp;
use self::value::Value;
use self::wanted::Wanted;

/// A checked expression, ready to be evaluated any number of times from any thread.
pub struct Expression {
    source: String,
    plan: Plan,
    wanted: Vec<Wanted>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl Expression {
    /// Checks an expression against the names it may use and the bounds of this module.
    ///
    /// # Errors
    ///
    /// One error for a text that is not an expression or is too large; otherwise everything that
    /// is wrong with its names and calls at once.
    pub fn compile(source: &str, scope: &Scope) -> Result<Self, CompileErrors> {
        if source.len() > MAX_SOURCE_BYTES {
            let text = format!("longer than {MAX_SOURCE_BYTES} bytes");
            let error = SyntaxError::of(CompileErrorKind::TooComplex, MAX_SOURCE_BYTES, text);
            return Err(syntax(source, &error));
        }
        let expr = parser::parse(source).map_err(|error| syntax(source, &error))?;
        let plan = check::check(source, *expr, scope).map_err(CompileErrors)?;
        let wanted = wanted::wanted(&plan);
        Ok(Self {
            source: source.to_owned(),
            plan,
            wanted,
        })
    }

    /// The text that was compiled.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How many constant regular expressions it keeps compiled, each of up to half a MiB.
    #[must_use]
    pub const fn patterns(&self) -> usize {
        self.plan.patterns
    }

    /// The parts of its variables that the expression may read, as lists of names such as
    /// `["steps", "fetch", "output"]`, sorted. Nothing else is read, so a caller can load just
    /// these.
    #[must_use]
    pub fn references(&self) -> Vec<Vec<String>> {
        wanted::paths(&self.plan.variables, &self.wanted)
    }

    /// Evaluates within the default [`Budget`].
    ///
    /// # Errors
    ///
    /// When the input does not have what the expression reads, types do not fit, a number leaves
    /// its range, or the budget is used up. The same input gives the same error again.
    pub fn evaluate(&self, variables: &dyn Variables) -> Result<Json, EvalError> {
        self.evaluate_within(variables, Budget::default()).0
    }

    /// Evaluates a condition within the default [`Budget`].
    ///
    /// # Errors
    ///
    /// As [`Expression::evaluate`], and when the result is not a bool.
    pub fn evaluate_bool(&self, variables: &dyn Variables) -> Result<bool, EvalError> {
        match self.evaluate(variables)? {
            Json::Bool(value) => Ok(value),
            _ => Err(Fault::of_type("the result of a condition must be a bool")
                .at(self.plan.root.start)
                .into_error(&self.source)),
        }
    }

    /// Evaluates within a budget and says what of it was used, also in case of an error.
    pub fn evaluate_within(
        &self,
        variables: &dyn Variables,
        budget: Budget,
    ) -> (Result<Json, EvalError>, Usage) {
        let meter = Meter::new(budget);
        let result = self.run(variables, &meter, |value| value.to_json(&meter));
        (result, meter.usage())
    }

    /// Evaluates and takes the result out of the evaluation, whose values it may borrow.
    fn run<T>(
        &self,
        variables: &dyn Variables,
        meter: &Meter,
        take: impl FnOnce(&Value<'_>) -> Result<T, Box<Fault>>,
    ) -> Result<T, EvalError> {
        let slots = self.wanted.iter().map(|_| OnceCell::new()).collect();
        let mut machine = Machine {
            source: &self.source,
            plan: &self.plan,
            wanted: &self.wanted,
            variables,
            slots: &slots,
            meter,
            locals: Vec::new(),
            patterns: Vec::new(),
        };
        let root = &self.plan.root;
        machine
            .eval(root)
            .and_then(|value| take(&value).map_err(|fault| fault.at(root.start)))
            .map_err(|fault| fault.into_error(&self.source))
    }
}

/// The one error of a source that was not parsed to its end.
fn syntax(source: &str, error: &SyntaxError) -> CompileErrors {
    CompileErrors(vec![CompileError {
        position: Position::of(source, error.offset),
        kind: error.kind,
        message: error.message.clone(),
    }])
}
