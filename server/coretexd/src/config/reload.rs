//! The file of a running server, read again: what it holds now, and what a start would make of it.
//! What follows from that is not decided here.

use std::fs;
use std::path::Path;

use super::Config;
use super::error::{ConfigError, Problem};
use super::flags::Flags;
use super::load::{Environment, File, Loaded, load_with, read_file};
use super::settings::SETTINGS;

/// What a file holds, or why that cannot be told.
pub type Content = Result<String, String>;

/// Everything that a configuration was loaded from.
#[derive(Clone, Debug)]
pub struct Source {
    flags: Flags,
    env: Environment,
    file: File,
}

impl Source {
    /// The source of `loaded`; `None` when there is no file, or none that can be read again.
    #[must_use]
    pub fn of(loaded: &Loaded, flags: Flags, env: Environment) -> Option<Self> {
        let file = loaded.file.clone().filter(|file| file.regular)?;
        Some(Self { flags, env, file })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// What the file held at the start.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.file.text
    }

    /// What a start with this text in the file would use.
    ///
    /// # Errors
    /// As [`super::load()`].
    pub fn load(&self, text: String) -> Result<Loaded, ConfigError> {
        let file = File {
            text,
            ..self.file.clone()
        };
        load_with(&self.flags, &self.env, Some(file))
    }
}

/// What the file holds now. A pipe in its place is not waited for.
///
/// # Errors
/// Why it cannot be told, for people.
pub fn content(path: &Path) -> Content {
    let refused = |what: String| format!("{}: {what}", path.display());
    match fs::metadata(path) {
        Err(error) => Err(refused(format!("cannot read the file: {error}"))),
        Ok(found) if !found.is_file() => Err(refused("is no regular file any more".to_owned())),
        Ok(_) => read_file(path)
            .map(|file| file.text)
            .map_err(|Problem { place, message, .. }| format!("{place}: {message}")),
    }
}

/// The keys of settings whose values differ, but for the routing tables.
#[must_use]
pub fn differing(one: &Config, other: &Config) -> Vec<&'static str> {
    SETTINGS
        .iter()
        .filter(|setting| setting.show(one) != setting.show(other))
        .map(|setting| setting.key)
        .collect()
}
