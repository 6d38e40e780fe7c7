//! Tables and properties of routing.

use proptest::prelude::*;

use super::pattern::PatternError;
use super::*;

fn topic(text: &str) -> Topic {
    Topic::parse(text).unwrap()
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::parse(text).unwrap()
}

fn tenant(text: &str) -> TenantId {
    TenantId::parse(text).unwrap()
}

fn pool(text: &str) -> PoolName {
    PoolName::parse(text).unwrap()
}

fn with_topics(rules: impl IntoIterator<Item = (&'static str, TopicRule)>) -> Routing {
    let topics = rules.into_iter().map(|(text, rule)| (pattern(text), rule));
    Routing::new(
        topics.collect(),
        BTreeMap::new(),
        BTreeMap::new(),
        TenantRule::default(),
    )
    .unwrap()
}

#[test]
fn patterns_are_tokens_with_wildcards_in_their_place() {
    for good in ["job.a", "job.*", "job.>", "job.*.b", "job.a.*.>", "job.a.>"] {
        assert!(TopicPattern::parse(good).is_ok(), "{good}");
    }
    for (bad, why) in [
        ("", PatternError::Malformed),
        ("*", PatternError::Malformed),
        ("job", PatternError::Malformed),
        ("job.", PatternError::Malformed),
        ("job.a*", PatternError::Malformed),
        ("job.a..b", PatternError::Malformed),
        ("job.a.>>", PatternError::Malformed),
        ("sys.>", PatternError::Malformed),
        ("job.>.a", PatternError::RestNotLast),
    ] {
        assert_eq!(TopicPattern::parse(bad), Err(why), "{bad}");
    }
    let long = format!("job.{}", "a".repeat(300));
    assert_eq!(TopicPattern::parse(&long), Err(PatternError::TooLong));
}

#[test]
fn a_star_is_one_token_and_the_rest_is_at_least_one() {
    for (text, matching, other) in [
        ("job.a.*", &["job.a.b"][..], &["job.a", "job.a.b.c"][..]),
        ("job.a.>", &["job.a.b", "job.a.b.c"], &["job.a", "job.b.c"]),
        ("job.*.c", &["job.a.c"], &["job.a.b", "job.c", "job.a.c.d"]),
        ("job.>", &["job.a", "job.a.b"], &[]),
        ("job.a", &["job.a"], &["job.a.b", "job.b"]),
    ] {
        for good in matching {
            assert!(pattern(text).matches(&topic(good)), "{text} {good}");
        }
        for bad in other {
            assert!(!pattern(text).matches(&topic(bad)), "{text} {bad}");
        }
    }
}

#[test]
fn the_most_specific_pattern_wins() {
    let patterns = ["job.>", "job.*", "job.a.>", "job.a.*", "job.*.b", "job.a.b"];
    let map: PatternMap<()> = patterns
        .map(|text| (pattern(text), ()))
        .into_iter()
        .collect();
    for (text, wins) in [
        ("job.x", "job.*"),
        ("job.x.y", "job.>"),
        ("job.x.b", "job.*.b"),
        ("job.a.b", "job.a.b"),
        ("job.a.c", "job.a.*"),
        ("job.a.c.d", "job.a.>"),
        ("job.a", "job.*"),
    ] {
        let topic = topic(text);
        let found = map.find(&topic).map(|(pattern, ())| pattern.as_str());
        assert_eq!(found, Some(wins), "{text}");
    }
}

/// The rank of a pattern from the left: a token before `*`, `*` before `>`.
fn rank(pattern: &TopicPattern) -> Vec<u8> {
    let rank = |token| match token {
        ">" => 2,
        "*" => 1,
        _ => 0,
    };
    pattern.as_str().split('.').map(rank).collect()
}

proptest! {
    #[test]
    fn the_tree_finds_what_a_look_at_every_pattern_finds(
        patterns in prop::collection::vec(
            prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..5),
            0..12,
        ),
        open in prop::collection::vec(any::<bool>(), 12),
        tokens in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..5),
    ) {
        let patterns: Vec<TopicPattern> = patterns
            .iter()
            .zip(open)
            .map(|(tokens, open)| {
                let rest = if open { ".>" } else { "" };
                pattern(&format!("job.{}{rest}", tokens.join(".")))
            })
            .collect();
        let topic = topic(&format!("job.{}", tokens.join(".")));
        let map: PatternMap<()> = patterns.iter().map(|one| (one.clone(), ())).collect();
        let found = map.find(&topic).map(|(pattern, ())| pattern.clone());
        let best = patterns.into_iter().filter(|one| one.matches(&topic)).min_by_key(rank);
        prop_assert_eq!(found, best);
    }
}

