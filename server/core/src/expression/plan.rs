//! The checked tree that is evaluated: names are slots, functions and macros are enums, constant
//! patterns are compiled.

use std::sync::Arc;

use super::ast::BinaryOp;
use super::function::Function;

/// A node and the bytes `start..end` of the source it came from, for error messages.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) op: Op,
}

#[derive(Debug)]
pub(super) enum Op {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Arc<str>),
    /// A variable of the scope, by its place in [`Plan::variables`].
    Variable(usize),
    /// A loop variable, by how many loops are around the one that binds it.
    Local(usize),
    Field(Box<Node>, Arc<str>),
    Has(Box<Node>, Arc<str>),
    Index(Box<Node>, Box<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(BinaryOp, Box<Node>, Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Conditional(Box<[Node; 3]>),
    /// The receiver of a method call is the first argument.
    Call(Function, Vec<Node>),
    /// `matches` with a constant pattern.
    Matches(Box<Node>, Box<regex::Regex>),
    Loop(Box<Loop>),
}

/// One of the macros that go through a list, or through the keys of a map.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) kind: LoopKind,
    pub(super) over: Node,
    /// How many loops are around this one: the slot of its variable.
    pub(super) local: usize,
    /// The predicate; `map` with two arguments has none.
    pub(super) test: Option<Node>,
    /// What `map` makes of each element.
    pub(super) output: Option<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

impl LoopKind {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Self::All,
            "exists" => Self::Exists,
            "exists_one" | "existsOne" => Self::ExistsOne,
            "filter" => Self::Filter,
            "map" => Self::Map,
            _ => return None,
        })
    }
}

/// A checked expression.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) root: Node,
    /// Names of the scope's variables that the expression uses, each once.
    pub(super) variables: Vec<String>,
    /// How many patterns are kept compiled.
    pub(super) patterns: usize,
}
