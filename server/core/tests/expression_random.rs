//! Random expressions: nothing panics, the same input gives the same answer at the same cost, and
//! where the language is plain CEL another implementation agrees.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cel::{Context, Program, Value as Cel};
use coretex_core::expression::{Bindings, Budget, Expression, Scope, Template};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

fn input() -> Value {
    json!({
        "n": 3, "d": 2.5, "s": "aé", "b": true, "z": null, "l": [1, 2.5, "x", [1], {"k": 2}],
        "o": {"p": {"q": 1}, "": 0}, "t": "2026-01-01T00:00:00Z",
    })
}

/// Compiles and evaluates; whatever comes out must come out again, from text as from a value.
fn check(source: &str) {
    let scope = Scope::new().variables(["input", "item"]);
    let Ok(expression) = Expression::compile(source, &scope) else {
        return;
    };
    let input = input();
    let text = input.to_string();
    let budget = Budget {
        steps: 2_000,
        visits: 20_000,
        result_bytes: 100_000,
    };
    let parsed = Bindings::new().json("input", &input);
    let (first, usage) = expression.evaluate_within(&parsed, budget);
    assert!(usage.visits <= budget.visits + 8_000, "{source}: {usage:?}");
    let (second, again) = expression.evaluate_within(&parsed, budget);
    assert_eq!((&first, usage), (&second, again), "{source}");
    let unparsed = Bindings::new().text("input", &text);
    assert_eq!(
        (first, usage),
        expression.evaluate_within(&unparsed, budget),
        "{source}"
    );
}

/// Pieces that sources are made of, whole and broken.
const PIECES: [&str; 72] = [
    "1",
    "2u",
    "2.5",
    "0x1f",
    "1e9",
    "9223372036854775808",
    "'a'",
    "\"b\"",
    "r'\\d'",
    "b'c'",
    "'''",
    "true",
    "null",
    "input",
    "input.n",
    "input.l",
    "input.o.p",
    "item",
    "nope",
    "x",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    "?",
    ":",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    ">=",
    "&&",
    "||",
    " in ",
    "has(",
    "size(",
    ".map(x,",
    ".all(x,",
    ".exists(x,",
    ".filter(x,",
    ".matches('",
    "[0]",
    "['n']",
    "'",
    "\\",
    "`",
    "${",
    "$",
    "@",
    "#",
    "é",
    "😀",
    "\n",
    "//",
    "\0",
    "if",
    "timestamp(",
    "duration('1h')",
    "string(",
    "int(",
    ".split('')",
    ".join()",
    "getHours()",
];

proptest! {
    #![proptest_config(Config::with_cases(2_000))]

    #[test]
    fn any_text_is_taken_or_refused(source in any::<String>()) {
        check(&source);
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_pieces_are_taken_or_refused(
        pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..24)
    ) {
        let source = pieces.concat();
        check(&source);
        let template = json!({"a": source, "b": [format!("x ${{{source}}}")]});
        if let Ok(template) = Template::compile(&template, &Scope::new().variable("input")) {
            let input = input();
            let bindings = Bindings::new().json("input", &input);
            prop_assert_eq!(template.render(&bindings), template.render(&bindings));
        }
    }

    #[test]
    fn any_tree_is_evaluated_alike(source in tree()) {
        check(&source);
    }
}

