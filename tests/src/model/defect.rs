//! Guards of the protocol that can be taken out, to show that the simulator notices.

use super::faults::Kind;

/// A guard that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Defect {
    /// An attempt is matched by its number alone, not by its lease.
    NoLeaseMatch,
    /// A new job takes a free slot whether or not others wait.
    NoEmptyGuard,
    /// An empty read counts although a job was added while it was under way.
    AddsDoNotSpoilReads,
    /// An empty read counts for ever.
    EmptyReadNeverAges,
    /// Only the queue of the new job's own topic has to be empty, not those of all the topics that
    /// share the slot.
    GuardOfOneTopic,
    /// Queues are read on doorbells only.
    NoReread,
    /// A slot counts as free until the commit that takes it is answered.
    NoReservation,
    /// Slots are never compared with the held index.
    NoSlotReread,
    /// The held index does not say how an attempt stands.
    NoStanding,
    /// A slot is free as soon as the record lets go of it, before the worker has answered.
    SlotFreeBeforeAnswer,
    /// Leases of replicas expire by the clock alone, also while the store was away.
    LeaseTimeRunsInOutage,
    /// Attempts of an ended session are handed out again at once.
    NoAdoptionWindow,
    /// The adoption window runs although the store is away and nobody can be adopted.
    WindowRunsInOutage,
    /// The owner of an ended session goes by its memory and does not look whether an attempt has
    /// moved.
    LossFromMemory,
    /// What a commit of unknown outcome would have handed out is sent to the worker.
    DeliverUnknown,
    /// A dead replica's entries are swept once, by whoever deleted its lease.
    SweepOnce,
    /// A rewind of the store goes unnoticed.
    NoRewindNotice,
    /// Versions of records are counted, so that they repeat after a rewind.
    CountedVersions,
    /// The answer to a resent commit that had been applied names the version that stands now, not
    /// the one that the commit made.
    ResendTellsCurrent,
    /// The owner of a session takes an attempt back that moved, although it has not heard from the
    /// worker since.
    AdoptFromMemory,
    /// A resent result is answered as late although it had been applied.
    ForgetAppliedResults,
    /// A reconnecting worker's attempts are all told to stop.
    NoAdoption,
}

impl Defect {
    /// Every defect.
    pub const ALL: [Self; 22] = [
        Self::NoLeaseMatch,
        Self::NoEmptyGuard,
        Self::AddsDoNotSpoilReads,
        Self::EmptyReadNeverAges,
        Self::GuardOfOneTopic,
        Self::NoReread,
        Self::NoReservation,
        Self::NoSlotReread,
        Self::NoStanding,
        Self::SlotFreeBeforeAnswer,
        Self::LeaseTimeRunsInOutage,
        Self::NoAdoptionWindow,
        Self::WindowRunsInOutage,
        Self::LossFromMemory,
        Self::DeliverUnknown,
        Self::SweepOnce,
        Self::NoRewindNotice,
        Self::CountedVersions,
        Self::ResendTellsCurrent,
        Self::AdoptFromMemory,
        Self::ForgetAppliedResults,
        Self::NoAdoption,
    ];

    /// The faults that bring it to light. Some are hardly ever met by chance.
    pub(super) const fn provoked_by(self) -> &'static [Kind] {
        match self {
            Self::NoEmptyGuard
            | Self::AddsDoNotSpoilReads
            | Self::GuardOfOneTopic
            | Self::NoReread => &[Kind::Bus],
            Self::EmptyReadNeverAges => &[Kind::Bus, Kind::Pause],
            Self::NoReservation | Self::SlotFreeBeforeAnswer => &[Kind::Slow],
            Self::NoStanding => &[Kind::Bus, Kind::Pause],
            Self::NoLeaseMatch
            | Self::NoRewindNotice
            | Self::NoSlotReread
            | Self::CountedVersions => &[Kind::Rewind],
            Self::LeaseTimeRunsInOutage => &[Kind::Outage],
            Self::NoAdoption | Self::NoAdoptionWindow | Self::LossFromMemory => {
                &[Kind::CutStream, Kind::CutAllStreams]
            }
            Self::WindowRunsInOutage => &[Kind::CutAllStreams, Kind::Outage],
            Self::AdoptFromMemory => &[Kind::HalfOpen],
            Self::DeliverUnknown | Self::ResendTellsCurrent => &[Kind::Flaky, Kind::Outage],
            Self::SweepOnce => &[Kind::Kill, Kind::KillWorker],
            Self::ForgetAppliedResults => &[Kind::CutStream, Kind::Flaky, Kind::HalfOpen],
        }
    }
}
