//! Whether the server should get work, and why not: one answer for the probe and for health.

use coretex_engine::Engine;
use parking_lot::RwLock;

/// How far the server is.
#[derive(Clone, Debug)]
enum Phase {
    /// Not serving yet; what it does instead.
    Starting(String),
    /// Serving, if the engine says so.
    Running(Engine),
    /// On its way out.
    Stopping,
}

/// The current phase, shared by everybody who is asked.
#[derive(Debug)]
pub(crate) struct Readiness {
    phase: RwLock<Phase>,
}

impl Readiness {
    pub(crate) fn starting() -> Self {
        Self {
            phase: RwLock::new(Phase::Starting("starting".to_owned())),
        }
    }

    /// Says what the start is doing; without effect later.
    pub(crate) fn progress(&self, what: impl Into<String>) {
        let mut phase = self.phase.write();
        if let Phase::Starting(doing) = &mut *phase {
            *doing = what.into();
        }
    }

    pub(crate) fn running(&self, engine: Engine) {
        *self.phase.write() = Phase::Running(engine);
    }

    pub(crate) fn stopping(&self) {
        *self.phase.write() = Phase::Stopping;
    }

    /// Why not; `None` = ready.
    pub(crate) async fn problem(&self) -> Option<String> {
        let phase = self.phase.read().clone();
        match phase {
            Phase::Starting(doing) => Some(doing),
            Phase::Running(engine) => engine.not_ready(),
            Phase::Stopping => Some("draining".to_owned()),
        }
    }
}