/// Expressions that parse, of any types.
fn tree() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(
        &[
            "1",
            "-2",
            "2.5",
            "'ab'",
            "''",
            "true",
            "false",
            "null",
            "input",
            "input.n",
            "input.d",
            "input.s",
            "input.l",
            "input.o",
            "input.o.p.q",
            "input.gone",
            "item",
            "x",
            "[]",
            "{}",
            "'^a+$'",
            "duration('90m')",
            "timestamp(input.t)",
            "9223372036854775807",
        ][..],
    )
    .prop_map(str::to_owned);
    leaf.prop_recursive(6, 40, 4, |inner| {
        let binary = proptest::sample::select(
            &[
                "+", "-", "*", "/", "%", "==", "!=", "<", ">=", "&&", "||", "in",
            ][..],
        );
        let call =
            proptest::sample::select(&["size", "int", "string", "double", "bool", "dyn"][..]);
        let method = proptest::sample::select(
            &[
                "contains",
                "startsWith",
                "matches",
                "split",
                "join",
                "getHours",
            ][..],
        );
        let each = proptest::sample::select(&["all", "exists", "exists_one", "map", "filter"][..]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            (call, inner.clone()).prop_map(|(name, x)| format!("{name}({x})")),
            (inner.clone(), method, inner.clone())
                .prop_map(|(x, name, y)| format!("({x}).{name}({y})")),
            (inner.clone(), each, inner.clone())
                .prop_map(|(x, name, y)| format!("({x}).{name}(x, {y})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(c, y, n)| format!("({c} ? {y} : {n})")),
            (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("({x})[{y}]")),
            (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("[{x}, {y}]")),
            (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("{{{x}: {y}, 'k': {x}}}")),
            inner.clone().prop_map(|x| format!("!({x})")),
            inner.clone().prop_map(|x| format!("-({x})")),
            inner.clone().prop_map(|x| format!("has(({x}).k)")),
            inner.prop_map(|x| format!("({x}).p")),
        ]
    })
}

/// Expressions of one type each, in the part of the language where nothing differs from CEL:
/// 0 is int, 1 is bool, 2 is string, 3 is list of int.
fn typed(depth: u32, kind: usize) -> BoxedStrategy<String> {
    let leaves: &[&str] = match kind {
        0 => &[
            "0",
            "1",
            "-1",
            "7",
            "3",
            "9223372036854775807",
            "-9223372036854775808",
        ],
        1 => &["true", "false"],
        2 => &["''", "'a'", "'ab'", "'é😀'", "\"q\\\"\\n\"", "r'\\d'"],
        _ => &["[]", "[1]", "[3, 1, 2]", "[0, -1,]"],
    };
    let leaf = proptest::sample::select(leaves)
        .prop_map(str::to_owned)
        .boxed();
    if depth == 0 {
        return leaf;
    }
    let sub = |kind| typed(depth - 1, kind);
    let shared = (sub(1), sub(kind), sub(kind)).prop_map(|(c, y, n)| format!("({c} ? {y} : {n})"));
    let own = match kind {
        0 => prop_oneof![
            (
                sub(0),
                proptest::sample::select(&["+", "-", "*", "/", "%"][..]),
                sub(0)
            )
                .prop_map(|(l, op, r)| format!("{l} {op} {r}")),
            (
                sub(0),
                proptest::sample::select(&["+", "-", "*", "/", "%"][..]),
                sub(0)
            )
                .prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            sub(2).prop_map(|s| format!("size({s})")),
            sub(3).prop_map(|l| format!("({l}).size()")),
            (sub(3), sub(0)).prop_map(|(l, i)| format!("({l})[{i}]")),
            sub(0).prop_map(|x| format!("-({x})")),
            sub(2).prop_map(|s| format!("int({s})")),
            (sub(0), sub(2)).prop_map(|(x, s)| format!("{{{s}: {x}, 'kk': 1}}['kk']")),
        ]
        .boxed(),
        1 => prop_oneof![
            (
                sub(0),
                proptest::sample::select(&["<", "<=", ">", ">=", "==", "!="][..]),
                sub(0)
            )
                .prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            (
                sub(2),
                proptest::sample::select(&["<", "<=", ">", ">=", "==", "!="][..]),
                sub(2)
            )
                .prop_map(|(l, op, r)| format!("({l} {op} {r})")),
            (
                sub(1),
                proptest::sample::select(&["&&", "||"][..]),
                sub(1),
                sub(1)
            )
                .prop_map(|(l, op, m, r)| format!("({l} {op} {m} {op} {r})")),
            (sub(1), sub(1), sub(1)).prop_map(|(l, m, r)| format!("({l} || {m} && {r})")),
            sub(1).prop_map(|x| format!("!({x})")),
            (sub(0), sub(3)).prop_map(|(x, l)| format!("({x} in {l})")),
            (sub(3), sub(3)).prop_map(|(l, r)| format!("({l} == {r})")),
            (sub(3), sub(0)).prop_map(|(l, r)| format!("({l}).all(x, x < {r})")),
            (sub(3), sub(0)).prop_map(|(l, r)| format!("({l}).exists(x, 6 / x == {r})")),
            (sub(3), sub(0)).prop_map(|(l, r)| format!("({l}).exists_one(x, x > {r})")),
            (
                sub(2),
                proptest::sample::select(&["contains", "startsWith", "endsWith"][..]),
                sub(2)
            )
                .prop_map(|(x, f, y)| format!("({x}).{f}({y})")),
            sub(0).prop_map(|x| format!("has({{'a': {x}}}.a)")),
            sub(0).prop_map(|x| format!("has({{'a': {x}}}.b)")),
        ]
        .boxed(),
        2 => prop_oneof![
            (sub(2), sub(2)).prop_map(|(l, r)| format!("({l} + {r})")),
            sub(0).prop_map(|x| format!("string({x})")),
        ]
        .boxed(),
        _ => prop_oneof![
            (sub(0), sub(0)).prop_map(|(x, y)| format!("[{x}, {y}]")),
            (sub(3), sub(3)).prop_map(|(l, r)| format!("({l} + {r})")),
            (sub(3), sub(0)).prop_map(|(l, r)| format!("({l}).map(x, x * 2 - {r})")),
            (sub(3), sub(0)).prop_map(|(l, r)| format!("({l}).filter(x, x >= {r})")),
            (sub(3), sub(0)).prop_map(|(l, r)| format!("({l}).map(x, x > {r}, x + 1)")),
        ]
        .boxed(),
    };
    prop_oneof![1 => leaf, 1 => shared, 5 => own].boxed()
}

fn by_oracle(source: &str) -> Option<Value> {
    let program = Program::compile(source).unwrap();
    let value: Cel = program.execute(&Context::default()).ok()?;
    Some(value.json().unwrap())
}

#[test]
fn plain_cel_means_the_same_to_another_implementation() {
    // Its parser takes more than two megabytes of stack for a dozen brackets without optimisation.
    let work = || {
        let mut runner = TestRunner::new(Config::with_cases(400));
        let any_type = (0..4_usize).prop_flat_map(|kind| typed(3, kind));
        runner
            .run(&any_type, |source| {
                let ours = Expression::compile(&source, &Scope::new());
                let ours =
                    ours.map_err(|errors| TestCaseError::fail(format!("{source}: {errors}")))?;
                let ours = ours.evaluate(&Bindings::new());
                prop_assert_eq!(
                    ours.clone().ok(),
                    by_oracle(&source),
                    "{}: {:?}",
                    source,
                    ours
                );
                Ok(())
            })
            .unwrap();
    };
    let thread = std::thread::Builder::new()
        .stack_size(256 << 20)
        .spawn(work)
        .unwrap();
    assert!(thread.join().is_ok());
}
