//! Sources and the errors that they get, when compiled and when evaluated. Errors of templates are
//! in `templates`.

use coretex_core::expression::{Bindings, CompileErrorKind, EvalErrorKind, Expression};

use crate::support::{evaluate, input, scope};

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
