//! The suite that every engine passes, as library code.
//!
//! An engine supplies a [`Factory`] and calls [`bus_conformance!`](crate::bus_conformance) in a test
//! file; the macro makes one test per property. Every test gets a factory of its own. Nothing here
//! sleeps: "was not delivered" is shown by a later message on the same subscription, since one
//! handle's messages keep their order.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Bus, BusError, Message, Subscription};

/// How long a message may take before a test fails. Far above what any engine needs, so that a
/// slow machine does not fail.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes handles on one bus.
#[async_trait]
pub trait Factory: Send + Sync + Debug {
    /// Connects one more handle (one more replica) to the bus of this factory.
    async fn connect(&self) -> Arc<dyn Bus>;
}

/// Makes one test per property of the suite.
///
/// The first argument names the module that holds the tests, the second is the path of an `async fn`
/// without arguments that gives a fresh [`Factory`](crate::conformance::Factory), or `None` after
/// saying why this engine cannot be tested here.
///
/// ```
/// # use std::sync::Arc;
/// # use coretex_bus::{Bus, InProcBus, conformance::Factory};
/// #[derive(Debug)]
/// struct Mine(InProcBus);
///
/// #[async_trait::async_trait]
/// impl Factory for Mine {
///     async fn connect(&self) -> Arc<dyn Bus> {
///         Arc::new(self.0.peer())
///     }
/// }
///
/// async fn factory() -> Option<Mine> {
///     Some(Mine(InProcBus::new()))
/// }
///
/// coretex_bus::bus_conformance!(mine, crate::factory);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! bus_conformance {
    ($module:ident, $factory:path) => {
        $crate::bus_conformance!(@tests $module, $factory,
            every_subscriber_gets_every_message,
            wildcards_match_tokens,
            a_group_shares_its_messages,
            groups_do_not_disturb_each_other,
            one_handle_keeps_its_order,
            a_slow_subscriber_loses_and_knows_how_many,
            a_stuck_subscriber_does_not_stop_others,
            a_dropped_subscription_frees_its_group,
            bad_subjects_are_refused,
            bad_groups_are_refused,
            large_payloads_pass_and_larger_are_refused,
            a_drain_delivers_what_is_held,
            a_drain_touches_its_own_handle_only,
            concurrent_publishers_lose_nothing,
            dropping_a_next_future_loses_nothing,
        );
    };
    (@tests $module:ident, $factory:path, $($name:ident),+ $(,)?) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(factory) = $factory().await {
                        $crate::conformance::$name(&factory).await;
                    }
                }
            )+
        }
    };
}

async fn subscribe(bus: &Arc<dyn Bus>, pattern: &str, group: Option<&str>) -> Subscription {
    match bus.subscribe(pattern, group).await {
        Ok(subscription) => subscription,
        Err(error) => panic!("subscribe to {pattern} failed: {error}"),
    }
}

async fn publish(bus: &Arc<dyn Bus>, subject: &str, text: impl Into<String>) {
    let text = text.into();
    if let Err(error) = bus.publish(subject, Bytes::from(text)).await {
        panic!("publish on {subject} failed: {error}");
    }
}

async fn next(subscription: &mut Subscription) -> Option<Message> {
    match tokio::time::timeout(PATIENCE, subscription.next()).await {
        Ok(message) => message,
        Err(_) => panic!("no message within {PATIENCE:?}: {subscription:?}"),
    }
}

async fn next_text(subscription: &mut Subscription) -> String {
    match next(subscription).await {
        Some(message) => String::from_utf8_lossy(&message.payload).into_owned(),
        None => panic!("subscription ended early: {subscription:?}"),
    }
}

/// Reads until the text `last` comes; returns what came before it.
async fn until(subscription: &mut Subscription, last: &str) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        let text = next_text(subscription).await;
        if text == last {
            return before;
        }
        before.push(text);
    }
}

/// Makes sure that messages of `from` reach `subscription`, which may need a moment when the two
/// are different connections of a network engine.
async fn meet(from: &Arc<dyn Bus>, subject: &str, subscription: &mut Subscription) {
    let try_once = Duration::from_millis(100);
    let mut attempts = 0;
    loop {
        publish(from, subject, "meet").await;
        if let Ok(Some(_)) = tokio::time::timeout(try_once, subscription.next()).await {
            break;
        }
        attempts += 1;
        assert!(attempts < 200, "handles never met: {subscription:?}");
    }
    // Earlier tries may still be on their way.
    publish(from, subject, "met").await;
    until(subscription, "met").await;
}

