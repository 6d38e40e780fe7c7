//! Luck that a seed decides.

/// SplitMix64: tiny, well mixed, and the same on every platform and version, which is what a seed
/// in a bug report needs.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Starts the sequence that `seed` names.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but not including, 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something with this chance happens.
    pub(crate) fn strikes(&mut self, chance: f64) -> bool {
        // Drawn even when the chance is 0: changing one fault must not shift the luck of others.
        self.fraction() < chance
    }
}
