//! The TOML file: every key is known or refused, and every complaint has line and column.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::error::Problem;
use super::load::{Origin, Origins};
use super::nearest::nearest;
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
    problems.extend(reader.finish());
}

/// `file:line:column` of a byte of `text`, counted from 1, columns in characters.
pub(super) fn place(path: &Path, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let last = before.rsplit('\n').next().unwrap_or_default();
    let column = last.chars().count() + 1;
    format!("{}:{line}:{column}", path.display())
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    config: &'a mut Config,
    origins: &'a mut Origins,
    /// Complaints and where they begin.
    found: Vec<(usize, Problem)>,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document {
            let key: &str = name.get_ref();
            if routing::table_named(key).is_some() {
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
        for Finding {
            span,
            message,
            hint,
        } in findings
        {
            let mut problem = Problem::new(self.place(&span), message);
            problem.hint = hint;
            self.found.push((span.start, problem));
        }
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
                let place = self.place(&value.span());
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
            .chain(top.chain(tables).filter(|_| section.is_empty()))
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
        let problem = Problem::new(self.place(&span), message);
        let problem = match meant {
            Some(_) => problem,
            None if section.is_empty() => problem.hint("docs/config.md lists the keys"),
            None => problem.hint(format!("`{section}` has the keys {}", here.join(", "))),
        };
        self.found.push((span.start, problem));
    }

    fn refuse(&mut self, span: Range<usize>, message: impl Into<String>) {
        let problem = Problem::new(self.place(&span), message);
        self.found.push((span.start, problem));
    }

    fn place(&self, span: &Range<usize>) -> String {
        place(self.path, self.text, span.start)
    }

    fn finish(mut self) -> impl Iterator<Item = Problem> {
        self.found.sort_by_key(|(start, _)| *start);
        self.found.into_iter().map(|(_, problem)| problem)
    }
}