/// Every subscription without a group gets every message, on its own and on other handles, and the
/// message carries its subject and bytes.
pub async fn every_subscriber_gets_every_message(factory: &dyn Factory) {
    let (here, there) = (factory.connect().await, factory.connect().await);
    let mut first = subscribe(&here, "suite.all", None).await;
    let mut second = subscribe(&here, "suite.all", None).await;
    let mut third = subscribe(&there, "suite.all", None).await;
    meet(&here, "suite.all", &mut third).await;
    publish(&here, "suite.all", "payload").await;
    until(&mut first, "met").await;
    until(&mut second, "met").await;
    for subscription in [&mut first, &mut second, &mut third] {
        let Some(message) = next(subscription).await else {
            panic!("subscription ended early: {subscription:?}");
        };
        assert_eq!(&*message.subject, "suite.all");
        assert_eq!(message.payload, Bytes::from_static(b"payload"));
        assert_eq!(subscription.lagged(), 0);
    }
    assert!(here.healthy() && there.healthy());
    assert!(!here.info().engine.is_empty() && here.info().max_payload > 0);
}

/// `*` stands for one token, a last `>` for one or more.
pub async fn wildcards_match_tokens(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let mut one = subscribe(&bus, "suite.*.end", None).await;
    let mut rest = subscribe(&bus, "suite.>", None).await;
    for subject in ["suite.a.end", "suite.a.b.end", "suite.b.end", "suite.a"] {
        publish(&bus, subject, subject).await;
    }
    // These match neither, but for the last, which matches both and comes last.
    publish(&bus, "suite", "bare").await;
    publish(&bus, "other.a.end", "other").await;
    publish(&bus, "suite.z.end", "last").await;
    assert_eq!(
        until(&mut one, "last").await,
        ["suite.a.end", "suite.b.end"]
    );
    assert_eq!(
        until(&mut rest, "last").await,
        ["suite.a.end", "suite.a.b.end", "suite.b.end", "suite.a"]
    );
}

/// Each message of a group goes to exactly one member, and no member is forgotten for ever.
pub async fn a_group_shares_its_messages(factory: &dyn Factory) {
    const COUNT: usize = 400;
    let (here, there) = (factory.connect().await, factory.connect().await);
    let mut first = subscribe(&here, "suite.group", Some("workers")).await;
    let mut second = subscribe(&there, "suite.*", Some("workers")).await;
    // Found only when both are known: the second is reached by its other subject.
    meet(&here, "suite.other", &mut second).await;
    for number in 0..COUNT {
        publish(&here, "suite.group", format!("{number}")).await;
    }
    let mut seen = Vec::new();
    let mut shares = [0_usize; 2];
    while seen.len() < COUNT {
        let (who, text) = tokio::select! {
            text = next_text(&mut first) => (0, text),
            text = next_text(&mut second) => (1, text),
        };
        shares[who] += 1;
        seen.push(text);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), COUNT, "a message came to two members");
    assert!(shares.iter().all(|share| *share > 0), "unfair: {shares:?}");
    assert_eq!((first.try_next(), second.try_next()), (None, None));
}

/// Two groups and a plain subscription on one subject each get everything.
pub async fn groups_do_not_disturb_each_other(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let mut alpha = subscribe(&bus, "suite.groups", Some("alpha")).await;
    let mut beta = subscribe(&bus, "suite.groups", Some("beta")).await;
    let mut plain = subscribe(&bus, "suite.groups", None).await;
    for text in ["1", "2", "3", "end"] {
        publish(&bus, "suite.groups", text).await;
    }
    for subscription in [&mut alpha, &mut beta, &mut plain] {
        assert_eq!(until(subscription, "end").await, ["1", "2", "3"]);
    }
}

