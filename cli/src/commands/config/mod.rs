//! `coretexctl config ...`. What is typed becomes data in [`data`], the editor is in [`edit`], and
//! how two documents differ in [`diff`].

mod data;
mod diff;
mod edit;

use coretex::ErrorReason;
use coretex::proto::{
    Config, DeleteConfigRequest, GetConfigRequest, GetEffectiveConfigRequest,
    ListConfigRevisionsRequest, ListConfigRevisionsResponse, ListConfigsRequest,
    ListConfigsResponse, SetConfigRequest,
};
use serde_json::{Map, Value};

use super::Cx;
use super::confirm::confirm;
use crate::args::config::{Name, Set, Verb};
use crate::failure::Failure;
use crate::view::config::{Effective, WithOrigins, name_of};

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Get { name } => cx.ui.show(&get(cx, name).await?),
        Verb::Set(args) => set(cx, args).await,
        Verb::Edit { name } => edit::run(cx, name).await,
        Verb::Delete { name, etag, yes } => delete(cx, name, etag.as_ref(), *yes).await,
        Verb::List { scopes } => {
            let scopes = scopes.iter().map(|scope| {
                let scope: coretex::proto::ConfigScope = (*scope).into();
                scope.into()
            });
            let configs = cx.client.all_configs(ListConfigsRequest {
                scopes: scopes.collect(),
                ..ListConfigsRequest::default()
            });
            cx.ui.show(&ListConfigsResponse {
                configs: configs.take(usize::MAX).await?,
                ..ListConfigsResponse::default()
            })
        }
        Verb::History { name, limit } => {
            let revisions = cx.client.all_config_revisions(revisions_of(name));
            cx.ui.show(&ListConfigRevisionsResponse {
                revisions: revisions.take(*limit).await?,
                ..ListConfigRevisionsResponse::default()
            })
        }
        Verb::Diff {
            name,
            from,
            to,
            file,
        } => diff::run(cx, name, *from, *to, file.as_deref()).await,
        Verb::Effective {
            team,
            workflow,
            step,
            origins,
        } => {
            let request = GetEffectiveConfigRequest {
                team_id: team.clone().unwrap_or_default(),
                workflow_id: workflow.clone().unwrap_or_default(),
                step_id: step.clone().unwrap_or_default(),
            };
            let answer = cx.client.get_effective_config(request).await?;
            if *origins {
                cx.ui.show(&WithOrigins(answer))
            } else {
                cx.ui.show(&Effective(answer))
            }
        }
    }
}

fn revisions_of(name: &Name) -> ListConfigRevisionsRequest {
    let (scope, scope_id) = name.document.clone();
    ListConfigRevisionsRequest {
        scope: scope.into(),
        scope_id,
        ..ListConfigRevisionsRequest::default()
    }
}

async fn get(cx: &Cx<'_>, name: &Name) -> Result<Config, Failure> {
    let (scope, scope_id) = name.document.clone();
    let request = GetConfigRequest {
        scope: scope.into(),
        scope_id,
    };
    let answer = cx.client.get_config(request).await?;
    answer.config.ok_or_else(|| Failure::incomplete("config"))
}

/// What a document says, and its etag; nothing where there is none.
async fn said(cx: &Cx<'_>, name: &Name) -> Result<(Map<String, Value>, String), Failure> {
    match get(cx, name).await {
        Ok(config) => Ok((data::of(config.data.as_ref()), config.etag)),
        Err(failure) if failure.reason() == reason(ErrorReason::ConfigNotFound) => {
            Ok((Map::new(), String::new()))
        }
        Err(failure) => Err(failure),
    }
}

fn reason(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

async fn set(cx: &Cx<'_>, args: &Set) -> Result<(), Failure> {
    let (data, etag) = match &args.file {
        Some(file) => (data::read(file)?, "*".to_owned()),
        None if args.pairs.is_empty() && args.unset.is_empty() => {
            return Err(Failure::usage("there is nothing to set")
                .hint("give KEY=VALUE, --unset KEY or --file FILE"));
        }
        None => {
            let (mut data, etag) = said(cx, &args.name).await?;
            for (key, value) in &args.pairs {
                data::put(&mut data, key, data::value(value))?;
            }
            for key in &args.unset {
                data::take(&mut data, key)?;
            }
            (data, etag)
        }
    };
    let etag = match &args.etag {
        Some(etag) => etag.clone(),
        None if args.create => String::new(),
        None => etag,
    };
    let config = write(cx, &args.name, &data, etag, args.validate_only).await?;
    if args.validate_only {
        cx.ui.note("nothing is wrong, and nothing was changed");
    }
    cx.ui.show(&config)
}

async fn write(
    cx: &Cx<'_>,
    name: &Name,
    data: &Map<String, Value>,
    etag: String,
    validate_only: bool,
) -> Result<Config, Failure> {
    let (scope, scope_id) = name.document.clone();
    let request = SetConfigRequest {
        scope: scope.into(),
        scope_id,
        data: Some(coretex::proto_value::struct_from_json(data)),
        etag,
        validate_only,
        fence: None,
    };
    let answer = cx.client.set_config(request).await.map_err(|error| {
        let failure = Failure::from(error);
        let late = failure.reason() == reason(ErrorReason::EtagMismatch);
        let advice = "it is not what it was taken for: read it again";
        failure.or_hint(|| late.then(|| advice.to_owned()))
    })?;
    answer.config.ok_or_else(|| Failure::incomplete("config"))
}

async fn delete(cx: &Cx<'_>, name: &Name, etag: Option<&String>, yes: bool) -> Result<(), Failure> {
    let (scope, scope_id) = name.document.clone();
    if !yes {
        confirm(&format!(
            "delete the configuration of {}?",
            name_of(scope, &scope_id)
        ))?;
    }
    let request = DeleteConfigRequest {
        scope: scope.into(),
        scope_id,
        etag: etag.cloned().unwrap_or_default(),
    };
    cx.ui.show(&cx.client.delete_config(request).await?)
}
