//! The server on a real port: stopping, limits, and clients that do not behave.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{engine, reason};
use coretex_api::{Api, ApiOptions, Health, ServeError, Tls};
use coretex_proto::v1;
use coretex_proto::v1::access_service_client::AccessServiceClient;
use coretex_proto::v1::job_service_client::JobServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{FileDescriptorResponse, ServerReflectionRequest};

/// Longer than anything takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

struct Running {
    address: SocketAddr,
    health: Health,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

async fn serve(change: impl FnOnce(&mut ApiOptions)) -> Running {
    let mut options = ApiOptions::new(engine::SeededIds::new(3));
    options.stream_grace = Duration::from_millis(20);
    change(&mut options);
    let api = Api::new(engine::engine(true).await, options);
    let health = api.health();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(api.serve(listener, async {
        // A test that has failed stops its server, too.
        let _ = stopped.await;
    }));
    Running {
        address,
        health,
        stop,
        served,
    }
}

impl Running {
    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Whether the server still answers others.
    async fn answers(&self) {
        let mut client = AccessServiceClient::new(self.channel().await);
        let me = client.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
        assert_eq!(me.into_inner().principal_id, "dev");
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        let served = tokio::time::timeout(PATIENCE, self.served).await;
        served.unwrap().unwrap().unwrap();
    }
}

/// Reads until the other side closes.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await;
    // A reset is an end, too.
    let _ = end.expect("the server closes the connection");
    read
}

#[tokio::test]
async fn it_serves_and_stops() {
    let server = serve(|_| {}).await;
    server.answers().await;
    server.stop().await;
}

#[tokio::test]
async fn streams_are_cut_when_it_stops() {
    let server = serve(|_| {}).await;
    let mut client = JobServiceClient::new(server.channel().await);
    let request = v1::WatchJobsRequest::default();
    let mut watch = client.watch_jobs(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().checkpoint);
    let mut health = HealthClient::new(server.channel().await);
    let request = HealthCheckRequest::default();
    let mut checks = health.watch(request).await.unwrap().into_inner();
    assert!(checks.message().await.unwrap().is_some());
    server.stop().await;
    for status in [
        watch.message().await.unwrap_err(),
        checks.message().await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(reason(&status), "SERVER_DRAINING");
    }
}

#[tokio::test]
async fn health_says_what_it_is_told() {
    let server = serve(|_| {}).await;
    let mut client = HealthClient::new(server.channel().await);
    for serving in [true, false, true] {
        server.health.set_serving(serving).await;
        for service in ["", "coretex.v1.JobService", "coretex.v1.WorkerService"] {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            let answer = client.check(request).await.unwrap().into_inner();
            assert_eq!(answer.status, if serving { 1 } else { 2 }, "{service}");
        }
    }
    let request = HealthCheckRequest {
        service: "nope".to_owned(),
    };
    let unknown = client.check(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    server.stop().await;
}

async fn reflect(channel: Channel, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::once(request));
    let answer = answers.await.unwrap().into_inner().message().await;
    answer.unwrap().unwrap().message_response.unwrap()
}

#[tokio::test]
async fn reflection_knows_the_services_and_the_details_of_errors() {
    let server = serve(|_| {}).await;
    let question = MessageRequest::ListServices(String::new());
    let MessageResponse::ListServicesResponse(list) =
        reflect(server.channel().await, question).await
    else {
        panic!("not a list of services");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "coretex.v1.JobService",
        "coretex.v1.WorkerService",
        "coretex.v1.SystemService",
        "coretex.v1.AccessService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    for symbol in [
        "google.rpc.ErrorInfo",
        "coretex.v1.JobService",
        "coretex.v1.ErrorReason",
    ] {
        let question = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let answer = reflect(server.channel().await, question).await;
        let MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto,
        }) = answer
        else {
            panic!("{symbol} is not known");
        };
        assert!(!file_descriptor_proto.is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn grpc_web_is_spoken_on_the_same_port() {
    let server = serve(|_| {}).await;
    let mut stream = server.connect().await;
    let request = format!(
        "POST /coretex.v1.AccessService/WhoAmI HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0",
        server.address
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = until_closed(&mut stream).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let server = serve(|options| options.max_connections = 1).await;
    let mut first = server.connect().await;
    first.write_all(PREFACE).await.unwrap();
    first.write_all(SETTINGS).await.unwrap();
    // The server has spoken: the connection counts.
    let mut greeting = [0; 9];
    first.read_exact(&mut greeting).await.unwrap();
    let mut second = server.connect().await;
    assert!(until_closed(&mut second).await.is_empty());
    drop(first);
    server.stop().await;
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed() {
    let server = serve(|options| options.handshake_timeout = Duration::from_millis(50)).await;
    let mut mute = server.connect().await;
    assert!(until_closed(&mut mute).await.is_empty());
    let mut hesitant = server.connect().await;
    hesitant.write_all(&PREFACE[..10]).await.unwrap();
    until_closed(&mut hesitant).await;
    server.answers().await;
    server.stop().await;
}

#[tokio::test]
async fn half_open_connections_are_closed() {
    let server = serve(|options| {
        options.keepalive_interval = Duration::from_millis(50);
        options.keepalive_timeout = Duration::from_millis(50);
    })
    .await;
    let mut dead = server.connect().await;
    dead.write_all(PREFACE).await.unwrap();
    dead.write_all(SETTINGS).await.unwrap();
    // Pings come and are never answered.
    assert!(!until_closed(&mut dead).await.is_empty());
    server.answers().await;
    server.stop().await;
}

#[tokio::test]
async fn garbage_hurts_nobody_else() {
    let server = serve(|_| {}).await;
    let noise: Vec<u8> = (0..4_096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for (prefix, rest) in [
        (&b""[..], &noise[..]),
        (PREFACE, &noise[..]),
        (PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..]),
        (b"GET / HTTP/1.1\r\n", &noise[..]),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(prefix).await.unwrap();
        // It may be closed before all is said.
        let _ = stream.write_all(rest).await;
        let _ = stream.shutdown().await;
        until_closed(&mut stream).await;
    }
    server.answers().await;
    server.stop().await;
}

#[tokio::test]
async fn encrypted_connections_are_served() {
    let server = serve(|options| {
        options.tls = Some(Tls {
            certificate: include_bytes!("fixtures/server.pem").to_vec(),
            key: include_bytes!("fixtures/server.key").to_vec(),
            client_ca: None,
        });
    })
    .await;
    let authority = Certificate::from_pem(include_bytes!("fixtures/ca.pem"));
    let tls = ClientTlsConfig::new()
        .ca_certificate(authority)
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let mut client = AccessServiceClient::new(channel);
    client.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // One that does not encrypt is not served.
    let mut plain = server.connect().await;
    plain.write_all(PREFACE).await.unwrap();
    until_closed(&mut plain).await;
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_none_is_refused() {
    let mut options = ApiOptions::new(engine::SeededIds::new(3));
    options.tls = Some(Tls {
        certificate: b"no pem".to_vec(),
        key: b"no key".to_vec(),
        client_ca: None,
    });
    assert!(!format!("{options:?}").contains("no key"));
    let api = Api::new(engine::engine(true).await, options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = api.serve(listener, std::future::pending()).await;
    assert!(matches!(refused, Err(ServeError::Tls(_))), "{refused:?}");
}
