//! Who may do what: credentials, roles, tenants.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coretex::proto::{
    CancelJobRequest, CountJobsRequest, CreateApiKeyRequest, DiagnoseJobRequest, GetJobRequest,
    GetStatusRequest, JobView, ListApiKeysRequest, ListJobAttemptsRequest, ListJobEventsRequest,
    ListJobsRequest, ListWorkersRequest, RerunJobRequest, RevokeApiKeyRequest, WaitJobRequest,
    WatchJobsRequest, WhoAmIRequest, watch_jobs_request::Target,
};
use coretex::{Client, Code, ErrorReason, JobExt};
use coretex_proto::methods::methods;
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::session::{RawWorker, hello};
use coretex_tests::cluster::wire::{self, Manner};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use coretex_tests::problems::Problems;
use serde_json::json;

use crate::support::result;

/// Every role.
const ROLES: [&str; 7] = [
    "admin",
    "operator",
    "approver",
    "submitter",
    "worker",
    "viewer",
    "auditor",
];

/// Which roles may call an RPC, written down once more: a permission that moves in the server is
/// noticed here.
const MAY_CALL: &[(&str, &[&str])] = &[
    ("AccessService/CreateApiKey", &["admin"]),
    ("AccessService/ListApiKeys", &["admin", "auditor"]),
    ("AccessService/RevokeApiKey", &["admin"]),
    ("AccessService/WhoAmI", &ROLES),
    ("ApprovalService/GetApproval", READERS),
    ("ApprovalService/ListApprovals", READERS),
    (
        "ApprovalService/ResolveApproval",
        &["admin", "operator", "approver"],
    ),
    ("ApprovalService/WatchApprovals", READERS),
    ("ConfigService/DeleteConfig", OPERATORS),
    ("ConfigService/GetConfig", OVERSEERS),
    ("ConfigService/GetEffectiveConfig", OVERSEERS),
    ("ConfigService/ListConfigRevisions", OVERSEERS),
    ("ConfigService/ListConfigs", OVERSEERS),
    ("ConfigService/SetConfig", OPERATORS),
    ("DlqService/DeleteDlqEntry", OPERATORS),
    ("DlqService/GetDlqEntry", READERS),
    ("DlqService/ListDlqEntries", READERS),
    ("DlqService/PurgeDlq", OPERATORS),
    ("DlqService/RetryDlqEntries", OPERATORS),
    ("DlqService/RetryDlqEntry", OPERATORS),
    ("JobService/CancelJob", SUBMITTERS),
    ("JobService/CancelJobs", SUBMITTERS),
    ("JobService/CountJobs", READERS),
    ("JobService/DiagnoseJob", READERS),
    ("JobService/GetJob", READERS),
    ("JobService/ListJobAttempts", READERS),
    ("JobService/ListJobDecisions", READERS),
    ("JobService/ListJobEvents", READERS),
    ("JobService/ListJobs", READERS),
    (
        "JobService/ReadJobOutput",
        &["admin", "operator", "approver", "submitter"],
    ),
    ("JobService/RerunJob", SUBMITTERS),
    ("JobService/RerunJobs", SUBMITTERS),
    ("JobService/SubmitJob", SUBMITTERS),
    ("JobService/SubmitJobs", SUBMITTERS),
    ("JobService/WaitJob", READERS),
    ("JobService/WatchJobs", READERS),
    ("PolicyService/DeleteBundle", &["admin"]),
    ("PolicyService/EvaluatePolicy", READERS),
    ("PolicyService/ExplainPolicy", OVERSEERS),
    ("PolicyService/GetBundle", OVERSEERS),
    ("PolicyService/GetSnapshot", OVERSEERS),
    ("PolicyService/ListBundles", OVERSEERS),
    ("PolicyService/ListPolicyAudit", &["admin", "auditor"]),
    ("PolicyService/ListSnapshots", OVERSEERS),
    ("PolicyService/PublishBundles", &["admin"]),
    ("PolicyService/PutBundle", &["admin"]),
    ("PolicyService/ReloadPolicy", &["admin"]),
    ("PolicyService/ReplayPolicy", OVERSEERS),
    ("PolicyService/RollbackPolicy", &["admin"]),
    ("PolicyService/SimulatePolicy", OVERSEERS),
    ("SystemService/GetStatus", OVERSEERS),
    ("WorkerService/DrainWorker", &["admin", "operator"]),
    ("WorkerService/GetWorker", READERS),
    ("WorkerService/ListPauses", READERS),
    ("WorkerService/ListPools", READERS),
    ("WorkerService/ListWorkers", READERS),
    ("WorkerService/OpenSession", &["admin", "worker"]),
    ("WorkerService/PausePool", OPERATORS),
    ("WorkerService/ResumePool", OPERATORS),
];
const OPERATORS: &[&str] = &["admin", "operator"];
const OVERSEERS: &[&str] = &["admin", "operator", "approver", "viewer", "auditor"];
const SUBMITTERS: &[&str] = &["admin", "operator", "submitter"];
const READERS: &[&str] = &[
    "admin",
    "operator",
    "approver",
    "submitter",
    "viewer",
    "auditor",
];

