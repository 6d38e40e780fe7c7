//! Configuration: documents, their history, what is in force, and how two states differ.

use std::collections::{BTreeMap, BTreeSet};

use coretex::proto::{
    Config, ConfigOrigin, ConfigScope, DeleteConfigResponse, GetEffectiveConfigResponse,
    ListConfigRevisionsResponse, ListConfigsResponse,
};
use coretex::proto_value::struct_to_json;
use coretex::well_known::Struct;
use serde_json::{Map, Value, json};

use super::{Document, Fields, Grid, Paint, Tint, age, clean, clean_lines, documents, time};
use crate::failure::Failure;

documents! {
    Config => details;
    ListConfigsResponse => list;
    ListConfigRevisionsResponse => history;
    DeleteConfigResponse => nothing;
}

/// A document as it is named on the command line.
pub(crate) fn name_of(scope: ConfigScope, id: &str) -> String {
    match scope {
        ConfigScope::Unspecified => String::new(),
        ConfigScope::System => "system".to_owned(),
        ConfigScope::Org => "org".to_owned(),
        ConfigScope::Team => format!("team/{id}"),
        ConfigScope::Workflow => format!("workflow/{id}"),
        ConfigScope::Step => format!("step/{id}"),
    }
}

/// A value for people.
pub(crate) fn yaml(value: &Value) -> String {
    // What came as JSON can be written as YAML.
    serde_yaml_ng::to_string(value).unwrap_or_else(|_| format!("{value}\n"))
}

fn said(data: Option<&Struct>) -> String {
    match data {
        Some(data) if !data.fields.is_empty() => {
            clean_lines(&yaml(&Value::Object(struct_to_json(data))))
        }
        _ => "{}\n".to_owned(),
    }
}

fn details(config: &Config, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("document", name_of(config.scope(), &config.scope_id));
    fields.add("revision", config.revision.to_string());
    fields.add("etag", config.etag.as_str());
    fields.add("changed by", config.principal_id.as_str());
    fields.add("changed", time(config.update_time.as_ref()));
    format!("{}\n{}", fields.finish(), said(config.data.as_ref()))
}

/// The sections of a document, one after the other.
fn sections(data: Option<&Struct>) -> String {
    let names = data.into_iter().flat_map(|data| data.fields.keys());
    names.cloned().collect::<Vec<_>>().join(",")
}

fn list(page: &ListConfigsResponse, paint: Paint) -> String {
    let head = ["DOCUMENT", "REVISION", "SECTIONS", "CHANGED", "BY", "ETAG"];
    let mut grid = Grid::new(paint, &head);
    for config in &page.configs {
        grid.row([
            name_of(config.scope(), &config.scope_id),
            config.revision.to_string(),
            sections(config.data.as_ref()),
            age(config.update_time.as_ref()),
            config.principal_id.clone(),
            config.etag.clone(),
        ]);
    }
    grid.finish()
}

fn history(page: &ListConfigRevisionsResponse, paint: Paint) -> String {
    let mut grid = Grid::new(paint, &["REVISION", "CHANGED", "BY", "SECTIONS", "ETAG"]);
    for revision in &page.revisions {
        let (tint, sections) = if revision.deleted {
            (Tint::Bad, "deleted".to_owned())
        } else {
            (Tint::Plain, sections(revision.data.as_ref()))
        };
        grid.tinted([
            (Tint::Plain, revision.revision.to_string()),
            (Tint::Plain, time(revision.update_time.as_ref())),
            (Tint::Plain, revision.principal_id.clone()),
            (tint, sections),
            (Tint::Plain, revision.etag.clone()),
        ]);
    }
    grid.finish()
}

/// That it went well is all there is to say.
fn nothing(_: &DeleteConfigResponse, _: Paint) -> String {
    String::new()
}

/// What is in force, without where it comes from.
pub(crate) struct Effective(pub(crate) GetEffectiveConfigResponse);

impl Document for Effective {
    fn value(&self) -> Result<Value, Failure> {
        let mut answer = self.0.clone();
        answer.origins.clear();
        coretex::proto_json::to_value(&answer).map_err(Failure::defect)
    }

    fn text(&self, paint: Paint) -> String {
        format!("{}\n{}", head(&self.0, paint), said(self.0.data.as_ref()))
    }
}

/// What is in force, value by value, and where each comes from.
pub(crate) struct WithOrigins(pub(crate) GetEffectiveConfigResponse);

impl Document for WithOrigins {
    fn value(&self) -> Result<Value, Failure> {
        coretex::proto_json::to_value(&self.0).map_err(Failure::defect)
    }

