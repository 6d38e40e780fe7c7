//! Sources and the values that they have.

use coretex_core::expression::{Bindings, EvalErrorKind, Expression};
use serde_json::{Value, json};

use crate::support::{evaluate, scope};

#[test]
fn expressions_have_these_values() {
    let table: Vec<(&str, Value)> = vec![
        // Numbers: whole JSON numbers are ints, ints and doubles mix, whole results are ints.
        ("input.n + 1", json!(2)),
        ("input.n + 1.5", json!(2.5)),
        ("input.whole", json!(3)),
        ("input.whole + 0.0", json!(3)),
        ("input.whole / 2", json!(1)),
        ("input.whole / 2.0", json!(1.5)),
        ("7 % 4 - 10 * 2", json!(-17)),
        ("-7 / 2", json!(-3)),
        ("input.half * 2", json!(5)),
        ("input.half > input.n && input.n < 1.5", json!(true)),
        ("input.n == 1.0 && 1u == 1 && 0x1F == 31", json!(true)),
        ("input.big == 9007199254740992.0", json!(true)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("1e3", json!(1000)),
        ("int(2.9) + int('40') + int('-2')", json!(40)),
        ("double('2.5') * 2", json!(5)),
        ("-(-input.n)", json!(1)),
        ("--1", json!(1)),
        // Logic, order and choice.
        ("!input.yes || 1 > 2", json!(false)),
        ("1 < 2 ? 'a' : 'b'", json!("a")),
        (
            "input.n > 1 ? 'many' : input.n == 1 ? 'one' : 'none'",
            json!("one"),
        ),
        ("true || input.missing", json!(true)),
        ("input.missing || true", json!(true)),
        ("input.missing && false", json!(false)),
        ("'abc' < 'abd' && 'B' < 'a'", json!(true)),
        ("1 == '1'", json!(false)),
        ("null == input.none", json!(true)),
        ("input.none != 0", json!(true)),
        ("[1, 2.0] == [1.0, 2]", json!(true)),
        ("{'a': 1, 'b': 2} == input.limits", json!(true)),
        ("{'b': 2, 'a': 1} == {'a': 1, 'b': 3}", json!(false)),
        // Fields and indexes.
        ("input.order.lines[1].sku", json!("b")),
        ("input['odd-name']", json!(4)),
        ("input.`odd-name`", json!(4)),
        ("steps['fetch-all'].output.rows", json!(3)),
        ("has(input.order.id)", json!(true)),
        ("has(input.order.total)", json!(false)),
        ("has(input.order) && has(input.order.id)", json!(true)),
        ("input.nested[0][1]", json!(2)),
        ("input.tags[input.whole - 1.0]", json!("new")),
        ("{1: 'low', 2: 'high'}[input.level]", json!("high")),
        ("{'a': [1,],}", json!({"a": [1]})),
        ("{1: true, false: 2}", json!({"1": true, "false": 2})),
        // Membership.
        ("'eu' in input.tags", json!(true)),
        ("'xx' in input.tags", json!(false)),
        ("'a' in input.limits", json!(true)),
        ("2.0 in [1, 2]", json!(true)),
        ("!(1 in [])", json!(true)),
        // Macros.
        ("input.tags.all(t, size(t) >= 2)", json!(true)),
        ("input.tags.exists(t, t == 'new')", json!(true)),
        ("input.tags.exists_one(t, t.startsWith('v'))", json!(true)),
        ("input.empty.all(x, false)", json!(true)),
        ("input.empty.exists(x, true)", json!(false)),
        ("input.prices.filter(p, p > 10)", json!([12.5, 20])),
        ("input.prices.map(p, p * 2)", json!([25, 16, 40])),
        ("input.prices.map(p, p > 10, p + 1)", json!([13.5, 21])),
        ("input.limits.map(k, input.limits[k] + 1)", json!([2, 3])),
        (
            "input.nested.map(l, l.map(x, x + size(l)))",
            json!([[3, 4], [4]]),
        ),
        ("input.nested.exists(l, l.exists(x, x == 3))", json!(true)),
        (
            "input.order.lines.map(l, {'sku': l.sku, 'twice': l.qty * 2})[1]",
            json!({"sku": "b", "twice": 10}),
        ),
        (
            "input.tags.filter(t, t != 'eu').map(t, t.size())",
            json!([3, 3]),
        ),
        ("[0, 1].exists(x, 1 / x == 1)", json!(true)),
        ("[0, 1].all(x, 1 / x == 2)", json!(false)),
        // The loop variable hides a variable of the scope, and only inside the loop.
        (
            "input.nested.map(input, size(input)) + [size(input.tags)]",
            json!([2, 1, 3]),
        ),
        // Text.
        ("size(input.text)", json!(11)),
        ("input.text.contains('llo w')", json!(true)),
        (
            "input.text.startsWith('hé') && input.text.endsWith('world')",
            json!(true),
        ),
        ("input.text.matches('^h.llo\\\\s\\\\w+$')", json!(true)),
        ("matches(input.order.id, r'^o-\\d+$')", json!(true)),
        ("input.order.id.matches('^' + 'o')", json!(true)),
        (
            "'a' + 'b' + string(1) + string(2.50) + string(true)",
            json!("ab12.5true"),
        ),
        (
            "' Ab '.trim().lowerAscii() + 'x'.upperAscii()",
            json!("abX"),
        ),
        ("'a,b,c'.split(',').join('-')", json!("a-b-c")),
        ("'héy'.split('').join()", json!("héy")),
        ("'aXbX'.replace('X', '')", json!("ab")),
        (r#""q\"\x41\u00e9\U0001F600\101\n""#, json!("q\"Aé😀A\n")),
        (r"r'\d' + '''it's'''", json!("\\dit's")),
        ("1 + // a comment\n 2", json!(3)),
        ("bool('true') && !bool('0')", json!(true)),
        ("dyn(input.n) + 1", json!(2)),
        // Lists.
        ("[1] + input.prices + []", json!([1, 12.5, 8, 20])),
        (
            "size([1, 2]) + size({'a': 1}) + input.tags.size()",
            json!(6),
        ),
        // Times.
        (
            "timestamp(input.at) + duration('1h')",
            json!("2026-03-01T13:30:15.250Z"),
        ),
        (
            "timestamp(input.at) - timestamp('2026-03-01T12:00:00Z')",
            json!("1815.250s"),
        ),
        (
            "timestamp(input.at) > timestamp('2026-02-28T23:59:59+01:00')",
            json!(true),
        ),
        ("duration('90m') == duration('1h30m')", json!(true)),
        (
            "timestamp(input.at).getFullYear() * 100 + timestamp(input.at).getMonth()",
            json!(202_602),
        ),
        ("timestamp(input.at).getDayOfWeek()", json!(0)),
        ("timestamp(input.at).getDayOfYear()", json!(59)),
        (
            "timestamp(input.at).getDate() + timestamp(input.at).getDayOfMonth()",
            json!(1),
        ),
        ("timestamp(input.at).getHours('+02:00')", json!(14)),
        ("timestamp(input.at).getMilliseconds()", json!(250)),
        (
            "duration('90m').getHours() + duration('90m').getMinutes()",
            json!(91),
        ),
        (
            "int(timestamp('1970-01-01T00:01:00Z')) + int(timestamp(60))",
            json!(120),
        ),
        (
            "string(duration('1.5s')) + string(timestamp(0))",
            json!("1.500s1970-01-01T00:00:00Z"),
        ),
    ];
    assert!(table.len() >= 60);
    for (source, expected) in table {
        assert_eq!(evaluate(source), Ok(expected), "{source}");
    }
}

#[test]
fn whole_results_are_written_without_a_fraction() {
    for (source, text) in [
        ("input.whole", "3"),
        ("[1.0, input.half * 2]", "[1,5]"),
        ("{'a': 6 / 2.0}", "{\"a\":3}"),
        ("input.prices", "[12.5,8,20]"),
        ("1.0e300", "1e+300"),
    ] {
        assert_eq!(evaluate(source).unwrap().to_string(), text, "{source}");
    }
}

#[test]
fn a_condition_is_a_bool() {
    let bindings = Bindings::new();
    let truth = Expression::compile("1 < 2", &scope()).unwrap();
    assert_eq!(truth.evaluate_bool(&bindings), Ok(true));
    let number = Expression::compile("1", &scope()).unwrap();
    assert_eq!(
        number.evaluate_bool(&bindings).unwrap_err().kind,
        EvalErrorKind::Type
    );
}
