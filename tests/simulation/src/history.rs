//! Random histories: what happens next is thrown with dice, from a seed.

use std::any::Any;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use coretex_engine::Retention;
use coretex_testbench::{Answer, Script, Setup, secs};
use futures::FutureExt;

use crate::cluster::Cluster;
use crate::defect::Defect;
use crate::limits;
use crate::points::Points;
use crate::process::Process;
use crate::world::{Tally, World};

/// Steps of a history.
pub const STEPS: u32 = 180;
/// Steps after which the store is audited.
const AUDIT_EVERY: u32 = 45;
/// The step at which it is calm for a while.
const CALM_AT: u32 = 120;

/// Which history.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What decides everything.
    pub seed: u64,
    /// How many steps.
    pub steps: u32,
    /// How many servers; `None` = 1 to 3, as the seed says.
    pub servers: Option<usize>,
    /// What is broken on purpose.
    pub defect: Option<Defect>,
}

impl Plan {
    /// The history of a seed.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        Self {
            seed,
            steps: STEPS,
            servers: None,
            defect: None,
        }
    }
}

/// How a history went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tale {
    /// A hash of everything that the store holds in the end: two runs with the same one went the
    /// same way.
    pub digest: u64,
    /// What happened how often.
    pub tally: Tally,
}

/// Tells one history, in virtual time.
///
/// # Errors
/// What was wrong.
pub fn tell(plan: Plan) -> Result<Tale, String> {
    in_virtual_time(Duration::from_secs(7_200), async {
        let mut world = world(plan).await;
        for step in 1..=plan.steps {
            world.step().await;
            if step % AUDIT_EVERY == 0 {
                world.audit().await;
            }
            if step == CALM_AT {
                world.calm().await;
            }
        }
        world.settle().await;
        let audit = world.check().await;
        let mut hasher = DefaultHasher::new();
        format!("{:?} {}", audit.jobs, world.now()).hash(&mut hasher);
        Tale {
            digest: hasher.finish(),
            tally: world.tally,
        }
    })
}

/// Runs something with the clock of the runtime paused. Whatever hangs for `longest` of its own time
/// hangs for ever.
pub(crate) fn in_virtual_time<T>(
    longest: Duration,
    story: impl Future<Output = T>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let ended = runtime.block_on(async {
        let bounded = tokio::time::timeout(longest, story);
        AssertUnwindSafe(bounded).catch_unwind().await
    });
    match ended {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(_)) => Err("it hangs".to_owned()),
        Err(panic) => Err(text_of(&*panic)),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}

async fn world(plan: Plan) -> World {
    let seed = plan.seed;
    let servers = plan.servers.unwrap_or([1, 2, 1, 3, 2][(seed % 5) as usize]);
    let keeps = !seed.is_multiple_of(4);
    let kernel = Script::new(Answer::Allow);
    let setup = Setup {
        seed,
        kernel: kernel.clone(),
        resend: !seed.is_multiple_of(3),
        retention: Retention {
            jobs: secs(if keeps { 72_000 } else { 20 }),
            ..Retention::default()
        },
        // One server may be the only one, or not know whether it is.
        exclusive: servers == 1 && !seed.is_multiple_of(2),
        routing: limits::tables(),
        ..Setup::default()
    };
    let points = std::sync::Arc::<Points>::default();
    let cluster = Cluster::start(setup, servers, points.clone(), plan.defect).await;
    let mut world = World::new(seed, cluster, points, kernel, Process::fleet());
    world.book.forgets = !keeps;
    world
}

impl World {
    async fn step(&mut self) {
        let die = self.dice.below(104);
        self.note(format_args!("step {die}"));
        let several = self.cluster.servers.len() > 1;
        match die {
            0..28 => self.submit().await,
            28..36 => self.connect().await,
            36..40 => self.disconnect().await,
            40..60 => self.work().await,
            60..65 => self.cancel().await,
            65..80 => self.wait().await,
            80..82 => self.crash().await,
            82..84 if several => self.revive().await,
            84 if several => self.stand_still(),
            85 if several => self.break_bus(),
            86 => self.set_clock(),
            82..91 => self.break_store(),
            91..93 => self.look().await,
            93..95 => self.operate().await,
            95..97 => self.change_mind(),
            97..100 => self.replay().await,
            100..102 => self.pause_or_resume().await,
            _ => self.retry_dead_letter().await,
        }
        self.see_pauses().await;
        self.cluster.wake_up();
        self.hear().await;
    }
}
