//! Templates: values and text with expressions in them.

use coretex_core::expression::{Bindings, Template};
use serde_json::json;

use crate::support::{Counting, input, scope};

#[test]
fn templates_keep_types_and_join_text() {
    let template = json!({
        "whole": "${input.order}", "n": "${ input.n + 1 }", "list": ["${input.tags[0]}", 7, null],
        "text": "order ${input.order.id}: ${input.half * 2} of ${input.tags} ${input.none} ${{'a': '}'}['a']}",
        "plain": "$ {no} $", "escaped": "$${input.n} and $${", "${key}": true,
    });
    let template = Template::compile(&template, &scope()).unwrap();
    let text = input().to_string();
    let rendered = template
        .render(&Bindings::new().text("input", &text))
        .unwrap();
    assert_eq!(
        rendered,
        json!({
            "whole": {"id": "o-7", "lines": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 5}]},
            "n": 2, "list": ["vip", 7, null],
            "text": "order o-7: 5 of [\"vip\",\"eu\",\"new\"] null }",
            "plain": "$ {no} $", "escaped": "${input.n} and ${", "${key}": true,
        })
    );
    let references: Vec<String> = template
        .references()
        .iter()
        .map(|path| path.join("."))
        .collect();
    assert_eq!(
        references,
        [
            "input.half",
            "input.n",
            "input.none",
            "input.order",
            "input.order.id",
            "input.tags"
        ]
    );
}

#[test]
fn template_errors_name_their_place() {
    let template = json!({"a": [1, "x ${nope} ${1 +}"], "b": {"c": "${input.n"}});
    let errors = Template::compile(&template, &scope()).unwrap_err();
    let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "a[1]: `nope`: 1:1: unknown variable `nope`",
            "a[1]: `1 +`: 1:4: expected a value, found the end",
            "b.c: `${input.n`: 1:3: `${` without its `}`",
        ]
    );
    let template = Template::compile(&json!({"a": {"b": ["${input.gone.x}"]}}), &scope()).unwrap();
    let input = input();
    let error = template
        .render(&Bindings::new().json("input", &input))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.b[0]: 1:1: `input.gone`: `input` has no field `gone`"
    );
}

#[test]
fn a_template_loads_each_variable_once() {
    let template = Template::compile(
        &json!(["${input.a.b}", "${input.a.b + 1}", "${input.z}"]),
        &scope(),
    );
    let counting = Counting(Vec::new().into());
    assert_eq!(
        template.unwrap().render(&counting),
        Ok(json!([2, 3, "unread"]))
    );
    assert_eq!(*counting.0.borrow(), ["input"]);
}
