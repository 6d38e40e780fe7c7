//! What goes wrong in a run, drawn from its seed.

use super::rng::Rng;
use super::wire::{MILLI, Micros, SECOND};

/// Faults begin in this part of a run.
pub(super) const FAULTS_FROM: Micros = 5 * SECOND;
pub(super) const FAULTS_UNTIL: Micros = 45 * SECOND;

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Bus messages are lost, doubled or late with this probability each.
    Bus {
        chance: f64,
        lasts: Micros,
    },
    /// A replica stands still, its connections stay open.
    Pause {
        replica: usize,
        lasts: Micros,
    },
    /// A replica dies and comes back as a new process. Silent: nobody is told, as when the machine
    /// goes.
    Kill {
        replica: usize,
        silent: bool,
        back: Micros,
    },
    /// One replica does not reach the store. Hanging: its requests may arrive at the end.
    CutOff {
        replica: usize,
        hang: bool,
        lasts: Micros,
    },
    /// Nobody reaches the store.
    Outage {
        hang: bool,
        lasts: Micros,
    },
    /// Requests and answers are lost, lost requests may arrive much later.
    Flaky {
        chance: f64,
        lasts: Micros,
    },
    Slow {
        lasts: Micros,
    },
    /// What the store is now is what it will go back to.
    Snapshot,
    /// The store goes back, its clock off by this much.
    Rewind {
        clock: i64,
    },
    /// A worker's stream breaks and both sides notice.
    CutStream {
        worker: usize,
    },
    /// A worker's stream goes dead in these directions and nobody notices.
    HalfOpen {
        worker: usize,
        up: bool,
        down: bool,
    },
    KillWorker {
        worker: usize,
        silent: bool,
        back: Micros,
    },
}

/// What kind of fault, before chance fills in the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bus,
    Pause,
    Kill,
    CutOff,
    Outage,
    Flaky,
    Slow,
    Rewind,
    CutStream,
    CutAllStreams,
    HalfOpen,
    KillWorker,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Bus,
        Self::Pause,
        Self::Kill,
        Self::CutOff,
        Self::Outage,
        Self::Flaky,
        Self::Slow,
        Self::Rewind,
        Self::CutStream,
        Self::CutAllStreams,
        Self::HalfOpen,
        Self::KillWorker,
    ];
}

/// The faults of a run and when they begin: of the kinds asked for, else of some few kinds that the
/// seed chooses, so that some runs see one kind many times.
pub(super) fn plan(
    rng: &mut Rng,
    replicas: usize,
    workers: usize,
    provoke: &[Kind],
) -> Vec<(Micros, Fault)> {
    let (kinds, count) = if provoke.is_empty() {
        (
            Kind::ALL.into_iter().filter(|_| rng.chance(0.3)).collect(),
            rng.index(10),
        )
    } else {
        (provoke.to_vec(), 4 + rng.index(10))
    };
    let mut plan = Vec::new();
    for _ in 0..if kinds.is_empty() { 0 } else { count } {
        let at = rng.between(FAULTS_FROM, FAULTS_UNTIL);
        let kind = kinds[rng.index(kinds.len())];
        if kind == Kind::Rewind {
            let lag = rng.between(10 * MILLI, 5 * SECOND);
            plan.push((at.saturating_sub(lag), Fault::Snapshot));
        }
        if kind == Kind::CutAllStreams {
            plan.extend((1..workers).map(|worker| (at, Fault::CutStream { worker })));
        }
        let (replica, worker) = (rng.index(replicas), rng.index(workers));
        plan.push((at, fault(kind, rng, replica, worker)));
    }
    plan
}

fn fault(kind: Kind, rng: &mut Rng, replica: usize, worker: usize) -> Fault {
    // Most are short, so that what they leave behind meets running work.
    let lasts = if rng.chance(0.5) {
        rng.between(200 * MILLI, 8 * SECOND)
    } else {
        rng.between(SECOND, 30 * SECOND)
    };
    match kind {
        Kind::Bus => Fault::Bus {
            chance: 0.2 + 0.8 * rng.fraction(),
            lasts,
        },
        Kind::Pause => Fault::Pause { replica, lasts },
        Kind::Kill => Fault::Kill {
            replica,
            silent: rng.chance(0.5),
            back: lasts,
        },
        Kind::CutOff => Fault::CutOff {
            replica,
            hang: rng.chance(0.5),
            lasts,
        },
        Kind::Outage => Fault::Outage {
            hang: rng.chance(0.5),
            lasts,
        },
        Kind::Flaky => Fault::Flaky {
            chance: 0.3 * rng.fraction(),
            lasts,
        },
        Kind::Slow => Fault::Slow { lasts },
        Kind::Rewind => Fault::Rewind {
            clock: if rng.chance(0.2) {
                rng.between(0, 60 * SECOND).cast_signed()
            } else {
                rng.between(0, SECOND).cast_signed() - 500_000
            },
        },
        Kind::CutStream => Fault::CutStream { worker },
        Kind::CutAllStreams => Fault::CutStream { worker: 0 },
        Kind::HalfOpen => {
            let which = rng.index(3);
            Fault::HalfOpen {
                worker,
                up: which != 1,
                down: which != 0,
            }
        }
        Kind::KillWorker => Fault::KillWorker {
            worker,
            silent: rng.chance(0.5),
            back: lasts,
        },
    }
}
