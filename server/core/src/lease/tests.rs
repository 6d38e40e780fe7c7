//! Tables and properties of leases.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::id::{JobId, PoolName, TenantId, Topic, WorkerId};
use crate::job::{JobSpec, Lease, Slot};

const fn at(seconds: u64) -> Tick {
    Tick::new(Duration::from_secs(seconds))
}

const fn time(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// A store that answered `from..=to`, once a second.
fn seen(from: u64, to: u64) -> StoreWatch {
    let mut watch = StoreWatch::new();
    (from..=to).for_each(|second| watch.answered(at(second)));
    watch
}

#[test]
fn a_lease_expires_in_store_time_and_never_while_the_store_was_away() {
    let lease = ReplicaLease::new(ReplicaId::from_trusted("r"), time(100));
    assert_eq!(lease.expires, time(115));
    let rows = [
        // (store time, store seen up from..=to, now) -> may expire
        ((114, 0, 114, 114), false),
        ((115, 0, 115, 115), true),
        // The store came back 14 s ago: its owner may not have got through yet.
        ((200, 186, 200, 200), false),
        ((200, 185, 200, 200), true),
        // The last answer is too old.
        ((200, 100, 196, 200), false),
    ];
    for ((store, from, to, now), expected) in rows {
        let may = lease.may_expire(time(store), &seen(from, to), at(now));
        assert_eq!(
            may, expected,
            "store {store}, seen {from}..={to}, now {now}"
        );
    }
    let renewed = lease.renewed(time(110));
    assert_eq!((renewed.epoch, renewed.expires), (2, time(125)));
}

#[test]
fn a_gap_or_an_interruption_begins_a_new_stretch() {
    let mut watch = seen(0, 20);
    assert_eq!(watch.up_for(at(20)), Duration::from_secs(20));
    assert_eq!(watch.up_for(at(23)), Duration::from_secs(20));
    assert_eq!(watch.up_for(at(24)), Duration::ZERO);
    watch.answered(at(24));
    assert_eq!(watch.up_for(at(24)), Duration::ZERO);
    watch.answered(at(26));
    assert_eq!(watch.up_for(at(26)), Duration::from_secs(2));
    watch.interrupted();
    watch.answered(at(27));
    assert_eq!(watch.up_for(at(27)), Duration::ZERO);
}

#[test]
fn the_owner_is_sure_for_one_period_from_sending() {
    let mut own = OwnLease::new(at(0));
    assert!(!own.is_due(at(4)) && own.is_due(at(5)));
    own.renewed(at(5));
    assert!(!own.is_due(at(9)) && own.is_due(at(10)));
    own.failed(at(10));
    assert!(!own.is_due(at(10)) && own.is_due(at(11)));
    assert!(own.is_sure(at(19)) && !own.is_sure(at(20)));
    // Answers may come out of order.
    own.renewed(at(3));
    assert!(own.is_sure(at(19)));
}

#[test]
fn assignments_go_out_within_half_a_lease() {
    assert_eq!(ASSIGNMENT_VALID * 2, REPLICA_LEASE);
    assert!(may_assign(at(0), at(7)));
    assert!(!may_assign(at(0), at(8)));
}

#[test]
fn a_session_is_silent_adoptable_and_lost_in_turn() {
    let mut session = Liveness::new(at(0));
    session.heard(at(10));
    assert_eq!(session.status(at(39)), SessionStatus::Alive);
    assert_eq!(session.status(at(40)), SessionStatus::Silent);
    session.ended(at(40));
    session.ended(at(50));
    assert_eq!(session.status(at(54)), SessionStatus::Adoptable);
    assert_eq!(session.status(at(55)), SessionStatus::Lost);
}

#[test]
fn the_window_of_a_silent_session_began_with_the_heartbeat_that_did_not_come() {
    let mut session = Liveness::new(at(0));
    session.heard(at(10));
    session.went_silent();
    assert_eq!(session.status(at(29)), SessionStatus::Adoptable);
    assert_eq!(session.status(at(30)), SessionStatus::Lost);
    assert!(SERVER_SILENCE + HEARTBEAT_EVERY <= ADOPTION_WINDOW);
}

#[test]
fn workers_of_a_dead_replica_have_the_whole_window() {
    let lease = ReplicaLease::new(ReplicaId::from_trusted("r"), time(100));
    // Renewed at 100, so it lived until 105 at most; the window ends at 120.
    assert_eq!(lost_after_replica(Some(&lease), time(115)), time(120));
    assert_eq!(lost_after_replica(Some(&lease), time(300)), time(300));
    assert_eq!(lost_after_replica(None, time(300)), time(315));
}

fn job(state: JobState, lease: Option<(u32, u128, &str)>) -> Job {
    let new = crate::job::transition::NewJob {
        id: JobId::from_trusted("j"),
        tenant: TenantId::from_trusted("t"),
        spec: Arc::new(JobSpec::new(Topic::from_trusted("job.a"))),
        principal_id: "p".to_owned(),
        trace_id: "trace".to_owned(),
        fingerprint: Vec::new(),
        idempotency_key: String::new(),
        rerun_of: None,
        input: None,
        unmapped: None,
        keep: None,
    };
    let verdict = crate::job::transition::Verdict::Unavailable {
        again_at: time(1),
        reason: String::new(),
    };
    let mut job = crate::job::transition::accept(new, verdict, time(0));
    job.state = state;
    job.lease = lease.map(|(attempt, lease, session)| Lease {
        slot: Slot {
            attempt,
            lease_id: LeaseId::new(lease),
            replica: ReplicaId::from_trusted("r"),
            session: SessionId::from_trusted(session),
        },
        worker_id: WorkerId::from_trusted("w"),
        pool: PoolName::from_trusted("p"),
        dispatch_time: time(0),
        timeout_at: time(1),
        concurrency_key: String::new(),
    });
    job
}

#[test]
fn only_an_exact_match_is_adopted() {
    let (replica, session) = (ReplicaId::from_trusted("r"), SessionId::from_trusted("s"));
    let claim = Claim {
        attempt: 2,
        lease_id: LeaseId::new(7),
    };
    let decide = |job: Option<&Job>| adopt(job, claim, &replica, &session);
    let revoked = Adoption::Revoke;
    assert_eq!(decide(None), revoked(RevokeReason::UnknownJob));
    for (state, lease, expected) in [
        (JobState::Running, Some((2, 7, "s")), Adoption::Keep),
        (JobState::Dispatched, Some((2, 7, "old")), Adoption::Move),
        (
            JobState::Running,
            Some((2, 8, "s")),
            revoked(RevokeReason::Superseded),
        ),
        (
            JobState::Running,
            Some((3, 7, "s")),
            revoked(RevokeReason::Superseded),
        ),
        (JobState::Pending, None, revoked(RevokeReason::TakenAway)),
        (JobState::Scheduled, None, revoked(RevokeReason::TakenAway)),
        (JobState::Succeeded, None, revoked(RevokeReason::Ended)),
        (JobState::Timeout, None, revoked(RevokeReason::Ended)),
    ] {
        assert_eq!(
            decide(Some(&job(state, lease))),
            expected,
            "{state:?} {lease:?}"
        );
    }
    // The same session name at another replica is another session.
    let other = ReplicaId::from_trusted("r2");
    let moved = job(JobState::Running, Some((2, 7, "s")));
    assert_eq!(adopt(Some(&moved), claim, &other, &session), Adoption::Move);
}

#[test]
fn losses_have_their_own_budget() {
    use WorkerLossPolicy::{Fail, Retry};
    assert_eq!(after_loss(Retry, 0, 3), AfterLoss::Requeue);
    assert_eq!(after_loss(Retry, 2, 3), AfterLoss::Requeue);
    assert_eq!(after_loss(Retry, 3, 3), AfterLoss::Fail);
    assert_eq!(after_loss(Retry, 0, 0), AfterLoss::Fail);
    assert_eq!(after_loss(Fail, 0, 3), AfterLoss::Fail);
}

#[test]
fn a_job_has_one_held_entry_a_slot_and_says_how_it_stands() {
    let mut job = job(JobState::Running, Some((2, 7, "s")));
    let standing = |job: &Job| -> Vec<_> {
        HeldKey::of(job)
            .map(|key| (key.lease_id.bits(), key.standing))
            .collect()
    };
    assert_eq!(standing(&job), [(7, Standing::Current)]);
    job.cancel = Some(crate::job::CancelRequest {
        time: time(1),
        terminal_at: time(2),
        reason: String::new(),
    });
    assert_eq!(standing(&job), [(7, Standing::CancelRequested)]);
    job.unreleased
        .extend(job.lease.take().map(|lease| lease.slot));
    assert_eq!(standing(&job), [(7, Standing::Over)]);
    job.unreleased.clear();
    assert_eq!(standing(&job), []);
}

proptest! {
    #[test]
    fn held_members_round_trip_under_their_prefixes(
        replica in "[a-z-]{1,9}", session in "[a-z-]{1,9}", tenant in "[a-z-]{1,9}",
        lease: u128, job in "[a-z@:\\[\\]-]{1,9}", standing in 0_usize..3,
    ) {
        let key = HeldKey {
            replica: ReplicaId::from_trusted(&replica),
            session: SessionId::from_trusted(&session),
            standing: [Standing::Current, Standing::CancelRequested, Standing::Over][standing],
            tenant: TenantId::from_trusted(&tenant),
            lease_id: LeaseId::new(lease),
            job_id: JobId::from_trusted(&job),
        };
        let member = key.encode();
        prop_assert_eq!(HeldKey::decode(&member), Ok(key.clone()));
        prop_assert!(member.starts_with(&HeldKey::replica_prefix(&key.replica)));
        prop_assert!(member.starts_with(&HeldKey::session_prefix(&key.replica, &key.session)));
        prop_assert!(member < HeldKey::after_replica(&key.replica));
        // Cut anywhere, it is malformed or shorter of job id, never something else.
        for length in 0..member.len() {
            if let Ok(cut) = HeldKey::decode(&member[..length]) {
                prop_assert_eq!(cut.lease_id, key.lease_id);
            }
        }
    }

    #[test]
    fn the_watch_never_claims_more_than_it_saw(
        gaps in proptest::collection::vec(0_u64..6, 1..30), wait in 0_u64..6,
    ) {
        let mut watch = StoreWatch::new();
        let (mut now, mut begin, mut last) = (0, None, 0);
        for gap in gaps {
            now += gap;
            watch.answered(at(now));
            if begin.is_none() || now - last > STORE_GAP.as_secs() { begin = Some(now); }
            last = now;
        }
        let expected = if wait > STORE_GAP.as_secs() { 0 } else { last - begin.unwrap_or(last) };
        prop_assert_eq!(watch.up_for(at(now + wait)), Duration::from_secs(expected));
    }
}