/// Makes a key; for a tenant of its own unless that is empty.
async fn key(admin: &Client, tenant: &str, roles: &[&str]) -> String {
    let request = CreateApiKeyRequest {
        display_name: roles.join("+"),
        tenant_id: tenant.to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..CreateApiKeyRequest::default()
    };
    admin.create_api_key(request).await.unwrap().secret
}

async fn outside_development_every_call_needs_a_credential(pair: &Pair) {
    let server = Server::start(pair.options().secured()).await;
    let refused = async |key: &str, reason: ErrorReason| {
        let client = server.client_with(key);
        let error = client.get_status(GetStatusRequest {}).await.unwrap_err();
        assert_eq!(
            (error.code(), error.reason()),
            (Code::Unauthenticated, Some(reason))
        );
        let status = RawWorker::open(server.channel().await, key, hello("job.x", 1)).await;
        assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
    };
    refused("", ErrorReason::CredentialMissing).await;
    let good = server.admin_key();
    let (id, secret) = good.split_at(good.len() / 2);
    let forged = format!("{id}{}", secret.chars().rev().collect::<String>());
    for bad in [
        "nonsense",
        &good[..good.len() - 1],
        &forged,
        &good.to_uppercase(),
    ] {
        refused(bad, ErrorReason::CredentialInvalid).await;
    }

    let admin = server.client();
    let me = admin.who_am_i(WhoAmIRequest {}).await.unwrap();
    assert_eq!(
        (me.tenant_id.as_str(), me.roles),
        ("default", vec!["admin".to_owned()])
    );
    assert!(me.principal_id.starts_with("key:"), "{}", me.principal_id);
    assert!(!server.log().contains(&good), "a key is in the log");
}

async fn each_role_may_do_what_its_table_says(pair: &Pair) {
    let server = Server::start(pair.options().secured()).await;
    let (admin, channel) = (server.client(), server.channel().await);
    let table: BTreeMap<&str, &[&str]> = MAY_CALL.iter().copied().collect();
    let mut wrong = Problems::default();
    for role in ROLES {
        let key = key(&admin, "", &[role]).await;
        for path in methods().keys() {
            let Some(may) = table.get(path.trim_start_matches("/coretex.v1.")) else {
                wrong.add(&format!("{path} has no line in MAY_CALL"));
                continue;
            };
            // Empty requests are wrong in themselves, or read only; that comes after permission.
            let manner = Manner {
                key: &key,
                ..Manner::default()
            };
            let calling = wire::call(&channel, path, Bytes::new(), manner);
            let answer = tokio::time::timeout(Duration::from_secs(1), calling).await;
            let denied = matches!(&answer, Ok(Err(error))
                if error.reason() == Some(ErrorReason::PermissionMissing));
            if denied == may.contains(&role) {
                wrong.add(&format!("{role} calls {path}: {answer:?}"));
            }
        }
    }
    wrong.none();
}

