//! When a failed attempt is tried again.
//!
//! Counting attempts and losses is the job's business ([`crate::job`]); here is only the policy, its
//! validation and the arithmetic of the pause. Randomness comes in as a fraction.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest pause that a policy may ask for. Longer waits belong into `not_before`.
pub const MAX_BACKOFF: Duration = Duration::from_secs(24 * 3_600);
/// The most attempts that a policy may ask for; every attempt is a record in the job.
pub const MAX_ATTEMPTS: u32 = 1_000;
/// The largest growth from pause to pause.
pub const MAX_MULTIPLIER: f64 = 100.0;
/// The most codes that a policy may exclude.
pub const MAX_NON_RETRYABLE_CODES: usize = 64;
/// The longest error code, in bytes.
pub const MAX_CODE_LEN: usize = 128;

/// How often and when failed work is tried again. The default is never.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; 0 and 1 mean no retry.
    pub max_attempts: u32,
    /// The pause after the first failed attempt.
    pub initial_backoff: Duration,
    /// How much longer each pause is than the one before; at least 1.
    pub multiplier: f64,
    /// No pause is longer, jitter included.
    pub max_backoff: Duration,
    /// How far a pause may be off in either direction, as a part of it in `[0, 1]`.
    pub jitter: f64,
    /// Error codes after which there is no further attempt.
    pub non_retryable_codes: Vec<String>,
}

impl RetryPolicy {
    /// The pause after the first failed attempt, where the caller named none.
    pub const DEFAULT_INITIAL_BACKOFF: Duration = Duration::from_secs(1);
    /// The growth, where the caller named none.
    pub const DEFAULT_MULTIPLIER: f64 = 2.0;
    /// The longest pause, where the caller named none.
    pub const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(60);
    /// How far a pause is off, where a policy is given and does not say.
    pub const DEFAULT_JITTER: f64 = 0.2;

    /// Checks the policy and names every field that is out of bounds.
    ///
    /// # Errors
    /// All violations, in the order of the fields.
    pub fn validate(&self) -> Result<(), Vec<Violation>> {
        let mut found = Vec::new();
        let mut check = |good: bool, field: &'static str, message: String| {
            if !good {
                found.push(Violation { field, message });
            }
        };
        check(
            self.max_attempts <= MAX_ATTEMPTS,
            "max_attempts",
            format!("must be at most {MAX_ATTEMPTS}"),
        );
        check(
            self.initial_backoff <= MAX_BACKOFF,
            "initial_backoff",
            format!("must be at most {}s", MAX_BACKOFF.as_secs()),
        );
        check(
            // A comparison with NaN is false, so NaN is refused here too.
            (1.0..=MAX_MULTIPLIER).contains(&self.multiplier),
            "multiplier",
            format!("must be a number from 1 to {MAX_MULTIPLIER}"),
        );
        check(
            self.max_backoff <= MAX_BACKOFF,
            "max_backoff",
            format!("must be at most {}s", MAX_BACKOFF.as_secs()),
        );
        check(
            self.max_backoff >= self.initial_backoff,
            "max_backoff",
            "must not be shorter than initial_backoff".to_owned(),
        );
        check(
            (0.0..=1.0).contains(&self.jitter),
            "jitter",
            "must be a number from 0 to 1".to_owned(),
        );
        check(
            self.non_retryable_codes.len() <= MAX_NON_RETRYABLE_CODES,
            "non_retryable_codes",
            format!("must hold at most {MAX_NON_RETRYABLE_CODES} codes"),
        );
        check(
            self.non_retryable_codes
                .iter()
                .all(|code| (1..=MAX_CODE_LEN).contains(&code.len())),
            "non_retryable_codes",
            format!("every code must be 1 to {MAX_CODE_LEN} characters long"),
        );
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 0,
            initial_backoff: Self::DEFAULT_INITIAL_BACKOFF,
            multiplier: Self::DEFAULT_MULTIPLIER,
            max_backoff: Self::DEFAULT_MAX_BACKOFF,
            jitter: 0.0,
            non_retryable_codes: Vec::new(),
        }
    }
}

/// A field of a [`RetryPolicy`] that is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, as in the contract.
    pub field: &'static str,
    /// What is allowed.
    pub message: String,
}

