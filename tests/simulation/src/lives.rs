//! Systematic faults: the life of one job, run once undisturbed to count its fault points, and then
//! once for every point and everything that can strike there. Whatever strikes, the job ends once
//! and correctly, and the servers work as before.
//!
//! Here is what lives there are and what must come of them. [`pilot`] plays the worker and runs the
//! world, [`client`] is who asks.

mod client;
mod pilot;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coretex_core::job::{Job, JobState};
use coretex_core::payload::Payload;
use coretex_engine::SubmitJob;
use coretex_testbench::{Answer, Script, Setup, keyed, millis, secs};

use crate::checks::QUIET;
use crate::cluster::Cluster;
use crate::history::in_virtual_time;
use crate::points::{Point, Points, Strike};
use crate::process::Process;
use crate::world::World;
use client::Client;
use pilot::Pilot;

/// A way that a job can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Submitted with a wait while a worker is free.
    Fast,
    /// Submitted before its worker is there.
    Queued,
    /// Not before some time.
    Delayed,
    /// With input and output that do not fit into its record.
    Large,
    /// Its first attempt fails.
    Retried,
    /// Its worker takes too long.
    TimedOut,
    /// Its worker asks before it begins.
    Confirmed,
    /// The first worker gives it back.
    Rejected,
    /// Cancelled while it runs.
    Cancelled,
    /// Cancelled with force while it runs.
    Forced,
    /// Its worker dies.
    WorkerLost,
    /// Its worker loses its connection and comes back.
    Reconnected,
    /// Its worker comes back at another server.
    Moved,
}

impl Life {
    /// Every life.
    pub const ALL: [Self; 13] = [
        Self::Fast,
        Self::Queued,
        Self::Delayed,
        Self::Large,
        Self::Retried,
        Self::TimedOut,
        Self::Confirmed,
        Self::Rejected,
        Self::Cancelled,
        Self::Forced,
        Self::WorkerLost,
        Self::Reconnected,
        Self::Moved,
    ];

    fn request(self, world: &World) -> SubmitJob {
        let mut request = keyed("job.a", "k");
        let spec = &mut request.spec;
        match self {
            Self::Fast => request.wait = Some(secs(5)),
            Self::Delayed => spec.not_before = Some(world.now() + secs(2)),
            Self::Large => request.input = Some(Payload::json(vec![b'1'; 20 * 1024].into())),
            Self::Retried => {
                spec.retry.max_attempts = 2;
                spec.retry.initial_backoff = millis(800);
            }
            Self::TimedOut => spec.timeout = secs(1),
            Self::Confirmed => spec.confirm_start = true,
            Self::Queued
            | Self::Rejected
            | Self::Cancelled
            | Self::Forced
            | Self::WorkerLost
            | Self::Reconnected
            | Self::Moved => {}
        }
        request
    }

    const fn ends(self) -> &'static [JobState] {
        match self {
            Self::TimedOut => &[JobState::Timeout],
            // One that is faster than the cancel has succeeded.
            Self::Cancelled | Self::Forced => &[JobState::Cancelled, JobState::Succeeded],
            Self::Fast
            | Self::Queued
            | Self::Delayed
            | Self::Large
            | Self::Retried
            | Self::Confirmed
            | Self::Rejected
            | Self::WorkerLost
            | Self::Reconnected
            | Self::Moved => &[JobState::Succeeded],
        }
    }

    /// How long its worker works.
    const fn work(self) -> Duration {
        match self {
            Self::TimedOut => secs(40),
            Self::Cancelled | Self::Forced => secs(2),
            _ => secs(1),
        }
    }
}

/// A life in its surroundings. Written as `Fast:2:resend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Which life.
    pub life: Life,
    /// How many servers; one of one knows that it is the only one.
    pub servers: usize,
    /// Commits of unknown outcome are sent again, as in the program.
    pub resend: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resend = if self.resend { "resend" } else { "once" };
        write!(f, "{:?}:{}:{resend}", self.life, self.servers)
    }
}

/// Every case.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for life in Life::ALL {
        for (servers, resend) in [(1, true), (2, true), (1, false)] {
            if life != Life::Moved || servers > 1 {
                cases.push(Case {
                    life,
                    servers,
                    resend,
                });
            }
        }
    }
    cases
}

