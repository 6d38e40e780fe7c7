//! `ApprovalService`: what waits for the consent of people, and their votes.

mod watch;

use coretex_engine::{Caller, Engine, PageRequest};
use coretex_proto::v1;
use coretex_proto::v1::approval_service_server::ApprovalService;
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use self::watch::Watch;
use crate::call::answer;
use crate::convert::job::View;
use crate::convert::query::visible;
use crate::convert::{self, approval};
use crate::page::{self, fitting};
use crate::problem::Result as Outcome;
use crate::validate::check;

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct Approvals {
    engine: Engine,
}

impl Approvals {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

/// Lists approvals. A page that turns out too large is asked for again, shorter, as in the list of
/// jobs.
async fn list(
    engine: &Engine,
    caller: &Caller,
    mut request: v1::ListApprovalsRequest,
) -> Outcome<v1::ListApprovalsResponse> {
    let (filter, page) = check(|fields| {
        let filter = approval::listed(&mut request);
        let filter = approval::read_filter(fields, filter);
        let page = page::read(fields, request.page_size, request.page_token);
        (filter, page)
    })?;
    let PageRequest { mut size, token } = page;
    loop {
        let token = token.clone();
        let page = PageRequest { size, token };
        let found = engine.list_approvals(caller, &filter, page).await?;
        let approvals: Vec<_> = found
            .approvals
            .iter()
            .map(|found| approval::write(found, View::Basic))
            .collect();
        let fit = fitting(approvals.iter().map(Message::encoded_len));
        if fit >= approvals.len() {
            return Ok(v1::ListApprovalsResponse {
                approvals,
                next_page_token: found.next_page_token,
                resume_token: found.resume_token,
            });
        }
        size = fit;
    }
}

#[async_trait]
impl ApprovalService for Approvals {
    type WatchApprovalsStream = Watch;

    async fn list_approvals(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        answer(request, |call, request| async move {
            list(&self.engine, &call.caller, request).await
        })
        .await
    }

    async fn get_approval(
        &self,
        request: Request<v1::GetApprovalRequest>,
    ) -> Result<Response<v1::GetApprovalResponse>, Status> {
        answer(request, |call, request| async move {
            let id = check(|fields| approval::id(fields, &request.approval_id))?;
            let view = visible(View::Full, &call.caller);
            let full = view.is_full();
            let found = self.engine.get_approval(&call.caller, &id, full).await?;
            Ok(v1::GetApprovalResponse {
                approval: Some(approval::write(&found, view)),
            })
        })
        .await
    }

    async fn resolve_approval(
        &self,
        request: Request<v1::ResolveApprovalRequest>,
    ) -> Result<Response<v1::ResolveApprovalResponse>, Status> {
        answer(request, |call, request| async move {
            let vote = check(|fields| approval::vote(fields, request))?;
            let resolved = self.engine.resolve_approval(&call.caller, vote).await?;
            Ok(v1::ResolveApprovalResponse {
                approval: Some(approval::write(&resolved.answer, View::Basic)),
                job: Some(convert::job::answer(&resolved.job, View::Basic)),
                replayed: resolved.replayed,
            })
        })
        .await
    }

    async fn watch_approvals(
        &self,
        request: Request<v1::WatchApprovalsRequest>,
    ) -> Result<Response<Self::WatchApprovalsStream>, Status> {
        answer(request, |call, request| async move {
            let (filter, token) = check(|fields| {
                let filter = approval::filter(fields, request.filter);
                (filter, fields.token("resume_token", request.resume_token))
            })?;
            let caller = &call.caller;
            let items = self.engine.watch_approvals(caller, &filter, &token).await?;
            Ok(Watch::new(call, items))
        })
        .await
    }
}