async fn a_key_that_was_revoked_or_has_expired_opens_nothing(pair: &Pair) {
    let server = Server::start(pair.options().secured()).await;
    let admin = server.client();
    let request = CreateApiKeyRequest {
        display_name: "short".into(),
        roles: vec!["submitter".into()],
        ..CreateApiKeyRequest::default()
    };
    let made = admin.create_api_key(request.clone()).await.unwrap();
    let client = server.client_with(&made.secret);
    client.submit("job.x", ()).send().await.unwrap();
    let key_id = made.api_key.unwrap().key_id;
    let revoke = RevokeApiKeyRequest { key_id };
    admin.revoke_api_key(revoke.clone()).await.unwrap();
    let error = client.submit("job.x", ()).send().await.unwrap_err();
    assert_eq!(
        error.reason(),
        Some(ErrorReason::CredentialInvalid),
        "{error}"
    );
    let again = admin.revoke_api_key(revoke).await.unwrap().api_key.unwrap();
    assert!(again.revoke_time.is_some(), "{again:?}");

    let expire = std::time::SystemTime::now() + Duration::from_secs(1);
    let expiring = admin.create_api_key(CreateApiKeyRequest {
        expire_time: Some(expire.into()),
        ..request
    });
    let client = server.client_with(&expiring.await.unwrap().secret);
    let refused = poll::until_async("a key to expire", PATIENCE, async || {
        match client.count_jobs(CountJobsRequest::default()).await {
            Ok(count) => Err(format!("{count:?}")),
            Err(error) => Ok(error),
        }
    });
    assert_eq!(refused.await.reason(), Some(ErrorReason::CredentialInvalid));
}

/// Everything about one job that another tenant, or another submitter, must not get at.
async fn sees_nothing_of(client: &Client, job_id: &str) {
    let job_id = job_id.to_owned();
    let not_found = |what: &str, error: Option<coretex::Error>| {
        let reason = error.as_ref().and_then(coretex::Error::reason);
        assert_eq!(reason, Some(ErrorReason::JobNotFound), "{what}: {error:?}");
    };
    macro_rules! refuses {
        ($($call:ident($request:ident)),+ $(,)?) => {$(
            let request = $request { job_id: job_id.clone(), ..Default::default() };
            not_found(stringify!($call), client.$call(request).await.err());
        )+};
    }
    refuses!(
        get_job(GetJobRequest),
        wait_job(WaitJobRequest),
        cancel_job(CancelJobRequest),
        list_job_events(ListJobEventsRequest),
        list_job_attempts(ListJobAttemptsRequest),
        rerun_job(RerunJobRequest),
    );
    let diagnose = DiagnoseJobRequest {
        job_id: job_id.clone(),
    };
    not_found("diagnose", client.diagnose_job(diagnose).await.err());
    let mut watch = client.watch(WatchJobsRequest {
        target: Some(Target::JobId(job_id)),
        ..WatchJobsRequest::default()
    });
    let told = in_time("the watch", watch.next()).await;
    not_found("watch", told.and_then(Result::err));
    let listed = client.list_jobs(ListJobsRequest::default()).await.unwrap();
    assert_eq!(listed.jobs, []);
    let counted = client
        .count_jobs(CountJobsRequest::default())
        .await
        .unwrap();
    assert_eq!(counted.count, 0);
}

