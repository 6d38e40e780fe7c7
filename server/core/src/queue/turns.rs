//! Taking turns by weight: whoever has had least for its weight goes first (start-time fair
//! queueing, Goyal, Vin and Cheng 1996). Who was idle has no claim on what it did not use.

use std::collections::HashMap;
use std::hash::Hash;

/// What one slot for a weight of one costs. Divides well by every weight up to 1,000.
const UNIT: u64 = 1 << 20;
/// So many are remembered before those that have no lead any more are forgotten.
const REMEMBERED: usize = 1_024;
/// So many are remembered at most: then everybody begins anew. Where every turn is another one's,
/// nobody has a lead that would be worth remembering.
const MOST: usize = 16 * REMEMBERED;

/// Whose turn it is.
#[derive(Clone, Debug)]
pub struct Turns<K> {
    /// The start of the last turn.
    now: u64,
    /// The end of the last turn of each that is ahead of `now`.
    ends: HashMap<K, u64>,
    /// How many may be remembered until it is looked for who can be forgotten.
    room: usize,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            now: 0,
            ends: HashMap::new(),
            room: REMEMBERED,
        }
    }
}

impl<K: Hash + Eq + Clone> Turns<K> {
    /// When the next turn of `key` would begin: the smallest goes first. It never goes back.
    #[must_use]
    pub fn start(&self, key: &K) -> u64 {
        self.ends
            .get(key)
            .map_or(self.now, |end| self.now.max(*end))
    }

    /// `key` has had its turn, of `slots`.
    pub fn take(&mut self, key: &K, slots: u32, weight: u32) {
        let start = self.start(key);
        self.now = self.now.max(start);
        let cost = (UNIT * u64::from(slots.max(1)) / u64::from(weight.max(1))).max(1);
        let end = start.saturating_add(cost);
        match self.ends.get_mut(key) {
            Some(known) => *known = end,
            None => {
                self.ends.insert(key.clone(), end);
            }
        }
        if self.ends.len() > self.room {
            let now = self.now;
            self.ends.retain(|_, end| *end > now);
            if self.ends.len() > MOST {
                self.now = self.ends.values().copied().max().unwrap_or(now);
                self.ends.clear();
            }
            self.room = REMEMBERED.max(2 * self.ends.len()).min(MOST);
        }
    }

    /// Whether nobody is ahead of the others.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.ends.values().all(|end| *end <= self.now)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Serves whoever's turn it is among those that always want, and counts.
    fn serve(turns: &mut Turns<u32>, weights: &[u32], rounds: u32) -> Vec<u32> {
        let mut served = vec![0; weights.len()];
        for _ in 0..rounds {
            let keys = 0..weights.len() as u32;
            let next = keys.min_by_key(|key| turns.start(key)).unwrap();
            turns.take(&next, 1, weights[next as usize]);
            served[next as usize] += 1;
        }
        served
    }

    #[test]
    fn equals_take_turns() {
        assert_eq!(serve(&mut Turns::default(), &[1, 1, 1], 30), [10, 10, 10]);
    }

    #[test]
    fn who_comes_late_or_was_idle_has_no_claim_on_the_past() {
        let mut turns = Turns::default();
        serve(&mut turns, &[1], 1_000);
        let served = serve(&mut turns, &[1, 1], 100);
        assert!(served[0].abs_diff(served[1]) <= 1, "{served:?}");
    }

    #[test]
    fn what_takes_more_slots_has_fewer_turns() {
        let mut turns = Turns::default();
        let mut slots = BTreeMap::from([("big", 0), ("small", 0)]);
        for _ in 0..1_000 {
            let next = ["big", "small"]
                .into_iter()
                .min_by_key(|key| turns.start(key));
            let next = next.unwrap();
            let cost = if next == "big" { 4 } else { 1 };
            turns.take(&next, cost, 1);
            *slots.get_mut(next).unwrap() += cost;
        }
        assert!(slots["big"].abs_diff(slots["small"]) <= 4, "{slots:?}");
    }

    #[test]
    fn only_those_that_are_ahead_are_remembered() {
        let mut turns = Turns::default();
        for key in 0..100_000_u32 {
            turns.take(&key, 1, 1);
            // Another one is served in between, so that time goes on.
            turns.take(&u32::MAX, 1, 1_000);
        }
        assert!(turns.ends.len() <= 4 * REMEMBERED, "{}", turns.ends.len());
    }

    #[test]
    fn a_stream_of_strangers_is_not_remembered_for_ever() {
        let mut turns = Turns::default();
        for key in 0..100_000_u32 {
            let before = turns.start(&u32::MAX);
            turns.take(&key, 1, 1);
            assert!(turns.start(&u32::MAX) >= before);
            assert!(turns.ends.len() <= MOST + 1);
        }
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1_u32..20, 1..6)) {
            let sum: u32 = weights.iter().sum();
            let served = serve(&mut Turns::default(), &weights, sum * 50);
            for (served, weight) in served.iter().zip(&weights) {
                prop_assert!(served.abs_diff(weight * 50) <= 1 + weight, "{served} of {weight}");
            }
        }

        #[test]
        fn the_start_of_a_turn_never_goes_back(
            turns in prop::collection::vec((0_u32..5, 1_u32..4, 1_u32..9), 1..100),
        ) {
            let mut state = Turns::default();
            for (key, slots, weight) in turns {
                let before: Vec<u64> = (0..5).map(|key| state.start(&key)).collect();
                state.take(&key, slots, weight);
                for (key, before) in (0..5).zip(before) {
                    prop_assert!(state.start(&key) >= before);
                }
            }
        }
    }
}
