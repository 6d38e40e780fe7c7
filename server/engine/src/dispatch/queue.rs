//! What this replica knows of one queue: the first jobs of each group of like jobs, and whether
//! there are more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use coretex_core::id::TenantId;
use coretex_core::job::{Job, Priority};
use coretex_core::lease::Tick;
use coretex_core::placement::Shape;
use coretex_core::queue::{QueueGuard, ReadToken, ReadyKey};

/// The most keys of one group that are held in memory.
pub(crate) const READ_AHEAD: usize = 256;
/// The most groups of one queue that are held in memory: a queue of more is read in parts.
pub(crate) const MAX_GROUPS: usize = 1_024;
/// The most further parts of a queue that are read at one tick when nothing in the first could be
/// placed: kinds of jobs that nobody can run hide others for a while, not for ever.
const MAX_PARTS: u32 = 4;

/// Jobs of one tenant and class that need the same of a worker. One of them stands for all.
#[derive(Debug)]
pub(crate) struct Group {
    /// In serving order.
    pub(crate) keys: VecDeque<ReadyKey>,
    /// The store holds more that come after the last of `keys`.
    pub(crate) more: bool,
    /// One of the jobs, for what they need; without payloads.
    pub(crate) sample: Arc<Job>,
    /// Whether a worker of this replica could run them, were it idle, and as of which change of its
    /// workers that is so.
    pub(crate) suited: Option<(u64, bool)>,
}

impl Group {
    /// Puts a job in its place, unless that is behind what is held.
    pub(crate) fn insert(&mut self, key: ReadyKey) {
        let place = self
            .keys
            .partition_point(|held| held.serving_order(&key).is_lt());
        if place == self.keys.len() && self.more {
            return;
        }
        if self
            .keys
            .get(place)
            .is_some_and(|held| held.serving_order(&key).is_eq())
        {
            return;
        }
        self.keys.insert(place, key);
        if self.keys.len() > READ_AHEAD {
            self.keys.pop_back();
            self.more = true;
        }
    }
}

/// What the jobs of a group have in common.
pub(crate) type GroupName = (TenantId, Shape, Priority);
/// The groups of one queue.
pub(crate) type Groups = BTreeMap<GroupName, Group>;

/// The group of a waiting job.
pub(crate) fn group_of(key: &ReadyKey) -> GroupName {
    (key.tenant.clone(), key.shape, key.priority)
}
/// What became ready while a queue was read.
type Added = Vec<(ReadyKey, Arc<Job>)>;

/// A queue: the waiting jobs of one topic.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) guard: QueueGuard,
    pub(crate) groups: Groups,
    /// A read is wanted.
    pub(crate) stale: bool,
    /// A read is under way; what is added meanwhile is kept to be merged.
    reading: Option<(ReadToken, Added)>,
    /// There are more groups than were read; the next read goes on here.
    resume: Option<Vec<u8>>,
    /// The read under way, or the last one, did not begin at the start of the queue.
    resumed: bool,
    /// How many further parts may be read before the next tick.
    parts: u32,
}

impl Queue {
    /// A queue about which nothing is known yet.
    pub(crate) fn unknown() -> Self {
        Self {
            stale: true,
            ..Self::default()
        }
    }

    /// Whether nothing waits that a worker of this replica could run, for sure.
    pub(crate) fn is_known_empty(&self, now: Tick) -> bool {
        self.guard.is_known_empty(now)
    }

    /// Whether the next round should read the index.
    pub(crate) fn wants_read(&self) -> bool {
        self.reading.is_none()
            && (self.stale
                || self
                    .groups
                    .values()
                    .any(|group| group.keys.is_empty() && group.more))
    }

    /// Wants to be read again, whatever is known.
    pub(crate) fn distrust(&mut self) {
        self.stale = true;
        self.parts = MAX_PARTS;
    }

