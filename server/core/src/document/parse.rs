//! From a text to a tree, with the bounds that keep a stranger's text harmless.

use std::collections::HashSet;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};
use serde_json::Number;

use super::node::{Entry, Kind, Node, Style};
use super::problem::{Path, Problem};
use super::reader::MAX_PROBLEMS;

/// The largest text.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The most lists and mappings inside each other.
pub const MAX_DEPTH: usize = 32;
/// The most values.
pub const MAX_NODES: usize = 200_000;

/// A text that was parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    root: Node,
}

impl Document {
    /// Parses YAML or JSON.
    ///
    /// # Errors
    /// What is wrong, in the order of the text: at most one error of syntax, and before it all keys
    /// that stand twice and everything that is not offered.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut builder = Builder::new(text);
        if text.len() > MAX_BYTES {
            builder.problem((1, 1), format!("longer than {MAX_BYTES} bytes"));
            return Err(builder.problems);
        }
        let root = builder.run(text);
        match root {
            Some(root) if builder.problems.is_empty() => Ok(Self { root }),
            _ => Err(builder.problems),
        }
    }

    /// The value that the text stands for.
    #[must_use]
    pub const fn root(&self) -> &Node {
        &self.root
    }
}

/// A list or mapping that is being read.
struct Open {
    place: (usize, usize),
    of: Container,
}

enum Container {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        /// The key whose value comes next.
        key: Option<(String, (usize, usize))>,
    },
}

struct Builder<'t> {
    lines: Vec<&'t str>,
    problems: Vec<Problem>,
    open: Vec<Open>,
    nodes: usize,
}

