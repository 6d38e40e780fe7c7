//! Credentials and the status of the installation, through the services.

use crate::support::{Harness, Served, Worker, fields, hello, metadata, reason, submission};
use coretex_engine::Role;
use coretex_proto::v1;
use coretex_proto::v1::access_service_client::AccessServiceClient;
use coretex_proto::v1::open_session_request::Message as Said;
use coretex_proto::v1::open_session_response::Message as Told;
use coretex_proto::v1::system_service_client::SystemServiceClient;
use tonic::{Code, Request};

fn client(harness: &Harness) -> AccessServiceClient<Served> {
    AccessServiceClient::new(harness.service.clone())
}

fn with<T>(secret: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {secret}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn new_key(roles: &[&str]) -> v1::CreateApiKeyRequest {
    v1::CreateApiKeyRequest {
        display_name: "for the tests".to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..v1::CreateApiKeyRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_lives_from_creation_to_revocation() {
    let harness = Harness::closed().await;
    let admin = harness.key("acme", &[Role::Admin]).await;
    let mut client = client(&harness);
    let made = client
        .create_api_key(with(&admin, new_key(&["viewer"])))
        .await;
    let made = made.unwrap().into_inner();
    let key = made.api_key.unwrap();
    assert_eq!((key.tenant_id.as_str(), key.roles.len()), ("acme", 1));

    let me = client
        .who_am_i(with(&made.secret, v1::WhoAmIRequest {}))
        .await;
    let me = me.unwrap().into_inner();
    assert_eq!(me.principal_id, format!("key:{}", key.key_id));
    assert_eq!(
        (me.tenant_id.as_str(), me.roles),
        ("acme", vec!["viewer".to_owned()])
    );
    assert_eq!(me.tenants_served, ["acme"]);

    let list = v1::ListApiKeysRequest::default();
    let list = client
        .list_api_keys(with(&admin, list))
        .await
        .unwrap()
        .into_inner();
    assert!(
        list.api_keys
            .iter()
            .any(|listed| listed.key_id == key.key_id)
    );

    let revoke = v1::RevokeApiKeyRequest {
        key_id: key.key_id.clone(),
    };
    let mut times = Vec::new();
    for _ in 0..2 {
        let revoked = client.revoke_api_key(with(&admin, revoke.clone())).await;
        let revoked = revoked.unwrap().into_inner().api_key.unwrap();
        times.push(revoked.revoke_time.expect("it is revoked"));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(times[0], times[1], "revoked since the first time");
    for (show_inactive, shown) in [(false, false), (true, true)] {
        let list = v1::ListApiKeysRequest {
            show_inactive,
            ..v1::ListApiKeysRequest::default()
        };
        let listed = client.list_api_keys(with(&admin, list)).await.unwrap();
        let listed = listed.into_inner().api_keys;
        let found = listed.iter().find(|listed| listed.key_id == key.key_id);
        assert_eq!(found.is_some(), shown);
        assert_eq!(found.and_then(|key| key.revoke_time).is_some(), shown);
    }
    let gone = client
        .who_am_i(with(&made.secret, v1::WhoAmIRequest {}))
        .await;
    let gone = gone.unwrap_err();
    assert_eq!(gone.code(), Code::Unauthenticated);
    assert_eq!(reason(&gone), "CREDENTIAL_INVALID");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_key() {
    let harness = Harness::closed().await;
    let admin = harness.key("acme", &[Role::Admin]).await;
    let mut client = client(&harness);
    let made = client
        .create_api_key(with(&admin, new_key(&["worker"])))
        .await;
    let made = made.unwrap().into_inner();
    let (said, stream) = tokio::sync::mpsc::channel(16);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let opened = harness
        .workers()
        .open_session(with(&made.secret, stream))
        .await;
    let told = opened.unwrap().into_inner();
    let mut worker = Worker { said, told };
    worker.say(hello("job.x", 1)).await;
    assert!(matches!(worker.hear().await, Ok(Some(Told::Welcome(_)))));
    let key_id = made.api_key.unwrap().key_id;
    let revoke = v1::RevokeApiKeyRequest { key_id };
    client.revoke_api_key(with(&admin, revoke)).await.unwrap();
    let ended = worker.hear().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(reason(&ended), "CREDENTIAL_INVALID");
}

#[tokio::test(start_paused = true)]
async fn wrong_requests_about_keys_are_named() {
    let harness = Harness::open().await;
    let mut client = client(&harness);
    let wrong = v1::CreateApiKeyRequest {
        display_name: "ä".repeat(129),
        tenant_id: "a b".to_owned(),
        roles: vec!["admin".to_owned(), "king".to_owned()],
        team_ids: vec![String::new()],
        tenants_served: vec!["/".to_owned()],
        expire_time: Some(prost_types::Timestamp {
            seconds: -1,
            nanos: 0,
        }),
    };
    let refused = client.create_api_key(wrong).await.unwrap_err();
    assert_eq!(
        fields(&refused),
        [
            "display_name",
            "tenant_id",
            "roles[1]",
            "team_ids[0]",
            "tenants_served[0]",
            "expire_time"
        ]
    );
    let powerless = client.create_api_key(new_key(&[])).await.unwrap_err();
    assert_eq!(fields(&powerless), ["roles"]);
    let nameless = v1::RevokeApiKeyRequest::default();
    let refused = client.revoke_api_key(nameless).await.unwrap_err();
    assert_eq!(fields(&refused), ["key_id"]);
    let missing = v1::RevokeApiKeyRequest {
        key_id: "nope".to_owned(),
    };
    let refused = client.revoke_api_key(missing).await.unwrap_err();
    assert_eq!(reason(&refused), "API_KEY_NOT_FOUND");
    let list = v1::ListApiKeysRequest {
        page_size: -1,
        ..v1::ListApiKeysRequest::default()
    };
    let refused = client.list_api_keys(list).await.unwrap_err();
    assert_eq!(fields(&refused), ["page_size"]);
}

#[tokio::test(start_paused = true)]
async fn keys_of_other_tenants_are_for_system_admins() {
    let harness = Harness::closed().await;
    let mut client = client(&harness);
    let admin = harness.key("acme", &[Role::Admin]).await;
    let other = v1::CreateApiKeyRequest {
        tenant_id: "other".to_owned(),
        ..new_key(&["viewer"])
    };
    let refused = client.create_api_key(with(&admin, other.clone())).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason(&refused), "TENANT_NOT_ALLOWED");
    let system = harness.key("system", &[Role::Admin]).await;
    let made = client.create_api_key(with(&system, other)).await.unwrap();
    assert_eq!(made.into_inner().api_key.unwrap().tenant_id, "other");
}

#[tokio::test(start_paused = true)]
async fn keys_are_paged_by_tokens_of_their_own() {
    let harness = Harness::closed().await;
    let mut client = client(&harness);
    let admin = harness.key("acme", &[Role::Admin]).await;
    for _ in 0..4 {
        harness.key("acme", &[Role::Viewer]).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut token = String::new();
    loop {
        let list = v1::ListApiKeysRequest {
            page_size: 2,
            page_token: token,
            show_inactive: false,
        };
        let page = client
            .list_api_keys(with(&admin, list))
            .await
            .unwrap()
            .into_inner();
        seen.extend(page.api_keys.into_iter().map(|key| key.key_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 5);
    // A token of the list with other keys in it is none of this one.
    let page = |token: &str, show_inactive| v1::ListApiKeysRequest {
        page_size: 2,
        page_token: token.to_owned(),
        show_inactive,
    };
    let first = client.list_api_keys(with(&admin, page("", false))).await;
    let token = first.unwrap().into_inner().next_page_token;
    let mixed = client.list_api_keys(with(&admin, page(&token, true))).await;
    assert_eq!(reason(&mixed.unwrap_err()), "PAGE_TOKEN_INVALID");
    let junk = v1::ListApiKeysRequest {
        page_token: "junk".to_owned(),
        ..v1::ListApiKeysRequest::default()
    };
    let refused = client.list_api_keys(with(&admin, junk)).await.unwrap_err();
    assert_eq!(reason(&refused), "PAGE_TOKEN_INVALID");
}

#[tokio::test(start_paused = true)]
async fn the_status_names_backends_and_queues() {
    let harness = Harness::open().await;
    let choosy = v1::SubmitJobRequest {
        metadata: Some(v1::JobMetadata {
            requires: vec!["gpu".to_owned()],
            ..v1::JobMetadata::default()
        }),
        ..submission("job.x")
    };
    harness.jobs().submit_job(choosy).await.unwrap();
    let mut client = SystemServiceClient::new(harness.service.clone());
    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!(status.version, "test");
    let parts: Vec<_> = status
        .engines
        .iter()
        .map(|engine| engine.component.as_str())
        .collect();
    assert_eq!(parts, ["store", "bus"]);
    assert_eq!(status.engines[0].durability(), v1::Durability::Ephemeral);
    assert!(status.engines.iter().all(|engine| engine.healthy));
    assert_eq!(status.replicas.len(), 1);
    assert!(status.replicas[0].ready);
    // Nobody serves the topic yet; then two pools do, and it is one queue still.
    let queue = async |client: &mut SystemServiceClient<Served>| {
        let status = client.get_status(v1::GetStatusRequest {}).await.unwrap();
        let status = status.into_inner();
        assert_eq!(status.queue_depths.len(), 1);
        assert!(!status.queue_depths_capped);
        let queue = &status.queue_depths[0];
        assert_eq!((queue.topic.as_str(), queue.waiting), ("job.x", 1));
        queue.pool.clone()
    };
    assert_eq!(queue(&mut client).await, "");
    let mut workers = Vec::new();
    for pool in ["p2", "p1"] {
        let Said::Hello(mut other) = hello("job.x", 1) else {
            unreachable!("is a hello");
        };
        other.pool = pool.to_owned();
        let mut worker = Worker::open(&harness, Said::Hello(other)).await;
        assert!(matches!(worker.hear().await, Ok(Some(Told::Welcome(_)))));
        workers.push(worker);
    }
    assert_eq!(queue(&mut client).await, "p1");
}

#[tokio::test(start_paused = true)]
async fn teams_are_those_of_the_credential() {
    let harness = Harness::open().await;
    let request = v1::SubmitJobRequest {
        team_id: "red".to_owned(),
        ..submission("job.x")
    };
    let refused = harness.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason(&refused), "TEAM_NOT_ALLOWED");
    assert_eq!(metadata(&refused, "team_id").as_deref(), Some("red"));
}