    /// Wants the next part to be read, if there is one; true when it will be.
    pub(crate) fn read_on(&mut self) -> bool {
        if self.resume.is_none() || self.parts == 0 || self.reading.is_some() {
            return false;
        }
        self.parts -= 1;
        self.stale = true;
        true
    }

    /// Marks a read as under way; where it begins, unless at the start.
    pub(crate) fn begin_read(&mut self, now: Tick) -> Option<Vec<u8>> {
        self.stale = false;
        self.reading = Some((self.guard.begin_read(now), Vec::new()));
        let from = self.resume.take();
        self.resumed = from.is_some();
        from
    }

    /// Takes what a read found, or `None` when it failed. `suited` says of a job whether a worker of
    /// this replica could run it, were it idle; `fleet` numbers the changes of these workers.
    pub(crate) fn finish_read(
        &mut self,
        found: Option<(Groups, Option<Vec<u8>>)>,
        fleet: u64,
        suited: impl Fn(&Job) -> bool,
    ) {
        let Some((token, added)) = self.reading.take() else {
            return;
        };
        let Some((mut groups, resume)) = found else {
            self.stale = true;
            return;
        };
        // Only of a whole queue is it known that nothing in it could be run.
        let mut nothing = !self.resumed && resume.is_none();
        for (name, group) in &mut groups {
            let known = self.groups.get(name).and_then(|before| before.suited);
            let known = known.filter(|(of, _)| *of == fleet);
            let (_, suits) = *group
                .suited
                .insert(known.unwrap_or_else(|| (fleet, suited(&group.sample))));
            nothing &= !suits;
        }
        self.guard.finish_read(token, nothing);
        self.groups = groups;
        self.resume = resume;
        for (key, job) in added {
            self.insert(key, job);
        }
    }

    /// A job of this replica has become ready.
    pub(crate) fn insert(&mut self, key: ReadyKey, sample: Arc<Job>) {
        if let Some((_, added)) = &mut self.reading {
            added.push((key.clone(), Arc::clone(&sample)));
        }
        let name = group_of(&key);
        if let Some(group) = self.groups.get_mut(&name) {
            group.insert(key);
        } else if self.has_room_for(&name) {
            let keys = VecDeque::from([key]);
            self.groups.insert(
                name,
                Group {
                    keys,
                    more: false,
                    sample,
                    suited: None,
                },
            );
        }
    }

    /// Whether there is room for one more group: one of a better class takes the place of another,
    /// which the next read finds again.
    fn has_room_for(&mut self, name: &GroupName) -> bool {
        if self.groups.len() < MAX_GROUPS {
            return true;
        }
        let worse = self
            .groups
            .keys()
            .rev()
            .find(|held| held.2 > name.2)
            .cloned();
        self.stale = true;
        worse.is_some_and(|worse| self.groups.remove(&worse).is_some())
    }

    /// Whether it is known that no worker of this replica could run a job of this group.
    pub(crate) fn is_unsuited(&self, group: &GroupName, fleet: u64) -> bool {
        let group = self.groups.get(group);
        group.is_some_and(|group| group.suited == Some((fleet, false)))
    }

    /// Gives back a job that a pick has passed over.
    pub(crate) fn put_back(&mut self, group: &GroupName, key: ReadyKey) {
        // A read that came in between has it already.
        if let Some(group) = self.groups.get_mut(group)
            && group
                .keys
                .front()
                .is_none_or(|first| key.serving_order(first).is_lt())
        {
            group.keys.push_front(key);
        }
    }

    /// Whether a job of this replica becoming ready need be copied for [`Self::insert`].
    pub(crate) fn needs_sample(&self, key: &ReadyKey) -> bool {
        self.reading.is_some() || !self.groups.contains_key(&group_of(key))
    }

    /// Drops groups that have nothing left.
    pub(crate) fn tidy(&mut self) {
        self.groups
            .retain(|_, group| !group.keys.is_empty() || group.more);
    }
}
