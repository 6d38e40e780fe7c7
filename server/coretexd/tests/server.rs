//! The server in this process: what is served where, with which credentials, and how it ends.
//!
//! The keys in `tests/tls` belong to nothing but this test.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coretex_proto::v1::access_service_client::AccessServiceClient;
use coretex_proto::v1::job_service_client::JobServiceClient;
use coretex_proto::v1::{GetJobRequest, JobState, SubmitJobRequest, WhoAmIRequest};
use coretexd::config::{Config, Size, Tls};
use coretexd::{Server, StartError};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

mod support;

fn config(data_dir: &Path) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: data_dir.to_owned(),
        ..Config::default()
    }
}

fn dev(data_dir: &Path) -> Config {
    Config {
        dev: true,
        ..config(data_dir)
    }
}

async fn connect(server: &Server) -> Channel {
    let endpoint = Endpoint::try_from(format!("http://{}", server.listen())).unwrap();
    endpoint.connect().await.unwrap()
}

async fn ready(server: &Server) -> (u16, String) {
    let admin = server.admin();
    tokio::task::spawn_blocking(move || support::get(admin, "/readyz"))
        .await
        .unwrap()
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {}", key.trim()).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn submit(id: &str) -> SubmitJobRequest {
    SubmitJobRequest {
        job_id: id.to_owned(),
        topic: "job.test".to_owned(),
        ..SubmitJobRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_flip_before_the_server_goes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(dev(folder.path())).await.unwrap();
    assert_eq!(ready(&server).await.0, 200);
    let mut health = HealthClient::new(connect(&server).await);
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    let admin = server.admin();
    let stopping = tokio::spawn(server.stop());
    let next = watch.message().await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    // The open watch holds the drain for a moment; probes still get their answer.
    let (status, body) = tokio::task::spawn_blocking(move || support::get(admin, "/readyz"))
        .await
        .unwrap();
    assert_eq!(
        (status, body.as_str()),
        (503, "{\"ready\":false,\"reason\":\"draining\"}\n")
    );
    tokio::time::timeout(Duration::from_secs(20), stopping)
        .await
        .unwrap()
        .unwrap();
    assert!(std::net::TcpStream::connect(admin).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_key_opens_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(config(folder.path())).await.unwrap();
    let channel = connect(&server).await;
    let refused = JobServiceClient::new(channel.clone())
        .submit_job(submit("a"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut access = AccessServiceClient::new(channel.clone());
    let wrong = with_key(WhoAmIRequest::default(), "ctx_0123456789abcdef.00");
    assert_eq!(
        access.who_am_i(wrong).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let key = fs::read_to_string(folder.path().join("admin.key")).unwrap();
    let request = with_key(WhoAmIRequest::default(), &key);
    let me = access.who_am_i(request).await.unwrap().into_inner();
    assert_eq!(me.tenant_id, "default");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(dev(folder.path())).await.unwrap();
    let mut jobs = JobServiceClient::new(connect(&server).await);
    jobs.submit_job(submit("kept")).await.unwrap();
    let second = Server::start(dev(folder.path())).await.unwrap_err();
    assert!(matches!(second, StartError::Store(_)), "{second}");
    assert_eq!(second.exit_code(), 3);
    server.stop().await;

    let server = Server::start(dev(folder.path())).await.unwrap();
    let mut jobs = JobServiceClient::new(connect(&server).await);
    let request = GetJobRequest {
        job_id: "kept".to_owned(),
        ..GetJobRequest::default()
    };
    let job = jobs
        .get_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    assert_eq!(job.state(), JobState::Pending);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_configuration_reach_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = dev(folder.path());
    config.ephemeral = true;
    config.limits.max_payload = Size::bytes(2_048);
    config.limits.max_waiting_jobs = 2;
    let server = Server::start(config).await.unwrap();
    let mut jobs = JobServiceClient::new(connect(&server).await);
    jobs.submit_job(submit("1")).await.unwrap();
    jobs.submit_job(submit("2")).await.unwrap();
    let refused = jobs.submit_job(submit("3")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(server.engine().limits().max_payload_bytes, 2_048);
    server.stop().await;
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tls")
        .join(name)
}

fn client_tls() -> ClientTlsConfig {
    ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(fs::read(pem("ca.pem")).unwrap()))
}

async fn healthy(server: &Server, tls: ClientTlsConfig) -> bool {
    let endpoint = Endpoint::try_from(format!("https://{}", server.listen())).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
    let request = HealthCheckRequest::default();
    HealthClient::new(channel).check(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_client_certificates_are_required_where_they_are_configured() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = dev(folder.path());
    config.ephemeral = true;
    config.tls = Tls {
        cert: Some(pem("server.pem")),
        key: Some(pem("server.key")),
        client_ca: None,
    };
    let server = Server::start(config.clone()).await.unwrap();
    assert!(healthy(&server, client_tls()).await);
    let plain = Endpoint::try_from(format!("http://{}", server.listen())).unwrap();
    let mut plain = HealthClient::new(plain.connect_lazy());
    assert!(plain.check(HealthCheckRequest::default()).await.is_err());
    server.stop().await;

    config.tls.client_ca = Some(pem("ca.pem"));
    let server = Server::start(config).await.unwrap();
    assert!(!healthy(&server, client_tls()).await);
    let identity = Identity::from_pem(
        fs::read(pem("client.pem")).unwrap(),
        fs::read(pem("client.key")).unwrap(),
    );
    assert!(healthy(&server, client_tls().identity(identity)).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_used_are_found_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.pem");
    fs::write(&garbage, "not PEM").unwrap();
    for (cert, key, says) in [
        (pem("nowhere.pem"), pem("server.key"), "`tls.cert`: "),
        (garbage, pem("server.key"), "holds nothing in PEM form"),
        // Somebody else's key.
        (pem("server.pem"), pem("client.key"), "TLS: "),
    ] {
        let mut config = dev(&folder.path().join("data"));
        config.tls.cert = Some(cert);
        config.tls.key = Some(key);
        let error = Server::start(config).await.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    // Nothing of the refused starts holds the directory.
    let server = Server::start(dev(&folder.path().join("data")))
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_build_cannot_do_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = dev(folder.path());
    config.otlp.endpoint = Some("http://127.0.0.1:4317".to_owned());
    let error = Server::start(config).await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert_eq!(
        error.to_string(),
        "`otlp.endpoint`: the export of traces is not available in this build"
    );
}
