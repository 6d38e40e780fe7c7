//! The pressure that an engine saw last, for callers that must not wait.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::Pressure;

/// A [`Pressure`] that is read and set without waiting; at first normal.
#[derive(Debug, Default)]
pub(crate) struct LastPressure(AtomicU8);

impl LastPressure {
    pub(crate) fn get(&self) -> Pressure {
        match self.0.load(Ordering::Acquire) {
            0 => Pressure::Normal,
            1 => Pressure::High,
            _ => Pressure::ReadOnly,
        }
    }

    /// Sets it; true when it was another.
    pub(crate) fn set(&self, pressure: Pressure) -> bool {
        let code = match pressure {
            Pressure::Normal => 0,
            Pressure::High => 1,
            Pressure::ReadOnly => 2,
        };
        self.0.swap(code, Ordering::AcqRel) != code
    }
}
