//! Waiting for a condition: the one place where tests sleep.
//!
//! The condition is level-triggered: it looks at the state as it is, so an event
//! that came early is not missed. While it does not hold it says what it sees,
//! and a timeout reports the last of that instead of a bare "timed out".

use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks: short beside anything a test waits for.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `condition` returns `Ok`, and returns that.
///
/// # Panics
/// When `timeout` is over, naming `what` was waited for and the last `Err`.
pub fn until<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(status) => give_up_after(what, timeout, started.elapsed(), &status),
        }
        thread::sleep(PAUSE);
    }
}

/// [`until`] for asynchronous conditions.
///
/// # Panics
/// When `timeout` is over, naming `what` was waited for and the last `Err`.
pub async fn until_async<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let started = tokio::time::Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(status) => give_up_after(what, timeout, started.elapsed(), &status),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn give_up_after(what: &str, timeout: Duration, waited: Duration, status: &str) {
    assert!(
        waited < timeout,
        "waited {waited:.1?} for {what}; last seen: {status}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_the_condition_found() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(10), || {
            looks += 1;
            if looks == 3 {
                Ok("there")
            } else {
                Err(format!("{looks} looks"))
            }
        });
        assert_eq!((found, looks), ("there", 3));
    }

    #[test]
    #[should_panic(expected = "for a bird; last seen: an egg")]
    fn a_timeout_tells_what_was_seen_last() {
        until::<()>("a bird", Duration::ZERO, || Err("an egg".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "for a bird; last seen: an egg")]
    async fn an_asynchronous_timeout_tells_it_too() {
        let minute = Duration::from_secs(60);
        until_async::<()>("a bird", minute, async || Err("an egg".to_owned())).await;
    }
}
