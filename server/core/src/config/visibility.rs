//! What of the configuration a worker sees: the paths that `visibility.workers` names.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::ConfigScope;

/// What workers see where no scope says anything.
pub const DEFAULT: [&str; 2] = ["budgets", "models"];

/// Whether `wide` is `narrow` or a part of the way to it.
fn covers(wide: &str, narrow: &str) -> bool {
    let rest = narrow.strip_prefix(wide);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The paths of a scope, as far as the wider ones allow them. Where those say nothing the system and
/// the organisation may name what they like; everybody else stays within [`DEFAULT`].
pub(super) fn restricted(
    wider: Option<BTreeSet<String>>,
    new: &BTreeSet<String>,
    scope: ConfigScope,
) -> BTreeSet<String> {
    let wider = match wider {
        Some(wider) => wider,
        None if scope <= ConfigScope::Org => return new.clone(),
        None => DEFAULT.map(str::to_owned).into(),
    };
    let mut both = BTreeSet::new();
    for one in &wider {
        for other in new {
            if covers(one, other) {
                both.insert(other.clone());
            } else if covers(other, one) {
                both.insert(one.clone());
            }
        }
    }
    both
}

/// The part of a configuration that workers see. A path that leads nowhere shows nothing, and the
/// safety section is never shown.
#[must_use]
pub fn visible(data: &Json, paths: &[String]) -> Map<String, Json> {
    let mut shown = Map::new();
    for path in paths {
        let keys: Vec<&str> = path.split('.').collect();
        if keys.first() != Some(&"safety") {
            show(data, &keys, &mut shown);
        }
    }
    shown
}

fn show(data: &Json, keys: &[&str], shown: &mut Map<String, Json>) {
    let Some((first, rest)) = keys.split_first() else {
        return;
    };
    let Some(value) = data.get(first) else {
        return;
    };
    if rest.is_empty() {
        shown.insert((*first).to_owned(), value.clone());
        return;
    }
    let mut inner = match shown.remove(*first) {
        Some(Json::Object(inner)) => inner,
        _ => Map::new(),
    };
    show(value, rest, &mut inner);
    if !inner.is_empty() {
        shown.insert((*first).to_owned(), Json::Object(inner));
    }
}
