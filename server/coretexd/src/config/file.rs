//! The TOML file: every key is known or refused, and every complaint has line and column.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::error::Problem;
use super::load::{Origin, Origins};
use super::nearest::nearest;
use super::settings::{self, SECTIONS, SETTINGS, Setting};
use super::value::Input;

/// Reads `text`, the content of `path`, into `config`.
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
        problems,
    };
    match DeTable::parse(text) {
        Ok(document) => reader.document(document.get_ref()),
        Err(error) => {
            let place = reader.place(error.span().unwrap_or(0..0));
            reader.problems.push(Problem::new(place, error.message()));
        }
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    config: &'a mut Config,
    origins: &'a mut Origins,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document {
            let key: &str = name.get_ref();
            let section = settings::section_named(key);
            match (section, value.get_ref()) {
                (Some(section), DeValue::Table(table)) => self.section(section.name, table),
                (Some(section), _) => match section.main.and_then(settings::by_key) {
                    Some(setting) => self.value(setting, value),
                    None => {
                        let place = self.place(name.span());
                        let message = format!("`{key}` is a section: write `[{key}]`");
                        self.problems.push(Problem::new(place, message));
                    }
                },
                (None, _) => match settings::by_key(key) {
                    Some(setting) => self.value(setting, value),
                    None => self.unknown(name.span(), "", key),
                },
            }
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
        let place = self.place(value.span());
        match setting.set(self.config, Input::Toml(value.get_ref())) {
            Ok(()) => {
                self.origins.insert(setting.key, Origin::File(place));
            }
            Err(message) => {
                let message = format!("`{}` {message}", setting.key);
                self.problems.push(Problem::new(place, message));
            }
        }
    }

    fn unknown(&mut self, span: Range<usize>, section: &str, name: &str) {
        // The same level first; then the right name at another level.
        let here: Vec<&str> = SETTINGS
            .iter()
            .filter(|setting| setting.parts().0 == section)
            .map(|setting| setting.parts().1)
            .chain(
                SECTIONS
                    .iter()
                    .filter(|_| section.is_empty())
                    .map(|section| section.name),
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
        let problem = Problem::new(self.place(span), message);
        self.problems.push(match meant {
            Some(_) => problem,
            None if section.is_empty() => problem.hint("docs/config.md lists the keys"),
            None => problem.hint(format!("`{section}` has the keys {}", here.join(", "))),
        });
    }

    /// `file:line:column`, counted from 1, columns in characters.
    fn place(&self, span: Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        format!("{}:{line}:{column}", self.path.display())
    }
}
