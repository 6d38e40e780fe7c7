//! Store time without asking the store: an offset to this process's monotonic clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coretex_core::time::Timestamp;
use tokio::time::Instant;

/// Deviations up to this are the precision of clocks, not a wrong offset.
const TOLERANCE: Duration = Duration::from_millis(1);

/// Store time, as far as this replica knows it. Every answer of the store corrects it.
#[derive(Debug)]
pub(crate) struct StoreClock {
    origin: Instant,
    /// Store time in microseconds at `origin`.
    base: AtomicU64,
}

impl StoreClock {
    /// A clock that starts at an answer of the store.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            origin: Instant::now(),
            base: AtomicU64::new(now.as_micros()),
        }
    }

    /// Store time now.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.base.load(Ordering::Relaxed)) + self.origin.elapsed()
    }

    /// Takes the time of an answer to a request that was sent at `asked` into account. The store
    /// answered at some point in between, so what it says bounds its time now from both sides: a
    /// slow answer alone moves nothing.
    pub(crate) fn observe(&self, asked: Instant, answered: Timestamp) {
        let base = self.base.load(Ordering::Relaxed);
        let now = Timestamp::from_micros(base) + self.origin.elapsed();
        let latest = answered + asked.elapsed() + TOLERANCE;
        let corrected = if answered > now {
            base.saturating_add(micros(answered.since(now)))
        } else if now > latest {
            base.saturating_sub(micros(now.since(latest)))
        } else {
            return;
        };
        // Of several answers that see the same wrong offset, one corrects it.
        let _ = self
            .base
            .compare_exchange(base, corrected, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_the_store_in_both_directions() {
        let start = Timestamp::from_micros(1_000_000_000);
        let clock = StoreClock::new(start);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.now(), start + Duration::from_secs(3));
        let ahead = start + Duration::from_secs(100);
        clock.observe(Instant::now(), ahead);
        clock.observe(Instant::now(), ahead);
        assert_eq!(clock.now(), ahead);
        let behind = start + Duration::from_secs(50);
        clock.observe(Instant::now(), behind);
        assert!(clock.now().since(behind) <= TOLERANCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_moves_nothing() {
        let start = Timestamp::from_micros(1_000_000_000);
        let clock = StoreClock::new(start);
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(9)).await;
        // Answered at once, heard nine seconds later.
        clock.observe(asked, start);
        assert_eq!(clock.now(), start + Duration::from_secs(9));
    }
}
