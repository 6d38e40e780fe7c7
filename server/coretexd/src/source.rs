//! Where time and randomness come from. Everything else takes them as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use coretex_core::time::{Clock, IdGen, Timestamp};
use rand::Rng;
use uuid::Builder;

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Ids and secrets from a generator that the operating system has seeded and reseeds: fit for
/// secrets, and without a system call for each.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl IdGen for RandomIds {
    fn random(&self) -> u128 {
        rand::rng().random()
    }

    fn sortable(&self, now: Timestamp) -> String {
        let mut rest: [u8; 10] = rand::rng().random();
        // The twelve bits behind the milliseconds hold the fraction of one (RFC 9562, 6.2, method
        // 3), so that ids of one process sort by time down to the microsecond.
        let fraction = (now.as_micros() % 1_000) * 4_096 / 1_000;
        let [.., high, low] = fraction.to_be_bytes();
        rest[0] = high;
        rest[1] = low;
        Builder::from_unix_timestamp_millis(now.as_millis(), &rest)
            .into_uuid()
            .to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_sort_by_the_time_they_are_made_for() {
        let ids = RandomIds;
        let at = |micros| ids.sortable(Timestamp::from_micros(1_700_000_000_000_000 + micros));
        let times = [0_u64, 1, 999, 1_000, 1_001, 65_000_000];
        let made: Vec<_> = times.iter().map(|micros| at(*micros)).collect();
        assert!(made.is_sorted(), "{made:?}");
        for id in &made {
            let id: uuid::Uuid = id.parse().unwrap_or_default();
            assert_eq!(id.get_version_num(), 7);
        }
    }

    #[test]
    fn ids_do_not_repeat() {
        let ids = RandomIds;
        let made: BTreeSet<_> = (0..1_000).map(|_| ids.sortable(Timestamp::ZERO)).collect();
        let random: BTreeSet<_> = (0..1_000).map(|_| ids.random()).collect();
        assert_eq!((made.len(), random.len()), (1_000, 1_000));
    }
}
