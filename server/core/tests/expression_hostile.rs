//! Expressions written to hurt: every one ends at a limit, which is read from its counters and
//! not from a clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use coretex_core::expression::{
    Bindings, Budget, CompileErrorKind, EvalError, EvalErrorKind, Expression, MAX_DEPTH,
    MAX_NESTING, MAX_NODES, MAX_PATTERNS, MAX_SOURCE_BYTES, MAX_TEMPLATE_EXPRESSIONS, Scope,
    Template, Usage,
};
use serde_json::{Value, json};

fn scope() -> Scope {
    Scope::new().variable("input")
}

fn run(source: &str, input: &Value) -> (Result<Value, EvalError>, Usage) {
    let expression = Expression::compile(source, &scope()).unwrap();
    expression.evaluate_within(&Bindings::new().json("input", input), Budget::default())
}

/// Evaluates to the end of the budget, and no further than one charge beyond it.
fn runs_out(source: &str, input: &Value) {
    let (result, usage) = run(source, input);
    let error = result.unwrap_err();
    assert_eq!(error.kind, EvalErrorKind::Budget, "{source}: {error}");
    let budget = Budget::default();
    assert!(
        usage.visits <= budget.visits + 8 * MAX_NODES as u64,
        "{source}: {usage:?}"
    );
    let over = [
        usage.steps > budget.steps,
        usage.visits > budget.visits,
        usage.result_bytes > budget.result_bytes,
    ];
    assert_eq!(
        over.iter().filter(|over| **over).count(),
        1,
        "{source}: {usage:?}"
    );
}

fn refused(source: &str) -> CompileErrorKind {
    let errors = Expression::compile(source, &scope()).unwrap_err();
    errors.errors().first().unwrap().kind
}

#[test]
fn loops_stop_after_ten_thousand_elements() {
    let input = json!({"l": (0..4_000).collect::<Vec<_>>()});
    runs_out("input.l.all(a,input.l.all(b,true))", &input);
    runs_out("input.l.map(a,input.l.filter(b,b>a))", &input);
    runs_out("input.l.exists(a, a + 1 in input.l && false)", &input);
    runs_out("input.l.map(a, input.l == input.l.map(b, b))", &input);
    let (result, usage) = run("input.l.all(a, a >= 0)", &input);
    assert_eq!(result, Ok(json!(true)));
    assert_eq!(usage.steps, 4_000);
    assert_eq!(usage.visits, 3 + 4_000 * 3);
}

#[test]
fn the_budget_is_not_an_error_that_logic_hides() {
    let input = json!({"l": (0..4_000).collect::<Vec<_>>()});
    for source in [
        "input.l.all(a, input.l.all(b, true)) || true",
        "input.l.all(a, input.l.all(b, true)) && false",
        "[1, 2].exists(x, x == 2 || input.l.all(a, a in input.l))",
        "[1, 2].all(x, input.l.all(a, a in input.l) && x == 2)",
    ] {
        runs_out(source, &input);
    }
}

#[test]
fn a_large_body_is_bounded_by_its_visits() {
    let input = json!({"l": (0..9_000).collect::<Vec<_>>()});
    let body = vec!["a == a"; 200].join(" && ");
    runs_out(&format!("input.l.all(a, {body})"), &input);
    // Literals cost more than other nodes, because they take memory.
    let literal = vec!["a"; 900].join(",");
    runs_out(&format!("input.l.map(a, [{literal}])"), &input);
    let entries: Vec<String> = (0..400).map(|key| format!("{key}: a")).collect();
    runs_out(
        &format!("input.l.map(a, {{{}}})", entries.join(",")),
        &input,
    );
}

#[test]
fn doubling_stops_early() {
    let input = json!({"t": "x".repeat(100), "l": [1, 2, 3], "big": "ab".repeat(300_000)});
    let doubled = |source: &str| format!("[{source}]{}", ".map(a, a + a)".repeat(60));
    runs_out(&doubled("input.t"), &input);
    runs_out(&doubled("input.l"), &input);
    runs_out("input.big + input.big", &input);
    runs_out("input.big.replace('a', input.big)", &input);
    runs_out("input.big.split('')", &input);
    runs_out("input.big.split('a')", &input);
    runs_out("[input.big, input.big].join()", &input);
    runs_out("input.big.upperAscii() == input.big.lowerAscii()", &input);
    runs_out(
        "[1,2,3].all(a, [1,2,3].all(b, input.big.contains('c') || input.big == input.big))",
        &input,
    );
}

#[test]
fn a_result_is_bounded_as_it_is_copied_out() {
    let input = json!({"big": "x".repeat(100_000), "l": (0..9_000).collect::<Vec<_>>()});
    runs_out("input.l.map(a, input.big)", &input);
    runs_out("input.l.map(a, input)", &input);
    runs_out(
        "[1,2,3,4].map(a, [1,2,3,4,5,6,7,8,9,10,11,12].map(b, input.big))",
        &input,
    );
    let template = Template::compile(&json!(vec!["${input.big}"; 100]), &scope()).unwrap();
    let bindings = Bindings::new().json("input", &input);
    let (result, usage) = template.render_within(&bindings, Budget::default());
    assert_eq!(result.unwrap_err().error.kind, EvalErrorKind::Budget);
    assert!(usage.result_bytes < Budget::default().result_bytes + 200_000);
}

