//! Evaluates a plan, counting what it uses.

use std::cell::OnceCell;
use std::rc::Rc;

use serde_json::Value as Json;

use super::ast::BinaryOp;
use super::call;
use super::check;
use super::error::{EvalErrorKind, Fault};
use super::function::Function;
use super::limits::{Meter, PATTERN_STEPS};
use super::operator;
use super::plan::{Loop, LoopKind, Node, Op, Plan};
use super::scope::{Source, Variables};
use super::temporal;
use super::value::{Key, List, Map, Text, Value, equal};
use super::wanted::Wanted;

type Outcome<'e> = Result<Value<'e>, Box<Fault>>;

/// Longest piece of source that an error message quotes, in characters.
const QUOTED: usize = 80;

/// A variable once it has been asked for.
#[derive(Debug)]
pub(super) enum Loaded<'a> {
    Borrowed(&'a Json),
    Owned(Json),
    Time(Option<i64>),
    Absent,
    NotJson(String),
}

impl<'a> Loaded<'a> {
    /// Asks for a variable and reads its text, if it is one.
    pub(super) fn load(variables: &'a dyn Variables, name: &str, wanted: &Wanted) -> Self {
        match variables.get(name) {
            None => Self::Absent,
            Some(Source::Json(value)) => Self::Borrowed(value),
            Some(Source::Owned(value)) => Self::Owned(value),
            Some(Source::Time(time)) => Self::Time(temporal::of(time)),
            Some(Source::Text(text)) => match wanted.read(text) {
                Ok(value) => Self::Owned(value),
                Err(error) => Self::NotJson(error.to_string()),
            },
        }
    }
}

/// The variables of one evaluation, loaded as they are needed.
pub(super) type Slots<'a> = Vec<OnceCell<Loaded<'a>>>;

/// One evaluation.
pub(super) struct Machine<'e, 'a> {
    pub(super) source: &'e str,
    pub(super) plan: &'e Plan,
    pub(super) wanted: &'e [Wanted],
    pub(super) variables: &'a dyn Variables,
    pub(super) slots: &'e Slots<'a>,
    pub(super) meter: &'e Meter,
    /// Values of the loops around the current node, outermost first.
    pub(super) locals: Vec<Value<'e>>,
    /// Patterns met during this evaluation.
    pub(super) patterns: Vec<(String, Rc<regex::Regex>)>,
}

