//! JSON whose strings hold expressions: `"${input.n}"`, `"order ${input.id} of ${run.id}"`.
//!
//! A string that is one expression and nothing else becomes its value, whatever the type; in any
//! other string the values are written as text, strings as they are and all else as JSON. `$${`
//! stands for `${`. Keys of objects are taken as they are.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::error::{CompileErrors, EvalError};
use super::eval::Loaded;
use super::limits::{Budget, MAX_VALUE_DEPTH, Meter, Usage};
use super::scope::{Scope, Source, Variables};
use super::wanted::Wanted;
use super::{Expression, parser, syntax};

/// Most expressions of one template.
pub const MAX_TEMPLATE_EXPRESSIONS: usize = 256;

/// JSON with checked expressions in its strings. One budget is shared by all of them.
#[derive(Debug)]
pub struct Template {
    root: Part,
    /// What all expressions together read of each variable.
    wanted: BTreeMap<String, Wanted>,
}

#[derive(Debug)]
enum Part {
    /// A value without expressions.
    Constant(Json),
    /// A string that is exactly one expression.
    Value(Place, Expression),
    /// A string with expressions in it.
    Text(Place, Vec<Piece>),
    Array(Vec<Part>),
    Object(Vec<(String, Part)>),
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Expression(Expression),
}

/// Where in the template a string stands, such as `items[2].name`; empty for the root.
type Place = String;

/// A string of a template that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: `{source_text}`: {errors}")]
pub struct TemplateError {
    /// Where in the template the string stands, such as `items[2].name`; empty for the root.
    pub place: String,
    /// The expression, to which the positions of the errors belong; the whole string where `${`
    /// is not closed.
    pub source_text: String,
    /// What is wrong with it.
    pub errors: CompileErrors,
}

/// A string of a template whose expression gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {error}")]
pub struct TemplateEvalError {
    /// Where in the template the string stands, such as `items[2].name`; empty for the root.
    pub place: String,
    /// What happened.
    pub error: EvalError,
}

impl Template {
    /// Checks all expressions of a template.
    ///
    /// # Errors
    ///
    /// Every string that is refused, in the order of the template.
    pub fn compile(template: &Json, scope: &Scope) -> Result<Self, Vec<TemplateError>> {
        let mut compiler = Compiler {
            scope,
            expressions: 0,
            errors: Vec::new(),
        };
        let root = compiler.part(template, String::new(), 0);
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        let mut wanted = BTreeMap::new();
        let mut references = Vec::new();
        root.references(&mut references);
        for path in &references {
            let Some((variable, fields)) = path.split_first() else {
                continue;
            };
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            wanted
                .entry(variable.clone())
                .or_insert_with(Wanted::nothing)
                .add(&fields);
        }
        Ok(Self { root, wanted })
    }

    /// What the expressions may read, as [`Expression::references`], sorted and each once.
    #[must_use]
    pub fn references(&self) -> Vec<Vec<String>> {
        let mut references = Vec::new();
        self.root.references(&mut references);
        references.sort();
        references.dedup();
        references
    }

    /// Fills the template in within the default [`Budget`].
    ///
    /// # Errors
    ///
    /// The first expression that gives no value, as [`Expression::evaluate`].
    pub fn render(&self, variables: &dyn Variables) -> Result<Json, TemplateEvalError> {
        self.render_within(variables, Budget::default()).0
    }

    /// Fills the template in within a budget for all its expressions together, and says what of it
    /// was used, also in case of an error.
    pub fn render_within(
        &self,
        variables: &dyn Variables,
        budget: Budget,
    ) -> (Result<Json, TemplateEvalError>, Usage) {
        let meter = Meter::new(budget);
        let loaded = LoadedOnce {
            variables,
            wanted: &self.wanted,
            cells: self
                .wanted
                .keys()
                .map(|name| (name.as_str(), OnceCell::new()))
                .collect(),
        };
        let result = self.root.render(&loaded, &meter);
        (result, meter.usage())
    }
}

/// Loads each variable at most once for all expressions of a template.
struct LoadedOnce<'a> {
    variables: &'a dyn Variables,
    wanted: &'a BTreeMap<String, Wanted>,
    cells: BTreeMap<&'a str, OnceCell<Loaded<'a>>>,
}

impl Variables for LoadedOnce<'_> {
    fn get(&self, name: &str) -> Option<Source<'_>> {
        let (cell, wanted) = (self.cells.get(name)?, self.wanted.get(name)?);
        match cell.get_or_init(|| Loaded::load(self.variables, name, wanted)) {
            Loaded::Borrowed(value) => Some(Source::Json(value)),
            Loaded::Owned(value) => Some(Source::Json(value)),
            Loaded::Absent => None,
            // The expression reports what is wrong with the text.
            Loaded::NotJson(_) | Loaded::Time(_) => self.variables.get(name),
        }
    }
}

struct Compiler<'s> {
    scope: &'s Scope,
    expressions: usize,
    errors: Vec<TemplateError>,
}

