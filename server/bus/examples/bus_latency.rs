//! Measures the time from publish to receive, and how long a connection takes to come back, for the
//! figures in ADR 5.
//!
//! ```text
//! bus_latency [MESSAGES]                       the in-process engine
//! bus_latency MESSAGES nats://HOST:PORT        the NATS engine, two handles
//! bus_latency reconnect nats://HOST:PORT       restart the server by hand; prints each outage
//! ```

#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coretex_bus::nats::{NatsBus, NatsOptions};
use coretex_bus::{Bus, InProcBus, Subscription, subject};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let first = arguments.first().map_or("20000", String::as_str);
    match (first, arguments.get(1)) {
        ("reconnect", Some(address)) => outages(address).await,
        (count, Some(address)) => {
            let from = Arc::new(open(address, 1).await?);
            let to = Arc::new(open(address, 2).await?);
            measure("nats", from, to, count.parse()?).await
        }
        (count, None) => {
            let bus = InProcBus::new();
            let peer = Arc::new(bus.peer());
            measure("inproc", Arc::new(bus), peer, count.parse()?).await
        }
    }
}

async fn open(address: &str, seed: u64) -> Outcome<NatsBus> {
    Ok(NatsBus::connect(NatsOptions::new(address)?.seed(seed)).await?)
}

async fn measure(engine: &str, from: Arc<dyn Bus>, to: Arc<dyn Bus>, count: usize) -> Outcome<()> {
    let subject = subject::ready("default");
    let mut doorbell = to.subscribe(subject::READY_ALL, None).await?;
    // The two handles may need a moment to meet, and the first messages warm things up.
    let mut warm = 0;
    while warm < 1_000 {
        from.publish(&subject, Bytes::new()).await?;
        let came = tokio::time::timeout(Duration::from_millis(100), doorbell.next()).await;
        warm += usize::from(came.is_ok());
    }

    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        ring(&from, &subject, &mut doorbell).await?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| times[((count - 1) as f64 * share) as usize];
    println!(
        "{engine}: one at a time, {count} messages: p50 {:?}, p99 {:?}, longest {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );

    let begin = Instant::now();
    let publisher = Arc::clone(&from);
    let publishing = tokio::spawn(async move {
        let mut refused = 0;
        for _ in 0..count {
            refused += u64::from(publisher.publish(&subject, "r-1".into()).await.is_err());
        }
        refused
    });
    let mut received = 0;
    while received + doorbell.lagged() < count as u64 {
        let next = tokio::time::timeout(Duration::from_secs(5), doorbell.next()).await;
        if !matches!(next, Ok(Some(_))) {
            break;
        }
        received += 1;
    }
    let took = begin.elapsed();
    println!(
        "{engine}: at full speed: {received} received in {took:?} ({:.0} per second), {} lost, {} refused",
        received as f64 / took.as_secs_f64(),
        doorbell.lagged(),
        publishing.await?
    );
    Ok(())
}

async fn ring(from: &Arc<dyn Bus>, subject: &str, doorbell: &mut Subscription) -> Outcome<()> {
    from.publish(subject, "r-1".into()).await?;
    doorbell.next().await.ok_or("the bus ended")?;
    Ok(())
}

/// Prints how long each outage lasts, from the first refused publish to the first that is taken.
async fn outages(address: &str) -> Outcome<()> {
    let bus = open(address, 1).await?;
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    let mut since = None;
    loop {
        looks.tick().await;
        match (bus.healthy(), since) {
            (false, None) => since = Some(Instant::now()),
            (true, Some(begin)) => {
                println!("outage of {:?}", begin.elapsed());
                since = None;
            }
            _ => {}
        }
    }
}
