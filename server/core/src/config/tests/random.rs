//! Random documents: whatever is written where, a narrower scope never allows more.

use proptest::prelude::*;

use super::*;
use crate::policy::safety::Safety;

fn pattern() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..3)
        .prop_map(|tokens| format!("job.{}", tokens.join(".")))
}

fn patterns() -> impl Strategy<Value = Json> {
    prop::collection::btree_set(pattern(), 0..4).prop_map(|set| json!(set))
}

fn duration() -> impl Strategy<Value = Json> {
    (1_u64..100).prop_map(|minutes| json!(format!("{minutes}m")))
}

/// An object with some of these keys.
fn some(keys: Vec<(&'static str, BoxedStrategy<Json>)>) -> BoxedStrategy<Json> {
    let keys: Vec<_> = keys
        .into_iter()
        .map(|(key, value)| {
            prop::option::of(value)
                .prop_map(move |value| value.map(|value| (key.to_owned(), value)))
        })
        .collect();
    keys.prop_map(|entries| Json::Object(entries.into_iter().flatten().collect()))
        .boxed()
}

fn tags() -> impl Strategy<Value = Json> {
    prop::collection::btree_set(prop::sample::select(vec!["x", "y", "z"]), 0..3)
        .prop_map(|set| json!(set))
}

fn free() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![any::<i16>().prop_map(|n| json!(n)), Just(Json::Null)];
    let inner = prop::collection::btree_map("[a-c]", leaf, 0..3);
    prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map))
}

fn document() -> impl Strategy<Value = Json> {
    let topic = some(vec![
        ("timeout", duration().boxed()),
        ("risk_tags", tags().boxed()),
    ]);
    let topics = prop::collection::btree_map(pattern(), topic, 0..3).prop_map(|map| json!(map));
    let topics = prop_oneof![8 => topics, 1 => Just(Json::Null)];
    some(vec![
        ("topics", topics.boxed()),
        (
            "timeouts",
            some(vec![
                ("job", duration().boxed()),
                ("max_job", duration().boxed()),
            ]),
        ),
        (
            "limits",
            some(vec![
                ("max_labels", (0_u32..64).prop_map(|n| json!(n)).boxed()),
                ("max_attempts", (1_u32..9).prop_map(|n| json!(n)).boxed()),
            ]),
        ),
        (
            "retention",
            some(vec![(
                "jobs",
                (1_u32..60).prop_map(|n| json!(format!("{n}m"))).boxed(),
            )]),
        ),
        (
            "safety",
            some(vec![
                ("allowed_topics", patterns().boxed()),
                ("denied_topics", patterns().boxed()),
                ("deny_secrets", any::<bool>().prop_map(|b| json!(b)).boxed()),
            ]),
        ),
        (
            "visibility",
            some(vec![(
                "workers",
                prop::collection::btree_set(
                    prop::sample::select(vec!["models", "models.a", "budgets", "limits"]),
                    0..4,
                )
                .prop_map(|set| json!(set))
                .boxed(),
            )]),
        ),
        ("models", free().boxed()),
    ])
}

/// Whether `narrow` is not looser than `wide` in anything that may only tighten.
fn check_tighter(wide: &Effective, narrow: &Effective) -> Result<(), TestCaseError> {
    let none = Safety::default();
    let of = |one: &Effective| one.typed.safety.clone().unwrap_or_else(|| none.clone());
    let (wider, narrower) = (of(wide), of(narrow));
    prop_assert_eq!(wider.merge(&narrower).merge(&none), narrower.merge(&none));
    let least = |left: Option<u64>, right: Option<u64>| match (left, right) {
        (Some(left), Some(right)) => right <= left,
        (Some(_), None) => false,
        (None, _) => true,
    };
    let (l, r) = (&wide.typed, &narrow.typed);
    let count = |n: Option<u32>| n.map(u64::from);
    let millis = |d: Option<Duration>| d.map(|d| d.as_millis() as u64);
    prop_assert!(least(
        count(l.limits.max_labels),
        count(r.limits.max_labels)
    ));
    prop_assert!(least(
        count(l.limits.max_attempts),
        count(r.limits.max_attempts)
    ));
    prop_assert!(least(
        millis(l.timeouts.max_job),
        millis(r.timeouts.max_job)
    ));
    prop_assert!(least(millis(l.retention.jobs), millis(r.retention.jobs)));
    for name in ["job.a", "job.b.a", "job.a.b"] {
        let tags = |one: &Sections| {
            let mut spec = JobSpec::new(topic(name));
            let _ = one.fill_in_topic(&mut spec, OPEN);
            spec.metadata.risk_tags
        };
        let narrower = tags(r);
        prop_assert!(tags(l).iter().all(|tag| narrower.contains(tag)), "{}", name);
    }
    Ok(())
}

