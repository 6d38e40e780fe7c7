//! How many bytes wait to be sent to one worker. Messages are counted by its channel; inputs may be
//! a mebibyte each, so they are weighed as well: a worker that reads slowly gets its next
//! assignment when it has read, and until then the job waits in its queue or goes to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::engine::Engine;

/// Bytes of inputs that may wait for one worker. A single input may be larger.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// What waits for one worker.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    bytes: AtomicUsize,
    /// An input found no room; whoever makes room wakes the claim loop.
    refused: AtomicBool,
}

/// An input that waits for its worker. Makes room when dropped.
#[derive(Debug)]
pub struct Weight {
    engine: Engine,
    outbound: Arc<Outbound>,
    bytes: usize,
}

impl Outbound {
    /// Whether the last input found no room.
    pub(crate) fn is_full(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    /// Takes room for an input, if there is any.
    pub(crate) fn take(self: &Arc<Self>, engine: &Engine, bytes: usize) -> Option<Weight> {
        if !self.add(bytes) {
            self.refused.store(true, Ordering::SeqCst);
            // Who made room before that line has woken nobody.
            if !self.add(bytes) {
                return None;
            }
            self.refused.store(false, Ordering::SeqCst);
        }
        Some(Weight {
            engine: engine.clone(),
            outbound: Arc::clone(self),
            bytes,
        })
    }

    fn add(&self, bytes: usize) -> bool {
        let fits = |waiting: usize| {
            let sum = waiting.saturating_add(bytes);
            (waiting == 0 || sum <= MAX_BYTES).then_some(sum)
        };
        self.bytes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits)
            .is_ok()
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.outbound.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        if self.outbound.refused.swap(false, Ordering::SeqCst) {
            self.engine.dispatcher().wake();
        }
    }
}
