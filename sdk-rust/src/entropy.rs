//! Ids and randomness. The only place of this crate that draws them; everything else asks an
//! [`Entropy`], so that a test can decide.

use std::fmt::Debug;

use uuid::Uuid;

/// A source of ids and jitter.
pub trait Entropy: Send + Sync + Debug {
    /// A text that no one else has: idempotency keys, parts of worker names.
    fn id(&self) -> String;

    /// A number in `[0, 1)`, to spread retries in time.
    fn fraction(&self) -> f64;
}

/// UUIDs of version 7 and the random bits in them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn id(&self) -> String {
        Uuid::now_v7().to_string()
    }

    fn fraction(&self) -> f64 {
        // The low 32 bits of a version 7 UUID are random; above them may be a counter.
        let bits = Uuid::now_v7().as_u128() & u128::from(u32::MAX);
        bits as f64 / (1_u64 << 32) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_fractions_are_spread() {
        let source = SystemEntropy;
        assert_ne!(source.id(), source.id());
        let draws: Vec<f64> = (0..1_000).map(|_| source.fraction()).collect();
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / 1_000.0;
        assert!((0.4..0.6).contains(&mean), "mean {mean}");
    }
}
