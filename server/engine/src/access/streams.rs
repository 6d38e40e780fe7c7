//! Sessions and watches live for long; they end with the credential that opened them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::keys::KEY_PRINCIPAL;
use crate::Result;
use crate::engine::Engine;
use crate::types::SessionEnd;

/// How often it is asked whether the credentials of open streams still work. Together with
/// [`super::CACHE_FOR`] ten seconds, after which a revoked key opens nothing and has nothing open.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Watches, by the principal that opened them.
#[derive(Debug, Default)]
pub(crate) struct OpenWatches {
    by_principal: Mutex<HashMap<String, Group>>,
}

#[derive(Debug, Default)]
struct Group {
    open: usize,
    useless: CancellationToken,
}

/// A place among the open watches. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    engine: Engine,
    principal_id: String,
    useless: CancellationToken,
}

impl Opened {
    /// Done when the credential opens nothing any more.
    pub(crate) async fn useless(&self) {
        self.useless.cancelled().await;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut watches = self.engine.open_watches().by_principal.lock();
        if let Some(group) = watches.get_mut(&self.principal_id) {
            group.open -= 1;
            if group.open == 0 {
                watches.remove(&self.principal_id);
            }
        }
    }
}

impl Engine {
    /// Notes a watch that ends with its credential.
    pub(crate) fn opened_by(&self, principal_id: &str) -> Opened {
        let mut watches = self.open_watches().by_principal.lock();
        let group = watches.entry(principal_id.to_owned()).or_default();
        group.open += 1;
        Opened {
            engine: self.clone(),
            principal_id: principal_id.to_owned(),
            useless: group.useless.clone(),
        }
    }

    /// Ends the sessions and watches of whoever is not let in any more.
    pub(crate) fn end_streams_of(&self, principal_id: &str) {
        let sessions: Vec<_> = {
            let state = self.dispatcher().lock();
            let theirs = state
                .sessions
                .iter()
                .filter(|(_, session)| session.principal_id == principal_id);
            theirs.map(|(id, _)| id.clone()).collect()
        };
        for session in sessions {
            self.end_session(&session, SessionEnd::CredentialInvalid);
        }
        if let Some(group) = self.open_watches().by_principal.lock().get(principal_id) {
            group.useless.cancel();
        }
    }

    /// Ends streams whose credentials were revoked elsewhere or have expired, until the engine
    /// stops.
    pub(crate) async fn run_credentials(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if let Err(error) = self.end_useless().await {
                tracing::warn!(%error, "credentials of open streams not looked at");
            }
        }
    }

    async fn end_useless(&self) -> Result<()> {
        let principals = self.principals_of_streams();
        let ids: Vec<&str> = principals
            .iter()
            .filter_map(|principal| principal.strip_prefix(KEY_PRINCIPAL))
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let keys = self.read_keys(&ids).await?;
        let now = self.now();
        for (id, key) in ids.into_iter().zip(keys) {
            // A record goes long after its key has become useless: by then nothing is open.
            if key.is_some_and(|(key, _)| !key.works(now)) {
                self.end_streams_of(&format!("{KEY_PRINCIPAL}{id}"));
            }
        }
        Ok(())
    }

    fn principals_of_streams(&self) -> HashSet<String> {
        let mut principals: HashSet<String> = {
            let state = self.dispatcher().lock();
            let sessions = state.sessions.values();
            sessions.map(|one| one.principal_id.clone()).collect()
        };
        principals.extend(self.open_watches().by_principal.lock().keys().cloned());
        principals
    }
}
