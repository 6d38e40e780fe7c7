//! Who may call what, over every RPC of the contract.

use crate::support::{Harness, WHO_AM_I, empty, engine};
use coretex_engine::{Role, grants};
use coretex_proto::methods::{AUTHENTICATED, methods};
use tonic::Code;

/// Refusals that say who calls, not what is called.
const REFUSED: [Code; 2] = [Code::Unauthenticated, Code::PermissionDenied];

#[tokio::test(start_paused = true)]
async fn without_a_credential_nothing_is_answered() {
    let harness = Harness::closed().await;
    assert!(methods().len() > 20);
    for path in methods().keys() {
        let answer = harness.call(path, &[], empty()).await;
        assert_eq!(answer.code(), Code::Unauthenticated, "{path}");
        assert_eq!(answer.reason(), "CREDENTIAL_MISSING", "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_are_refused_everywhere() {
    let harness = Harness::closed().await;
    for path in methods().keys() {
        for credential in [
            "Bearer nonsense",
            "Bearer ctx_0123.abc",
            "Basic abc",
            "Bearer ",
        ] {
            let answer = harness
                .call(path, &[("authorization", credential)], empty())
                .await;
            assert_eq!(answer.code(), Code::Unauthenticated, "{path} {credential}");
            assert_eq!(answer.reason(), "CREDENTIAL_INVALID", "{path} {credential}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_role_table_decides_about_every_rpc() {
    let harness = Harness::closed().await;
    for role in Role::ALL {
        let key = format!("Bearer {}", harness.key("acme", &[role]).await);
        for (path, method) in methods() {
            let status = harness
                .begin(path, &[("authorization", &key)], empty())
                .await;
            let may = method.permission == AUTHENTICATED || grants(role, &method.permission);
            // What belongs to the installation asks for its rights beside the role's.
            let of_installation = status.message() == "tenant not allowed";
            assert_eq!(
                may,
                !REFUSED.contains(&status.code()) || of_installation,
                "{role:?} {path}: {status:?}"
            );
            if !may {
                assert_eq!(crate::support::reason(&status), "PERMISSION_MISSING");
                let named = crate::support::metadata(&status, "permission");
                assert_eq!(named.as_ref(), Some(&method.permission));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_system_admins_act_for_other_tenants() {
    let harness = Harness::closed().await;
    let system = format!("Bearer {}", harness.key("system", &[Role::Admin]).await);
    let acme = format!("Bearer {}", harness.key("acme", &[Role::Admin]).await);
    let ask = async |key: &str, tenant: &str| {
        let headers = [("authorization", key), ("coretex-tenant", tenant)];
        let answer = harness.call(WHO_AM_I, &headers, empty()).await;
        match answer.code() {
            Code::Ok => Ok(who(&answer.body)),
            _ => Err(answer.reason()),
        }
    };
    assert_eq!(ask(&system, "acme").await, Ok("acme".to_owned()));
    assert_eq!(ask(&acme, "acme").await, Ok("acme".to_owned()));
    let refused = Err("TENANT_NOT_ALLOWED".to_owned());
    assert_eq!(ask(&acme, "other").await, refused);
    assert_eq!(ask(&system, "no tenant").await, refused);
}

/// The tenant in an answer of `WhoAmI`.
fn who(body: &[u8]) -> String {
    use prost::Message;
    let answer = coretex_proto::v1::WhoAmIResponse::decode(&body[5..]).unwrap();
    answer.tenant_id
}

#[tokio::test(start_paused = true)]
async fn health_and_reflection_need_no_credential() {
    let harness = Harness::closed().await;
    let health = "/grpc.health.v1.Health/Check";
    assert_eq!(harness.call(health, &[], empty()).await.code(), Code::Ok);
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // An empty question is refused by the service itself.
        let answer = harness.call(&path, &[], empty()).await;
        assert_eq!(answer.code(), Code::InvalidArgument, "{:?}", answer.status);
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_methods_are_unimplemented_for_everybody() {
    let harness = Harness::closed().await;
    for path in ["/", "/coretex.v1.JobService/Nope", "/nope.Nope/Nope"] {
        let answer = harness.call(path, &[], empty()).await;
        assert_eq!(answer.code(), Code::Unimplemented, "{path}");
        assert_eq!(answer.reason(), "FEATURE_NOT_AVAILABLE");
        let named = crate::support::metadata(&answer.status, "method");
        assert_eq!(named.as_deref(), Some(path));
    }
}

#[tokio::test(start_paused = true)]
async fn development_mode_lets_everybody_in_but_foreign_pages() {
    let origin = "https://console.example.com";
    let harness = Harness::with(engine::engine(true).await, |options| {
        options.allowed_origins.push(origin.to_owned());
    });
    let ask = async |headers: &[(&'static str, &str)]| {
        harness.call(WHO_AM_I, headers, empty()).await.code()
    };
    assert_eq!(ask(&[]).await, Code::Ok);
    assert_eq!(ask(&[("origin", origin)]).await, Code::Ok);
    let foreign = ask(&[("origin", "https://evil.example.com")]).await;
    assert_eq!(foreign, Code::Unauthenticated);
    // A credential that is given counts.
    let wrong = ask(&[("authorization", "Bearer x")]).await;
    assert_eq!(wrong, Code::Unauthenticated);
}
