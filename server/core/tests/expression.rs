//! What expressions mean: a table of sources and results, and of sources and errors.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use coretex_core::expression::{
    Bindings, CompileErrorKind, EvalErrorKind, Expression, Scope, Source, Template, Variables,
};
use serde_json::{Value, json};

fn scope() -> Scope {
    Scope::new().variables(["input", "steps", "item", "absent", "broken"])
}

fn input() -> Value {
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
fn evaluate(source: &str) -> Result<Value, (EvalErrorKind, String)> {
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
fn evaluation_errors_say_what_and_where() {
    use EvalErrorKind::{Missing, Type, Value, Variable};
    let table = [
        (
            "input.order.total",
            Missing,
            "`input.order.total`: `order` has no field `total`",
        ),
        (
            "1 + input.order.total.cents",
            Missing,
            "`input.order.total`: `order` has no field `total`",
        ),
        (
            "input.gone.deep",
            Missing,
            "`input.gone`: `input` has no field `gone`",
        ),
        (
            "input['gone']",
            Missing,
            "`input['gone']`: `input` has no field `gone`",
        ),
        (
            "input.text.size",
            Type,
            "`input.text.size`: `text` is a string, not an object",
        ),
        (
            "has(input.none.x)",
            Type,
            "`has(input.none.x)`: `none` is null, not an object",
        ),
        (
            "input.order.lines[2].sku",
            Missing,
            "`input.order.lines[2]`: `lines` has 2 elements, none at 2",
        ),
        (
            "input.order.lines[-1]",
            Missing,
            "`input.order.lines[-1]`: `lines` has 2 elements, none at -1",
        ),
        (
            "input.tags['a']",
            Type,
            "`input.tags['a']`: a string is not an index",
        ),
        (
            "input.n[0]",
            Type,
            "`input.n[0]`: `n` is an int, neither a list nor an object",
        ),
        (
            "input.order.lines.map(l, l.price)",
            Missing,
            "`l.price`: `l` has no field `price`",
        ),
        (
            "input.tags.all(t, t.x == 1)",
            Type,
            "`t.x`: `t` is a string, not an object",
        ),
        ("absent.x", Variable, "`absent` has no value here"),
        (
            "broken.x",
            Variable,
            "`broken` is not JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            "input.n + 'a'",
            Type,
            "`+` does not take an int and a string",
        ),
        (
            "input.n < 'a'",
            Type,
            "`<` does not take an int and a string",
        ),
        ("2.5 % 2.0", Type, "`%` does not take a double and a double"),
        ("-input.tags", Type, "`-` does not take a list"),
        ("!input.n", Type, "`!` takes a bool, `input.n` is an int"),
        (
            "input.n && true",
            Type,
            "`&&` takes a bool, `input.n` is an int",
        ),
        (
            "input.n ? 1 : 2",
            Type,
            "`?` takes a bool, `input.n` is an int",
        ),
        ("1 / 0", Value, "division by zero"),
        ("1 % (input.n - 1)", Value, "division by zero"),
        ("1.0 / 0", Value, "the result is not a finite number"),
        (
            "9223372036854775807 + 1",
            Value,
            "the number is out of range",
        ),
        (
            "-(-9223372036854775808)",
            Value,
            "the number is out of range",
        ),
        (
            "-9223372036854775808 / -1",
            Value,
            "the number is out of range",
        ),
        ("int(1e30)", Value, "not an int"),
        ("int('x')", Value, "not an int"),
        ("int(true)", Type, "`int` does not take a bool"),
        ("size(1)", Type, "`size` does not take an int"),
        (
            "'a'.contains(1)",
            Type,
            "`contains` does not take a string and an int",
        ),
        (
            "1 in 'a'",
            Type,
            "`in` looks in a list or an object, not in a string",
        ),
        (
            "'a'.matches('(' + 'x')",
            Value,
            "not a regular expression: unclosed group",
        ),
        (
            "input.n.map(x, x)",
            Type,
            "`input.n` is an int, neither a list nor an object",
        ),
        (
            "input.tags.filter(t, t)",
            Type,
            "the loop takes a bool, `t` is a string",
        ),
        (
            "[1, 'a'].join()",
            Type,
            "`join` takes a list of strings, element 0 is an int",
        ),
        (
            "'a'.replace('', 'b')",
            Value,
            "`replace` needs a text to look for",
        ),
        ("{'a': 1, 'a': 2}", Value, "the key `a` is there twice"),
        ("{1.5: 1}", Type, "a double is not a key"),
        (
            "timestamp('yesterday')",
            Value,
            "not a timestamp such as `2026-01-31T12:00:00Z`",
        ),
        (
            "duration('1 day')",
            Value,
            "not a duration such as `1h30m` or `1.5s`",
        ),
        (
            "timestamp(input.at) + duration('87600000h')",
            Value,
            "the timestamp is out of range",
        ),
        (
            "timestamp(input.at).getHours('Mars')",
            Value,
            "a time zone is `UTC` or a fixed offset such as `+02:00`",
        ),
    ];
    for (source, kind, message) in table {
        assert_eq!(
            evaluate(source),
            Err((kind, message.to_owned())),
            "{source}"
        );
    }
    let expression = Expression::compile("1 +\n  input.order.total", &scope()).unwrap();
    let error = expression
        .evaluate(&Bindings::new().json("input", &input()))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "2:3: `input.order.total`: `order` has no field `total`"
    );
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

#[test]
fn all_wrong_names_and_calls_are_listed_at_once() {
    let source = "inptu.a + sizee(input) > 1 &&\n  steps.map(1, 2) || has(input) || contains('a', 'b') \
                  || 'a'.size(1) || 'x'.matches('(') || item.al(x, x)";
    let errors = Expression::compile(source, &scope()).unwrap_err();
    let found: Vec<String> = errors.errors().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "1:1: unknown variable `inptu`, did you mean `input`?",
            "1:11: unknown function `sizee`, did you mean `size`?",
            "2:13: the first argument of `map` is the name of its variable",
            "2:22: `has` takes one field, as in `has(input.order)`",
            "2:36: `contains` is called as `x.contains(...)`",
            "2:61: `size` takes no arguments, not 1",
            "2:85: not a regular expression: unclosed group",
            "2:97: unknown function `al`, did you mean `all`?",
        ]
    );
}

