//! Many runs beside one another.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Does work number `0..count` on every core, until one goes wrong; all answers, in no order, or
/// what went wrong first, by number.
///
/// # Errors
/// Of the work with the lowest number that was tried and went wrong.
///
/// # Panics
/// When a thread does, which work that catches its panics makes none do.
pub fn on_all_cores<T: Send>(
    count: u64,
    work: impl Fn(u64) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    let next = AtomicU64::new(0);
    let wrong: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let run = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return done;
            }
            match work(at) {
                Ok(one) => done.push(one),
                Err(text) => {
                    next.store(count, Ordering::Relaxed);
                    let mut wrong = wrong.lock().unwrap();
                    if wrong.as_ref().is_none_or(|(other, _)| at < *other) {
                        *wrong = Some((at, text));
                    }
                }
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(run)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.flatten().collect()
    });
    match wrong.into_inner().unwrap() {
        None => Ok(done),
        Some((_, text)) => Err(text),
    }
}
