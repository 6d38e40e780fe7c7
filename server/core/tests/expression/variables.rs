//! What an expression may name, what it says it reads, and when variables are asked for.

use coretex_core::expression::{CompileErrorKind, Expression};
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