/// What one handle publishes one after the other arrives in that order, whatever the subject.
pub async fn one_handle_keeps_its_order(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let mut all = subscribe(&bus, "suite.order.*", None).await;
    let expected: Vec<String> = (0..500).map(|number| format!("{number}")).collect();
    for (number, text) in expected.iter().enumerate() {
        publish(&bus, &format!("suite.order.{}", number % 7), text.clone()).await;
    }
    publish(&bus, "suite.order.end", "end").await;
    assert_eq!(until(&mut all, "end").await, expected);
}

/// A subscriber that does not read loses messages, keeps a bounded number, and what it got plus
/// what it lost is what was published.
pub async fn a_slow_subscriber_loses_and_knows_how_many(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let capacity = bus.info().queue_capacity;
    let total = capacity + 100;
    let mut slow = subscribe(&bus, "suite.slow", None).await;
    let mut quick = subscribe(&bus, "suite.slow", None).await;
    for number in 0..total {
        publish(&bus, "suite.slow", format!("{number}")).await;
        assert_eq!(next_text(&mut quick).await, format!("{number}"));
    }
    let mut received = 0;
    let begin = tokio::time::Instant::now();
    loop {
        while slow.try_next().is_some() {
            received += 1;
        }
        let lost = usize::try_from(slow.lagged()).unwrap_or(usize::MAX);
        if received + lost == total {
            assert!(
                lost > 0,
                "nothing was lost above the capacity of {capacity}"
            );
            break;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "received {received}, lost {lost} of {total}"
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(quick.lagged(), 0);
    publish(&bus, "suite.slow", "again").await;
    assert_eq!(next_text(&mut slow).await, "again");
}

/// A publisher never waits for a subscriber that does not read.
pub async fn a_stuck_subscriber_does_not_stop_others(factory: &dyn Factory) {
    let (here, there) = (factory.connect().await, factory.connect().await);
    let stuck = subscribe(&there, "suite.stuck", None).await;
    let mut reader = subscribe(&here, "suite.stuck", None).await;
    let total = here.info().queue_capacity * 2;
    let publishing = async {
        for number in 0..total {
            publish(&here, "suite.stuck", format!("{number}")).await;
            assert_eq!(next_text(&mut reader).await, format!("{number}"));
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, publishing).await;
    assert!(outcome.is_ok(), "the publisher waited for a stuck reader");
    drop(stuck);
}

/// After a member has left, its group's messages go to the members that stay.
pub async fn a_dropped_subscription_frees_its_group(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let leaving = subscribe(&bus, "suite.leave", Some("g")).await;
    let mut staying = subscribe(&bus, "suite.leave", Some("g")).await;
    drop(leaving);
    // In a network engine the server may learn of it a moment later.
    let begin = tokio::time::Instant::now();
    let mut streak = 0;
    while streak < 20 {
        publish(&bus, "suite.leave", "x").await;
        let got = tokio::time::timeout(Duration::from_millis(200), staying.next()).await;
        streak = if matches!(got, Ok(Some(_))) {
            streak + 1
        } else {
            0
        };
        assert!(begin.elapsed() < PATIENCE, "messages still go to who left");
    }
}

/// Subjects that are no subjects are refused on both sides, and nothing is delivered.
pub async fn bad_subjects_are_refused(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let mut all = subscribe(&bus, ">", None).await;
    let long = "a".repeat(crate::subject::MAX_SUBJECT_LEN + 1);
    for bad in ["", ".", "a..b", "a.", "a b", "a\r\nb", "a.*", ">", &long] {
        let refused = bus.publish(bad, Bytes::new()).await;
        assert!(
            matches!(refused, Err(BusError::InvalidSubject { .. })),
            "publish on {bad:?} gave {refused:?}"
        );
    }
    for bad in ["", "a..b", "a.>.b", "a*", "a b", &long] {
        let refused = bus.subscribe(bad, None).await;
        assert!(
            matches!(refused, Err(BusError::InvalidSubject { .. })),
            "subscribe to {bad:?} was accepted"
        );
    }
    publish(&bus, "suite.good", "good").await;
    assert_eq!(next_text(&mut all).await, "good");
}

/// A group name that a network engine could not write is refused by every engine.
pub async fn bad_groups_are_refused(factory: &dyn Factory) {
    let bus = factory.connect().await;
    for bad in ["", "a b", "a\r\nb", "ä"] {
        let refused = bus.subscribe("suite.badgroup", Some(bad)).await;
        assert!(
            matches!(refused, Err(BusError::InvalidSubject { .. })),
            "group {bad:?} was accepted"
        );
    }
    let mut member = subscribe(&bus, "suite.badgroup", Some("good.group-1")).await;
    publish(&bus, "suite.badgroup", "good").await;
    assert_eq!(next_text(&mut member).await, "good");
}

/// A payload of exactly the limit passes; one byte more is refused.
pub async fn large_payloads_pass_and_larger_are_refused(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let limit = bus.info().max_payload;
    let mut all = subscribe(&bus, "suite.large", None).await;
    let refused = bus.publish("suite.large", vec![7; limit + 1].into()).await;
    assert_eq!(
        refused,
        Err(BusError::TooLarge {
            size: limit + 1,
            limit
        })
    );
    let sent = bus.publish("suite.large", vec![7; limit].into()).await;
    assert_eq!(sent, Ok(()));
    let message = next(&mut all).await;
    assert_eq!(message.map(|message| message.payload.len()), Some(limit));
    publish(&bus, "suite.large", "").await;
    assert_eq!(next_text(&mut all).await, "");
}

/// After a drain what was held is still read, then the subscription ends; nothing new is accepted.
pub async fn a_drain_delivers_what_is_held(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let mut subscription = subscribe(&bus, "suite.drain", None).await;
    let expected: Vec<String> = (0..50).map(|number| format!("{number}")).collect();
    for text in &expected {
        publish(&bus, "suite.drain", text.clone()).await;
    }
    let reading = async {
        let mut got = Vec::new();
        while let Some(message) = next(&mut subscription).await {
            got.push(String::from_utf8_lossy(&message.payload).into_owned());
        }
        got
    };
    let (got, ()) = tokio::join!(reading, bus.drain(PATIENCE));
    assert_eq!(got, expected);
    assert_eq!(subscription.lagged(), 0);
    assert!(!bus.healthy());
    assert_eq!(
        bus.publish("suite.drain", Bytes::new()).await,
        Err(BusError::Closed)
    );
    let refused = bus.subscribe("suite.drain", None).await;
    assert!(matches!(refused, Err(BusError::Closed)));
    // A second drain has nothing to do.
    bus.drain(PATIENCE).await;
}

/// Draining one handle leaves the others and their subscriptions alone.
pub async fn a_drain_touches_its_own_handle_only(factory: &dyn Factory) {
    let (here, there) = (factory.connect().await, factory.connect().await);
    let mut ours = subscribe(&here, "suite.own", None).await;
    let mut theirs = subscribe(&there, "suite.own", None).await;
    here.drain(PATIENCE).await;
    assert_eq!(next(&mut ours).await, None);
    publish(&there, "suite.own", "still here").await;
    assert_eq!(next_text(&mut theirs).await, "still here");
    assert!(there.healthy());
}

/// Many publishers at once: a reader that keeps up gets each message exactly once.
pub async fn concurrent_publishers_lose_nothing(factory: &dyn Factory) {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 200;
    let bus = factory.connect().await;
    let mut all = subscribe(&bus, "suite.many.*", None).await;
    let tasks: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let bus = Arc::clone(&bus);
            tokio::spawn(async move {
                let subject = format!("suite.many.{publisher}");
                for number in 0..EACH {
                    publish(&bus, &subject, format!("{publisher}/{number}")).await;
                }
            })
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..PUBLISHERS * EACH {
        assert!(
            seen.insert(next_text(&mut all).await),
            "a message came twice"
        );
    }
    for task in tasks {
        assert!(task.await.is_ok());
    }
    assert_eq!((all.lagged(), all.try_next()), (0, None));
}

/// A reader may give up waiting (as `select!` does) at any moment.
pub async fn dropping_a_next_future_loses_nothing(factory: &dyn Factory) {
    let bus = factory.connect().await;
    let mut all = subscribe(&bus, "suite.cancel", None).await;
    for number in 0..200 {
        let text = format!("{number}");
        tokio::select! {
            biased;
            early = all.next() => panic!("unexpected {early:?}"),
            () = publish(&bus, "suite.cancel", text.clone()) => {}
        }
        assert_eq!(next_text(&mut all).await, text);
    }
}
