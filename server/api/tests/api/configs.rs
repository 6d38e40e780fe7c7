//! Configuration through its service.

use coretex_engine::Role;
use coretex_proto::v1;
use coretex_proto::v1::config_service_client::ConfigServiceClient;
use coretex_proto::value::{struct_from_json, struct_to_json};
use prost::Message;
use serde_json::{Value as Json, json};
use tonic::{Code, Request, Status};

use crate::jobs::RESPONSE_LIMIT;
use crate::support::{Harness, Served, fields, metadata, reason, submission};

fn configs(harness: &Harness) -> ConfigServiceClient<Served> {
    ConfigServiceClient::new(harness.service.clone())
}

fn data(json: &Json) -> Option<prost_types::Struct> {
    json.as_object().map(struct_from_json)
}

fn team(id: &str, says: &Json, etag: &str) -> v1::SetConfigRequest {
    v1::SetConfigRequest {
        scope: v1::ConfigScope::Team.into(),
        scope_id: id.to_owned(),
        data: data(says),
        etag: etag.to_owned(),
        ..v1::SetConfigRequest::default()
    }
}

async fn set(harness: &Harness, request: v1::SetConfigRequest) -> Result<v1::Config, Status> {
    let answer = configs(harness).set_config(request).await?;
    Ok(answer.into_inner().config.unwrap())
}

fn read(config: &v1::Config) -> Json {
    Json::Object(struct_to_json(config.data.as_ref().unwrap()))
}