impl<'e, 'a: 'e> Machine<'e, 'a> {
    /// Evaluates a node; an error is placed at the innermost node that failed.
    pub(super) fn eval(&mut self, node: &'e Node) -> Outcome<'e> {
        self.meter.visits(1).map_err(|fault| fault.at(node.start))?;
        self.dispatch(node).map_err(|fault| fault.at(node.start))
    }

    /// Every arm with locals of its own is a function of its own: this frame is on the stack once
    /// for each level of the tree.
    fn dispatch(&mut self, node: &'e Node) -> Outcome<'e> {
        match &node.op {
            Op::Null => Ok(Value::Null),
            Op::Bool(value) => Ok(Value::Bool(*value)),
            Op::Int(value) => Ok(Value::Int(*value)),
            Op::Double(value) => Ok(Value::Double(*value)),
            Op::Text(text) => Ok(Value::Text(Text::Borrowed(text))),
            Op::Variable(slot) => self.variable(*slot),
            Op::Local(slot) => Ok(self.locals.get(*slot).cloned().unwrap_or(Value::Null)),
            Op::Field(operand, name) => self.field(node, operand, name),
            Op::Has(operand, name) => self.has(node, operand, name),
            Op::Index(operand, index) => self.index(node, operand, index),
            Op::List(items) => self.list(items),
            Op::Map(entries) => self.map(entries),
            Op::Not(operand) => self
                .boolean(operand, "`!`")
                .map(|value| Value::Bool(!value)),
            Op::Negate(operand) => self
                .eval(operand)
                .and_then(|value| operator::negate(&value)),
            Op::Binary(op, left, right) => self.binary(*op, left, right),
            Op::And(terms) => self.chain(terms, false),
            Op::Or(terms) => self.chain(terms, true),
            Op::Conditional(parts) => self.conditional(parts),
            Op::Call(Function::Matches, arguments) => self.matches(arguments),
            Op::Call(function, arguments) => self.call(*function, arguments),
            Op::Matches(operand, regex) => self.matches_constant(operand, regex),
            Op::Loop(inner) => self.run_loop(inner),
        }
    }

    fn variable(&mut self, slot: usize) -> Outcome<'e> {
        let name = self.plan.variables.get(slot).map_or("", String::as_str);
        let (Some(cell), Some(wanted)) = (self.slots.get(slot), self.wanted.get(slot)) else {
            return Err(Fault::new(EvalErrorKind::Variable, "no such variable"));
        };
        match cell.get_or_init(|| Loaded::load(self.variables, name, wanted)) {
            Loaded::Borrowed(value) => Ok(Value::from_json(value)),
            Loaded::Owned(value) => Ok(Value::from_json(value)),
            Loaded::Time(Some(micros)) => Ok(Value::Timestamp(*micros)),
            Loaded::Time(None) => Err(Fault::of_value(format!("`{name}` is after the year 9999"))),
            Loaded::Absent => Err(Fault::new(
                EvalErrorKind::Variable,
                format!("`{name}` has no value here"),
            )),
            Loaded::NotJson(reason) => Err(Fault::new(
                EvalErrorKind::Variable,
                format!("`{name}` is not JSON: {reason}"),
            )),
        }
    }

    /// The source of a node, for a message.
    fn quote(&self, node: &Node) -> String {
        let text = self.source.get(node.start..node.end).unwrap_or_default();
        match text.char_indices().nth(QUOTED) {
            None => text.to_owned(),
            Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        }
    }

    /// What a message calls the value of a node: the last name of a path, else its source.
    fn label(&self, node: &Node) -> String {
        match &node.op {
            Op::Field(_, name) => name.to_string(),
            _ => self.quote(node),
        }
    }

    fn object(&mut self, node: &'e Node, operand: &'e Node) -> Result<Map<'e>, Box<Fault>> {
        match self.eval(operand)? {
            Value::Map(map) => Ok(map),
            other => Err(Fault::of_type(format!(
                "`{}`: `{}` is {}, not an object",
                self.quote(node),
                self.label(operand),
                other.type_name()
            ))),
        }
    }

    fn field(&mut self, node: &'e Node, operand: &'e Node, name: &'e str) -> Outcome<'e> {
        let map = self.object(node, operand)?;
        let key = Key::Text(Text::Borrowed(name));
        match map.get(&key, self.meter)? {
            Some(value) => Ok(value),
            None => Err(self.missing(node, operand, name)),
        }
    }

    fn missing(&self, node: &Node, operand: &Node, name: &str) -> Box<Fault> {
        Fault::new(
            EvalErrorKind::Missing,
            format!(
                "`{}`: `{}` has no field `{name}`",
                self.quote(node),
                self.label(operand)
            ),
        )
    }

    fn has(&mut self, node: &'e Node, operand: &'e Node, name: &'e str) -> Outcome<'e> {
        let map = self.object(node, operand)?;
        let key = Key::Text(Text::Borrowed(name));
        Ok(Value::Bool(map.get(&key, self.meter)?.is_some()))
    }

    fn index(&mut self, node: &'e Node, operand: &'e Node, index: &'e Node) -> Outcome<'e> {
        let container = self.eval(operand)?;
        let index = self.eval(index)?;
        match container {
            Value::List(list) => self.element(node, operand, &list, index),
            Value::Map(map) => {
                let type_name = index.type_name();
                let Some(key) = Key::of(index) else {
                    return Err(Fault::of_type(format!(
                        "`{}`: {type_name} is not a key",
                        self.quote(node)
                    )));
                };
                match map.get(&key, self.meter)? {
                    Some(value) => Ok(value),
                    None => Err(self.missing(node, operand, &key.name())),
                }
            }
            other => Err(Fault::of_type(format!(
                "`{}`: `{}` is {}, neither a list nor an object",
                self.quote(node),
                self.label(operand),
                other.type_name()
            ))),
        }
    }

    fn element(
        &self,
        node: &Node,
        operand: &Node,
        list: &List<'e>,
        index: Value<'e>,
    ) -> Outcome<'e> {
        let type_name = index.type_name();
        let Some(Key::Int(index)) = Key::of(index) else {
            return Err(Fault::of_type(format!(
                "`{}`: {type_name} is not an index",
                self.quote(node)
            )));
        };
        let element = usize::try_from(index)
            .ok()
            .and_then(|index| list.get(index));
        element.ok_or_else(|| {
            let text = format!(
                "`{}`: `{}` has {} elements, none at {index}",
                self.quote(node),
                self.label(operand),
                list.len()
            );
            Fault::new(EvalErrorKind::Missing, text)
        })
    }

    fn list(&mut self, items: &'e [Node]) -> Outcome<'e> {
        self.meter.visits(8 * items.len())?;
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            values.push(self.eval(item)?);
        }
        Ok(Value::list(values))
    }

    fn map(&mut self, entries: &'e [(Node, Node)]) -> Outcome<'e> {
        self.meter.visits(8 * entries.len())?;
        let mut values: Vec<(Key<'e>, Value<'e>)> = Vec::with_capacity(entries.len());
        for (key_node, value) in entries {
            let key = self.eval(key_node)?;
            let type_name = key.type_name();
            let Some(key) = Key::of(key) else {
                return Err(Fault::of_type(format!("{type_name} is not a key")).at(key_node.start));
            };
            self.meter.visits(values.len())?;
            if values.iter().any(|(known, _)| *known == key) {
                let text = format!("the key `{}` is there twice", key.name());
                return Err(Fault::of_value(text).at(key_node.start));
            }
            let value = self.eval(value)?;
            values.push((key, value));
        }
        Ok(Value::Map(Map::Built(Rc::new(values))))
    }

    fn boolean(&mut self, node: &'e Node, user: &str) -> Result<bool, Box<Fault>> {
        match self.eval(node)? {
            Value::Bool(value) => Ok(value),
            other => {
                let text = format!(
                    "{user} takes a bool, `{}` is {}",
                    self.quote(node),
                    other.type_name()
                );
                Err(Fault::of_type(text).at(node.start))
            }
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &'e Node, right: &'e Node) -> Outcome<'e> {
        let left = self.eval(left)?;
        let right = self.eval(right)?;
        match op {
            BinaryOp::Equal => equal(&left, &right, self.meter).map(Value::Bool),
            BinaryOp::NotEqual => equal(&left, &right, self.meter).map(|same| Value::Bool(!same)),
            BinaryOp::Less
            | BinaryOp::LessOrEqual
            | BinaryOp::Greater
            | BinaryOp::GreaterOrEqual => {
                operator::ordered(op, &left, &right, self.meter).map(Value::Bool)
            }
            BinaryOp::In => self.contained(left, &right),
            BinaryOp::Add
            | BinaryOp::Subtract
            | BinaryOp::Multiply
            | BinaryOp::Divide
            | BinaryOp::Modulo => operator::arithmetic(op, &left, &right, self.meter),
        }
    }

    /// `in`: an element of a list, or a key of an object.
    fn contained(&mut self, item: Value<'e>, container: &Value<'e>) -> Outcome<'e> {
        match container {
            Value::List(list) => {
                for element in list.iter() {
                    self.meter.steps(1)?;
                    if equal(&item, &element, self.meter)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            Value::Map(map) => match Key::of(item) {
                Some(key) => Ok(Value::Bool(map.get(&key, self.meter)?.is_some())),
                None => Ok(Value::Bool(false)),
            },
            other => Err(Fault::of_type(format!(
                "`in` looks in a list or an object, not in {}",
                other.type_name()
            ))),
        }
    }

    /// `&&` (`decisive` is false) and `||` (true): the decisive value wins even over an error in
    /// another term, so that the order of terms does not matter. The budget is no such error.
    fn chain(&mut self, terms: &'e [Node], decisive: bool) -> Outcome<'e> {
        let user = if decisive { "`||`" } else { "`&&`" };
        let mut failed = None;
        for term in terms {
            match self.boolean(term, user) {
                Ok(value) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(fault) => hold(&mut failed, fault)?,
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn conditional(&mut self, parts: &'e [Node; 3]) -> Outcome<'e> {
        let [condition, yes, no] = parts;
        if self.boolean(condition, "`?`")? {
            self.eval(yes)
        } else {
            self.eval(no)
        }
    }

    fn call(&mut self, function: Function, arguments: &'e [Node]) -> Outcome<'e> {
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(self.eval(argument)?);
        }
        call::call(function, &values, self.meter)
    }

    fn matches_constant(&mut self, operand: &'e Node, regex: &regex::Regex) -> Outcome<'e> {
        match self.eval(operand)? {
            Value::Text(text) => {
                self.meter.matched(text.len())?;
                Ok(Value::Bool(regex.is_match(&text)))
            }
            other => Err(call::refuse(Function::Matches, &[other])),
        }
    }

    /// `matches` with a pattern that is computed: compiled once per evaluation and pattern.
    fn matches(&mut self, arguments: &'e [Node]) -> Outcome<'e> {
        let mut values = Vec::with_capacity(2);
        for argument in arguments {
            values.push(self.eval(argument)?);
        }
        let [Value::Text(text), Value::Text(pattern)] = values.as_slice() else {
            return Err(call::refuse(Function::Matches, &values));
        };
        let known = self.patterns.iter().find(|(known, _)| **known == **pattern);
        let regex = match known {
            Some((_, regex)) => Rc::clone(regex),
            None => {
                self.meter.steps(PATTERN_STEPS)?;
                let regex = Rc::new(check::pattern(pattern).map_err(Fault::of_value)?);
                self.patterns.push((pattern.to_string(), Rc::clone(&regex)));
                regex
            }
        };
        self.meter.matched(text.len())?;
        Ok(Value::Bool(regex.is_match(text)))
    }

    fn run_loop(&mut self, inner: &'e Loop) -> Outcome<'e> {
        let items = match self.eval(&inner.over)? {
            Value::List(list) => list,
            Value::Map(map) => {
                self.meter.steps(map.len())?;
                List::Built(Rc::new(map.keys()))
            }
            other => {
                let text = format!(
                    "`{}` is {}, neither a list nor an object",
                    self.quote(&inner.over),
                    other.type_name()
                );
                return Err(Fault::of_type(text).at(inner.over.start));
            }
        };
        match inner.kind {
            LoopKind::All => self.search(inner, &items, false),
            LoopKind::Exists => self.search(inner, &items, true),
            LoopKind::ExistsOne => {
                let mut found = 0_usize;
                for item in items.iter() {
                    found += usize::from(self.passes(inner, item)?);
                }
                Ok(Value::Bool(found == 1))
            }
            LoopKind::Filter | LoopKind::Map => self.collect(inner, &items),
        }
    }

    /// Gives the loop variable a value and evaluates a node of the loop's body.
    fn with_local<T>(
        &mut self,
        slot: usize,
        item: Value<'e>,
        body: impl FnOnce(&mut Self) -> Result<T, Box<Fault>>,
    ) -> Result<T, Box<Fault>> {
        self.locals.truncate(slot);
        self.locals.push(item);
        let result = body(self);
        self.locals.truncate(slot);
        result
    }

    fn passes(&mut self, inner: &'e Loop, item: Value<'e>) -> Result<bool, Box<Fault>> {
        self.meter.steps(1)?;
        let Some(test) = &inner.test else {
            return Ok(true);
        };
        self.with_local(inner.local, item, |machine| {
            machine.boolean(test, "the loop")
        })
    }

    /// `all` and `exists`, which are `&&` and `||` over the elements.
    fn search(&mut self, inner: &'e Loop, items: &List<'e>, decisive: bool) -> Outcome<'e> {
        let mut failed = None;
        for item in items.iter() {
            match self.passes(inner, item) {
                Ok(value) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(fault) => hold(&mut failed, fault)?,
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    /// `filter` and `map`.
    fn collect(&mut self, inner: &'e Loop, items: &List<'e>) -> Outcome<'e> {
        let mut collected = Vec::new();
        for item in items.iter() {
            if !self.passes(inner, item.clone())? {
                continue;
            }
            collected.push(match &inner.output {
                None => item,
                Some(output) => {
                    self.with_local(inner.local, item, |machine| machine.eval(output))?
                }
            });
        }
        Ok(Value::list(collected))
    }
}

/// Keeps the first error of a chain for later; an exhausted budget ends the evaluation now.
fn hold(failed: &mut Option<Box<Fault>>, fault: Box<Fault>) -> Result<(), Box<Fault>> {
    if fault.kind == EvalErrorKind::Budget {
        return Err(fault);
    }
    failed.get_or_insert(fault);
    Ok(())
}