impl Compiler<'_> {
    fn part(&mut self, template: &Json, place: Place, depth: usize) -> Part {
        if depth > MAX_VALUE_DEPTH {
            let text = format!("a template nested more than {MAX_VALUE_DEPTH} deep");
            self.refuse(place, "", text);
            return Part::Constant(Json::Null);
        }
        match template {
            Json::String(text) => self.text(text, place),
            Json::Array(items) => Part::Array(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.part(item, format!("{place}[{index}]"), depth + 1))
                    .collect(),
            ),
            Json::Object(object) => Part::Object(
                object
                    .iter()
                    .map(|(name, item)| {
                        let dot = if place.is_empty() { "" } else { "." };
                        let part = self.part(item, format!("{place}{dot}{name}"), depth + 1);
                        (name.clone(), part)
                    })
                    .collect(),
            ),
            Json::Null | Json::Bool(_) | Json::Number(_) => Part::Constant(template.clone()),
        }
    }

    fn text(&mut self, text: &str, place: Place) -> Part {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| rest.find("${")) {
            let dollar = at + found;
            literal.push_str(text.get(at..dollar).unwrap_or_default());
            let start = dollar + 2;
            if literal.ends_with('$') {
                literal.push('{');
                at = start;
                continue;
            }
            let end = match parser::closing_brace(text, start) {
                Ok(end) => end,
                Err(error) => {
                    self.errors.push(TemplateError {
                        place,
                        source_text: text.to_owned(),
                        errors: syntax(text, &error),
                    });
                    return Part::Constant(Json::Null);
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            let source = text.get(start..end).unwrap_or_default();
            if let Some(expression) = self.expression(source, &place) {
                pieces.push(Piece::Expression(expression));
            }
            at = end + 1;
        }
        literal.push_str(text.get(at..).unwrap_or_default());
        if pieces.is_empty() {
            return Part::Constant(Json::String(literal));
        }
        if literal.is_empty() && pieces.len() == 1 {
            match pieces.pop() {
                Some(Piece::Expression(expression)) => return Part::Value(place, expression),
                Some(other) => pieces.push(other),
                None => {}
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Part::Text(place, pieces)
    }

    fn expression(&mut self, source: &str, place: &str) -> Option<Expression> {
        self.expressions += 1;
        if self.expressions > MAX_TEMPLATE_EXPRESSIONS {
            // Said once, however many follow.
            if self.expressions == MAX_TEMPLATE_EXPRESSIONS + 1 {
                let text = format!("more than {MAX_TEMPLATE_EXPRESSIONS} expressions");
                self.refuse(place.to_owned(), source, text);
            }
            return None;
        }
        match Expression::compile(source, self.scope) {
            Ok(expression) => Some(expression),
            Err(errors) => {
                self.errors.push(TemplateError {
                    place: place.to_owned(),
                    source_text: source.to_owned(),
                    errors,
                });
                None
            }
        }
    }

    fn refuse(&mut self, place: Place, source: &str, message: String) {
        let kind = super::CompileErrorKind::TooComplex;
        let error = super::lexer::SyntaxError::of(kind, 0, message);
        self.errors.push(TemplateError {
            place,
            source_text: source.to_owned(),
            errors: syntax(source, &error),
        });
    }
}

impl Part {
    fn references(&self, into: &mut Vec<Vec<String>>) {
        match self {
            Self::Constant(_) => {}
            Self::Value(_, expression) => into.extend(expression.references()),
            Self::Text(_, pieces) => {
                for piece in pieces {
                    if let Piece::Expression(expression) = piece {
                        into.extend(expression.references());
                    }
                }
            }
            Self::Array(parts) => parts.iter().for_each(|part| part.references(into)),
            Self::Object(parts) => parts.iter().for_each(|(_, part)| part.references(into)),
        }
    }

    fn render(&self, variables: &dyn Variables, meter: &Meter) -> Result<Json, TemplateEvalError> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Value(place, expression) => expression
                .run(variables, meter, |value| value.to_json(meter))
                .map_err(|error| at(place, error)),
            Self::Text(place, pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Literal(literal) => text.push_str(literal),
                        Piece::Expression(expression) => {
                            let value = expression
                                .run(variables, meter, |value| value.to_text(meter))
                                .map_err(|error| at(place, error))?;
                            text.push_str(&value);
                        }
                    }
                }
                Ok(Json::String(text))
            }
            Self::Array(parts) => parts
                .iter()
                .map(|part| part.render(variables, meter))
                .collect::<Result<_, _>>()
                .map(Json::Array),
            Self::Object(parts) => parts
                .iter()
                .map(|(name, part)| Ok((name.clone(), part.render(variables, meter)?)))
                .collect::<Result<_, _>>()
                .map(Json::Object),
        }
    }
}

fn at(place: &str, error: EvalError) -> TemplateEvalError {
    TemplateEvalError {
        place: place.to_owned(),
        error,
    }
}
