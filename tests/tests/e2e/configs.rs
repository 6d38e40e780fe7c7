//! Configuration: written through a real server, in force for its jobs and visible to its workers.

use coretex::proto::{
    ConfigScope, CreateApiKeyRequest, DeleteConfigRequest, GetConfigRequest,
    GetEffectiveConfigRequest, ListConfigRevisionsRequest, ListConfigsRequest, SetConfigRequest,
};
use coretex::{Client, Code, ErrorReason, JobExt, JobPriority};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::RunningWorker;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{get, result};

fn document(scope: ConfigScope, id: &str, says: &Value, etag: &str) -> SetConfigRequest {
    SetConfigRequest {
        scope: scope.into(),
        scope_id: id.to_owned(),
        data: says.as_object().map(coretex::proto_value::struct_from_json),
        etag: etag.to_owned(),
        ..SetConfigRequest::default()
    }
}

async fn set(client: &Client, scope: ConfigScope, id: &str, says: Value) -> String {
    let set = client.set_config(document(scope, id, &says, "*")).await;
    set.unwrap().config.unwrap().etag
}

async fn effective(client: &Client, team: &str) -> Value {
    let request = GetEffectiveConfigRequest {
        team_id: team.to_owned(),
        ..GetEffectiveConfigRequest::default()
    };
    let answer = client.get_effective_config(request).await.unwrap();
    Value::Object(coretex::proto_value::struct_to_json(&answer.data.unwrap()))
}

/// A worker that answers with the configuration that it was given.
async fn mirror(client: &Client, topic: &str) -> RunningWorker {
    RunningWorker::serve(client.clone(), topic, 4, |context, _| async move {
        Ok(context.config().unwrap_or_default())
    })
    .await
}

async fn seen(client: &Client, topic: &str) -> Value {
    let job = result(client.submit(topic, ())).await;
    job.output_as().unwrap()
}

async fn what_is_in_force_reaches_jobs_and_what_is_visible_reaches_workers(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let _worker = mirror(&client, "job.mirror").await;
    assert_eq!(seen(&client, "job.mirror").await, Value::Null);
    let says = json!({
        "models": {"default": "small", "limit": 3},
        "safety": {"denied_topics": ["job.never"]},
        "topics": {"job.mirror": {"priority": "batch", "risk_tags": ["seen"]}},
        "limits": {"max_labels": 1},
    });
    set(&client, ConfigScope::System, "", says).await;
    let models = json!({"models": {"default": "large"}});
    set(&client, ConfigScope::Org, "", models).await;
    assert_eq!(
        seen(&client, "job.mirror").await,
        json!({"models": {"default": "large", "limit": 3}})
    );
    let job = result(client.submit("job.mirror", ())).await;
    let job = get(&client, &job.job_id).await;
    assert_eq!(job.priority(), JobPriority::Batch);
    assert_eq!(job.metadata.unwrap().risk_tags, ["seen"]);
    let refused = client
        .submit("job.mirror", ())
        .label("a", "1")
        .label("b", "2");
    let refused = refused.send().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.violations()[0].field, "labels");
    let hidden = json!({"visibility": {"workers": ["models.limit"]}});
    set(&client, ConfigScope::Org, "", hidden).await;
    assert_eq!(
        seen(&client, "job.mirror").await,
        json!({"models": {"limit": 3}})
    );
}

async fn of_many_who_write_at_once_one_wins_and_history_has_all(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let first = set(&client, ConfigScope::Team, "t", json!({})).await;
    let writes = (0..16).map(|n| {
        let says = json!({"models": {"writer": n}});
        client.set_config(document(ConfigScope::Team, "t", &says, &first))
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(writes).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 15));
    for error in lost {
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Some(ErrorReason::EtagMismatch), "{error}");
        assert!(error.metadata().contains_key("etag"));
    }
    let won = won.into_iter().next().unwrap().unwrap().config.unwrap();
    let request = GetConfigRequest {
        scope: ConfigScope::Team.into(),
        scope_id: "t".into(),
    };
    let found = client.get_config(request.clone()).await.unwrap();
    assert_eq!(found.config.as_ref(), Some(&won));
    let delete = DeleteConfigRequest {
        scope: ConfigScope::Team.into(),
        scope_id: "t".into(),
        etag: won.etag.clone(),
    };
    client.delete_config(delete).await.unwrap();
    let gone = client.get_config(request).await.unwrap_err();
    assert_eq!(gone.reason(), Some(ErrorReason::ConfigNotFound));
    let history = client.all_config_revisions(ListConfigRevisionsRequest {
        scope: ConfigScope::Team.into(),
        scope_id: "t".into(),
        page_size: 2,
        ..ListConfigRevisionsRequest::default()
    });
    let history = history.take(10).await.unwrap();
    let shape: Vec<_> = history
        .iter()
        .map(|one| (one.revision, one.deleted))
        .collect();
    assert_eq!(shape, [(3, true), (2, false), (1, false)]);
    assert_eq!(history[1].data, won.data);
}

async fn a_restart_forgets_nothing_and_tenants_are_apart(pair: &Pair) {
    let mut server = Server::start(pair.options().secured()).await;
    let admin = server.client();
    let key = admin.create_api_key(CreateApiKeyRequest {
        tenant_id: "acme".into(),
        roles: vec!["operator".into()],
        ..CreateApiKeyRequest::default()
    });
    let secret = key.await.unwrap().secret;
    let acme = server.client_with(&secret);
    set(
        &admin,
        ConfigScope::System,
        "",
        json!({"models": {"all": 1}}),
    )
    .await;
    set(
        &admin,
        ConfigScope::Org,
        "",
        json!({"models": {"own": "default"}}),
    )
    .await;
    set(
        &acme,
        ConfigScope::Org,
        "",
        json!({"models": {"own": "acme"}}),
    )
    .await;
    let refused = document(ConfigScope::System, "", &json!({}), "*");
    let refused = acme.set_config(refused).await.unwrap_err();
    assert_eq!(refused.reason(), Some(ErrorReason::TenantNotAllowed));
    let listed = acme
        .list_configs(ListConfigsRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.configs.len(), 1);
    server.kill().await;
    server.restart().await;
    let acme = server.client_with(&secret);
    assert_eq!(
        effective(&acme, "t").await,
        json!({"models": {"all": 1, "own": "acme"}})
    );
    let admin = server.client();
    let expected = json!({"models": {"all": 1, "own": "default"}});
    assert_eq!(effective(&admin, "t").await, expected);
}

on_both_pairs! {
    what_is_in_force_reaches_jobs_and_what_is_visible_reaches_workers,
    of_many_who_write_at_once_one_wins_and_history_has_all,
    a_restart_forgets_nothing_and_tenants_are_apart,
}
