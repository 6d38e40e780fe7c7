//! Points in time and the sources of time and ids, which are always arguments.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: microseconds since the Unix epoch, by the store's clock.
///
/// Microseconds fit the sort keys of indexes (eight big-endian bytes) and reach past the year
/// 500,000, so arithmetic saturates only on nonsense.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch, also used as "before everything".
    pub const ZERO: Self = Self(0);
    /// After everything.
    pub const MAX: Self = Self(u64::MAX);

    /// Makes a timestamp from microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The time from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The big-endian form, whose byte order is time order.
    #[must_use]
    pub const fn to_be_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A source of wall-clock time. Only `coretexd` owns a real one; tests pass virtual ones.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now. May jump in either direction, as machine clocks do.
    fn now(&self) -> Timestamp;
}

/// A source of ids and other randomness. Only `coretexd` owns a real one; tests pass seeded ones.
pub trait IdGen: Send + Sync + fmt::Debug {
    /// 128 random bits: lease ids, commit ids, secrets.
    fn random(&self) -> u128;

    /// An id whose text order follows creation time (UUID version 7 of `now`, hyphenated).
    fn sortable(&self, now: Timestamp) -> String;

    /// A number in `[0, 1)`, for jitter and random offsets.
    fn fraction(&self) -> f64 {
        // 53 bits: what a double holds exactly.
        (self.random() >> 75) as f64 / (1_u64 << 53) as f64
    }
}
