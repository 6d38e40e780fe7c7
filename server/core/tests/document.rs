//! Documents: what is taken, what is refused, and where every problem is said to be.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use coretex_core::document::{Document, Field, MAX_DEPTH, Problem, Reader};
use coretex_core::expression::Scope;
use serde_json::{Value, json};

fn tree(text: &str) -> Value {
    Document::parse(text).unwrap().root().to_json()
}

fn refused(text: &str) -> Vec<String> {
    let problems = Document::parse(text).unwrap_err();
    problems.iter().map(Problem::to_string).collect()
}

/// What `read` complains about.
fn complaints(text: &str, read: impl Fn(&Field<'_>)) -> Vec<String> {
    let document = Document::parse(text).unwrap();
    let reader = Reader::new();
    read(&reader.root(document.root()));
    let problems = reader.into_problems();
    problems.iter().map(Problem::to_string).collect()
}

#[test]
fn yaml_and_json_are_the_same_tree() {
    let yaml = "a: 1\nb: [x, 'y', \"z\"]\nc:\n  - d: true\n    e: null\n  - -2.5\nf: yes\n";
    let json =
        json!({"a": 1, "b": ["x", "y", "z"], "c": [{"d": true, "e": null}, -2.5], "f": "yes"});
    assert_eq!(tree(yaml), json);
    assert_eq!(tree(&json.to_string()), json);
}

#[test]
fn scalars_are_those_of_json() {
    let table = [
        ("~", json!(null)),
        ("null", json!(null)),
        ("True", json!(true)),
        ("off", json!("off")),
        ("no", json!("no")),
        ("12", json!(12)),
        ("-3", json!(-3)),
        ("1e3", json!(1000.0)),
        ("007", json!("007")),
        ("0x1F", json!("0x1F")),
        (".inf", json!(".inf")),
        ("1_000", json!("1_000")),
        ("12:30", json!("12:30")),
        ("2020-01-01", json!("2020-01-01")),
        ("'12'", json!("12")),
        ("|\n  a\n  b\n", json!("a\nb\n")),
        (">-\n  a\n  b\n", json!("a b")),
    ];
    for (text, value) in table {
        assert_eq!(tree(&format!("k: {text}")), json!({"k": value}), "{text}");
    }
}

#[test]
fn what_is_not_offered_is_told_with_its_place() {
    let table = [
        ("", vec!["1:1: the document is empty"]),
        (
            "a: &x 1\nb: *x\n",
            vec![
                "1:4: a: anchors are not offered",
                "2:4: b: aliases are not offered: write the value again",
            ],
        ),
        ("a: !!str 1\n", vec!["1:4: a: tags are not offered"]),
        (
            "a: 1\nb:\n  c: 1\n  c: 2\na: 3\n",
            vec![
                "4:3: b.c: the key `c` stands here twice",
                "5:1: a: the key `a` stands here twice",
            ],
        ),
        ("a: 1\n---\nb: 1\n", vec!["2:1: more than one document"]),
        (
            "<<: {a: 1}\n",
            vec!["1:1: \"<<\": merge keys are not offered"],
        ),
        ("? [a]\n: 1\n", vec!["1:3: a key must be a text"]),
        ("~: 1\n", vec!["1:1: \"\": a key must be a text"]),
    ];
    for (text, wanted) in table {
        assert_eq!(refused(text), wanted, "{text}");
    }
}

#[test]
fn syntax_errors_have_a_place() {
    for text in [
        "a: [1, 2\nb: 3\n",
        "a: \"x\n",
        "a: b: c\n",
        "{a: 1",
        "- a\nb: 1\n",
        "a: @x\n",
    ] {
        let problems = Document::parse(text).unwrap_err();
        let last = problems.last().unwrap();
        assert!(
            last.line >= 1 && last.column >= 1 && !last.message.is_empty(),
            "{text:?}: {problems:?}"
        );
    }
}

#[test]
fn everything_is_bounded_and_fast() {
    let started = Instant::now();
    let deep = "[".repeat(40) + &"]".repeat(40);
    let message = refused(&deep).join(" ");
    assert!(
        message.contains(&format!("nested more than {MAX_DEPTH} deep")),
        "{message}"
    );
    let nested: String = (0..40)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert!(refused(&nested)[0].contains("deep"));
    assert!(refused(&"x".repeat(1024 * 1024 + 1))[0].contains("longer than 1048576 bytes"));
    assert!(refused(&format!("[{}]", "1,".repeat(300_000)))[0].contains("more than 200000 values"));
    let twice = "a: 1\n".repeat(1_000);
    assert_eq!(refused(&twice).len(), 100);
    // Some texts that are hard for other parsers.
    for text in [
        "{".repeat(1 << 20),
        "[".repeat(1 << 20),
        "? ".repeat(1 << 18),
        "- ".repeat(1 << 18),
        "&a ".repeat(1 << 18),
        "\"".repeat(1 << 20),
        "a: ".repeat(1 << 18),
    ] {
        let _ = Document::parse(&text);
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_reader_collects_everything() {
    let text = "nmae: x\nsize: big\nlist: [1, a, a, '']\nuntil: 5 parsecs\nmode: aks\n";
    let found = complaints(text, |root| {
        let mut object = root.object().unwrap();
        let _ = object.require("name");
        let _ = object.get("size").map(|field| field.count(1, 5));
        let _ = object
            .get("list")
            .map(|field| field.list(10, |item| item.line(5)));
        let _ = object
            .get("until")
            .map(|field| field.duration(Duration::ZERO, Duration::from_secs(5)));
        let _ = object
            .get("mode")
            .map(|field| field.word(&[("ask", 1), ("tell", 2)]));
        object.finish();
    });
    assert_eq!(
        found,
        [
            "1:1: `name` is missing",
            "1:1: nmae: unknown key `nmae`; did you mean `name`?",
            "2:7: size: must be a whole number, is a text",
            "3:8: list[0]: must be a text, is a number; put it in quotes",
            "3:14: list[2]: stands here twice",
            "3:17: list[3]: must not be empty",
            "4:8: until: must be a duration such as `90s`, `5m` or `1h30m`, is `5 parsecs`",
            "5:7: mode: must be one of ask, tell, is `aks`; did you mean `ask`?",
        ]
    );
}

#[test]
fn expressions_are_wrong_where_they_are_wrong() {
    let scope = Scope::new().variable("job");
    let table = [
        ("when: job.x && jbo.y\n", "1:16"),
        ("when: 'job.x && jbo.y'\n", "1:17"),
        ("when: 'job.x == ''a'' && jbo.y'\n", "1:26"),
        ("when: \"job.x == \\\"a\\\" && jbo.y\"\n", "1:26"),
        ("when: \"job.x == '\\u0061' && jbo.y\"\n", "1:29"),
        ("when: |\n  job.x &&\n  jbo.y\n", "3:3"),
        ("when: |\n\n  job.x &&\n    jbo.y\n", "4:5"),
        ("when: >\n  job.x &&\n  jbo.y\n", "2:3"),
        ("{\"when\": \"job.x && jbo.y\"}", "1:20"),
    ];
    for (text, wanted) in table {
        let found = complaints(text, |root| {
            let mut object = root.object().unwrap();
            let when = object.get("when").unwrap();
            assert!(when.expression(&scope).is_none());
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(&format!("{wanted}: when: ")),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn paths_are_pointers_too() {
    let document = Document::parse("a/b: [{c~d: 1}]").unwrap();
    let reader = Reader::new();
    let (_, list) = reader.root(document.root()).entries(5).remove(0);
    let (_, value) = list.items(5)[0].entries(5).remove(0);
    assert_eq!(value.path().pointer(), "/a~1b/0/c~0d");
    assert_eq!(value.path().to_string(), "\"a/b\"[0].\"c~d\"");
}