#[test]
fn patterns_are_bounded_in_size_and_text() {
    let input = json!({"big": "a".repeat(400_000), "l": (0..100).collect::<Vec<_>>(), "p": "a{9}{9}{9}{9}{9}{9}"});
    for pattern in [
        "a{9}{9}{9}{9}{9}{9}",
        "\\\\w{500}",
        "(((((((a{9}){9}){9}){9}){9}){9}){9})",
    ] {
        assert_eq!(
            refused(&format!("'x'.matches('{pattern}')")),
            CompileErrorKind::Arguments
        );
    }
    let long = "a".repeat(2_000);
    assert_eq!(
        refused(&format!("'x'.matches('{long}')")),
        CompileErrorKind::Arguments
    );
    let deep = "(".repeat(400) + &")".repeat(400);
    assert_eq!(
        refused(&format!("'x'.matches('{deep}')")),
        CompileErrorKind::Arguments
    );
    let many = vec!["'x'.matches('x')"; MAX_PATTERNS + 1].join("||");
    assert_eq!(refused(&many), CompileErrorKind::TooComplex);

    runs_out("input.big.matches('(x+x+)+y')", &input);
    runs_out("input.l.exists(a, 'x'.matches(string(a) + '+'))", &input);
    let (result, usage) = run("input.l.all(a, 'aa'.matches('a' + '+'))", &input);
    assert_eq!(result, Ok(json!(true)));
    assert_eq!(usage.steps, 1_100, "a computed pattern is compiled once");
    let (result, _) = run("'x'.matches(input.p)", &input);
    assert_eq!(result.unwrap_err().kind, EvalErrorKind::Value);
}

#[test]
fn sources_are_bounded_in_length_nodes_and_depth() {
    let blanks = " ".repeat(MAX_SOURCE_BYTES);
    assert_eq!(refused(&format!("1{blanks}")), CompileErrorKind::TooComplex);
    assert_eq!(
        refused(&vec!["1"; MAX_NODES + 1].join("||")),
        CompileErrorKind::TooComplex
    );
    let most = vec!["true"; MAX_NODES - 1].join("||");
    assert_eq!(run(&most, &json!(null)).0, Ok(json!(true)));
    let many = json!(vec!["${1}"; MAX_TEMPLATE_EXPRESSIONS + 50]);
    assert_eq!(Template::compile(&many, &scope()).unwrap_err().len(), 1);
}

/// Shapes that nest: what opens a level, what stands inside, what closes a level.
const SHAPES: [(&str, &str, &str); 17] = [
    ("(", "1", ")"),
    ("[", "1", "]"),
    ("{'a':", "1", "}"),
    ("string(", "'a'", ")"),
    ("!(", "true", ")"),
    ("!", "true", ""),
    ("-", "input.n", ""),
    ("-(", "input.n", ")"),
    ("1+(", "1", ")"),
    ("", "1", "+1"),
    ("", "1", "-1*1"),
    ("true&&(false||(", "true", "))"),
    ("true?1:", "1", ""),
    ("true?(", "1", "):1"),
    ("", "input", ".a"),
    ("", "input", "['a']"),
    ("", "'a'", ".trim()"),
];

#[test]
fn deep_sources_do_not_overflow_a_small_stack() {
    // A quarter of what a worker thread of the server has, in a build without optimisation.
    let work = || {
        let mut input = json!({"n": 1});
        for _ in 0..MAX_DEPTH {
            input = json!({"a": input, "n": 1});
        }
        for (open, middle, close) in SHAPES {
            let nested = |levels| open.repeat(levels) + middle + &close.repeat(levels);
            let longest = MAX_SOURCE_BYTES / (open.len() + close.len() + 1);
            for levels in [1_000, longest] {
                let kind = refused(&nested(levels));
                assert_eq!(
                    kind,
                    CompileErrorKind::TooComplex,
                    "{open} {close} {levels}"
                );
            }
            // The deepest one that is taken is evaluated, too.
            let deepest = (1..=MAX_DEPTH)
                .rev()
                .find(|levels| Expression::compile(&nested(*levels), &scope()).is_ok());
            let deepest = deepest.unwrap();
            assert!(deepest >= MAX_NESTING / 2 - 1, "{open} {close} {deepest}");
            let (result, usage) = run(&nested(deepest), &input);
            assert!(result.is_ok(), "{open} {close} {deepest} {result:?}");
            assert!(usage.visits <= 20 * MAX_DEPTH as u64);
        }
        for unclosed in [
            "(", "[", "{", "f(", "a.b(", "{1:[", "!(-", "'a'in[", "a?[{", "a[", "((((1?",
        ] {
            let source = unclosed.repeat(MAX_SOURCE_BYTES / unclosed.len());
            assert!(Expression::compile(&source, &scope()).is_err());
        }
    };
    let thread = std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(work)
        .unwrap();
    assert!(thread.join().is_ok());
}

#[test]
fn deep_values_are_refused_and_not_followed() {
    let text = "[".repeat(100_000) + &"]".repeat(100_000);
    let expression = Expression::compile("input == [1]", &scope()).unwrap();
    let error = expression
        .evaluate(&Bindings::new().text("input", &text))
        .unwrap_err();
    assert_eq!(error.kind, EvalErrorKind::Variable);
    let mut deep = json!(1);
    for _ in 0..500 {
        deep = json!([deep]);
    }
    for source in ["input", "input == input", "[input]", "[input] == [input]"] {
        let (result, _) = run(source, &deep);
        assert_eq!(result.unwrap_err().kind, EvalErrorKind::Value, "{source}");
    }
}
