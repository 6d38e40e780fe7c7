//! `coretexctl dlq ...`.

use coretex::proto::{
    DeleteDlqEntryRequest, DlqFilter, GetDlqEntryRequest, ListDlqEntriesRequest,
    ListDlqEntriesResponse, PurgeDlqRequest, RetryDlqEntriesRequest, RetryDlqEntryRequest,
};
use coretex::{JobState, JobView};

use super::confirm::confirm;
use super::{Cx, bulk, job};
use crate::args::dlq::{Filter, Retry, Verb};
use crate::failure::{Exit, Failure};

/// The most entries that a server puts on one page.
const MAX_PAGE: usize = 1_000;

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::List {
            filter,
            limit,
            all,
            page_token,
            full,
        } => {
            let view = if *full { JobView::Full } else { JobView::Basic };
            let limit = if *all { usize::MAX } else { *limit };
            let token = page_token.clone().unwrap_or_default();
            list(cx, filter.into(), view, limit, token).await?;
        }
        Verb::Get { id, basic } => {
            let view = if *basic {
                JobView::Basic
            } else {
                JobView::Full
            };
            let answer = cx.client.get_dlq_entry(GetDlqEntryRequest {
                entry_id: id.entry_id.clone(),
                view: view.into(),
            });
            let entry = answer.await?.entry;
            cx.ui
                .show(&entry.ok_or_else(|| Failure::incomplete("entry"))?)?;
        }
        Verb::Retry(args) => return Box::pin(retry(cx, args)).await,
        Verb::RetryAll {
            filter,
            pace,
            idempotency_key,
        } => {
            let filter = DlqFilter::from(filter);
            let request = RetryDlqEntriesRequest {
                // The verb says that everything is meant where no filter is given.
                all: filter == DlqFilter::default(),
                filter: Some(filter),
                rate: pace.rate.unwrap_or_default(),
                dry_run: pace.from.dry_run,
                page_token: pace.from.page_token.clone().unwrap_or_default(),
                idempotency_key: idempotency_key.clone().unwrap_or_default(),
                ..RetryDlqEntriesRequest::default()
            };
            let stream = cx.client.retry_dlq_entries(request).await?;
            return bulk::follow(cx, stream).await;
        }
        Verb::Delete { id, yes } => {
            let entry_id = id.entry_id.clone();
            if !yes {
                confirm(&format!("throw dead letter {entry_id} away?"))?;
            }
            let request = DeleteDlqEntryRequest { entry_id };
            cx.ui.show(&cx.client.delete_dlq_entry(request).await?)?;
        }
        Verb::Purge { filter, from, yes } => {
            let filter = DlqFilter::from(filter);
            let request = PurgeDlqRequest {
                all: filter == DlqFilter::default(),
                filter: Some(filter),
                dry_run: from.dry_run,
                page_token: from.page_token.clone().unwrap_or_default(),
            };
            if !yes && !from.dry_run {
                let count = PurgeDlqRequest {
                    dry_run: true,
                    ..request.clone()
                };
                let count = cx.client.purge_dlq(count);
                bulk::ask("throw away", "dead letters", count).await?;
            }
            return bulk::follow(cx, cx.client.purge_dlq(request)).await;
        }
    }
    Ok(Exit::Done)
}

async fn list(
    cx: &Cx<'_>,
    filter: DlqFilter,
    view: JobView,
    limit: usize,
    page_token: String,
) -> Result<(), Failure> {
    let mut all = ListDlqEntriesResponse {
        next_page_token: page_token,
        ..ListDlqEntriesResponse::default()
    };
    // Pages are asked for one by one, because the token of the last one is part of the answer.
    loop {
        let wanted = limit.saturating_sub(all.entries.len()).min(MAX_PAGE);
        if wanted == 0 {
            break;
        }
        let filter = filter.clone();
        let request = ListDlqEntriesRequest {
            reason_codes: filter.reason_codes,
            topics: filter.topics,
            states: filter.states,
            labels: filter.labels,
            principal_id: filter.principal_id,
            team_id: filter.team_id,
            created_after: filter.created_after,
            created_before: filter.created_before,
            view: view.into(),
            page_size: i32::try_from(wanted).unwrap_or(i32::MAX),
            page_token: std::mem::take(&mut all.next_page_token),
        };
        let mut page = cx.client.list_dlq_entries(request).await?;
        all.entries.append(&mut page.entries);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    cx.ui.show(&all)?;
    if !all.next_page_token.is_empty() && cx.ui.for_people() {
        cx.ui.note(&format!(
            "there are more: --all, a higher --limit, or --page-token {}",
            all.next_page_token
        ));
    }
    Ok(())
}

async fn retry(cx: &Cx<'_>, args: &Retry) -> Result<Exit, Failure> {
    job::check_follow(&args.follow)?;
    let request = RetryDlqEntryRequest {
        entry_id: args.id.entry_id.clone(),
        edits: job::edits(&args.edits)?,
        idempotency_key: args.idempotency_key.clone().unwrap_or_default(),
    };
    let answer = cx.client.retry_dlq_entry(request).await?;
    job::submitted(cx, answer.job, answer.replayed, &args.follow).await
}

impl From<&Filter> for DlqFilter {
    fn from(filter: &Filter) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            reason_codes: filter.reason_codes.clone(),
            topics: filter.topics.clone(),
            states: filter
                .states
                .iter()
                .map(|state| JobState::from(*state).into())
                .collect(),
            labels: filter.labels.iter().cloned().collect(),
            principal_id: text(&filter.principal),
            team_id: text(&filter.team),
            created_after: filter.created_after,
            created_before: filter.created_before,
        }
    }
}
