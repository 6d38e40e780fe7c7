//! The fault decorator does what its plan says, the same for the same seed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_bus::{Bus, BusError, FaultCounts, Faults, Faulty, InProcBus};

const ROUGH: Faults = Faults {
    lose: 0.2,
    double: 0.2,
    delay: 0.3,
    max_delay: Duration::from_millis(50),
    reorder: 0.2,
};

/// Publishes 1,000 numbers, one per virtual millisecond; returns what arrived.
async fn run(faults: Faults, seed: u64) -> Result<(Vec<u32>, FaultCounts), BusError> {
    let bus = Faulty::new(Arc::new(InProcBus::new()), faults, seed);
    let mut all = bus.subscribe("a", None).await?;
    for number in 0_u32..1_000 {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        bus.publish("a", payload).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Virtual time: everything that is late has arrived after the longest lateness.
    tokio::time::sleep(ROUGH.max_delay * 2).await;
    let mut got = Vec::new();
    while let Some(message) = all.try_next() {
        let mut number = [0; 4];
        number.copy_from_slice(&message.payload);
        got.push(u32::from_be_bytes(number));
    }
    Ok((got, bus.counts()))
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run_and_every_fault_strikes() -> Result<(), BusError> {
    let (first, counts) = run(ROUGH, 7).await?;
    let (again, _) = run(ROUGH, 7).await?;
    let (other, _) = run(ROUGH, 8).await?;
    assert_eq!(first, again);
    assert_ne!(first, other);
    for count in [
        counts.lost,
        counts.doubled,
        counts.delayed,
        counts.reordered,
    ] {
        assert!(count > 50, "{counts:?}");
    }
    let arrived = u64::try_from(first.len()).unwrap_or_default();
    assert_eq!(arrived, counts.published - counts.lost + counts.doubled);
    assert!(!first.is_sorted());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_only_its_own_harm() -> Result<(), BusError> {
    let all: Vec<u32> = (0..1_000).collect();
    let unique = |mut got: Vec<u32>| {
        got.sort_unstable();
        got.dedup();
        got
    };
    let (got, _) = run(Faults::NONE, 1).await?;
    assert_eq!(got, all);
    let (got, counts) = run(
        Faults {
            lose: 0.5,
            ..Faults::NONE
        },
        1,
    )
    .await?;
    assert!(got.is_sorted() && got.len() < 600, "{counts:?}");
    let (got, _) = run(
        Faults {
            double: 1.0,
            ..Faults::NONE
        },
        1,
    )
    .await?;
    assert_eq!(got.len(), 2_000);
    assert_eq!(unique(got), all);
    let late = Faults {
        delay: 0.5,
        max_delay: ROUGH.max_delay,
        ..Faults::NONE
    };
    let (got, _) = run(late, 1).await?;
    assert!(!got.is_sorted() && got.len() == 1_000);
    assert_eq!(unique(got), all);
    let overtaken = Faults {
        reorder: 0.3,
        max_delay: ROUGH.max_delay,
        ..Faults::NONE
    };
    let (got, _) = run(overtaken, 1).await?;
    assert!(!got.is_sorted() && got.len() == 1_000);
    assert_eq!(unique(got), all);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_lone_held_message_is_late_but_not_lost() -> Result<(), BusError> {
    let held = Faults {
        reorder: 1.0,
        max_delay: ROUGH.max_delay,
        ..Faults::NONE
    };
    let bus = Faulty::new(Arc::new(InProcBus::new()), held, 3);
    let mut all = bus.subscribe("a", None).await?;
    bus.publish("a", "x".into()).await?;
    assert_eq!(all.try_next(), None);
    let begin = tokio::time::Instant::now();
    assert!(all.next().await.is_some());
    assert!(begin.elapsed() <= ROUGH.max_delay + Duration::from_millis(1));
    Ok(())
}

#[tokio::test]
async fn plans_can_change_and_a_handle_can_be_down() -> Result<(), BusError> {
    let bus = Faulty::new(Arc::new(InProcBus::new()), Faults::LOSE_ALL, 3);
    let mut all = bus.subscribe("a", None).await?;
    bus.publish("a", "lost".into()).await?;
    bus.set_faults(Faults::NONE);
    bus.set_down(true);
    assert!(!bus.healthy());
    let refused = bus.publish("a", "refused".into()).await;
    assert!(matches!(refused, Err(BusError::Unavailable { .. })));
    bus.set_down(false);
    assert!(bus.healthy());
    bus.publish("a", "arrives".into()).await?;
    assert_eq!(all.next().await.map(|m| m.payload), Some("arrives".into()));
    assert_eq!(all.try_next(), None);
    Ok(())
}