impl Case {
    /// What strikes where, for an undisturbed life with these points.
    #[must_use]
    pub fn strikes(self, points: &[Point]) -> Vec<(usize, Strike)> {
        let mut strikes = Vec::new();
        for (at, point) in points.iter().enumerate() {
            // Leases are the same in every life.
            if *point == Point::Lease && self.life != Life::Fast {
                continue;
            }
            let fits = Strike::ALL.into_iter().filter(|strike| strike.fits(*point));
            // Without a resend only what resends can be different.
            let differs = |strike: &Strike| self.resend || strike.leaves_doubt();
            strikes.extend(fits.filter(differs).map(|strike| (at, strike)));
        }
        strikes
    }
}

/// Everything that can strike anywhere: which case, at which of its points, what.
///
/// # Errors
/// What was wrong with an undisturbed life.
pub fn strikes() -> Result<Vec<(Case, usize, Strike)>, String> {
    let mut all = Vec::new();
    for case in cases() {
        let points = live(case, None).map_err(|wrong| format!("{case}: {wrong}"))?;
        let here = case.strikes(&points).into_iter();
        all.extend(here.map(|(at, strike)| (case, at, strike)));
    }
    Ok(all)
}

/// Lives one life, in virtual time, with something that strikes at one of its points; which points
/// it met.
///
/// # Errors
/// What was wrong.
pub fn live(case: Case, strike: Option<(usize, Strike)>) -> Result<Vec<Point>, String> {
    in_virtual_time(secs(3_600), run(case, strike))
}

async fn run(case: Case, strike: Option<(usize, Strike)>) -> Vec<Point> {
    let points = Arc::<Points>::default();
    let setup = Setup {
        seed: 1,
        resend: case.resend,
        exclusive: case.servers == 1,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, case.servers, Arc::clone(&points), None).await;
    let kernel = Script::new(Answer::Allow);
    let workers = vec![Process::plain("w")];
    let mut world = World::new(1, cluster, points, kernel, workers);
    let mut pilot = Pilot::new(case.life, &world);
    if case.life != Life::Queued {
        pilot.fly(&mut world, secs(2), |_| false).await;
    }
    let points = Arc::clone(&world.points);
    points.open(strike);
    let client = Client::new(&points, pilot.doors());
    let request = case.life.request(&world);
    let story = client.clone().story(case.life, request.clone());
    let mut story = tokio::spawn(story);
    let told = pilot.fly_until(&mut world, &mut story).await;
    let met = points.close();
    let name = (told.tenant.to_string(), told.id.clone());
    world.book.accepted.insert(name);
    world.book.saw(&told);

    // What is late arrives, servers compare what they remember with the store, and what a dead one
    // held is free when its lease and the adoption window are over.
    for _ in 0..4 {
        pilot.fly(&mut world, secs(QUIET), |_| false).await;
        if world.is_idle().await {
            break;
        }
    }
    let audit = world.check().await;
    assert_eq!(audit.jobs.len(), 1, "one request is one job");
    let job = &audit.jobs[0];
    expect(
        case,
        strike.map(|(at, strike)| (met.get(at).copied(), strike)),
        job,
    );
    assert!(world.processes[0].runs.is_empty(), "a result is unanswered");
    let again = client.submit(request).await;
    assert!(again.replayed && again.answer.job.id == job.id);

    let next = client.clone().story(Life::Queued, keyed("job.a", "next"));
    let mut next = tokio::spawn(next);
    let told = pilot.fly_until(&mut world, &mut next).await;
    assert_eq!(told.state, JobState::Succeeded, "the next job");
    met
}

/// What must have become of the job.
fn expect(case: Case, strike: Option<(Option<Point>, Strike)>, job: &Job) {
    let events = &job.events;
    assert!(case.life.ends().contains(&job.state), "{events:?}");
    let fails = matches!(case.life, Life::Retried | Life::TimedOut);
    assert!(job.failures <= u32::from(fails), "{events:?}");
    // What the store or the bus does loses no attempt; what servers and workers do may lose one.
    let own = u32::from(case.life == Life::WorkerLost);
    let lossy = |(point, strike): (Option<Point>, Strike)| match strike {
        Strike::Lost | Strike::Cut => matches!(point, Some(Point::Send | Point::Receive)),
        strike => strike.is_violent(),
    };
    let by_strike = u32::from(strike.is_some_and(lossy));
    assert!(
        job.redispatches <= own + by_strike,
        "{} redispatches: {events:?}",
        job.redispatches
    );
}
