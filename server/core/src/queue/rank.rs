//! In which order waiting jobs of one group of equals are served: by class, then by how long they
//! have been in it. A waiting job rises one class for each period that it waits, so that nothing
//! starves; one that has risen as far as it can goes before all but CRITICAL jobs, and every eighth
//! slot goes to it even then.

use std::time::Duration;

use crate::job::Priority;
use crate::time::Timestamp;

/// How long a job waits until it rises one class, unless configured otherwise.
pub const DEFAULT_RISE_AFTER: Duration = Duration::from_secs(600);
/// How many CRITICAL jobs are served in a row while one that has risen all the way waits.
pub const CRITICAL_RUN: u32 = 7;

/// The place of a waiting job: smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The class that it has risen to.
    pub class: Class,
    /// Since when it is in it.
    pub since: Timestamp,
}

/// The classes in which waiting jobs are served, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// CRITICAL jobs.
    Critical,
    /// Jobs that have risen as far as they can.
    Risen,
    /// INTERACTIVE jobs, and BATCH jobs that have waited for one period.
    Interactive,
    /// BATCH jobs.
    Batch,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Self; 4] = [Self::Critical, Self::Risen, Self::Interactive, Self::Batch];
}

/// The place of a job that waits since `accepted`. `rise_after` zero = nothing rises.
#[must_use]
pub fn rank(priority: Priority, accepted: Timestamp, now: Timestamp, rise_after: Duration) -> Rank {
    let waited = now.since(accepted);
    let rises = match priority {
        Priority::Critical => 0,
        Priority::Interactive => 1,
        Priority::Batch => 2,
    };
    // Twice is the most that anything rises.
    let risen = if rise_after.is_zero() || waited < rise_after {
        0
    } else if waited < rise_after * 2 {
        rises.min(1)
    } else {
        rises
    };
    let class = match (priority, risen) {
        (Priority::Critical, _) => Class::Critical,
        (Priority::Interactive, 0) | (Priority::Batch, 1) => Class::Interactive,
        (Priority::Batch, 0) => Class::Batch,
        (Priority::Interactive | Priority::Batch, _) => Class::Risen,
    };
    Rank {
        class,
        since: accepted + rise_after * risen,
    }
}

/// Jobs of `priority` go before `own` if they were accepted before this time: in a queue, they are
/// a range.
#[must_use]
pub fn goes_before_until(
    priority: Priority,
    own: Rank,
    now: Timestamp,
    rise_after: Duration,
) -> Timestamp {
    // Who waits longer never goes later, so the boundary is found by halving.
    let (mut before, mut not_before) = (0, now.as_micros().saturating_add(1));
    while before < not_before {
        let middle = before + (not_before - before) / 2;
        if rank(priority, Timestamp::from_micros(middle), now, rise_after) < own {
            before = middle + 1;
        } else {
            not_before = middle;
        }
    }
    Timestamp::from_micros(before)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
    const PRIORITIES: [Priority; 3] = [Priority::Critical, Priority::Interactive, Priority::Batch];

    fn after(priority: Priority, waited: Duration) -> (Class, Duration) {
        let rank = rank(priority, NOW - waited, NOW, HOUR);
        (rank.class, NOW.since(rank.since))
    }

    #[test]
    fn a_waiting_job_rises_one_class_a_period_but_not_into_critical() {
        let (half, one, two) = (HOUR / 2, HOUR, HOUR * 2);
        for (priority, waited, class, since) in [
            (Priority::Critical, half, Class::Critical, half),
            (Priority::Critical, two, Class::Critical, two),
            (Priority::Interactive, half, Class::Interactive, half),
            (Priority::Interactive, one, Class::Risen, Duration::ZERO),
            (Priority::Interactive, two, Class::Risen, one),
            (Priority::Batch, half, Class::Batch, half),
            (Priority::Batch, one + half, Class::Interactive, half),
            (Priority::Batch, two + half, Class::Risen, half),
            (Priority::Batch, two * 10, Class::Risen, two * 9),
        ] {
            assert_eq!(after(priority, waited), (class, since), "{priority:?}");
        }
    }

    #[test]
    fn nothing_rises_where_that_is_turned_off() {
        let old = rank(Priority::Batch, NOW - HOUR * 100, NOW, Duration::ZERO);
        assert_eq!(old.class, Class::Batch);
    }

    fn any_priority() -> impl Strategy<Value = Priority> {
        prop::sample::select(PRIORITIES.to_vec())
    }

    proptest! {
        #[test]
        fn who_waits_longer_never_goes_later(
            priority in any_priority(), waited in 0_u64..20_000, more in 0_u64..20_000,
        ) {
            let rank = |waited| rank(priority, NOW - Duration::from_secs(waited), NOW, HOUR);
            prop_assert!(rank(waited + more) <= rank(waited));
        }

        #[test]
        fn the_range_of_those_that_go_first_is_exact(
            own in any_priority(), waited in 0_u64..20_000_000_000,
            other in any_priority(), others in prop::collection::vec(0_u64..20_000_000_000, 1..20),
        ) {
            let own = rank(own, NOW - Duration::from_micros(waited), NOW, HOUR);
            let until = goes_before_until(other, own, NOW, HOUR);
            for waited in others {
                let accepted = NOW - Duration::from_micros(waited);
                let first = rank(other, accepted, NOW, HOUR) < own;
                prop_assert_eq!(first, accepted < until);
            }
        }
    }
}
