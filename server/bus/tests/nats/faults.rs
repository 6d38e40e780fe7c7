//! What happens when servers die, hang, come late or come back, and when readers are slow.

use std::sync::Arc;
use std::time::Duration;

use coretex_bus::nats::{NatsBus, NatsError};
use coretex_bus::{Bus, BusError, Subscription};
use tokio::time::Instant;

use crate::server::{PATIENCE, Server, connect, options, until};

async fn healthy(bus: &NatsBus, wanted: bool) {
    until("the state of health", async || match bus.healthy() {
        seen if seen == wanted => Ok(()),
        seen => Err(format!("healthy: {seen}")),
    })
    .await;
}

async fn next(subscription: &mut Subscription) -> String {
    let next = tokio::time::timeout(PATIENCE, subscription.next()).await;
    let message = next.expect("a message in time").expect("no end");
    String::from_utf8_lossy(&message.payload).into_owned()
}

/// Publishes `text` until it arrives; returns what arrived before it.
async fn meet(from: &NatsBus, text: &str, subscription: &mut Subscription) -> Vec<String> {
    let mut before = Vec::new();
    until("the handles to meet", async || {
        let sent = from.publish("faults.a", text.to_owned().into()).await;
        while let Some(message) = subscription.try_next() {
            let got = String::from_utf8_lossy(&message.payload).into_owned();
            if got == text {
                return Ok(());
            }
            before.push(got);
        }
        Err(format!("sent: {sent:?}"))
    })
    .await;
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_subscriptions_work_and_nothing_old_arrives() {
    let Some(mut server) = Server::start("").await else {
        return;
    };
    let (here, there) = (
        connect(server.options().seed(1)).await,
        connect(server.options().seed(2)).await,
    );
    let mut plain = there.subscribe("faults.*", None).await.expect("subscribed");
    let mut member = there
        .subscribe("faults.group", Some("g"))
        .await
        .expect("subscribed");
    meet(&here, "before", &mut plain).await;

    server.kill();
    // From the first moment on, also while the loss has not been noticed.
    let mut refused = 0;
    until("publishes to be refused", async || {
        match here.publish("faults.a", "during".into()).await {
            Err(BusError::Unavailable { .. }) => refused += 1,
            other => return Err(format!("{other:?}")),
        }
        if refused > 100 {
            Ok(())
        } else {
            Err(format!("{refused} refused"))
        }
    })
    .await;
    healthy(&here, false).await;
    healthy(&there, false).await;
    let away = there.subscribe("faults.new", None).await;
    assert!(matches!(away, Err(BusError::Unavailable { .. })));

    server.restart("").await;
    healthy(&here, true).await;
    healthy(&there, true).await;
    let before = meet(&here, "after", &mut plain).await;
    assert!(before.iter().all(|text| text == "before"), "{before:?}");
    here.publish("faults.group", "shared".into())
        .await
        .expect("sent");
    assert_eq!(next(&mut member).await, "shared");
    assert_eq!(there.subscriptions(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_server_is_found_out_and_used_again() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let interval = Duration::from_millis(200);
    let options = server
        .options()
        .ping_interval(interval)
        .connect_timeout(Duration::from_millis(300));
    let bus = connect(options).await;
    let mut own = bus.subscribe("faults.a", None).await.expect("subscribed");
    meet(&bus, "before", &mut own).await;
    server.pause();
    let paused = Instant::now();
    healthy(&bus, false).await;
    let took = paused.elapsed();
    // Three intervals; the rest is for a machine that has other things to do.
    assert!(took < interval * 3 + Duration::from_secs(2), "{took:?}");
    let refused = bus.publish("faults.a", "during".into()).await;
    assert!(matches!(refused, Err(BusError::Unavailable { .. })));
    server.resume();
    healthy(&bus, true).await;
    meet(&bus, "after", &mut own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_nothing_does_not_hold_publishers() {
    let Some(server) = Server::start("").await else {
        return;
    };
    // Long enough that only the full connection can refuse.
    let bus = connect(server.options().ping_interval(Duration::from_secs(3_600))).await;
    server.pause();
    let payload = bytes::Bytes::from(vec![0; 64 * 1024]);
    let mut taken = 0_usize;
    until("the connection to be full", async || {
        for _ in 0..1_000 {
            let outcome = bus.publish("faults.full", payload.clone());
            let outcome = tokio::time::timeout(PATIENCE, outcome).await;
            match outcome.expect("no publisher is held") {
                Ok(()) => taken += 1,
                Err(BusError::Unavailable { reason }) if reason.contains("no more") => {
                    return Ok(());
                }
                Err(other) => panic!("{other}"),
            }
        }
        Err(format!("{taken} taken"))
    })
    .await;
    server.resume();
    let mut own = bus.subscribe("faults.a", None).await.expect("subscribed");
    meet(&bus, "after", &mut own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_on_a_lost_connection_is_never_sent() {
    let Some(mut server) = Server::start("").await else {
        return;
    };
    let (here, there) = (
        connect(server.options().seed(1)).await,
        connect(server.options().seed(2)).await,
    );
    let mut own = there.subscribe("faults.a", None).await.expect("subscribed");
    meet(&here, "before", &mut own).await;
    server.pause();
    let payload = bytes::Bytes::from(vec![b'l'; 64 * 1024]);
    let mut taken = 0;
    while here.publish("faults.a", payload.clone()).await.is_ok() {
        taken += 1;
    }
    // More than a socket holds: the rest waits inside this process.
    assert!(taken > 1_000, "{taken} taken");
    healthy(&here, false).await;
    server.restart("").await;
    healthy(&here, true).await;
    healthy(&there, true).await;
    let before = meet(&here, "after", &mut own).await;
    assert!(before.iter().all(|text| text == "before"), "late messages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_received_or_counted() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let here = connect(server.options()).await;
    let there = connect(server.options().queue_capacity(100)).await;
    let mut slow = there.subscribe("faults.*", None).await.expect("subscribed");
    meet(&here, "begin", &mut slow).await;
    let mut sent = 0_u64;
    for _ in 0..50_000 {
        sent += u64::from(here.publish("faults.flood", "x".into()).await.is_ok());
    }
    let mut got = 0;
    until("every message to be accounted for", async || {
        while let Some(message) = slow.try_next() {
            got += u64::from(&*message.subject == "faults.flood");
        }
        // Messages of the meeting may be among the lost.
        match got + slow.lagged() {
            all if all >= sent => Ok(()),
            all => Err(format!("{all} of {sent}")),
        }
    })
    .await;
    assert!(slow.lagged() > 0, "nothing was lost above the capacity");
    meet(&here, "end", &mut slow).await;
}

#[tokio::test]
async fn a_start_waits_a_bounded_time() {
    let Some(mut server) = Server::start("").await else {
        return;
    };
    server.kill();
    let timeout = Duration::from_millis(300);
    let begin = Instant::now();
    let outcome = NatsBus::connect(server.options().startup_timeout(timeout)).await;
    let Err(error) = outcome else {
        panic!("connected to nothing");
    };
    assert!(begin.elapsed() >= timeout);
    assert!(matches!(error, NatsError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&server.address()), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");

    let late = tokio::spawn(connect(server.options()));
    server.restart("").await;
    assert!(late.await.expect("a connection").healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_takes_over() {
    let (Some(mut one), Some(two)) = (Server::start("").await, Server::start("").await) else {
        return;
    };
    let both = format!("nats://{},nats://{}", one.address(), two.address());
    // Whatever the seed begins with, one of the two handles is on the server that dies.
    let mut buses = Vec::new();
    for seed in 0..4 {
        buses.push(connect(options(&both).seed(seed)).await);
    }
    one.kill();
    let other = connect(two.options()).await;
    for bus in &buses {
        let mut own = until("a subscription", async || {
            let subscribed = bus.subscribe("faults.a", None).await;
            subscribed.map_err(|error| error.to_string())
        })
        .await;
        meet(&other, "from the other", &mut own).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_delivers_what_was_received_even_without_a_server() {
    const COUNT: usize = 200;
    let Some(mut server) = Server::start("").await else {
        return;
    };
    let bus = connect(server.options()).await;
    let mut held = bus.subscribe("faults.a", None).await.expect("subscribed");
    let mut probe = bus.subscribe("faults.a", None).await.expect("subscribed");
    for number in 0..COUNT {
        let text = number.to_string();
        bus.publish("faults.a", text.into()).await.expect("sent");
    }
    for number in 0..COUNT {
        assert_eq!(next(&mut probe).await, number.to_string());
    }
    // The other subscription was fed by the same connection, but by a task of its own.
    until("the messages", async || {
        let seen = format!("{held:?}");
        if seen.contains(&format!("held: {COUNT},")) {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    server.kill();
    healthy(&bus, false).await;
    let reading = async {
        let mut got = 0;
        while let Some(message) = held.next().await {
            assert_eq!(message.payload, got.to_string());
            got += 1;
        }
        got
    };
    let (got, ()) = tokio::join!(reading, bus.drain(PATIENCE));
    assert_eq!((got, held.lagged()), (COUNT, 0));
    assert_eq!(probe.next().await, None);
    assert_eq!(
        bus.publish("faults.a", "x".into()).await,
        Err(BusError::Closed)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_sends_what_was_published() {
    const COUNT: usize = 2_000;
    let Some(server) = Server::start("").await else {
        return;
    };
    let (here, there) = (
        connect(server.options()).await,
        connect(server.options()).await,
    );
    let mut far = there.subscribe("faults.*", None).await.expect("subscribed");
    meet(&here, "before", &mut far).await;
    for number in 0..COUNT {
        let text = number.to_string();
        here.publish("faults.b", text.into()).await.expect("sent");
    }
    here.drain(PATIENCE).await;
    drop(here);
    let mut number = 0;
    while number < COUNT {
        let text = next(&mut far).await;
        if text != "before" {
            assert_eq!(text, number.to_string());
            number += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_keeps_to_its_grace_whatever_hangs() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let slow = server.options().ping_interval(Duration::from_secs(3_600));
    let bus = connect(slow).await;
    let mut unread = bus.subscribe("faults.a", None).await.expect("subscribed");
    let mut probe = bus.subscribe("faults.a", None).await.expect("subscribed");
    bus.publish("faults.a", "1".into()).await.expect("sent");
    next(&mut probe).await;
    server.pause();
    let begin = Instant::now();
    bus.drain(Duration::from_millis(300)).await;
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(unread.next().await, None);
    assert_eq!(unread.lagged(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_handle_ends_its_subscriptions() {
    let Some(server) = Server::start("").await else {
        return;
    };
    let bus = connect(server.options()).await;
    let mut left = bus.subscribe("faults.a", None).await.expect("subscribed");
    drop(bus);
    assert_eq!(left.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reconnects_leak_nothing() {
    let Some(mut server) = Server::start("").await else {
        return;
    };
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let without = tasks();
    let bus = Arc::new(connect(server.options()).await);
    let mut kept = bus.subscribe("faults.a", None).await.expect("subscribed");
    for round in 0..20 {
        let passing = bus.subscribe("faults.b", None).await.expect("subscribed");
        server.kill();
        healthy(&bus, false).await;
        server.restart("").await;
        healthy(&bus, true).await;
        drop(passing);
        meet(&bus, &format!("round {round}"), &mut kept).await;
    }
    assert_eq!(bus.subscriptions(), 1);
    // One that watches, one that feeds, and those of the client: two and a blink of others.
    let bound = without + 6;
    until("the tasks to end", async || match tasks() {
        few if few <= bound => Ok(()),
        many => Err(format!("{many} tasks, {without} before the bus")),
    })
    .await;
    drop(kept);
    bus.drain(PATIENCE).await;
    drop(bus);
    until("the last tasks to end", async || match tasks() {
        few if few <= without => Ok(()),
        many => Err(format!("{many} tasks, {without} before the bus")),
    })
    .await;
}
