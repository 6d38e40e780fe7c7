//! Keeps a handle connected: opens the first connection, notices when one is lost, and opens the
//! next, for ever, with growing and jittered pauses.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::Refusal;
use super::link::Link;
use super::{NatsError, NatsOptions, Shared, State};
use crate::dice::Dice;

/// The first pause after a connection is lost. Not zero: all replicas lose a server at the same
/// moment.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Chooses servers and pauses.
pub(super) struct Caller {
    options: Arc<NatsOptions>,
    dice: Dice,
    next_server: usize,
    /// Tries since the last connection that held.
    tries: u32,
}

impl Caller {
    pub(super) fn new(options: Arc<NatsOptions>) -> Self {
        let mut dice = Dice::new(options.seed);
        // Replicas spread over the servers.
        let next_server = (dice.fraction() * options.servers.len() as f64) as usize;
        Self {
            options,
            dice,
            next_server,
            tries: 0,
        }
    }

    /// Opens the first connection. What will not get better by waiting fails at once, the rest when
    /// the time for the start is over.
    pub(super) async fn first(&mut self) -> Result<Link, NatsError> {
        let options = Arc::clone(&self.options);
        let deadline = Instant::now() + options.startup_timeout;
        let mut reason = "no answer".to_owned();
        loop {
            let outcome = tokio::time::timeout_at(deadline, self.call()).await;
            match outcome {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(Refusal::Final(error))) => return Err(error),
                Ok(Err(Refusal::Later(why))) => {
                    tracing::debug!(reason = why, "nats server not reached yet");
                    reason = why;
                }
                Err(_) => {
                    return Err(NatsError::Unreachable {
                        endpoint: options.endpoint(),
                        waited: options.startup_timeout,
                        reason,
                    });
                }
            }
        }
    }

    /// Begins again with short pauses, unless the last connection did not last: a server that
    /// accepts and hangs up must not be called in a loop.
    fn lost_after(&mut self, lived: Duration) {
        if lived >= self.options.max_backoff {
            self.tries = 1;
        }
    }

    /// Pauses as long as the last tries suggest, and tries the next server.
    async fn call(&mut self) -> Result<Link, Refusal> {
        if self.tries > 0 {
            tokio::time::sleep(self.pause()).await;
        }
        self.tries = self.tries.saturating_add(1);
        let at = self.next_server % self.options.servers.len();
        self.next_server = at + 1;
        let link = Link::open(&self.options, &self.options.servers[at]).await?;
        Ok(link)
    }

    /// Doubles with every try up to the limit; the upper half of it is luck.
    fn pause(&mut self) -> Duration {
        let doublings = (self.tries - 1).min(16);
        let longest = FIRST_PAUSE * 2_u32.pow(doublings);
        let longest = longest.min(self.options.max_backoff.max(FIRST_PAUSE));
        longest.mul_f64(0.5 + self.dice.fraction() / 2.0)
    }
}

/// Watches over the connection of a handle until the handle is closed.
pub(super) async fn run(shared: Arc<Shared>, mut caller: Caller, mut link: Arc<Link>) {
    loop {
        let up = Instant::now();
        tokio::select! {
            () = shared.stopped() => return,
            () = link.lost() => {}
        }
        caller.lost_after(up.elapsed());
        let since = Instant::now();
        if !shared.replace(State::Down("connection lost".to_owned())) {
            return;
        }
        tracing::warn!(endpoint = link.endpoint, "nats connection lost");
        link = tokio::select! {
            () = shared.stopped() => return,
            link = next(&shared, &mut caller) => link,
        };
        let outage = since.elapsed();
        tracing::info!(endpoint = link.endpoint, ?outage, "nats connection is back");
    }
}

/// Opens the next connection and puts the subscriptions on it.
async fn next(shared: &Shared, caller: &mut Caller) -> Arc<Link> {
    let mut told = String::new();
    loop {
        let reason = match caller.call().await {
            Ok(link) => match shared.put_up(Arc::new(link)).await {
                Ok(link) => return link,
                Err(error) => error.to_string(),
            },
            Err(refusal) => refusal.into_reason(),
        };
        if reason == told {
            tracing::debug!(reason, "nats server not reached");
        } else {
            tracing::warn!(reason, "nats server not reached; trying for ever");
            shared.replace(State::Down(reason.clone()));
            told = reason;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ_between_seeds() -> Result<(), NatsError> {
        let options = NatsOptions::new("nats://a")?.max_backoff(Duration::from_secs(1));
        let pauses = |seed| {
            let mut caller = Caller::new(Arc::new(options.clone().seed(seed)));
            let pauses = (1..40).map(|tries| {
                caller.tries = tries;
                caller.pause()
            });
            pauses.collect::<Vec<_>>()
        };
        let one = pauses(1);
        assert!(one[0] >= FIRST_PAUSE / 2 && one[0] <= FIRST_PAUSE);
        assert!(one.iter().all(|pause| *pause <= Duration::from_secs(1)));
        assert!(one[38] >= Duration::from_millis(500));
        assert_ne!(one, pauses(2));
        Ok(())
    }

    #[test]
    fn only_a_connection_that_held_makes_pauses_short_again() -> Result<(), NatsError> {
        let options = NatsOptions::new("nats://a")?.max_backoff(Duration::from_secs(1));
        let mut caller = Caller::new(Arc::new(options));
        caller.tries = 9;
        caller.lost_after(Duration::from_millis(1));
        assert!(caller.pause() >= Duration::from_millis(500));
        caller.lost_after(Duration::from_secs(1));
        assert!(caller.pause() <= FIRST_PAUSE);
        Ok(())
    }
}