#[test]
fn without_a_table_every_pool_serves_every_topic() {
    let routing = Routing::default();
    assert!(!routing.closes_topics());
    let (topic, acme) = (topic("job.a"), tenant("acme"));
    assert_eq!(routing.route(&topic, &acme), Route::Open);
    assert!(routing.route(&topic, &acme).allows(&pool("any")));
    assert!(routing.knows_pool(&pool("any")));
}

#[test]
fn a_table_names_pools_and_tenants() {
    let rule = TopicRule {
        pools: vec![pool("fast")],
        tenants: vec![tenant("acme")],
        ..TopicRule::default()
    };
    let routing = with_topics([("job.a.>", rule), ("job.b", TopicRule::default())]);
    assert!(routing.closes_topics());
    let (mapped, other) = (topic("job.a.x"), topic("job.c"));
    let route = routing.route(&mapped, &tenant("acme"));
    assert!(route.allows(&pool("fast")) && !route.allows(&pool("slow")));
    let beta = routing.route(&mapped, &tenant("beta"));
    assert_eq!(beta, Route::Unmapped(Unmapped::Tenant(&pattern("job.a.>"))));
    assert!(!beta.allows(&pool("fast")));
    assert_eq!(
        routing.route(&other, &tenant("acme")),
        Route::Unmapped(Unmapped::NoPattern(&other))
    );
    assert!(
        routing
            .route(&topic("job.b"), &tenant("beta"))
            .allows(&pool("slow"))
    );
}

#[test]
fn topics_may_name_only_pools_that_there_are() {
    let rule = TopicRule {
        pools: vec![pool("fast"), pool("fsat")],
        ..TopicRule::default()
    };
    let refused = Routing::new(
        BTreeMap::from([(pattern("job.a"), rule)]),
        BTreeMap::from([(pool("fast"), PoolRule::default())]),
        BTreeMap::new(),
        TenantRule::default(),
    );
    assert_eq!(
        refused.err(),
        Some(RoutingError::UnknownPool {
            topic: pattern("job.a"),
            pool: pool("fsat"),
        })
    );
}

#[test]
fn a_topic_fills_in_what_was_left_open() {
    let rule = TopicRule {
        capability: "mail.send".to_owned(),
        risk_tags: vec!["external".to_owned(), "pii".to_owned()],
        timeout: Some(Duration::from_secs(5)),
        schedule_to_start_timeout: Some(Duration::from_secs(60)),
        retry: Some(RetryPolicy {
            max_attempts: 4,
            ..RetryPolicy::default()
        }),
        ..TopicRule::default()
    };
    let routing = with_topics([("job.a", rule)]);
    let mut spec = JobSpec::new(topic("job.a"));
    spec.metadata.risk_tags = vec!["pii".to_owned()];
    let all = LeftOpen {
        timeout: true,
        schedule_to_start_timeout: true,
        retry: true,
        priority: false,
    };
    let mut filled = spec.clone();
    routing.fill_in(&mut filled, &tenant("acme"), all);
    assert_eq!(filled.timeout, Duration::from_secs(5));
    assert_eq!(filled.schedule_to_start_timeout, Duration::from_secs(60));
    assert_eq!(filled.retry.max_attempts, 4);
    assert_eq!(filled.metadata.capability, "mail.send");
    assert_eq!(filled.metadata.risk_tags, ["pii", "external"]);

    spec.metadata.capability = "own".to_owned();
    let mut kept = spec.clone();
    routing.fill_in(&mut kept, &tenant("acme"), LeftOpen::default());
    assert_eq!(kept.timeout, spec.timeout);
    assert_eq!(
        kept.schedule_to_start_timeout,
        spec.schedule_to_start_timeout
    );
    assert_eq!(kept.retry, spec.retry);
    assert_eq!(kept.metadata.capability, "own");
}

#[test]
fn the_limit_of_a_job_goes_before_that_of_its_topic() {
    let limit = |key: &str, limit| Concurrency {
        key: key.to_owned(),
        limit,
        on_limit: ConcurrencyAction::Queue,
    };
    let rule = |key: &str| TopicRule {
        concurrency: Some(limit(key, 3)),
        ..TopicRule::default()
    };
    let routing = with_topics([("job.a.*", rule("")), ("job.b", rule("shared"))]);
    let acme = tenant("acme");
    let found = |spec: &JobSpec| {
        let running = routing.concurrency(spec, &acme);
        running.map(|running| (running.key.to_owned(), running.limit))
    };
    let mut spec = JobSpec::new(topic("job.a.x"));
    assert_eq!(found(&spec), Some(("job.a.*".to_owned(), 3)));
    spec.concurrency = Some(limit("own", 1));
    assert_eq!(found(&spec), Some(("own".to_owned(), 1)));
    let shared = JobSpec::new(topic("job.b"));
    assert_eq!(found(&shared), Some(("shared".to_owned(), 3)));
    assert_eq!(found(&JobSpec::new(topic("job.c"))), None);
}
