//! Conversions between protobuf times and std durations or microseconds since the Unix epoch.
//!
//! The platform counts in microseconds. What is finer is cut off.

use std::time::Duration;

/// The longest duration and the last second that the formats allow: 10,000 years and the end of
/// the year 9999.
const MAX_DURATION_SECONDS: i64 = 315_576_000_000;
const MAX_TIMESTAMP_SECONDS: i64 = 253_402_300_799;

/// Why a duration or a point in time cannot be used. The text suits a field violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// A duration below zero.
    #[error("must not be negative")]
    Negative,
    /// A time before 1970.
    #[error("must not be before 1970")]
    BeforeEpoch,
    /// Beyond what the format allows, or with nanoseconds that are not a fraction of a second.
    #[error("is not a valid time")]
    Invalid,
}

/// Converts to a std duration, exactly.
///
/// # Errors
/// The duration is negative, or not one by the rules of `google.protobuf.Duration`.
pub fn duration_to_std(duration: &prost_types::Duration) -> Result<Duration, TimeError> {
    if duration.seconds < 0 || duration.nanos < 0 {
        return Err(TimeError::Negative);
    }
    let seconds = u64::try_from(duration.seconds).map_err(|_| TimeError::Negative)?;
    let nanos = u32::try_from(duration.nanos).map_err(|_| TimeError::Negative)?;
    if duration.seconds > MAX_DURATION_SECONDS || nanos >= 1_000_000_000 {
        return Err(TimeError::Invalid);
    }
    Ok(Duration::new(seconds, nanos))
}

/// Converts from a std duration; beyond 10,000 years it stays at 10,000 years.
#[must_use]
pub fn duration_from_std(duration: Duration) -> prost_types::Duration {
    match i64::try_from(duration.as_secs()) {
        Ok(seconds) if seconds < MAX_DURATION_SECONDS => prost_types::Duration {
            seconds,
            // Below a thousand million, so it fits.
            nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
        },
        _ => prost_types::Duration {
            seconds: MAX_DURATION_SECONDS,
            nanos: 0,
        },
    }
}

/// Converts to microseconds since the Unix epoch, cutting off what is finer.
///
/// # Errors
/// The time is before 1970, or not one by the rules of `google.protobuf.Timestamp`.
pub fn timestamp_to_micros(timestamp: &prost_types::Timestamp) -> Result<u64, TimeError> {
    let seconds = u64::try_from(timestamp.seconds).map_err(|_| TimeError::BeforeEpoch)?;
    let nanos = u64::try_from(timestamp.nanos).map_err(|_| TimeError::Invalid)?;
    if timestamp.seconds > MAX_TIMESTAMP_SECONDS || nanos >= 1_000_000_000 {
        return Err(TimeError::Invalid);
    }
    Ok(seconds * 1_000_000 + nanos / 1_000)
}

/// Converts from microseconds since the Unix epoch; beyond the year 9999 it stays at its end.
#[must_use]
pub fn timestamp_from_micros(micros: u64) -> prost_types::Timestamp {
    match i64::try_from(micros / 1_000_000) {
        Ok(seconds) if seconds <= MAX_TIMESTAMP_SECONDS => prost_types::Timestamp {
            seconds,
            // Below a thousand million, so it fits.
            nanos: i32::try_from(micros % 1_000_000 * 1_000).unwrap_or_default(),
        },
        _ => prost_types::Timestamp {
            seconds: MAX_TIMESTAMP_SECONDS,
            nanos: 999_999_000,
        },
    }
}