async fn tenants_see_and_touch_nothing_of_each_other(pair: &Pair) {
    let server = Server::start(pair.options().secured()).await;
    let system = server.client();
    let a_key = key(&system, "tenant-a", &["admin"]).await;
    let b_key = key(&system, "tenant-b", &["admin"]).await;
    let (a, b) = (server.client_with(&a_key), server.client_with(&b_key));

    // One id in both tenants is two jobs; one idempotency key too.
    let submit = async |client: &Client, n: i32| {
        let submit = client
            .submit("job.shared", n)
            .job_id("same")
            .idempotency_key("same");
        submit.send().await.unwrap()
    };
    assert!(!submit(&a, 1).await.replayed);
    assert!(!submit(&b, 2).await.replayed);
    assert!(submit(&b, 2).await.replayed);
    let of_a = a
        .submit("job.shared", 3)
        .job_id("only-a")
        .send()
        .await
        .unwrap()
        .job
        .unwrap();
    assert_eq!(of_a.tenant_id, "tenant-a");
    let b_alone = server.client_with(&key(&system, "tenant-c", &["admin"]).await);
    sees_nothing_of(&b_alone, "only-a").await;
    let listed = b.list_jobs(ListJobsRequest::default()).await.unwrap().jobs;
    assert!(
        listed.len() == 1 && listed[0].tenant_id == "tenant-b",
        "{listed:?}"
    );

    // A worker gets the jobs of its own tenant alone.
    let tell = |_, job: coretex::Job| async move { Ok(coretex::Json(job.tenant_id)) };
    let worker = RunningWorker::serve(b.clone(), "job.shared", 4, tell).await;
    let ended = b.wait_ended("same", Some(PATIENCE)).await.unwrap();
    assert_eq!(ended.output_as::<String>().unwrap(), "tenant-b");
    let diagnosis = a.diagnose_job(DiagnoseJobRequest {
        job_id: "only-a".into(),
    });
    assert_eq!(diagnosis.await.unwrap().causes[0].code, "no_workers");
    assert_eq!(
        a.list_workers(ListWorkersRequest::default())
            .await
            .unwrap()
            .workers,
        []
    );
    worker.drain().await;

    // One whose credential lists several gets the jobs of all of them.
    let request = CreateApiKeyRequest {
        roles: vec!["worker".into()],
        tenants_served: vec!["tenant-a".into(), "tenant-b".into()],
        ..CreateApiKeyRequest::default()
    };
    let shared = system.create_api_key(request.clone()).await.unwrap().secret;
    let _worker = RunningWorker::serve(server.client_with(&shared), "job.shared", 4, tell).await;
    for job_id in ["same", "only-a"] {
        let ended = a.wait_ended(job_id, Some(PATIENCE)).await.unwrap();
        assert_eq!(ended.output_as::<String>().unwrap(), "tenant-a");
    }

    // Keys are made, seen and revoked within a tenant.
    let error = a.create_api_key(request).await.unwrap_err();
    assert_eq!(
        error.reason(),
        Some(ErrorReason::TenantNotAllowed),
        "{error}"
    );
    let foreign = CreateApiKeyRequest {
        tenant_id: "tenant-b".into(),
        roles: vec!["viewer".into()],
        ..CreateApiKeyRequest::default()
    };
    let error = a.create_api_key(foreign).await.unwrap_err();
    assert_eq!(
        error.reason(),
        Some(ErrorReason::TenantNotAllowed),
        "{error}"
    );
    let keys = b
        .list_api_keys(ListApiKeysRequest::default())
        .await
        .unwrap()
        .api_keys;
    assert_eq!(keys.len(), 1);
    let revoke = RevokeApiKeyRequest {
        key_id: keys[0].key_id.clone(),
    };
    let error = a.revoke_api_key(revoke).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::ApiKeyNotFound), "{error}");
    assert!(b.who_am_i(WhoAmIRequest {}).await.is_ok());
}

async fn submitters_see_their_own_jobs_and_viewers_no_payloads(pair: &Pair) {
    let server = Server::start(pair.options().secured()).await;
    let admin = server.client();
    let client = async |role: &str| server.client_with(&key(&admin, "", &[role]).await);
    let (one, other, viewer) = (
        client("submitter").await,
        client("submitter").await,
        client("viewer").await,
    );
    let _worker = RunningWorker::echo(client("worker").await, "job.echo", 1).await;
    let submit = one.submit("job.echo", json!({"secret": 1}));
    let job = result(submit).await;
    assert!(job.input.is_some() && job.output.is_some());

    sees_nothing_of(&other, &job.job_id).await;
    let request = GetJobRequest {
        job_id: job.job_id.clone(),
        view: JobView::Full.into(),
    };
    let seen = viewer.get_job(request.clone()).await.unwrap().job.unwrap();
    assert_eq!((seen.input, seen.output), (None, None));
    let seen = admin.get_job(request).await.unwrap().job.unwrap();
    assert_eq!(seen.output, job.output);
}

async fn development_mode_needs_no_credential_and_stays_on_this_machine(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let me = server.client().who_am_i(WhoAmIRequest {}).await.unwrap();
    assert_eq!(me.tenant_id, "default");
    // A wrong credential is refused all the same: whoever sends one relies on it.
    let error = server
        .client_with("nonsense")
        .who_am_i(WhoAmIRequest {})
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::CredentialInvalid));
}

on_both_pairs! {
    outside_development_every_call_needs_a_credential,
    each_role_may_do_what_its_table_says,
    a_key_that_was_revoked_or_has_expired_opens_nothing,
    tenants_see_and_touch_nothing_of_each_other,
    submitters_see_their_own_jobs_and_viewers_no_payloads,
    development_mode_needs_no_credential_and_stays_on_this_machine,
}