fn without_nulls(value: &Json) -> Json {
    match value {
        Json::Object(object) => object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        value => value.clone(),
    }
}

proptest! {
    #[test]
    fn no_narrower_scope_ever_allows_more(documents in prop::collection::vec(document(), 1..6)) {
        let mut wider = Effective::empty();
        for count in 1..=documents.len() {
            let narrower = of(&documents[..count]);
            check_tighter(&wider, &narrower)?;
            wider = narrower;
        }
        // What is shown to workers only shrinks below the organisation.
        for count in 3..=documents.len() {
            let paths = |count: usize| of(&documents[..count]).typed.worker_paths();
            let (wide, narrow) = (paths(count - 1), paths(count));
            for path in narrow {
                let covered = |wide: &String| {
                    path == *wide || path.starts_with(&format!("{wide}."))
                };
                prop_assert!(wide.iter().any(covered), "{} is not in {:?}", path, wide);
            }
        }
    }

    #[test]
    fn every_value_has_an_origin_and_every_origin_a_value(
        documents in prop::collection::vec(document(), 1..6),
    ) {
        let merged = of(&documents);
        let mut pointers: Vec<String> = Vec::new();
        leaves(&merged.data, "", &mut pointers);
        for pointer in &pointers {
            prop_assert!(merged.origin(pointer).is_some(), "{}", pointer);
        }
        for pointer in merged.origins.iter().flat_map(|one| &one.pointers) {
            let safety = pointer.starts_with("/safety/");
            prop_assert!(safety || merged.data.pointer(pointer).is_some(), "{}", pointer);
        }
        let nulls = merged.data.to_string();
        prop_assert!(!nulls.contains("null"));
    }

    #[test]
    fn merging_in_parts_is_merging_at_once(
        documents in prop::collection::vec(document().prop_map(|one| without_nulls(&one)), 3),
    ) {
        let scoped = |documents: &[&Json]| -> Json {
            let documents: Vec<_> = documents.iter().map(|one| (ConfigScope::Org, *one)).collect();
            merge(&documents).unwrap().data
        };
        let [a, b, c] = &documents[..] else { unreachable!() };
        let left = scoped(&[&scoped(&[a, b]), c]);
        let right = scoped(&[a, &scoped(&[b, c])]);
        prop_assert_eq!(&left, &right);
        prop_assert_eq!(&left, &scoped(&[a, b, c]));
        prop_assert_eq!(scoped(&[a, a]), scoped(&[a]));
    }

    #[test]
    fn what_was_checked_is_checked_again_the_same(document in document()) {
        let once = check(&document, &CEILINGS).unwrap();
        prop_assert_eq!(check(&once, &CEILINGS).unwrap().to_string(), once.to_string());
    }

    #[test]
    fn no_json_makes_the_reader_panic(text in "\\{(\"(limits|safety|topics|a)\":(\\{\\}|\\[1\\]|null|\"x\"|1e9),?){0,4}") {
        let text = format!("{}}}", text.trim_end_matches(','));
        if let Ok(data) = serde_json::from_str::<Json>(&text) {
            let _ = check(&data, &CEILINGS);
        }
    }
}

fn leaves(value: &Json, pointer: &str, found: &mut Vec<String>) {
    match value {
        Json::Object(object) => {
            for (key, value) in object {
                leaves(value, &below(pointer, key), found);
            }
        }
        _ => found.push(pointer.to_owned()),
    }
}
