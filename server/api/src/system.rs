//! `SystemService`: the installation as a whole.

use std::sync::Arc;

use coretex_engine::{Engine, PageRequest};
use coretex_proto::v1;
use coretex_proto::v1::system_service_server::SystemService;
use tonic::{Request, Response, Status, async_trait};

use crate::call::answer;
use crate::convert;
use crate::options::Backends;

/// The most pools whose queues are shown.
const MAX_POOLS: usize = 1_000;

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct System {
    engine: Engine,
    backends: Arc<dyn Backends>,
}

impl System {
    pub(crate) const fn new(engine: Engine, backends: Arc<dyn Backends>) -> Self {
        Self { engine, backends }
    }
}

#[async_trait]
impl SystemService for System {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        answer(request, |call, v1::GetStatusRequest {}| async move {
            let status = self.engine.status(&call.caller).await?;
            let page = PageRequest {
                size: MAX_POOLS,
                token: String::new(),
            };
            // A store that is down is part of the answer; pools are then left out.
            let pools = self.engine.list_pools(&call.caller, page).await;
            let (pools, _) = pools.unwrap_or_default();
            Ok(convert::system::write(&status, &pools, &*self.backends))
        })
        .await
    }
}
