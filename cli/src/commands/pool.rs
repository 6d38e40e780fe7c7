//! `coretexctl pool ...`.

use coretex::proto::{
    ListPausesRequest, ListPausesResponse, ListPoolsRequest, ListPoolsResponse, PausePoolRequest,
    ResumePoolRequest,
};

use super::Cx;
use crate::args::pool::{Scope, Verb};
use crate::failure::Failure;

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::List => {
            let pools = cx.client.all_pools(ListPoolsRequest::default());
            cx.ui.show(&ListPoolsResponse {
                pools: pools.take(usize::MAX).await?,
                ..ListPoolsResponse::default()
            })
        }
        Verb::Pause { scope, reason } => {
            let answer = cx.client.pause_pool(PausePoolRequest {
                pool: text(scope.pool.as_ref()),
                topic: text(scope.topic.as_ref()),
                tenant_id: text(scope.tenant.as_ref()),
                all_tenants: scope.all_tenants,
                reason: text(reason.as_ref()),
            });
            let answer = answer.await?;
            let pause = answer.pause.ok_or_else(|| Failure::incomplete("pause"))?;
            cx.ui.show(&pause)
        }
        Verb::Resume { scope } => {
            let answer = cx.client.resume_pool(resume(scope)).await?;
            cx.ui.show(&answer)
        }
        Verb::Pauses => {
            let pauses = cx.client.all_pauses(ListPausesRequest::default());
            cx.ui.show(&ListPausesResponse {
                pauses: pauses.take(usize::MAX).await?,
                ..ListPausesResponse::default()
            })
        }
    }
}

fn text(given: Option<&String>) -> String {
    given.cloned().unwrap_or_default()
}

fn resume(scope: &Scope) -> ResumePoolRequest {
    ResumePoolRequest {
        pool: text(scope.pool.as_ref()),
        topic: text(scope.topic.as_ref()),
        tenant_id: text(scope.tenant.as_ref()),
        all_tenants: scope.all_tenants,
    }
}