fn get(id: &str) -> v1::GetConfigRequest {
    v1::GetConfigRequest {
        scope: v1::ConfigScope::Team.into(),
        scope_id: id.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_is_written_read_listed_and_deleted() {
    let harness = Harness::open().await;
    let says = json!({"models": {"default": "m", "n": 3}, "limits": {"max_labels": 2}});
    let made = set(&harness, team("t", &says, "")).await.unwrap();
    assert_eq!(
        (made.scope(), &*made.scope_id),
        (v1::ConfigScope::Team, "t")
    );
    assert_eq!((made.revision, &*made.principal_id), (1, "dev"));
    assert_eq!(read(&made), says);
    let found = configs(&harness).get_config(get("t")).await.unwrap();
    assert_eq!(found.into_inner().config, Some(made.clone()));
    let org = v1::SetConfigRequest {
        scope: v1::ConfigScope::Org.into(),
        scope_id: String::new(),
        ..team(
            "",
            &json!({"limits": {"max_labels": 9}, "timeouts": {"job": "5m"}}),
            "*",
        )
    };
    assert_eq!(set(&harness, org).await.unwrap().scope_id, "default");
    let all = v1::ListConfigsRequest::default();
    let listed = configs(&harness).list_configs(all).await.unwrap();
    let listed = listed.into_inner().configs;
    assert_eq!(listed.len(), 2);
    let effective = v1::GetEffectiveConfigRequest {
        team_id: "t".to_owned(),
        ..v1::GetEffectiveConfigRequest::default()
    };
    let effective = configs(&harness).get_effective_config(effective).await;
    let effective = effective.unwrap().into_inner();
    assert_eq!(
        Json::Object(struct_to_json(effective.data.as_ref().unwrap())),
        json!({
            "models": {"default": "m", "n": 3},
            "limits": {"max_labels": 2},
            "timeouts": {"job": "5m"},
        })
    );
    assert_eq!((effective.version, effective.hash.len()), (2, 64));
    let origins: Vec<_> = effective
        .origins
        .iter()
        .map(|one| (one.scope(), &*one.scope_id, one.pointers.join(" ")))
        .collect();
    assert_eq!(
        origins,
        [
            (v1::ConfigScope::Org, "default", "/timeouts/job".to_owned()),
            (
                v1::ConfigScope::Team,
                "t",
                "/limits/max_labels /models/default /models/n".to_owned()
            ),
        ]
    );
    let delete = v1::DeleteConfigRequest {
        scope: v1::ConfigScope::Team.into(),
        scope_id: "t".to_owned(),
        etag: made.etag.clone(),
    };
    configs(&harness).delete_config(delete).await.unwrap();
    let gone = configs(&harness).get_config(get("t")).await.unwrap_err();
    assert_eq!(
        (gone.code(), &*reason(&gone)),
        (Code::NotFound, "CONFIG_NOT_FOUND")
    );
    let history = v1::ListConfigRevisionsRequest {
        scope: v1::ConfigScope::Team.into(),
        scope_id: "t".to_owned(),
        ..v1::ListConfigRevisionsRequest::default()
    };
    let history = configs(&harness)
        .list_config_revisions(history)
        .await
        .unwrap();
    let history = history.into_inner().revisions;
    assert_eq!(history.len(), 2);
    assert!(history[0].deleted && history[0].data.is_none());
    assert_eq!(
        (&history[1].etag, &history[1].data),
        (&made.etag, &made.data)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_says_why_and_where() {
    let harness = Harness::open().await;
    let wrong = json!({"limits": {"max_labels": 999}, "timeouts": {"job": "soon"}, "frob": 1});
    let refused = set(&harness, team("t", &wrong, "")).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        ["data/frob", "data/limits/max_labels", "data/timeouts/job"]
    );
    let made = set(&harness, team("t", &json!({}), "")).await.unwrap();
    let late = set(&harness, team("t", &json!({"models": {}}), ""))
        .await
        .unwrap_err();
    assert_eq!(
        (late.code(), &*reason(&late)),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    assert_eq!(metadata(&late, "etag"), Some(made.etag));
    let fenced = v1::SetConfigRequest {
        fence: Some(v1::Fence {
            resource: "r".to_owned(),
            token: 1,
        }),
        ..team("t", &json!({}), "*")
    };
    let fenced = set(&harness, fenced).await.unwrap_err();
    assert_eq!(&*reason(&fenced), "FEATURE_NOT_AVAILABLE");
    assert_eq!(metadata(&fenced, "field").as_deref(), Some("fence"));
    let only = v1::SetConfigRequest {
        validate_only: true,
        ..team("u", &json!({"models": {}}), "")
    };
    assert_eq!(set(&harness, only).await.unwrap().etag, "");
    assert!(configs(&harness).get_config(get("u")).await.is_err());
    // A limit of the configuration names itself where a job is refused.
    let limit = v1::SetConfigRequest {
        scope: v1::ConfigScope::Org.into(),
        ..team("", &json!({"limits": {"max_labels": 0}}), "")
    };
    set(&harness, limit).await.unwrap();
    let mut job = submission("job.x");
    job.labels.insert("a".to_owned(), "b".to_owned());
    let refused = harness.jobs().submit_job(job).await.unwrap_err();
    assert_eq!(fields(&refused), ["labels"]);
    assert!(
        refused.message().contains("configuration of org"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_document_of_the_installation_is_for_those_who_run_it() {
    let harness = Harness::closed().await;
    let key = async |tenant: &str| {
        let key = harness.key(tenant, &[Role::Admin]).await;
        format!("Bearer {key}").parse().unwrap()
    };
    let (acme, system): (tonic::metadata::MetadataValue<_>, _) =
        (key("acme").await, key("system").await);
    let write = async |key: &tonic::metadata::MetadataValue<_>| {
        let mut request = Request::new(v1::SetConfigRequest {
            scope: v1::ConfigScope::System.into(),
            ..team("", &json!({"models": {"default": "m"}}), "*")
        });
        request.metadata_mut().insert("authorization", key.clone());
        configs(&harness).set_config(request).await
    };
    let refused = write(&acme).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::PermissionDenied, "TENANT_NOT_ALLOWED")
    );
    write(&system).await.unwrap();
    let mut request = Request::new(v1::GetEffectiveConfigRequest::default());
    request.metadata_mut().insert("authorization", acme.clone());
    let effective = configs(&harness)
        .get_effective_config(request)
        .await
        .unwrap();
    let effective = effective.into_inner();
    assert_eq!(effective.origins[0].scope(), v1::ConfigScope::System);
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_larger_than_clients_take() {
    let harness = Harness::open().await;
    // Small numbers take much more room in a message than in text.
    let numbers = json!({"models": {"numbers": vec![1; 9_900], "text": "x".repeat(50_000)}});
    for n in 0..40 {
        set(&harness, team(&format!("t-{n}"), &numbers, ""))
            .await
            .unwrap();
        set(&harness, team("many", &numbers, "*")).await.unwrap();
    }
    let (mut found, mut token) = (0, String::new());
    loop {
        let request = v1::ListConfigsRequest {
            page_size: 1_000,
            page_token: token,
            ..v1::ListConfigsRequest::default()
        };
        let answer = configs(&harness)
            .list_configs(request)
            .await
            .unwrap()
            .into_inner();
        assert!(
            answer.encoded_len() <= RESPONSE_LIMIT,
            "{}",
            answer.encoded_len()
        );
        found += answer.configs.len();
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, 41);
    let request = v1::ListConfigRevisionsRequest {
        scope: v1::ConfigScope::Team.into(),
        scope_id: "many".to_owned(),
        page_size: 1_000,
        ..v1::ListConfigRevisionsRequest::default()
    };
    let answer = configs(&harness)
        .list_config_revisions(request)
        .await
        .unwrap();
    let answer = answer.into_inner();
    assert!(answer.encoded_len() <= RESPONSE_LIMIT && answer.revisions.len() > 5);
    // As much as there can be at one place, from all five scopes.
    let scope = |scope: v1::ConfigScope, id: &str, n: usize| {
        let long = format!("{n}{}", "k".repeat(250));
        let many: serde_json::Map<String, Json> = (0..900)
            .map(|key| (format!("{n}-{key}"), json!(key)))
            .collect();
        let says = json!({"models": {
            long: many,
            format!("numbers-{n}"): vec![1; 9_000],
            format!("text-{n}"): "x".repeat(200_000),
        }});
        v1::SetConfigRequest {
            scope: scope.into(),
            ..team(id, &says, "")
        }
    };
    for (n, (of, id)) in [
        (v1::ConfigScope::System, ""),
        (v1::ConfigScope::Org, ""),
        (v1::ConfigScope::Team, "t"),
        (v1::ConfigScope::Workflow, "w"),
        (v1::ConfigScope::Step, "w/s"),
    ]
    .into_iter()
    .enumerate()
    {
        set(&harness, scope(of, id, n)).await.unwrap();
    }
    let request = v1::GetEffectiveConfigRequest {
        team_id: "t".to_owned(),
        workflow_id: "w".to_owned(),
        step_id: "s".to_owned(),
    };
    let answer = configs(&harness)
        .get_effective_config(request)
        .await
        .unwrap();
    let answer = answer.into_inner();
    assert_eq!(answer.origins.len(), 5);
    assert!(
        answer.encoded_len() <= RESPONSE_LIMIT,
        "{}",
        answer.encoded_len()
    );
}
