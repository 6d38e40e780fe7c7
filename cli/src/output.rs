//! Where things go: data to stdout in the format asked for, everything else to stderr.

use std::env;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;
use crate::view::{Document, Paint};

/// The one printer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    format: Format,
    out: Paint,
    /// Colours for stderr.
    pub(crate) err: Paint,
    /// Whether somebody is watching stderr.
    pub(crate) watched: bool,
}

impl Ui {
    pub(crate) fn new(format: Format) -> Self {
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colours = !set("NO_COLOR") && !dumb;
        Self {
            format,
            out: Paint::new(colours && stdout),
            err: Paint::new(colours && stderr),
            watched: stderr,
        }
    }

    /// Whether people are to read the output rather than programs.
    pub(crate) fn for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Prints one thing.
    pub(crate) fn show(&self, document: &dyn Document) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.data(document.text(self.out).as_bytes()),
            Format::Json => {
                let text = serde_json::to_string_pretty(&document.value()?);
                self.data(format!("{}\n", text.map_err(Failure::defect)?).as_bytes())
            }
            Format::Yaml => self.data(yaml(&document.value()?)?.as_bytes()),
        }
    }

    /// Prints one thing of many: a line of JSON, or a YAML document.
    pub(crate) fn show_next(&self, document: &dyn Document) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.data(document.text(self.out).as_bytes()),
            Format::Json => self.data(format!("{}\n", document.value()?).as_bytes()),
            Format::Yaml => {
                let text = yaml(&document.value()?)?;
                self.data(format!("---\n{text}").as_bytes())
            }
        }
    }

    /// Writes to stdout as it is.
    pub(crate) fn data(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::stdout(&error))
    }

    /// Says something to whoever is at the terminal.
    pub(crate) fn note(&self, text: &str) {
        // Without a stderr there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

fn yaml(value: &Value) -> Result<String, Failure> {
    fn write(value: &impl Serialize) -> Result<String, Failure> {
        serde_yaml_ng::to_string(value).map_err(Failure::defect)
    }
    write(value)
}