/// The pause after the `failures`-th failed attempt (from 1): `initial × multiplier^(failures-1)`,
/// at most `max_backoff`, then off by up to `jitter` of it. `fraction` in `[0, 1)` is where in that
/// spread it lands; 0.5 is the middle. Never longer than `max_backoff`.
#[must_use]
pub fn backoff(policy: &RetryPolicy, failures: u32, fraction: f64) -> Duration {
    let max = policy.max_backoff.as_secs_f64();
    let steps = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let mut seconds = policy.initial_backoff.as_secs_f64() * policy.multiplier.powi(steps);
    // 0 × infinity: no initial pause means no pause, however often it failed.
    if seconds.is_nan() {
        seconds = 0.0;
    }
    seconds = seconds.min(max);
    let spread = policy.jitter * (2.0 * fraction - 1.0);
    let jittered = (seconds * (1.0 + spread)).clamp(0.0, max);
    Duration::try_from_secs_f64(jittered).unwrap_or(policy.max_backoff)
}

/// The pause before the next attempt once `failures` attempts (from 1) have failed, the last with
/// `error_code`; `None` when there is no next attempt.
#[must_use]
pub fn next_attempt(
    policy: &RetryPolicy,
    failures: u32,
    error_code: &str,
    fraction: f64,
) -> Option<Duration> {
    let left = failures < policy.max_attempts;
    let worth_it = !policy
        .non_retryable_codes
        .iter()
        .any(|code| code == error_code);
    (left && worth_it).then(|| backoff(policy, failures, fraction))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 5,
            initial_backoff: Duration::from_millis(100),
            multiplier: 2.0,
            max_backoff: Duration::from_secs(1),
            jitter: 0.0,
            non_retryable_codes: vec!["bad_input".to_owned()],
        }
    }

    #[test]
    fn pauses_grow_up_to_the_cap() {
        let millis: Vec<u128> = (1..=6)
            .map(|n| backoff(&policy(), n, 0.0).as_millis())
            .collect();
        assert_eq!(millis, [100, 200, 400, 800, 1_000, 1_000]);
    }

    #[test]
    fn attempts_end_at_the_maximum_and_at_codes_that_do_not_retry() {
        assert!(next_attempt(&policy(), 4, "x", 0.5).is_some());
        assert_eq!(next_attempt(&policy(), 5, "x", 0.5), None);
        assert_eq!(next_attempt(&policy(), 1, "bad_input", 0.5), None);
        for none in [0, 1] {
            let never = RetryPolicy {
                max_attempts: none,
                ..policy()
            };
            assert_eq!(next_attempt(&never, 1, "x", 0.5), None);
        }
    }

    #[test]
    fn every_field_out_of_bounds_is_named() {
        let bad = RetryPolicy {
            max_attempts: MAX_ATTEMPTS + 1,
            initial_backoff: MAX_BACKOFF + Duration::from_secs(1),
            multiplier: f64::NAN,
            max_backoff: Duration::ZERO,
            jitter: -0.1,
            non_retryable_codes: vec![String::new()],
        };
        let violations = bad.validate().err().unwrap_or_default();
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field).collect();
        assert_eq!(
            fields,
            [
                "max_attempts",
                "initial_backoff",
                "multiplier",
                "max_backoff",
                "jitter",
                "non_retryable_codes"
            ]
        );
        for multiplier in [0.99, -2.0, f64::INFINITY, MAX_MULTIPLIER * 2.0] {
            assert!(
                RetryPolicy {
                    multiplier,
                    ..policy()
                }
                .validate()
                .is_err(),
                "{multiplier}"
            );
        }
        assert_eq!(RetryPolicy::default().validate(), Ok(()));
    }

    proptest! {
        #[test]
        fn a_valid_policy_never_panics_and_never_exceeds_its_cap(
            initial in 0_u64..=86_400_000,
            extra in 0_u64..=86_400_000,
            multiplier in 1.0..=MAX_MULTIPLIER,
            jitter in 0.0..=1.0,
            failures: u32,
            fraction in 0.0..1.0,
        ) {
            let policy = RetryPolicy {
                max_attempts: MAX_ATTEMPTS,
                initial_backoff: Duration::from_millis(initial),
                multiplier,
                max_backoff: Duration::from_millis((initial + extra).min(86_400_000)),
                jitter,
                non_retryable_codes: Vec::new(),
            };
            prop_assert_eq!(policy.validate(), Ok(()));
            let pause = backoff(&policy, failures, fraction);
            prop_assert!(pause <= policy.max_backoff);
            let plain = backoff(&RetryPolicy { jitter: 0.0, ..policy.clone() }, failures, fraction);
            prop_assert!(pause.as_secs_f64() >= plain.as_secs_f64() * (1.0 - jitter) - 1e-6);
            let next = backoff(&RetryPolicy { jitter: 0.0, ..policy }, failures.saturating_add(1), 0.5);
            prop_assert!(next >= plain);
        }
    }
}
