//! `DlqService`: dead letters, and what becomes of them.

use coretex_core::id::JobId;
use coretex_engine::{Caller, Engine, PageRequest};
use coretex_proto::v1;
use coretex_proto::v1::dlq_service_server::DlqService;
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use crate::bulk::{Bulk, options, refuse_empty};
use crate::call::answer;
use crate::convert;
use crate::convert::job::View;
use crate::convert::query::{self, visible};
use crate::convert::submit;
use crate::page::{self, fitting};
use crate::problem::Result as Outcome;
use crate::validate::check;

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct Dlq {
    engine: Engine,
}

impl Dlq {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

/// Reads the id of an entry, which is that of its job.
fn entry_id(id: &str) -> Outcome<JobId> {
    check(|fields| fields.job("entry_id", id))
}

/// Lists entries. A page that turns out too large is asked for again, shorter, as in the list of
/// jobs.
async fn list(
    engine: &Engine,
    caller: &Caller,
    mut request: v1::ListDlqEntriesRequest,
) -> Outcome<v1::ListDlqEntriesResponse> {
    let (filter, view, page) = check(|fields| {
        let filter = convert::dlq::listed(&mut request);
        let filter = convert::dlq::read_filter(fields, filter);
        let view = query::view(fields, request.view, View::Basic, caller);
        let page = page::read(fields, request.page_size, request.page_token);
        (filter, view, page)
    })?;
    let PageRequest { mut size, token } = page;
    loop {
        let token = token.clone();
        let page = PageRequest { size, token };
        let found = engine
            .list_dlq_entries(caller, &filter, page, view.is_full())
            .await?;
        let entries: Vec<_> = found
            .entries
            .iter()
            .map(|entry| convert::dlq::entry(entry, view))
            .collect();
        let fit = fitting(entries.iter().map(Message::encoded_len));
        if fit >= entries.len() {
            return Ok(v1::ListDlqEntriesResponse {
                entries,
                next_page_token: found.next_page_token,
            });
        }
        size = fit;
    }
}

#[async_trait]
impl DlqService for Dlq {
    type RetryDlqEntriesStream = Bulk<v1::RetryDlqEntriesResponse>;
    type PurgeDlqStream = Bulk<v1::PurgeDlqResponse>;

    async fn list_dlq_entries(
        &self,
        request: Request<v1::ListDlqEntriesRequest>,
    ) -> Result<Response<v1::ListDlqEntriesResponse>, Status> {
        answer(request, |call, request| async move {
            list(&self.engine, &call.caller, request).await
        })
        .await
    }

    async fn get_dlq_entry(
        &self,
        request: Request<v1::GetDlqEntryRequest>,
    ) -> Result<Response<v1::GetDlqEntryResponse>, Status> {
        answer(request, |call, request| async move {
            let (id, view) = check(|fields| {
                let id = fields.job("entry_id", &request.entry_id);
                let view = query::view(fields, request.view, View::Full, &call.caller);
                (id, view)
            })?;
            let full = view.is_full();
            let found = self.engine.get_dlq_entry(&call.caller, &id, full).await?;
            Ok(v1::GetDlqEntryResponse {
                entry: Some(convert::dlq::entry(&found, view)),
            })
        })
        .await
    }

    async fn retry_dlq_entry(
        &self,
        request: Request<v1::RetryDlqEntryRequest>,
    ) -> Result<Response<v1::RetryDlqEntryResponse>, Status> {
        answer(request, |call, request| async move {
            let (id, edits, key) = check(|fields| {
                let id = fields.job("entry_id", &request.entry_id);
                let edits = submit::edits(fields, request.edits, self.engine.limits());
                let key = submit::idempotency_key(fields, request.idempotency_key);
                (id, edits, key)
            })?;
            let submitted = self
                .engine
                .retry_dlq_entry(&call.caller, &id, edits, key)
                .await?;
            let view = visible(View::Full, &call.caller);
            Ok(v1::RetryDlqEntryResponse {
                job: Some(convert::job::answer(&submitted.answer, view)),
                replayed: submitted.replayed,
            })
        })
        .await
    }

    async fn retry_dlq_entries(
        &self,
        request: Request<v1::RetryDlqEntriesRequest>,
    ) -> Result<Response<Self::RetryDlqEntriesStream>, Status> {
        answer(request, |call, request| async move {
            let (filter, edits, options) = check(|fields| {
                refuse_empty(fields, request.filter.as_ref(), request.all);
                let filter = convert::dlq::filter(fields, request.filter);
                let edits = submit::edits(fields, request.edits, self.engine.limits());
                let (rate, dry_run, key) = (request.rate, request.dry_run, request.idempotency_key);
                let options = options(fields, rate, dry_run, request.page_token, key);
                (filter, edits, options)
            })?;
            let items = self
                .engine
                .retry_dlq_entries(&call.caller, &filter, edits, options)
                .await?;
            let wrap = |progress| v1::RetryDlqEntriesResponse {
                progress: Some(progress),
            };
            Ok(Bulk::new(call, items, wrap))
        })
        .await
    }

    async fn delete_dlq_entry(
        &self,
        request: Request<v1::DeleteDlqEntryRequest>,
    ) -> Result<Response<v1::DeleteDlqEntryResponse>, Status> {
        answer(request, |call, request| async move {
            let id = entry_id(&request.entry_id)?;
            self.engine.delete_dlq_entry(&call.caller, &id).await?;
            Ok(v1::DeleteDlqEntryResponse {})
        })
        .await
    }

    async fn purge_dlq(
        &self,
        request: Request<v1::PurgeDlqRequest>,
    ) -> Result<Response<Self::PurgeDlqStream>, Status> {
        answer(request, |call, request| async move {
            let (filter, options) = check(|fields| {
                refuse_empty(fields, request.filter.as_ref(), request.all);
                let filter = convert::dlq::filter(fields, request.filter);
                let (dry_run, token) = (request.dry_run, request.page_token);
                (filter, options(fields, 0, dry_run, token, String::new()))
            })?;
            let items = self
                .engine
                .purge_dlq(&call.caller, &filter, options)
                .await?;
            let wrap = |progress| v1::PurgeDlqResponse {
                progress: Some(progress),
            };
            Ok(Bulk::new(call, items, wrap))
        })
        .await
    }
}
