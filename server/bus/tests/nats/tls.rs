//! Encryption: a private certificate authority, certificates of both sides, and no way around.

use std::fs;
use std::path::Path;
use std::time::Duration;

use coretex_bus::Bus;
use coretex_bus::nats::{NatsBus, NatsError, NatsOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::{Server, connect, options, until};

/// Writes `ca.pem` and, signed by it, `server.pem`, `client.pem` and their keys.
fn certificates(folder: &Path) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a certificate");
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("a file");
    write("ca.pem", ca.pem());
    let issuer = Issuer::from_params(&params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        write(&format!("{name}.pem"), certificate.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

fn tls_config(folder: &Path, verify: bool) -> String {
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {verify} }}",
        folder.join("server.pem"),
        folder.join("server.key"),
        folder.join("ca.pem"),
    )
}

async fn tls_server(verify: bool) -> Option<Server> {
    let folder = TempDir::new().expect("a temporary folder");
    certificates(folder.path());
    let config = tls_config(folder.path(), verify);
    Server::start_in(folder, &config).await
}

fn encrypted(server: &Server) -> NatsOptions {
    options(&format!("tls://{}", server.address()))
}

async fn assert_refused(options: NatsOptions) {
    match NatsBus::connect(options).await {
        Err(NatsError::Tls { .. }) => {}
        other => panic!("not refused for its tls: {other:?}"),
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_named_and_only_then() {
    let Some(server) = tls_server(false).await else {
        return;
    };
    let ca = server.folder().join("ca.pem");
    let bus = connect(encrypted(&server).root_certificates(&ca)).await;
    let mut all = bus.subscribe("tls.>", None).await.expect("subscribed");
    bus.publish("tls.a", "hello".into()).await.expect("sent");
    assert_eq!(all.next().await.expect("a message").payload, "hello");
    // Naming an authority asks for TLS, whatever the address says.
    assert!(
        connect(server.options().root_certificates(&ca))
            .await
            .healthy()
    );

    let stranger = TempDir::new().expect("a temporary folder");
    certificates(stranger.path());
    assert_refused(encrypted(&server).root_certificates(stranger.path().join("ca.pem"))).await;
    // Without one, those of the system count; a machine without any says so.
    assert!(NatsBus::connect(encrypted(&server)).await.is_err());
}

#[tokio::test]
async fn a_server_may_ask_for_our_certificate() {
    let Some(server) = tls_server(true).await else {
        return;
    };
    let file = |name: &str| server.folder().join(name);
    let known = encrypted(&server)
        .root_certificates(file("ca.pem"))
        .client_certificate(file("client.pem"), file("client.key"));
    assert!(connect(known).await.healthy());
    assert_refused(encrypted(&server).root_certificates(file("ca.pem"))).await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_and_told_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    certificates(folder.path());
    let ca = folder.path().join("ca.pem");
    if let Some(server) = Server::start("").await {
        assert_refused(encrypted(&server).root_certificates(&ca)).await;
        // One address that asks for TLS asks for all of them.
        let mixed = format!("nats://{0},tls://{0}", server.address());
        assert_refused(options(&mixed).root_certificates(&ca)).await;
    }

    // Somebody in between claims that there is no TLS, and listens to what comes.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    let overheard = tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.expect("a connection");
        let info = "INFO {\"server_id\":\"x\",\"max_payload\":1024,\"tls_required\":false}\r\n";
        peer.write_all(info.as_bytes()).await.expect("written");
        let mut heard = Vec::new();
        let mut chunk = [0; 4_096];
        while let Ok(read @ 1..) = peer.read(&mut chunk).await {
            heard.extend_from_slice(&chunk[..read]);
            let _ = peer.write_all(b"PONG\r\n").await;
        }
        heard
    });
    let address = format!("tls://replica:opensesame@{address}");
    assert_refused(options(&address).root_certificates(&ca)).await;
    let heard = overheard.await.expect("what was heard");
    let heard = String::from_utf8_lossy(&heard);
    assert!(!heard.is_empty(), "nothing was sent at all");
    assert!(!heard.contains("CONNECT"), "{heard}");
    assert!(!heard.contains("opensesame"), "{heard}");
}

#[tokio::test]
async fn a_server_that_comes_back_without_tls_is_not_used() {
    let Some(mut server) = tls_server(false).await else {
        return;
    };
    let tls = tls_config(server.folder(), false);
    let ca = server.folder().join("ca.pem");
    let options = encrypted(&server)
        .root_certificates(ca)
        .connect_timeout(Duration::from_millis(500));
    let bus = connect(options).await;
    server.restart("").await;
    until("the reason", async || {
        match bus.publish("tls.back", "x".into()).await {
            Err(error) if error.to_string().contains("does not seem to speak tls") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    server.restart(&tls).await;
    until("the connection", async || {
        bus.healthy().then_some(()).ok_or("still away".to_owned())
    })
    .await;
}
