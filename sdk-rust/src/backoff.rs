//! How long to pause before trying again. Pure: the jitter is an argument.

use std::time::Duration;

/// Pauses that double from `first` up to `most`.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            failures: 0,
        }
    }

    /// The next pause: between half and all of the doubled one, by `fraction` in `[0, 1)`. Spread,
    /// because those who failed together would otherwise come back together.
    pub(crate) fn next(&mut self, fraction: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.most).mul_f64(0.5 + fraction / 2.0)
    }

    /// Starts again with the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_are_spread() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1_000));
        let pauses: Vec<_> = (0..6).map(|_| backoff.next(0.0)).collect();
        assert_eq!(
            pauses,
            [ms(50), ms(100), ms(200), ms(400), ms(500), ms(500)]
        );
        for _ in 0..100 {
            assert!(backoff.next(0.999) <= ms(1_000));
        }
        backoff.reset();
        assert_eq!(backoff.next(0.5), ms(75));
    }
}
