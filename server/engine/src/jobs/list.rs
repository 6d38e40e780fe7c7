//! Lists and counts of jobs: index pages, filtered by record, newest first.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use coretex_core::id::{JobId, TenantId};
use coretex_core::job::JobState;
use coretex_core::payload::Payload;
use coretex_core::time::Timestamp;
use coretex_store::{Index, Member, Order, Range, codec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::access::Caller;
use crate::commits::Loaded;
use crate::engine::Engine;
use crate::types::{JobCount, JobPage, PageRequest};
use crate::{Error, JobFilter, Result, keyspace};

/// Records read for one page at most; then the page ends, short or empty, with a token.
pub(crate) const SCAN: usize = 5_000;
/// Records read at once.
pub(crate) const BATCH: usize = 500;
/// Bytes of one page; a response may have 3.5 MiB.
pub(crate) const PAGE_BYTES: usize = 3 * 1024 * 1024;
/// Counting reads this many records at most.
const COUNT_SCAN: usize = 100_000;

/// Where a list goes on.
#[derive(Serialize, Deserialize)]
pub(crate) struct Token {
    /// Of filter, view and tenant.
    pub(crate) list: [u8; 8],
    pub(crate) time: Timestamp,
    pub(crate) id: JobId,
}

impl Token {
    pub(crate) fn encode(&self) -> Result<String> {
        Ok(BASE64.encode(codec::encode(1, self)?))
    }

    pub(crate) fn decode(text: &str, list: [u8; 8]) -> Result<Self> {
        let bytes = BASE64.decode(text).map_err(|_| Error::PageTokenInvalid)?;
        let (_, token) = codec::decode::<Self>(&bytes).map_err(|_| Error::PageTokenInvalid)?;
        if token.list == list {
            Ok(token)
        } else {
            Err(Error::PageTokenInvalid)
        }
    }
}

/// The list that a token belongs to.
pub(crate) fn list_id(tenant: &TenantId, filter: &impl Serialize) -> Result<[u8; 8]> {
    let digest = Sha256::digest(codec::encode(1, &(tenant, filter))?);
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    Ok(id)
}

/// The filter as the caller may use it.
pub(crate) fn narrowed(caller: &Caller, filter: &JobFilter) -> JobFilter {
    let mut filter = filter.clone();
    if caller.own_jobs_only() && filter.principal_id.is_empty() {
        filter.principal_id.clone_from(&caller.principal_id);
    }
    filter
}

/// Whether the caller asks for somebody else's jobs without the right to see them.
pub(crate) fn is_forbidden(caller: &Caller, principal_id: &str) -> bool {
    caller.own_jobs_only() && principal_id != caller.principal_id
}

impl Engine {
    /// Lists jobs, newest first.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`, `DataLoss`.
    pub async fn list_jobs(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        page: PageRequest,
        full: bool,
    ) -> Result<JobPage> {
        let filter = &narrowed(caller, filter);
        let list = list_id(&caller.tenant, filter)?;
        let after = match page.token.as_str() {
            "" => None,
            token => Some(Token::decode(token, list)?),
        };
        // Taken before the read: a watch from here sees everything that the list does not.
        let resume_token = self.resume_token_now().await?;
        let mut jobs = Vec::new();
        let mut next = None;
        if !is_forbidden(caller, &filter.principal_id) {
            let mut scan = Scan::new(self, &caller.tenant, filter);
            scan.after = after.map(|token| (token.time, token.id));
            let mut bytes = 0;
            while jobs.len() < page.size && scan.read < SCAN {
                let Some(batch) = scan.next_batch(page.size).await? else {
                    break;
                };
                for (position, loaded) in batch {
                    if jobs.len() == page.size || bytes > PAGE_BYTES {
                        break;
                    }
                    scan.after = Some(position);
                    let Some(loaded) = loaded.filter(|loaded| filter.matches(&loaded.job)) else {
                        continue;
                    };
                    bytes += size_of(&loaded, full);
                    if bytes > PAGE_BYTES && !jobs.is_empty() {
                        // It begins the next page.
                        scan.after = jobs.last().map(|last: &crate::JobAnswer| {
                            (last.job.create_time, last.job.id.clone())
                        });
                        break;
                    }
                    match self.answer(loaded, full).await {
                        Ok(answer) => jobs.push(answer),
                        // Deleted since its record was read.
                        Err(Error::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                if bytes > PAGE_BYTES {
                    scan.ended = false;
                    break;
                }
            }
            if !scan.ended || jobs.len() == page.size {
                next = scan.after;
            }
        }
        let next_page_token = match next {
            Some((time, id)) => Token { list, time, id }.encode()?,
            None => String::new(),
        };
        Ok(JobPage {
            jobs,
            next_page_token,
            resume_token,
        })
    }

    /// Counts jobs, stopping when it would take too long.
    ///
    /// # Errors
    /// `Unavailable`, `DataLoss`.
    pub async fn count_jobs(&self, caller: &Caller, filter: &JobFilter) -> Result<JobCount> {
        let filter = &narrowed(caller, filter);
        if is_forbidden(caller, &filter.principal_id) {
            return Ok(JobCount {
                count: 0,
                capped: false,
            });
        }
        if let Some(index) = countable(&caller.tenant, filter) {
            let range = Range::all(index);
            let count = self
                .store()
                .count(self.shard(), &range, u64::MAX)
                .await?
                .value;
            return Ok(JobCount {
                count,
                capped: false,
            });
        }
        let mut scan = Scan::new(self, &caller.tenant, filter);
        let mut count = 0;
        while let Some(batch) = scan.next_batch(BATCH).await? {
            for (position, loaded) in batch {
                scan.after = Some(position);
                count += u64::from(loaded.is_some_and(|loaded| filter.matches(&loaded.job)));
            }
            if scan.read >= COUNT_SCAN {
                return Ok(JobCount {
                    count,
                    capped: !scan.ended,
                });
            }
        }
        Ok(JobCount {
            count,
            capped: false,
        })
    }
}

/// The index whose size is the answer, if there is one.
fn countable(tenant: &TenantId, filter: &JobFilter) -> Option<Index> {
    let plain = JobFilter {
        states: Vec::new(),
        topics: Vec::new(),
        ..filter.clone()
    };
    if plain != JobFilter::default() {
        return None;
    }
    let has = |state| filter.states.contains(&state);
    match (filter.states.len(), filter.topics.as_slice()) {
        (0, []) => Some(keyspace::all(tenant)),
        (0, [topic]) => Some(keyspace::topic(tenant, topic)),
        (2, []) if has(JobState::Dispatched) && has(JobState::Running) => {
            Some(keyspace::open_held(tenant))
        }
        (3, [])
            if has(JobState::Pending)
                && has(JobState::Scheduled)
                && has(JobState::ApprovalRequired) =>
        {
            Some(keyspace::open_waiting(tenant))
        }
        _ => None,
    }
}

/// About how many bytes a job takes in a response, rather too many than too few.
pub(crate) fn size_of(loaded: &Loaded, full: bool) -> usize {
    let job = &*loaded.job;
    let payload = |payload: &Option<Payload>| match payload {
        Some(payload) if full => usize::try_from(payload.size()).unwrap_or(usize::MAX),
        Some(_) | None => 0,
    };
    let pairs = |map: &BTreeMap<String, String>| -> usize {
        map.iter()
            .map(|(key, value)| key.len() + value.len() + 8)
            .sum()
    };
    let texts = |texts: &[String]| -> usize { texts.iter().map(|text| text.len() + 4).sum() };
    let spec = &job.spec;
    let mut bytes = 2_048 + pairs(&spec.labels) + pairs(&spec.placement.worker_labels);
    bytes += texts(&spec.metadata.risk_tags) + texts(&spec.metadata.requires);
    bytes += spec.memory_id.len() + texts(&job.artifact_ids);
    bytes += texts(&spec.retry.non_retryable_codes);
    if let Some(mcp) = &spec.metadata.mcp {
        bytes += mcp.server.len() + mcp.tool.len() + mcp.resource.len() + mcp.action.len();
    }
    if let Some(cap) = &spec.cap {
        bytes += pairs(&cap.env) + texts(&cap.tags);
    }
    if let Some(error) = &job.error {
        bytes += error.code.len() + error.message.len() + pairs(&error.metadata);
    }
    if let Some(progress) = &job.progress {
        bytes += progress.message.len();
    }
    if let Some(cancel) = &job.cancel {
        bytes += cancel.reason.len();
    }
    if let Some(decision) = &job.decision {
        bytes += decision.reason.len();
        if let Some(limits) = &decision.constraints {
            bytes += texts(&limits.network_allowlist) + texts(&limits.deny_path_globs);
            bytes += texts(&limits.fs_read_only) + texts(&limits.fs_read_write);
            bytes += texts(&limits.allowed_tools) + texts(&limits.allowed_commands);
        }
        for remedy in &decision.remediations {
            bytes += 256 + remedy.title.len() + remedy.summary.len();
            bytes += pairs(&remedy.add_labels) + texts(&remedy.remove_labels);
        }
    }
    bytes
        .saturating_add(payload(&job.input))
        .saturating_add(payload(&job.output))
}

pub(crate) type Position = (Timestamp, JobId);

/// A walk over indexes of a tenant whose members are a time and a job.
pub(crate) struct Scan<'a> {
    engine: &'a Engine,
    tenant: &'a TenantId,
    indexes: Vec<Index>,
    /// Only members before this time.
    pub(crate) newest: Option<Timestamp>,
    /// Only members from this time on.
    pub(crate) oldest: Timestamp,
    /// In which direction it walks.
    pub(crate) order: Order,
    /// What it goes on after.
    pub(crate) after: Option<Position>,
    /// Records that were read.
    pub(crate) read: usize,
    /// Nothing is left.
    pub(crate) ended: bool,
}

impl<'a> Scan<'a> {
    /// A walk over the smallest index that holds everything that `filter` can match.
    pub(crate) fn new(engine: &'a Engine, tenant: &'a TenantId, filter: &JobFilter) -> Self {
        let indexes = match filter.topics.as_slice() {
            _ if filter.is_open_only() => {
                vec![keyspace::open_waiting(tenant), keyspace::open_held(tenant)]
            }
            [topic] => vec![keyspace::topic(tenant, topic)],
            _ => vec![keyspace::all(tenant)],
        };
        let mut scan = Self::over(engine, tenant, indexes);
        scan.newest = filter.created_before;
        scan.oldest = filter.created_after.unwrap_or(Timestamp::ZERO);
        scan
    }

    /// A walk over these indexes, from their ends.
    pub(crate) fn over(engine: &'a Engine, tenant: &'a TenantId, indexes: Vec<Index>) -> Self {
        Self {
            engine,
            tenant,
            indexes,
            newest: None,
            oldest: Timestamp::ZERO,
            order: Order::Descending,
            after: None,
            read: 0,
            ended: false,
        }
    }

    /// From where to where there is still something to read.
    fn rest(&self) -> (Member, Option<Member>) {
        let time = |time: Timestamp| Member::copy_from_slice(&time.to_be_bytes());
        let (start, end) = (time(self.oldest), self.newest.map(time));
        match (&self.after, self.order) {
            (None, _) => (start, end),
            (Some((time, id)), Order::Descending) => (start, Some(keyspace::by_time(*time, id))),
            (Some((time, id)), Order::Ascending) => {
                // The next possible member: no id holds a zero.
                let mut next = keyspace::by_time(*time, id).to_vec();
                next.push(0);
                (next.into(), end)
            }
        }
    }

    /// The next jobs, in order; `None` at the end.
    pub(crate) async fn next_batch(
        &mut self,
        wanted: usize,
    ) -> Result<Option<Vec<(Position, Option<Loaded>)>>> {
        if self.ended {
            return Ok(None);
        }
        let limit = wanted.clamp(16, BATCH);
        let (start, end) = self.rest();
        let ranges: Vec<Range> = self
            .indexes
            .iter()
            .map(|index| Range {
                index: index.clone(),
                start: start.clone(),
                end: end.clone(),
            })
            .collect();
        let store = self.engine.store();
        let read = store
            .range(self.engine.shard(), &ranges, limit, self.order)
            .await?;
        let full = read.value.iter().any(|members| members.len() == limit);
        let mut members: Vec<Member> = read.value.into_iter().flatten().collect();
        match self.order {
            Order::Ascending => members.sort_unstable(),
            Order::Descending => members.sort_unstable_by(|a, b| b.cmp(a)),
        }
        members.dedup();
        if full {
            members.truncate(limit);
        } else {
            self.ended = true;
        }
        if members.is_empty() {
            return Ok(None);
        }
        self.read += members.len();
        let positions: Vec<Position> = members
            .iter()
            .filter_map(|member| keyspace::parse_by_time(member))
            .collect();
        let names: Vec<_> = positions
            .iter()
            .map(|(_, id)| (self.tenant.clone(), id.clone()))
            .collect();
        let loaded = self.engine.load_all(&names).await?;
        Ok(Some(positions.into_iter().zip(loaded).collect()))
    }
}
