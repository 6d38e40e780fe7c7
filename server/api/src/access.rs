//! `AccessService`: credentials, and who calls.

use coretex_engine::Engine;
use coretex_proto::v1;
use coretex_proto::v1::access_service_server::AccessService;
use tonic::{Request, Response, Status, async_trait};

use crate::call::answer;
use crate::validate::check;
use crate::{convert, page};

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    engine: Engine,
}

impl Access {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl AccessService for Access {
    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        answer(request, |call, request| async move {
            let new = check(|fields| convert::access::read(fields, request))?;
            let (key, secret) = self.engine.create_api_key(&call.caller, new).await?;
            Ok(v1::CreateApiKeyResponse {
                api_key: Some(convert::access::write(key)),
                secret,
            })
        })
        .await
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        answer(request, |call, request| async move {
            let inactive = request.show_inactive;
            let shown = if inactive { "all" } else { "active" };
            let list = page::list_name(["api_keys", call.caller.tenant.as_str(), shown]);
            let page = check(|fields| page::read(fields, request.page_size, request.page_token))?;
            let page = page::unseal(page, list)?;
            let keys = self.engine.list_api_keys(&call.caller, page, inactive);
            let (keys, next) = keys.await?;
            Ok(v1::ListApiKeysResponse {
                api_keys: keys.into_iter().map(convert::access::write).collect(),
                next_page_token: page::seal(&next, list),
            })
        })
        .await
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::RevokeApiKeyResponse>, Status> {
        answer(request, |call, request| async move {
            let id = check(|fields| fields.name("key_id", &request.key_id))?;
            let key = self.engine.revoke_api_key(&call.caller, &id).await?;
            Ok(v1::RevokeApiKeyResponse {
                api_key: Some(convert::access::write(key)),
            })
        })
        .await
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        answer(request, |call, v1::WhoAmIRequest {}| async move {
            Ok(convert::access::caller(&call.caller))
        })
        .await
    }
}
