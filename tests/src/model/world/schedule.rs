//! What happens when: the order of scheduled events.

use std::cmp::Ordering;

use super::super::wire::Micros;
use super::Event;

#[derive(Debug)]
pub(super) struct Item {
    pub(super) at: Micros,
    /// Events of one moment happen in the order in which they were scheduled.
    pub(super) seq: u64,
    pub(super) event: Event,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}
