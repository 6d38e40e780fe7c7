//! `ConfigService`: documents of configuration, and what is in force.

use coretex_engine::{Engine, Expected, PageRequest};
use coretex_proto::v1;
use coretex_proto::v1::config_service_server::ConfigService;
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use crate::call::answer;
use crate::convert::config as convert;
use crate::convert::query::team;
use crate::page::{self, fitting};
use crate::validate::{Fields, MAX_NAME, check};

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct Configs {
    engine: Engine,
}

impl Configs {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

fn etag(fields: &mut Fields, etag: String) -> String {
    fields.line("etag", etag, MAX_NAME)
}

#[async_trait]
impl ConfigService for Configs {
    async fn set_config(
        &self,
        request: Request<v1::SetConfigRequest>,
    ) -> Result<Response<v1::SetConfigResponse>, Status> {
        answer(request, |call, request| async move {
            let (name, data, etag) = check(|fields| {
                if request.fence.is_some() {
                    fields.not_available("fence");
                }
                let (scope, id) = (request.scope, &request.scope_id);
                let name = convert::name(fields, scope, id, &call.caller);
                let data = convert::data(fields, request.data);
                (name, data, etag(fields, request.etag))
            })?;
            let expected = Expected::to_write(etag);
            let only = request.validate_only;
            let set = self
                .engine
                .set_config(&call.caller, &name, &data, &expected, only);
            Ok(v1::SetConfigResponse {
                config: Some(convert::document(set.await?)),
            })
        })
        .await
    }

    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigResponse>, Status> {
        answer(request, |call, request| async move {
            let (scope, id) = (request.scope, &request.scope_id);
            let name = check(|fields| convert::name(fields, scope, id, &call.caller))?;
            let found = self.engine.get_config(&call.caller, &name).await?;
            Ok(v1::GetConfigResponse {
                config: Some(convert::document(found)),
            })
        })
        .await
    }

    async fn list_configs(
        &self,
        request: Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        answer(request, |call, request| async move {
            let (scopes, page) = check(|fields| {
                let scopes = convert::scopes(fields, &request.scopes);
                let page = page::read(fields, request.page_size, request.page_token);
                (scopes, page)
            })?;
            let tenant = call.caller.tenant.as_str();
            let list = page::list_name(["configs", tenant, &format!("{scopes:?}")]);
            let PageRequest { mut size, token } = page::unseal(page, list)?;
            // A page that turns out too large is asked for again, shorter.
            loop {
                let token = token.clone();
                let page = PageRequest { size, token };
                let found = self.engine.list_configs(&call.caller, &scopes, page);
                let (documents, next) = found.await?;
                let configs: Vec<_> = documents.into_iter().map(convert::document).collect();
                let fit = fitting(configs.iter().map(Message::encoded_len));
                if fit >= configs.len() {
                    let next_page_token = page::seal(&next, list);
                    return Ok(v1::ListConfigsResponse {
                        configs,
                        next_page_token,
                    });
                }
                size = fit;
            }
        })
        .await
    }

    async fn delete_config(
        &self,
        request: Request<v1::DeleteConfigRequest>,
    ) -> Result<Response<v1::DeleteConfigResponse>, Status> {
        answer(request, |call, request| async move {
            let (name, etag) = check(|fields| {
                let (scope, id) = (request.scope, &request.scope_id);
                let name = convert::name(fields, scope, id, &call.caller);
                (name, etag(fields, request.etag))
            })?;
            let expected = Expected::to_delete(etag);
            let deleted = self.engine.delete_config(&call.caller, &name, &expected);
            deleted.await?;
            Ok(v1::DeleteConfigResponse {})
        })
        .await
    }

    async fn list_config_revisions(
        &self,
        request: Request<v1::ListConfigRevisionsRequest>,
    ) -> Result<Response<v1::ListConfigRevisionsResponse>, Status> {
        answer(request, |call, request| async move {
            let (name, page) = check(|fields| {
                let (scope, id) = (request.scope, &request.scope_id);
                let name = convert::name(fields, scope, id, &call.caller);
                let page = page::read(fields, request.page_size, request.page_token);
                (name, page)
            })?;
            let tenant = call.caller.tenant.as_str();
            let list = page::list_name(["config revisions", tenant, &name.to_string()]);
            let PageRequest { mut size, token } = page::unseal(page, list)?;
            loop {
                let token = token.clone();
                let page = PageRequest { size, token };
                let found = self.engine.list_config_revisions(&call.caller, &name, page);
                let (revisions, next) = found.await?;
                let revisions: Vec<_> = revisions.into_iter().map(convert::revision).collect();
                let fit = fitting(revisions.iter().map(Message::encoded_len));
                if fit >= revisions.len() {
                    let next_page_token = page::seal(&next, list);
                    return Ok(v1::ListConfigRevisionsResponse {
                        revisions,
                        next_page_token,
                    });
                }
                size = fit;
            }
        })
        .await
    }

    async fn get_effective_config(
        &self,
        request: Request<v1::GetEffectiveConfigRequest>,
    ) -> Result<Response<v1::GetEffectiveConfigResponse>, Status> {
        answer(request, |call, request| async move {
            let (of_team, workflow, step) = check(|fields| {
                let mut part = |field: &str, id: &str| {
                    let read = fields.optional_id(field, id, team);
                    read.unwrap_or_default()
                };
                let team = part("team_id", &request.team_id);
                let workflow = part("workflow_id", &request.workflow_id);
                let step = part("step_id", &request.step_id);
                if request.workflow_id.is_empty() && !request.step_id.is_empty() {
                    fields.refuse_once("step_id", "needs `workflow_id`");
                }
                (team, workflow, step)
            })?;
            let tenant = &call.caller.tenant;
            let found = self
                .engine
                .effective_config(tenant, &of_team, &workflow, &step);
            let found = found.await?;
            Ok(convert::effective(&found))
        })
        .await
    }
}
