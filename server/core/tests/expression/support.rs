//! The scope and the input that the tests share.

use coretex_core::expression::{Bindings, EvalErrorKind, Expression, Scope, Source, Variables};
use serde_json::{Value, json};

pub(crate) fn scope() -> Scope {
    Scope::new().variables(["input", "steps", "item", "absent", "broken"])
}

pub(crate) fn input() -> Value {
    json!({
        "n": 1, "whole": 3.0, "half": 2.5, "big": 9_007_199_254_740_993_u64, "text": "héllo world",
        "yes": true, "none": null, "level": 2,
        "order": {"id": "o-7", "lines": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 5}]},
        "tags": ["vip", "eu", "new"], "prices": [12.5, 8, 20.0], "empty": [],
        "at": "2026-03-01T12:30:15.250Z", "odd-name": 4, "nested": [[1, 2], [3]],
        "limits": {"a": 1, "b": 2},
    })
}

/// Evaluates with the input as parsed JSON and as text; both must agree.
pub(crate) fn evaluate(source: &str) -> Result<Value, (EvalErrorKind, String)> {
    let expression = Expression::compile(source, &scope()).unwrap();
    let input = input();
    let text = input.to_string();
    let steps = json!({"fetch-all": {"output": {"rows": 3}, "state": "SUCCEEDED"}});
    let parsed = Bindings::new().json("input", &input).json("steps", &steps);
    let unparsed = Bindings::new()
        .text("input", &text)
        .owned("steps", steps.clone())
        .text("broken", "{");
    let results = [parsed.text("broken", "{"), unparsed].map(|bindings| {
        expression
            .evaluate(&bindings)
            .map_err(|e| (e.kind, e.message))
    });
    let [parsed, unparsed] = results;
    assert_eq!(parsed, unparsed, "{source}");
    parsed
}

/// Counts how often each variable is asked for.
pub(crate) struct Counting(pub(crate) std::cell::RefCell<Vec<String>>);

impl Variables for Counting {
    fn get(&self, name: &str) -> Option<Source<'_>> {
        self.0.borrow_mut().push(name.to_owned());
        Some(Source::Text(
            r#"{"a": {"b": 1, "b2": [1e999]}, "a": {"b": 2}, "z": "unread"}"#,
        ))
    }
}