fn place(marker: &Marker) -> (usize, usize) {
    (marker.line(), marker.col() + 1)
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            lines: text.lines().collect(),
            problems: Vec::new(),
            open: Vec::new(),
            nodes: 0,
        }
    }

    fn problem(&mut self, (line, column): (usize, usize), message: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                line,
                column,
                path: self.path(),
                message: message.into(),
            });
        }
    }

    /// The way to what is being read.
    fn path(&self) -> Path {
        let mut path = Path::default();
        for open in &self.open {
            path = match &open.of {
                Container::List(items) => path.index(items.len()),
                Container::Map {
                    key: Some((key, _)),
                    ..
                } => path.key(key),
                Container::Map { key: None, .. } => path,
            };
        }
        path
    }

    /// Reads to the end; `None` when there is no value or reading had to stop.
    fn run(&mut self, text: &str) -> Option<Node> {
        let mut parser = Parser::new(StrInput::new(text));
        let mut root = None;
        while let Some(event) = parser.next_event() {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    self.problem(place(error.marker()), error.info());
                    return None;
                }
            };
            let at = place(&span.start);
            let done = match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => None,
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    self.problem(at, "more than one document");
                    return None;
                }
                Event::DocumentStart(_) => None,
                Event::Alias(_) => {
                    self.problem(at, "aliases are not offered: write the value again");
                    Some(Node {
                        line: at.0,
                        column: at.1,
                        kind: Kind::Null,
                    })
                }
                Event::Scalar(value, style, anchor, tag) => {
                    self.plain(at, anchor, tag.is_some());
                    Some(self.scalar(&value, style, &span))
                }
                Event::SequenceStart(anchor, tag) => {
                    self.plain(at, anchor, tag.is_some());
                    self.enter(at, Container::List(Vec::new()))?;
                    None
                }
                Event::MappingStart(anchor, tag) => {
                    self.plain(at, anchor, tag.is_some());
                    let map = Container::Map {
                        entries: Vec::new(),
                        seen: HashSet::new(),
                        key: None,
                    };
                    self.enter(at, map)?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => self.leave(),
            };
            let Some(node) = done else { continue };
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                self.problem(at, format!("more than {MAX_NODES} values"));
                return None;
            }
            if let Some(whole) = self.place_node(node) {
                root = Some(whole);
            }
        }
        if root.is_none() && self.problems.is_empty() {
            self.problem((1, 1), "the document is empty");
        }
        root
    }

    /// Complains about anchors and tags.
    fn plain(&mut self, at: (usize, usize), anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.problem(at, "anchors are not offered");
        }
        if tagged {
            self.problem(at, "tags are not offered");
        }
    }

    /// Begins a list or a mapping; `None` when it is too deep.
    fn enter(&mut self, at: (usize, usize), of: Container) -> Option<()> {
        if self.open.len() == MAX_DEPTH {
            self.problem(at, format!("nested more than {MAX_DEPTH} deep"));
            return None;
        }
        if let Some(Open {
            of: Container::Map { key: None, .. },
            ..
        }) = self.open.last()
        {
            self.problem(at, "a key must be a text");
            return None;
        }
        self.open.push(Open { place: at, of });
        Some(())
    }

    fn leave(&mut self) -> Option<Node> {
        let open = self.open.pop()?;
        Some(Node {
            line: open.place.0,
            column: open.place.1,
            kind: match open.of {
                Container::List(items) => Kind::List(items),
                Container::Map { entries, .. } => Kind::Map(entries),
            },
        })
    }

    /// Puts a value where it belongs; gives back the root.
    fn place_node(&mut self, node: Node) -> Option<Node> {
        let at = (node.line, node.column);
        match self.open.last_mut().map(|open| &mut open.of) {
            None => return Some(node),
            Some(Container::List(items)) => items.push(node),
            Some(Container::Map { entries, key, seen }) => match key.take() {
                Some((key, (line, column))) => entries.push(Entry {
                    key,
                    line,
                    column,
                    value: node,
                }),
                None => {
                    let name = match &node.kind {
                        Kind::Text(text, _) => text.clone(),
                        Kind::Bool(value) => value.to_string(),
                        Kind::Number(number) => number.to_string(),
                        Kind::Null | Kind::List(_) | Kind::Map(_) => String::new(),
                    };
                    let wrong = if matches!(node.kind, Kind::Null) {
                        Some("a key must be a text".to_owned())
                    } else if name == "<<" {
                        Some("merge keys are not offered".to_owned())
                    } else if seen.contains(&name) {
                        let name: String = name.chars().take(60).collect();
                        Some(format!("the key `{name}` stands here twice"))
                    } else {
                        None
                    };
                    seen.insert(name.clone());
                    *key = Some((name, at));
                    if let Some(message) = wrong {
                        self.problem(at, message);
                    }
                }
            },
        }
        None
    }

    fn scalar(&self, value: &str, style: ScalarStyle, span: &Span) -> Node {
        let (line, column) = place(&span.start);
        let one_line = span.start.line() == span.end.line();
        let kind = match style {
            ScalarStyle::Plain => plain_kind(value, one_line),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                let style = if one_line {
                    self.quoted(value, line, column)
                } else {
                    Style::Folded
                };
                Kind::Text(value.to_owned(), style)
            }
            ScalarStyle::Literal => {
                // It is said to begin at its first line that is not blank.
                let blank = value.chars().take_while(|c| *c == '\n').count();
                Kind::Text(value.to_owned(), Style::Block(blank))
            }
            ScalarStyle::Folded => Kind::Text(value.to_owned(), Style::Folded),
        };
        Node { line, column, kind }
    }

    /// Where the characters of a quoted text in one line are.
    fn quoted(&self, value: &str, line: usize, column: usize) -> Style {
        let source = self.lines.get(line - 1).copied().unwrap_or_default();
        let mut source = source.chars().skip(column - 1);
        let double = source.next() == Some('"');
        let mut source = source.peekable();
        let mut columns = Vec::new();
        let mut at = 1;
        let mut as_it_is = true;
        for _ in value.chars() {
            columns.push(at);
            let width = match (source.next(), double) {
                (Some('\\'), true) => match source.next() {
                    Some('x') => 4,
                    Some('u') => 6,
                    Some('U') => 10,
                    _ => 2,
                },
                (Some('\''), false) => 2,
                _ => 1,
            };
            // The ones that were not taken yet.
            let taken = if double { width.min(2) } else { 1 };
            for _ in taken..width {
                source.next();
            }
            as_it_is &= width == 1;
            at += width;
        }
        if as_it_is {
            Style::Line(1)
        } else {
            Style::Escaped(columns.into())
        }
    }
}

/// What an unquoted text stands for. Numbers are those of JSON.
fn plain_kind(value: &str, one_line: bool) -> Kind {
    match value {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    let numeric = value.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if let (true, Ok(number)) = (numeric, serde_json::from_str::<Number>(value)) {
        return Kind::Number(number);
    }
    let style = if one_line {
        Style::Line(0)
    } else {
        Style::Folded
    };
    Kind::Text(value.to_owned(), style)
}
