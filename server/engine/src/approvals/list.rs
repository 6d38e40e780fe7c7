//! Lists of approvals: pages of an index, filtered by record, newest first.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use coretex_core::approval::{Approval, ApprovalState};
use coretex_core::id::{ApprovalId, JobId};
use coretex_core::job::Job;
use coretex_store::{Member, Order, Range, codec};
use serde::{Deserialize, Serialize};

use super::ApprovalAnswer;
use crate::access::Caller;
use crate::commits::Loaded;
use crate::engine::Engine;
use crate::jobs::list::{BATCH, PAGE_BYTES, SCAN, is_forbidden, list_id, size_of};
use crate::types::PageRequest;
use crate::{ApprovalFilter, Error, Result, keyspace};

/// A page of approvals.
#[derive(Clone, Debug)]
pub struct ApprovalPage {
    /// Newest first.
    pub approvals: Vec<ApprovalAnswer>,
    /// Empty = the end.
    pub next_page_token: String,
    /// A watch from here misses nothing.
    pub resume_token: String,
}

/// Where a list goes on.
#[derive(Serialize, Deserialize)]
struct Token {
    /// Of filter and tenant.
    list: [u8; 8],
    /// After this one.
    last: Member,
}

impl Token {
    fn decode(text: &str, list: [u8; 8]) -> Result<Member> {
        let bytes = BASE64.decode(text).map_err(|_| Error::PageTokenInvalid)?;
        let (_, token) = codec::decode::<Self>(&bytes).map_err(|_| Error::PageTokenInvalid)?;
        match token.list == list {
            true => Ok(token.last),
            false => Err(Error::PageTokenInvalid),
        }
    }
}

impl Engine {
    /// Lists approvals, newest first, without inputs that stand apart.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`, `DataLoss`.
    pub async fn list_approvals(
        &self,
        caller: &Caller,
        filter: &ApprovalFilter,
        page: PageRequest,
    ) -> Result<ApprovalPage> {
        let filter = &filter.narrowed(caller);
        let list = list_id(&caller.tenant, &("approvals", filter))?;
        let mut after = match page.token.as_str() {
            "" => None,
            token => Some(Token::decode(token, list)?),
        };
        // Taken before the read: a watch from here sees everything that the list does not.
        let resume_token = self.resume_token_now().await?;
        let mut approvals: Vec<ApprovalAnswer> = Vec::new();
        let (mut read, mut bytes, mut ended) = (0, 0, false);
        let forbidden = is_forbidden(caller, &filter.requested_by);
        'pages: while read < SCAN && !forbidden {
            let (places, last) = self
                .approval_places(caller, filter, after.as_ref(), page.size)
                .await?;
            read += places.len();
            let names: Vec<_> = places
                .iter()
                .map(|(_, _, job_id)| (caller.tenant.clone(), job_id.clone()))
                .collect();
            let loaded = self.load_all(&names).await?;
            for ((member, id, _), loaded) in places.into_iter().zip(loaded) {
                if approvals.len() == page.size {
                    break 'pages;
                }
                if let Some((approval, job)) = matching(filter, &id, loaded.as_ref()) {
                    bytes += size_of_approval(&job, &approval);
                    if bytes > PAGE_BYTES && !approvals.is_empty() {
                        // It begins the next page.
                        break 'pages;
                    }
                    approvals.push(ApprovalAnswer {
                        approval,
                        job: job.job,
                    });
                }
                after = Some(member);
            }
            if last {
                ended = true;
                break;
            }
        }
        let next_page_token = match after.filter(|_| !ended) {
            Some(last) => BASE64.encode(codec::encode(1, &Token { list, last })?),
            None => String::new(),
        };
        Ok(ApprovalPage {
            approvals,
            next_page_token,
            resume_token,
        })
    }

    /// The next places of a list, newest first, and whether there are no more.
    async fn approval_places(
        &self,
        caller: &Caller,
        filter: &ApprovalFilter,
        after: Option<&Member>,
        wanted: usize,
    ) -> Result<(Vec<(Member, ApprovalId, JobId)>, bool)> {
        let tenant = &caller.tenant;
        if let Some(job_id) = &filter.job_id {
            // All of them stand in one record.
            let approvals = match self.load(tenant, job_id).await {
                Ok(loaded) => loaded.job.approvals.clone(),
                Err(Error::NotFound { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            let place = |approval: Approval| {
                let member = keyspace::approval_place(&approval.id, job_id);
                (member, approval.id, job_id.clone())
            };
            let mut places: Vec<_> = approvals.into_iter().map(place).collect();
            places.retain(|(member, ..)| after.is_none_or(|after| member < after));
            places.sort_unstable_by(|a, b| b.0.cmp(&a.0));
            return Ok((places, true));
        }
        let pending = filter.states == [ApprovalState::Pending];
        let prefix = keyspace::pending_prefix(tenant);
        let mut range = if pending {
            Range::prefix(keyspace::PENDING_APPROVALS, &prefix)
        } else {
            Range::all(keyspace::approvals(tenant))
        };
        let skipped = if pending { prefix.len() } else { 0 };
        if let Some(after) = after {
            range.end = Some([&prefix[..skipped], after].concat().into());
        }
        let limit = wanted.clamp(16, BATCH);
        let read = self
            .store()
            .range(self.shard(), &[range], limit, Order::Descending)
            .await?;
        let members: Vec<Member> = read.value.into_iter().flatten().collect();
        let last = members.len() < limit;
        let places = members.into_iter().filter_map(|member| {
            let member = member.slice(skipped..);
            let (id, job_id) = keyspace::parse_approval_place(&member)?;
            Some((member, id, job_id))
        });
        Ok((places.collect(), last))
    }
}

/// The approval of this name, if it and its job are asked for.
fn matching(
    filter: &ApprovalFilter,
    id: &ApprovalId,
    loaded: Option<&Loaded>,
) -> Option<(Approval, Loaded)> {
    let loaded = loaded?;
    let approval = loaded.job.approval(id)?;
    filter
        .matches(&loaded.job, approval, approval.state)
        .then(|| (approval.clone(), loaded.clone()))
}

/// About how many bytes an approval takes in a response, without the input of its job.
fn size_of_approval(loaded: &Loaded, approval: &Approval) -> usize {
    let job: &Job = &loaded.job;
    let input = job.input.as_ref().map_or(0, |input| input.size() as usize);
    let votes = approval.votes.iter();
    let votes: usize = votes
        .map(|vote| 128 + vote.principal_id.len() + vote.reason.len())
        .sum();
    let answer = approval.answer.as_ref().map_or(0, String::len);
    size_of(loaded, false)
        .saturating_add(input.min(coretex_core::payload::Payload::INLINE_LIMIT))
        .saturating_add(512 + approval.reason.len() + approval.resolution.len())
        .saturating_add(votes)
        .saturating_add(answer)
}
