//! An engine on the in-memory store and the in-process bus, with seeded ids and time that follows
//! tokio's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coretex_bus::InProcBus;
use coretex_core::time::{Clock, IdGen, Timestamp};
use coretex_engine::{AllowAll, Engine, EngineOptions, Kernel, Limits, Retention, Timing};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use tokio::time::Instant;

#[derive(Debug)]
struct VirtualClock {
    base: Timestamp,
    origin: Instant,
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.base + self.origin.elapsed()
    }
}

/// Ids from a counter, mixed (splitmix64) so that they look random and are the same every time.
#[derive(Debug)]
pub struct SeededIds(AtomicU64);

impl SeededIds {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed)))
    }

    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl IdGen for SeededIds {
    fn random(&self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    fn sortable(&self, now: Timestamp) -> String {
        format!("{:013x}-{:016x}", now.as_millis(), self.next())
    }
}

/// An engine of its own; `dev` lets everybody in.
pub async fn engine(dev: bool) -> Engine {
    engine_with(dev, Limits::default()).await
}

/// As [`engine`], with these limits.
pub async fn engine_with(dev: bool, limits: Limits) -> Engine {
    engine_of(dev, limits, Arc::new(AllowAll)).await
}

/// As [`engine_with`], with this kernel.
pub async fn engine_of(dev: bool, limits: Limits, kernel: Arc<dyn Kernel>) -> Engine {
    let clock = Arc::new(VirtualClock {
        base: Timestamp::from_micros(1_700_000_000_000_000),
        origin: Instant::now(),
    });
    let mut options = EmbeddedOptions::memory(clock, 1);
    options.writer = WriterMode::Inline;
    let store = Arc::new(EmbeddedStore::open(options).unwrap());
    Engine::start(EngineOptions {
        store,
        bus: Arc::new(InProcBus::new()),
        ids: SeededIds::new(7),
        kernel,
        signatures: coretex_engine::Signatures::default(),
        limits,
        retention: Retention::default(),
        timing: Timing::default(),
        routing: coretex_core::routing::Routing::default(),
        dev,
        version: "test".to_owned(),
    })
    .await
    .unwrap()
}
