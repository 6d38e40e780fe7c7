//! Store time without asking the store: an offset to this process's monotonic clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coretex_core::time::Timestamp;
use tokio::time::Instant;

/// Deviations up to this are the age of the answer, not a wrong offset.
const TOLERANCE: Duration = Duration::from_millis(5);

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

    /// Takes the time of an answer into account.
    pub(crate) fn observe(&self, answered: Timestamp) {
        let base = self.base.load(Ordering::Relaxed);
        let now = Timestamp::from_micros(base) + self.origin.elapsed();
        let corrected = if answered > now {
            // The answer is from the past, so the store is ahead of us by at least this much.
            base.saturating_add(micros(answered.since(now)))
        } else if now.since(answered) > TOLERANCE {
            // We are ahead, or the answer took long. Half of the difference each time: a slow
            // answer does little, a wrong offset is gone after a few.
            base.saturating_sub(micros(now.since(answered) / 2))
        } else {
            return;
        };
        // Of several answers that see the same wrong offset, one corrects it.
        let _ = self.base.compare_exchange(base, corrected, Ordering::Relaxed, Ordering::Relaxed);
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
        clock.observe(ahead);
        clock.observe(ahead);
        assert_eq!(clock.now(), ahead);
        let behind = start + Duration::from_secs(50);
        for _ in 0..20 {
            clock.observe(behind);
        }
        assert!(clock.now().since(behind) <= TOLERANCE);
    }
}
