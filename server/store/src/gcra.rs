//! The generic cell rate algorithm: one theoretical arrival time per bucket, exact in integers.
//!
//! A bucket that refills `permits` per `per` gains one permit every `per / permits`, which is
//! rarely a whole number of microseconds. The remainder is kept as a fraction over `permits`, so
//! that a bucket never drifts, however long it runs. Every product stays below 2^53 for sane
//! rates, so that an engine that counts in doubles answers the same.

use coretex_core::time::Timestamp;

use crate::Rate;

/// The state of a bucket: the time at which it will be full again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Whole microseconds of that time.
    pub micros: u64,
    /// The fraction of a microsecond, in units of `1 / permits`.
    pub fraction: u32,
    /// The denominator of the fraction: the permits of the rate that wrote it.
    pub permits: u32,
}

/// What a bucket says to a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Granted; the bucket becomes this.
    Granted(Bucket),
    /// Refused; granted at this time if nobody else takes anything.
    Refused(Timestamp),
}

/// Takes `cost` permits at `now` from a bucket (`None` = full).
///
/// The caller has checked that the rate has a permit, a period and a burst of at least `cost`.
#[must_use]
pub fn take(bucket: Option<Bucket>, rate: &Rate, cost: u32, now: Timestamp) -> Demand {
    let permits = u128::from(rate.permits.max(1));
    let period = rate.per.as_micros();
    // Everything below counts in units of `1 / permits` microseconds.
    let now_units = u128::from(now.as_micros()) * permits;
    let full_at = match bucket {
        None => now_units,
        // Another rate wrote it: its fraction rounds up to a whole microsecond.
        Some(bucket) if bucket.permits != rate.permits => {
            (u128::from(bucket.micros) + u128::from(bucket.fraction > 0)) * permits
        }
        Some(bucket) => u128::from(bucket.micros) * permits + u128::from(bucket.fraction),
    };
    let next = full_at.max(now_units) + u128::from(cost) * period;
    let room = u128::from(rate.burst) * period;
    let earliest = next.saturating_sub(room);
    if earliest > now_units {
        let at = earliest.div_ceil(permits);
        return Demand::Refused(Timestamp::from_micros(
            u64::try_from(at).unwrap_or(u64::MAX),
        ));
    }
    Demand::Granted(Bucket {
        micros: u64::try_from(next / permits).unwrap_or(u64::MAX),
        // Less than `permits`, which is a u32.
        fraction: u32::try_from(next % permits).unwrap_or(0),
        permits: rate.permits.max(1),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: u64 = 1_700_000_000_000_000;

    /// Takes one permit whenever there is one for `total` microseconds.
    fn greedy(rate: &Rate, total: u64) -> u64 {
        let mut bucket = None;
        let mut granted = 0;
        let mut now = START;
        while now <= START + total {
            match take(bucket, rate, 1, Timestamp::from_micros(now)) {
                Demand::Granted(next) => {
                    bucket = Some(next);
                    granted += 1;
                }
                Demand::Refused(at) => {
                    assert!(at.as_micros() > now);
                    now = at.as_micros();
                }
            }
        }
        granted
    }

    #[test]
    fn grants_are_the_burst_plus_the_rate_without_drift() {
        // Thirds and sevenths of a second are no whole microseconds. (With a burst of one, what
        // comes a fraction of a microsecond late is lost; with more, it is not.)
        for permits in [1, 3, 7, 1_000] {
            for burst in [2, 5] {
                let rate = Rate {
                    permits,
                    per: Duration::from_secs(1),
                    burst,
                };
                let seconds = 50;
                assert_eq!(
                    greedy(&rate, seconds * 1_000_000),
                    u64::from(burst) + seconds * u64::from(permits),
                    "{permits} per second, burst {burst}"
                );
            }
        }
    }

    #[test]
    fn a_refusal_names_the_first_time_that_works() {
        let rate = Rate {
            permits: 3,
            per: Duration::from_secs(1),
            burst: 4,
        };
        let now = Timestamp::from_micros(START);
        let Demand::Granted(bucket) = take(None, &rate, 4, now) else {
            panic!("a full bucket has its burst");
        };
        let Demand::Refused(at) = take(Some(bucket), &rate, 2, now) else {
            panic!("an empty bucket has nothing");
        };
        let before = Timestamp::from_micros(at.as_micros() - 1);
        assert_eq!(take(Some(bucket), &rate, 2, before), Demand::Refused(at));
        assert!(matches!(
            take(Some(bucket), &rate, 2, at),
            Demand::Granted(_)
        ));
    }

    #[test]
    fn another_rate_takes_over_without_a_gift() {
        let slow = Rate {
            permits: 7,
            per: Duration::from_secs(1),
            burst: 1,
        };
        let fast = Rate {
            permits: 1_000,
            per: Duration::from_secs(1),
            burst: 1,
        };
        let now = Timestamp::from_micros(START);
        let Demand::Granted(bucket) = take(None, &slow, 1, now) else {
            panic!("a full bucket has its burst");
        };
        let due = Timestamp::from_micros(START + 142_858);
        let Demand::Refused(at) = take(Some(bucket), &fast, 1, now) else {
            panic!("the bucket is empty");
        };
        assert!(at <= due && at > now);
        assert!(matches!(
            take(Some(bucket), &fast, 1, due),
            Demand::Granted(_)
        ));
    }
}