    fn text(&self, paint: Paint) -> String {
        let data = self.0.data.as_ref().map(struct_to_json).unwrap_or_default();
        let mut values = BTreeMap::new();
        flatten(&Value::Object(data), "", &mut values);
        let mut origins = BTreeMap::<&str, Vec<String>>::new();
        for origin in &self.0.origins {
            for pointer in &origin.pointers {
                origins.entry(pointer).or_default().push(named(origin));
            }
        }
        let mut grid = Grid::new(paint, &["KEY", "VALUE", "FROM"]);
        for (pointer, value) in values {
            let from = origins.get(pointer.as_str()).map(|from| from.join(", "));
            grid.row([pointer, value.to_string(), from.unwrap_or_default()]);
        }
        format!("{}\n{}", head(&self.0, paint), grid.finish())
    }
}

fn named(origin: &ConfigOrigin) -> String {
    format!(
        "{} (revision {})",
        name_of(origin.scope(), &origin.scope_id),
        origin.revision
    )
}

fn head(answer: &GetEffectiveConfigResponse, paint: Paint) -> String {
    let mut fields = Fields::new(paint);
    fields.add("version", answer.version.to_string());
    fields.add("hash", answer.hash.as_str());
    let documents: Vec<String> = answer.origins.iter().map(named).collect();
    fields.add("documents", documents.join(", "));
    fields.finish()
}

/// How two states of a document differ.
pub(crate) struct Difference {
    /// Pointer, before, after: one of them may be missing.
    values: Vec<(String, Option<Value>, Option<Value>)>,
}

impl Difference {
    pub(crate) fn between(before: &Map<String, Value>, after: &Map<String, Value>) -> Self {
        let values_of = |data: &Map<String, Value>| {
            let mut values = BTreeMap::new();
            flatten(&Value::Object(data.clone()), "", &mut values);
            values
        };
        let (mut before, mut after) = (values_of(before), values_of(after));
        let pointers: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
        let values = pointers.into_iter().filter_map(|pointer| {
            let pair = (before.remove(&pointer), after.remove(&pointer));
            (pair.0 != pair.1).then_some((pointer, pair.0, pair.1))
        });
        Self {
            values: values.collect(),
        }
    }
}

impl Document for Difference {
    fn value(&self) -> Result<Value, Failure> {
        let values = self.values.iter().map(|(pointer, before, after)| {
            let mut entry = Map::new();
            entry.insert("pointer".to_owned(), json!(pointer));
            for (name, value) in [("before", before), ("after", after)] {
                if let Some(value) = value {
                    entry.insert(name.to_owned(), value.clone());
                }
            }
            Value::Object(entry)
        });
        Ok(json!({"differences": values.collect::<Vec<_>>()}))
    }

    fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for (pointer, before, after) in &self.values {
            let sides = [('-', Tint::Bad, before), ('+', Tint::Good, after)];
            for (sign, tint, value) in sides {
                if let Some(value) = value {
                    let line = clean(&format!("{sign} {pointer}: {value}"));
                    text.push_str(&paint.tint(tint, &line));
                    text.push('\n');
                }
            }
        }
        text
    }
}

/// The values of a document by their pointers; a list is one value, and so is an empty object.
fn flatten(value: &Value, pointer: &str, values: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object {
                let key = key.replace('~', "~0").replace('/', "~1");
                flatten(value, &format!("{pointer}/{key}"), values);
            }
        }
        Value::Object(_) if pointer.is_empty() => {}
        value => {
            values.insert(pointer.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_value_by_value() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let before = object(json!({"a": {"b/c": 1, "d": [1]}, "e": "same", "f": {"g": 1}}));
        let after = object(json!({"a": {"b/c": 2}, "e": "same", "f": {"g": 1, "h\u{1b}": null}}));
        let difference = Difference::between(&before, &after);
        assert_eq!(
            difference.text(Paint::new(false)),
            "- /a/b~1c: 1\n+ /a/b~1c: 2\n- /a/d: [1]\n+ /f/h\\u{1b}: null\n"
        );
        assert_eq!(
            difference.value().ok(),
            Some(json!({"differences": [
                {"pointer": "/a/b~1c", "before": 1, "after": 2},
                {"pointer": "/a/d", "before": [1]},
                {"pointer": "/f/h\u{1b}", "after": null},
            ]}))
        );
        assert_eq!(
            Difference::between(&before, &before).text(Paint::new(false)),
            ""
        );
    }
}
