//! What an expression may name, what it says it reads, and when variables are asked for.

use coretex_core::expression::{CompileErrorKind, Expression, Source, Variables};
use coretex_core::time::Timestamp;
use serde_json::json;

use crate::support::{Counting, scope};

#[test]
fn a_scope_can_leave_functions_out() {
    let scope = scope().only_functions(["size", "exists"]);
    assert!(Expression::compile("input.exists(x, size(x) > 1)", &scope).is_ok());
    let errors = Expression::compile(
        "input.map(x, has(x.y)) == [] || string(input) == ''",
        &scope,
    );
    let kinds: Vec<_> = errors
        .unwrap_err()
        .errors()
        .iter()
        .map(|error| error.kind)
        .collect();
    assert!(kinds.contains(&CompileErrorKind::UnknownFunction));
    assert!(!kinds.contains(&CompileErrorKind::Syntax));
}

#[test]
fn a_record_is_used_by_the_fields_that_it_has() {
    let scope = scope().record("history", ["jobs", "failures"]);
    let compile = |source: &str| match Expression::compile(source, &scope) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    };
    assert_eq!(compile("history.jobs > 1 && has(history.failures)"), "");
    assert_eq!(
        compile("1 < history.failure"),
        "1:5: `history` has no `failure`, did you mean `failures`?"
    );
    assert_eq!(compile("has(history.x)"), "1:5: `history` has no `x`");
    for whole in [
        "history",
        "history['jobs']",
        "history == {}",
        "history.map(k, k)",
    ] {
        let errors = compile(whole);
        assert_eq!(
            errors, "1:1: `history` is used by its fields, as in `history.x`",
            "{whole}"
        );
    }
    // A loop variable of that name is another thing.
    assert_eq!(compile("input.tags.exists(history, history.x == 1)"), "");
    assert!(compile("hystory.jobs").contains("did you mean `history`?"));
}

#[test]
fn a_point_in_time_is_a_timestamp() {
    let time = |micros| Source::Time(Timestamp::from_micros(micros));
    let evaluate = |source: &str, micros| {
        let expression = Expression::compile(source, &scope()).unwrap();
        expression
            .evaluate(&Only(time(micros)))
            .map_err(|error| error.message)
    };
    let noon = 1_769_860_800_000_000;
    assert_eq!(evaluate("input", noon), Ok(json!("2026-01-31T12:00:00Z")));
    assert_eq!(evaluate("input.getHours() + 1", noon), Ok(json!(13)));
    assert_eq!(evaluate("input == timestamp(input)", noon), Ok(json!(true)));
    assert_eq!(
        evaluate("input - duration('12h')", noon),
        Ok(json!("2026-01-31T00:00:00Z"))
    );
    assert_eq!(
        evaluate("input", u64::MAX),
        Err("`input` is after the year 9999".to_owned())
    );
}

/// Every variable has this value.
struct Only(Source<'static>);

impl Variables for Only {
    fn get(&self, _: &str) -> Option<Source<'_>> {
        Some(self.0.clone())
    }
}

#[test]
fn references_name_what_is_read_and_nothing_else() {
    let source = "steps.fetch.output.rows > 1 && has(input.order.id) && input.tags.exists(t, t.x == 1) \
                  && steps['b-c'].state == 'X' && input.lines[item].qty > 0 && input.order.id != ''";
    let expression = Expression::compile(source, &scope()).unwrap();
    let references: Vec<String> = expression
        .references()
        .iter()
        .map(|path| path.join("."))
        .collect();
    assert_eq!(
        references,
        [
            "input.lines",
            "input.order.id",
            "input.tags",
            "item",
            "steps.b-c.state",
            "steps.fetch.output.rows"
        ]
    );
}

#[test]
fn variables_are_asked_for_once_and_only_when_needed() {
    let expression =
        Expression::compile("input.a.b == 2 || steps.a.b == input.a.b", &scope()).unwrap();
    let counting = Counting(Vec::new().into());
    assert_eq!(expression.evaluate(&counting), Ok(json!(true)));
    assert_eq!(*counting.0.borrow(), ["input"]);
}
