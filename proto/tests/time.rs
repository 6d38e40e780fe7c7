//! Protobuf times and std times, at their edges and between them.

use std::time::Duration;

use coretex_proto::time::{
    TimeError, duration_from_std, duration_to_std, timestamp_from_micros, timestamp_to_micros,
};
use proptest::prelude::*;

fn proto_duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

fn proto_timestamp(seconds: i64, nanos: i32) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos }
}

#[test]
fn bad_durations_are_refused() {
    for (seconds, nanos, error) in [
        (-1, 0, TimeError::Negative),
        (0, -1, TimeError::Negative),
        (0, 1_000_000_000, TimeError::Invalid),
        (315_576_000_001, 0, TimeError::Invalid),
        (i64::MIN, i32::MIN, TimeError::Negative),
    ] {
        assert_eq!(duration_to_std(&proto_duration(seconds, nanos)), Err(error));
    }
}

#[test]
fn bad_timestamps_are_refused() {
    for (seconds, nanos, error) in [
        (-1, 0, TimeError::BeforeEpoch),
        (0, -1, TimeError::Invalid),
        (0, 1_000_000_000, TimeError::Invalid),
        (253_402_300_800, 0, TimeError::Invalid),
        (i64::MAX, 0, TimeError::Invalid),
    ] {
        assert_eq!(
            timestamp_to_micros(&proto_timestamp(seconds, nanos)),
            Err(error)
        );
    }
}

#[test]
fn what_is_too_large_stays_at_the_end() {
    assert_eq!(
        duration_from_std(Duration::MAX),
        proto_duration(315_576_000_000, 0)
    );
    assert_eq!(
        duration_to_std(&duration_from_std(Duration::MAX)).map(|d| d.as_secs()),
        Ok(315_576_000_000)
    );
    assert_eq!(
        timestamp_from_micros(u64::MAX),
        proto_timestamp(253_402_300_799, 999_999_000)
    );
}

proptest! {
    #[test]
    fn durations_survive(seconds in 0..315_576_000_000_u64, nanos in 0..1_000_000_000_u32) {
        let duration = Duration::new(seconds, nanos);
        prop_assert_eq!(duration_to_std(&duration_from_std(duration)), Ok(duration));
    }

    #[test]
    fn timestamps_survive(micros in 0..253_402_300_800_000_000_u64) {
        prop_assert_eq!(timestamp_to_micros(&timestamp_from_micros(micros)), Ok(micros));
    }

    #[test]
    fn nothing_panics(seconds: i64, nanos: i32, micros: u64, secs: u64) {
        let _ = duration_to_std(&proto_duration(seconds, nanos));
        let _ = timestamp_to_micros(&proto_timestamp(seconds, nanos));
        prop_assert!(timestamp_to_micros(&timestamp_from_micros(micros)).is_ok());
        prop_assert!(duration_to_std(&duration_from_std(Duration::from_secs(secs))).is_ok());
    }
}
