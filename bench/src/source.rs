//! The clock and the ids of the measured store, as the server has them.

use std::time::{SystemTime, UNIX_EPOCH};

use coretex_core::time::{Clock, IdGen, Timestamp};

/// The machine's clock.
#[derive(Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Random ids.
#[derive(Debug)]
pub(crate) struct RandomIds;

impl IdGen for RandomIds {
    fn random(&self) -> u128 {
        rand::random()
    }

    fn sortable(&self, _now: Timestamp) -> String {
        uuid::Uuid::now_v7().to_string()
    }
}
