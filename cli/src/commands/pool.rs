//! `coretexctl pool ...`.

use coretex::proto::{ListPoolsRequest, ListPoolsResponse};

use super::Cx;
use crate::args::PoolVerb;
use crate::failure::Failure;

pub(super) async fn run(cx: &Cx<'_>, verb: &PoolVerb) -> Result<(), Failure> {
    match verb {
        PoolVerb::List => {
            let pools = cx.client.all_pools(ListPoolsRequest::default());
            cx.ui.show(&ListPoolsResponse {
                pools: pools.take(usize::MAX).await?,
                ..ListPoolsResponse::default()
            })
        }
    }
}