#[test]
fn refused_sources_say_why() {
    use CompileErrorKind::{
        Arguments, Syntax, TooComplex, UnknownFunction, UnknownVariable, Unsupported,
    };
    let table = [
        ("", Syntax, "1:1: expected a value, found the end"),
        ("1 +", Syntax, "1:4: expected a value, found the end"),
        ("a b", Syntax, "1:3: expected the end, found `b`"),
        ("é", Syntax, "1:1: unexpected character `é`"),
        ("'é' 'b'", Syntax, "1:5: expected the end, found a string"),
        ("'abc", Syntax, "1:1: unfinished string"),
        ("'\\q'", Syntax, "1:2: unknown escape in a string"),
        ("'\\ud800'", Syntax, "1:2: not a character code"),
        ("f(1,", Syntax, "1:5: expected a value, found the end"),
        ("input = 1", Syntax, "1:7: expected the end, found `=`"),
        ("[1, 2", Syntax, "1:6: expected `]`, found the end"),
        ("{'a' 1}", Syntax, "1:6: expected `:`, found a number"),
        ("1 ? 2", Syntax, "1:6: expected `:`, found the end"),
        ("if", Syntax, "1:1: `if` is a reserved word"),
        ("12x", Syntax, "1:1: not a number of 64 bits"),
        (
            "9223372036854775808",
            Syntax,
            "1:1: not a number of 64 bits",
        ),
        (
            "input.true",
            Syntax,
            "1:7: expected a field name, found `true`",
        ),
        (
            "b'x'",
            Unsupported,
            "1:1: bytes are not supported, JSON has none",
        ),
        (
            "input.?a",
            Unsupported,
            "1:7: optional fields are not supported",
        ),
        (
            "a.B{c: 1}",
            Unsupported,
            "1:4: message literals are not supported",
        ),
        ("nope", UnknownVariable, "1:1: unknown variable `nope`"),
        (
            "[1].map(x, x) + x",
            UnknownVariable,
            "1:17: unknown variable `x`",
        ),
        (
            "input.zzz()",
            UnknownFunction,
            "1:6: unknown function `zzz`",
        ),
        (
            "[1].all(x)",
            Arguments,
            "1:4: `all` is called as `list.all(x, ...)` with 2 arguments",
        ),
        (
            "map(x, y)",
            Arguments,
            "1:1: `map` is called as `list.map(x, ...)` with 2 or 3 arguments",
        ),
        ("1.int()", Arguments, "1:2: `int` is called as `int(x)`"),
        (
            "[1].map(a, [1].map(b, [1].map(c, 1)))",
            TooComplex,
            "1:26: loops nested more than 2 deep",
        ),
    ];
    for (source, kind, text) in table {
        let errors = Expression::compile(source, &scope()).unwrap_err();
        let first = errors.errors().first().unwrap();
        assert_eq!(
            (first.kind, errors.to_string().as_str()),
            (kind, text),
            "{source}"
        );
    }
}

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

/// Counts how often each variable is asked for.
struct Counting(std::cell::RefCell<Vec<String>>);

impl Variables for Counting {
    fn get(&self, name: &str) -> Option<Source<'_>> {
        self.0.borrow_mut().push(name.to_owned());
        Some(Source::Text(
            r#"{"a": {"b": 1, "b2": [1e999]}, "a": {"b": 2}, "z": "unread"}"#,
        ))
    }
}

#[test]
fn variables_are_asked_for_once_and_only_when_needed() {
    let expression =
        Expression::compile("input.a.b == 2 || steps.a.b == input.a.b", &scope()).unwrap();
    let counting = Counting(Vec::new().into());
    assert_eq!(expression.evaluate(&counting), Ok(json!(true)));
    assert_eq!(*counting.0.borrow(), ["input"]);
}

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
