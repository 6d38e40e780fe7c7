//! The TOML file: every key is known or refused, and every complaint has line and column.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::error::Problem;
use super::load::{Origin, Origins};
use super::nearest::nearest;
use super::notify;
use super::routing::{self, Finding};
use super::settings::{self, SECTIONS, SETTINGS, Setting};
use super::value::Input;

/// What the parser says of a key that is there twice; it goes on reading then as if nothing were
/// wrong.
const DUPLICATE: &str = "duplicate key";

/// Reads `text`, the content of `path`, into `config`. Complaints come in the order of the file.
pub(super) fn read(
    path: &Path,
    text: &str,
    config: &mut Config,
    origins: &mut Origins,
    problems: &mut Vec<Problem>,
) {
    let mut reader = Reader {
        path,
        text,
        config,
        origins,
        found: Vec::new(),
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    // What follows from a broken line is no news.
    if errors.iter().all(|error| error.message() == DUPLICATE) {
        reader.document(document.get_ref());
    }
    for error in errors {
        reader.refuse(error.span().unwrap_or(0..0), error.message());
    }
    let mut found = reader.found;
    found.sort_by_key(|finding| finding.span.start);
    let mut places = Places::new(path, text);
    problems.extend(found.into_iter().map(|finding| Problem {
        place: places.of(finding.span.start),
        message: finding.message,
        hint: finding.hint,
    }));
}

/// Tells places of a text as `file:line:column`, counted from 1, columns in characters. Asked in the
/// order of the text it goes through it once.
pub(super) struct Places<'a> {
    path: &'a Path,
    text: &'a str,
    /// The beginning of the line of the last place, and its number.
    start: usize,
    line: usize,
}

impl<'a> Places<'a> {
    pub(super) const fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            start: 0,
            line: 1,
        }
    }

    /// The place of a byte.
    pub(super) fn of(&mut self, at: usize) -> String {
        if at < self.start {
            (self.start, self.line) = (0, 1);
        }
        let between = self.text.get(self.start..at).unwrap_or_default();
        self.line += between.matches('\n').count();
        if let Some(end) = between.rfind('\n') {
            self.start += end + 1;
        }
        let before = self.text.get(self.start..at).unwrap_or_default();
        let column = before.chars().count() + 1;
        format!("{}:{}:{column}", self.path.display(), self.line)
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    config: &'a mut Config,
    origins: &'a mut Origins,
    found: Vec<Finding>,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document {
            let key: &str = name.get_ref();
            if routing::table_named(key).is_some() || key == notify::NOTIFY.name {
                continue;
            }
            let section = settings::section_named(key);
            match (section, value.get_ref()) {
                (Some(section), DeValue::Table(table)) => self.section(section.name, table),
                (Some(section), _) => match section.main.and_then(settings::by_key) {
                    Some(setting) => self.value(setting, value),
                    None => {
                        let message = format!("`{key}` is a section: write `[{key}]`");
                        self.refuse(name.span(), message);
                    }
                },
                (None, _) => match settings::by_key(key) {
                    Some(setting) => self.value(setting, value),
                    None => self.unknown(name.span(), "", key),
                },
            }
        }
        let (tables, findings) = routing::read(document);
        self.config.routing = tables;
        self.found.extend(findings);
        self.config.notify = notify::read(document, &mut self.found);
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key = format!("{section}.{}", name.get_ref());
            match settings::by_key(&key) {
                Some(setting) => self.value(setting, value),
                None => self.unknown(name.span(), section, name.get_ref()),
            }
        }
    }

    fn value(&mut self, setting: &'static Setting, value: &Spanned<DeValue<'_>>) {
        match setting.set(self.config, Input::Toml(value.get_ref())) {
            Ok(()) => {
                let place = Places::new(self.path, self.text).of(value.span().start);
                self.origins.insert(setting.key, Origin::File(place));
            }
            Err(message) => self.refuse(value.span(), format!("`{}` {message}", setting.key)),
        }
    }

    fn unknown(&mut self, span: Range<usize>, section: &str, name: &str) {
        // The same level first; then the right name at another level.
        let top = SECTIONS.iter().map(|section| section.name);
        let tables = routing::keys::TABLES.iter().map(|table| table.name);
        let here: Vec<&str> = SETTINGS
            .iter()
            .filter(|setting| setting.parts().0 == section)
            .map(|setting| setting.parts().1)
            .chain(
                top.chain(tables)
                    .chain([notify::NOTIFY.name])
                    .filter(|_| section.is_empty()),
            )
            .collect();
        let elsewhere = || {
            SETTINGS
                .iter()
                .find(|setting| setting.parts().1 == name)
                .map(|setting| setting.key)
        };
        let full = if section.is_empty() {
            name.to_owned()
        } else {
            format!("{section}.{name}")
        };
        let meant = nearest(name, here.iter().copied())
            .map(|near| match section {
                "" => near.to_owned(),
                _ => format!("{section}.{near}"),
            })
            .or_else(|| elsewhere().map(ToOwned::to_owned));
        let message = match &meant {
            Some(near) => format!("unknown key `{full}`; did you mean `{near}`?"),
            None => format!("unknown key `{full}`"),
        };
        let finding = Finding::new(span, message);
        self.found.push(match meant {
            Some(_) => finding,
            None if section.is_empty() => finding.hint("docs/config.md lists the keys"),
            None => finding.hint(format!("`{section}` has the keys {}", here.join(", "))),
        });
    }

    fn refuse(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.found.push(Finding::new(span, message));
    }
}
