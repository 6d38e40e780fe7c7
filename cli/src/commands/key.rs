//! `coretexctl key ...`.

use coretex::proto::{
    CreateApiKeyRequest, ListApiKeysRequest, ListApiKeysResponse, RevokeApiKeyRequest,
};

use super::Cx;
use super::confirm::confirm;
use crate::args::key::{Create, Verb};
use crate::args::value;
use crate::failure::Failure;

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create(args) => create(cx, args).await,
        Verb::List { all } => {
            let keys = cx.client.all_api_keys(ListApiKeysRequest {
                show_inactive: *all,
                ..ListApiKeysRequest::default()
            });
            cx.ui.show(&ListApiKeysResponse {
                api_keys: keys.take(usize::MAX).await?,
                ..ListApiKeysResponse::default()
            })
        }
        Verb::Revoke { key_id, yes } => {
            if !yes {
                confirm(&format!(
                    "revoke key {key_id}? whoever uses it is locked out"
                ))?;
            }
            let key_id = key_id.clone();
            let answer = cx
                .client
                .revoke_api_key(RevokeApiKeyRequest { key_id })
                .await?;
            let key = answer
                .api_key
                .ok_or_else(|| Failure::incomplete("api_key"))?;
            cx.ui.show(&key)
        }
    }
}

async fn create(cx: &Cx<'_>, args: &Create) -> Result<(), Failure> {
    let expires_in = args
        .expires_in
        .map(|duration| value::from_now(duration, true));
    let request = CreateApiKeyRequest {
        display_name: args.name.clone(),
        tenant_id: args.tenant.clone().unwrap_or_default(),
        roles: args.roles.clone(),
        team_ids: args.teams.clone(),
        tenants_served: args.serves_tenants.clone(),
        expire_time: args.expire_time.or(expires_in),
    };
    let answer = cx.client.create_api_key(request).await?;
    cx.ui.show(&answer)?;
    cx.ui
        .note("note: the secret is shown this once; keep it now");
    Ok(())
}
