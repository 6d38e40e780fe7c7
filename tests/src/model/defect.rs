//! Guards of the protocol that can be taken out, to show that the simulator notices.

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
    /// The owner of an ended session does not look whether the attempt has moved.
    LossIgnoresHolder,
    /// What a commit of unknown outcome would have handed out is sent to the worker.
    DeliverUnknown,
    /// Assignments are sent however old their commit is.
    LateAssignments,
    /// A dead replica's entries are swept once, when its lease is deleted.
    SweepOnce,
    /// Entries under a replica's name may stand before its lease does.
    HoldBeforeLease,
    /// A replica that finds its lease gone writes a new one and goes on.
    KeepDeadName,
    /// A rewind of the store goes unnoticed.
    NoRewindNotice,
    /// A resent result is answered as late although it had been applied.
    ForgetAppliedResults,
    /// A queued job is committed without telling the other replicas or the own claim loop, and
    /// nobody reads again.
    NoWayBack,
    /// A reconnecting worker's attempts are all told to stop.
    NoAdoption,
}

impl Defect {
    /// Every defect.
    pub const ALL: [Self; 21] = [
        Self::NoLeaseMatch,
        Self::NoEmptyGuard,
        Self::AddsDoNotSpoilReads,
        Self::EmptyReadNeverAges,
        Self::GuardOfOneTopic,
        Self::NoReread,
        Self::NoSlotReread,
        Self::NoStanding,
        Self::SlotFreeBeforeAnswer,
        Self::LeaseTimeRunsInOutage,
        Self::NoAdoptionWindow,
        Self::LossIgnoresHolder,
        Self::DeliverUnknown,
        Self::LateAssignments,
        Self::SweepOnce,
        Self::HoldBeforeLease,
        Self::KeepDeadName,
        Self::NoRewindNotice,
        Self::ForgetAppliedResults,
        Self::NoWayBack,
        Self::NoAdoption,
    ];
}
