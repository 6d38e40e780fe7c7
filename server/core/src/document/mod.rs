//! Documents that people write, in YAML or JSON, read so that every mistake is told with its place.
//!
//! [`Document::parse`] makes a tree of a text. A [`Reader`] goes through it and collects all
//! [`Problem`]s: unknown keys, values of a wrong type, what is missing. What keys there are is not
//! decided here.
//!
//! YAML without its surprises: anchors, aliases, tags, merge keys, several documents in one text and
//! duplicate keys are refused; `yes` and `on` are texts. JSON is YAML.

mod node;
mod parse;
mod problem;
mod reader;

pub use self::node::Node;
pub use self::parse::{Document, MAX_BYTES, MAX_DEPTH, MAX_NODES};
pub use self::problem::{Path, Problem};
pub use self::reader::{Field, MAX_PROBLEMS, Object, Reader};
