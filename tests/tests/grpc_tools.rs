//! Other people's tools and other protocols on the same port: `grpcurl`, `buf curl`, gRPC-Web
//! over HTTP/1.1. What works here works from a shell and from a browser.

#![expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]

use std::path::Path;
use std::process::{Command, Output};

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD as STANDARD_NO_PAD;
use bytes::{Bytes, BytesMut};
use coretex_proto::descriptor_pool;
use coretex_proto::v1::{GetStatusResponse, SubmitJobRequest, SubmitJobResponse};
use coretex_tests::cluster::in_time;
use coretex_tests::cluster::server::{Options, Server};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::tools;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tokio::net::TcpStream;

const SERVICES: [&str; 7] = [
    "coretex.v1.AccessService",
    "coretex.v1.JobService",
    "coretex.v1.SystemService",
    "coretex.v1.WorkerService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Runs a tool without stopping the tasks of the test.
async fn run(tool: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(tool);
    command.args(arguments);
    let running = tokio::task::spawn_blocking(move || command.output());
    in_time("a tool to end", running).await.unwrap().unwrap()
}

/// Runs a tool that must succeed.
async fn good(tool: &Path, arguments: &[&str]) -> String {
    let output = run(tool, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:#?}");
    String::from_utf8(output.stdout).unwrap()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcurl_lists_describes_calls_and_reads_errors() {
    let Some(grpcurl) = tools::find("grpcurl") else {
        return;
    };
    let server = Server::start(Options::new().secured()).await;
    let _worker = RunningWorker::echo(server.client(), "job.echo", 1).await;
    let address = server.address().to_string();
    let key = format!("authorization: Bearer {}", server.admin_key());

    // Neither reflection nor health needs a credential.
    let listed = good(&grpcurl, &["-plaintext", &address, "list"]).await;
    let listed: Vec<&str> = listed.lines().collect();
    for service in SERVICES {
        assert!(listed.contains(&service), "{service}: {listed:?}");
    }
    let described = good(
        &grpcurl,
        &[
            "-plaintext",
            &address,
            "describe",
            "coretex.v1.SubmitJobRequest",
        ],
    )
    .await;
    assert!(
        described.contains("string idempotency_key = 6;"),
        "{described}"
    );
    for detail in ["google.rpc.BadRequest", "google.rpc.ErrorInfo"] {
        let described = good(&grpcurl, &["-plaintext", &address, "describe", detail]).await;
        assert!(described.contains("is a message"), "{described}");
    }
    for version in ["v1", "v1alpha"] {
        let rpc = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let request = r#"{"list_services": ""}"#;
        let answer = good(&grpcurl, &["-plaintext", "-d", request, &address, &rpc]).await;
        assert!(
            answer.contains("coretex.v1.JobService"),
            "{version}: {answer}"
        );
        let request = r#"{"file_containing_symbol": "coretex.v1.JobService"}"#;
        let answer = good(&grpcurl, &["-plaintext", "-d", request, &address, &rpc]).await;
        assert!(
            answer.contains("fileDescriptorProto"),
            "{version}: {answer}"
        );
    }
    for service in ["", "coretex.v1.JobService"] {
        let request = json!({ "service": service }).to_string();
        let check = "grpc.health.v1.Health/Check";
        let health = good(&grpcurl, &["-plaintext", "-d", &request, &address, check]).await;
        assert_eq!(parse(&health), json!({"status": "SERVING"}));
    }

    let call = async |rpc: &str, request: &Value| {
        let request = request.to_string();
        let rpc = format!("coretex.v1.{rpc}");
        let flags = ["-plaintext", "-format-error", "-emit-defaults", "-H", &key];
        run(
            &grpcurl,
            &[&flags[..], &["-d", &request, &address, &rpc]].concat(),
        )
        .await
    };
    let request = json!({
        "job_id": "from-grpcurl", "topic": "job.echo", "input": {"json": {"n": 3}}, "wait": "30s",
    });
    let submitted = call("JobService/SubmitJob", &request).await;
    assert!(submitted.status.success(), "{submitted:#?}");
    let found = call("JobService/GetJob", &json!({"job_id": "from-grpcurl"})).await;
    let job = parse(&String::from_utf8(found.stdout).unwrap());
    assert_eq!(job["job"]["state"], "JOB_STATE_SUCCEEDED", "{job}");
    assert_eq!(job["job"]["output"]["json"], json!({"n": 3}), "{job}");

    let wrong = json!({"topic": "nothing", "priority": 77});
    let refused = call("JobService/SubmitJob", &wrong).await;
    assert_eq!(refused.status.code(), Some(64 + 3), "{refused:#?}");
    let error = parse(&String::from_utf8(refused.stderr).unwrap());
    assert_eq!(error["code"], 3, "{error}");
    let details = error["details"].as_array().unwrap();
    let detail = |kind: &str| {
        let name = format!("type.googleapis.com/google.rpc.{kind}");
        let found = details
            .iter()
            .find(|detail| detail["@type"] == name.as_str());
        found.unwrap_or_else(|| panic!("no {kind}: {error}"))
    };
    assert_eq!(detail("ErrorInfo")["reason"], "INVALID_FIELD");
    assert_eq!(detail("ErrorInfo")["domain"], "coretex.dev");
    let violations = detail("BadRequest")["fieldViolations"].as_array().unwrap();
    let fields: Vec<_> = violations
        .iter()
        .map(|v| v["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["topic", "priority"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buf_curl_lists_describes_calls_and_reads_errors_by_either_reflection() {
    let Some(buf) = tools::find("buf") else {
        return;
    };
    let server = Server::start(Options::new()).await;
    let _worker = RunningWorker::echo(server.client(), "job.echo", 1).await;
    let url = server.url();
    for (n, reflection) in ["grpc-v1", "grpc-v1alpha"].into_iter().enumerate() {
        let flags = [
            "curl",
            "--protocol=grpc",
            "--http2-prior-knowledge",
            "--reflect-protocol",
            reflection,
        ];
        let ask = async |arguments: &[&str]| run(&buf, &[&flags, arguments].concat()).await;
        let listed = ask(&["--list-services", &url]).await;
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.lines().any(|line| line == "coretex.v1.JobService"),
            "{listed}"
        );
        let methods = ask(&["--list-methods", &url]).await;
        let methods = String::from_utf8(methods.stdout).unwrap();
        assert!(
            methods.contains("coretex.v1.WorkerService/OpenSession"),
            "{methods}"
        );

        let rpc = |name: &str| format!("{url}/coretex.v1.{name}");
        let job_id = format!("from-buf-{n}");
        let request = json!({
            "job_id": job_id, "topic": "job.echo", "input": {"json": [1, 2]}, "wait": "30s",
        });
        let submitted = ask(&["-d", &request.to_string(), &rpc("JobService/SubmitJob")]).await;
        assert!(submitted.status.success(), "{submitted:#?}");
        let request = json!({ "job_id": job_id }).to_string();
        let found = ask(&["-d", &request, &rpc("JobService/GetJob")]).await;
        let job = parse(&String::from_utf8(found.stdout).unwrap());
        assert_eq!(job["job"]["state"], "JOB_STATE_SUCCEEDED", "{job}");
        assert_eq!(job["job"]["output"]["json"], json!([1, 2]), "{job}");

        let refused = ask(&["-d", r#"{"job_id": "a b"}"#, &rpc("JobService/GetJob")]).await;
        assert!(!refused.status.success());
        let error = parse(&String::from_utf8(refused.stderr).unwrap());
        assert_eq!(error["code"], "invalid_argument", "{error}");
        let details = error["details"].as_array().unwrap();
        let decoded = |kind: &str| {
            let found = details.iter().find(|detail| detail["type"] == kind);
            let found = found.unwrap_or_else(|| panic!("no {kind}: {error}"));
            let bytes = STANDARD_NO_PAD.decode(found["value"].as_str().unwrap());
            let descriptor = descriptor_pool().get_message_by_name(kind).unwrap();
            DynamicMessage::decode(descriptor, bytes.unwrap().as_slice()).unwrap()
        };
        let info = decoded("google.rpc.ErrorInfo");
        let reason = info.get_field_by_name("reason").unwrap();
        assert_eq!(reason.as_str(), Some("INVALID_FIELD"));
        let bad = decoded("google.rpc.BadRequest").to_string();
        assert!(bad.contains(r#"field:"job_id""#), "{bad}");
    }
}

/// An answer over gRPC-Web: its messages and its trailers.
#[derive(Debug)]
struct WebAnswer {
    headers: HeaderMap,
    messages: Vec<Bytes>,
    trailers: String,
}

/// Calls over HTTP/1.1, as a browser does.
async fn web_call(server: &Server, rpc: &str, message: &impl Message, origin: &str) -> WebAnswer {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let driver = tokio::spawn(connection);
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    let mut request = Request::post(format!("/coretex.v1.{rpc}"))
        .header("host", server.address().to_string())
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .header("authorization", format!("Bearer {}", server.admin_key()));
    if !origin.is_empty() {
        request = request.header("origin", origin);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = in_time("an answer", sender.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (parts, body) = response.into_parts();
    let mut body: BytesMut = body.collect().await.unwrap().to_bytes().into();
    driver.abort();
    let mut answer = WebAnswer {
        headers: parts.headers,
        messages: Vec::new(),
        trailers: String::new(),
    };
    while !body.is_empty() {
        let head = body.split_to(5);
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let frame = body.split_to(length.try_into().unwrap()).freeze();
        if head[0] & 0x80 == 0 {
            answer.messages.push(frame);
        } else {
            answer.trailers = String::from_utf8(frame.to_vec()).unwrap().to_lowercase();
        }
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_call_over_http_1() {
    let options = Options::new().secured();
    let server = Server::start(options.set("CORETEX_CORS_ORIGINS", "https://console.test")).await;
    let _worker = RunningWorker::echo(server.client(), "job.echo", 1).await;

    let request = SubmitJobRequest {
        topic: "job.echo".into(),
        wait: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        ..SubmitJobRequest::default()
    };
    let answer = web_call(&server, "JobService/SubmitJob", &request, "").await;
    let job = SubmitJobResponse::decode(answer.messages[0].clone())
        .unwrap()
        .job
        .unwrap();
    assert_eq!(job.state(), coretex_proto::v1::JobState::Succeeded);
    assert!(answer.trailers.contains("grpc-status:0"), "{answer:?}");

    let nothing = SubmitJobRequest::default();
    let refused = web_call(&server, "JobService/SubmitJob", &nothing, "").await;
    let status = refused
        .headers
        .get("grpc-status")
        .map(|status| status.to_str().unwrap());
    let told = status == Some("3") || refused.trailers.contains("grpc-status:3");
    assert!(told && refused.messages.is_empty(), "{refused:?}");

    // Only pages of listed origins are let in by their browser.
    let allowed = |answer: &WebAnswer| {
        let allowed = answer.headers.get("access-control-allow-origin");
        allowed.map(|origin| origin.to_str().unwrap().to_owned())
    };
    let status = "SystemService/GetStatus";
    let listed = web_call(&server, status, &(), "https://console.test").await;
    assert_eq!(allowed(&listed).as_deref(), Some("https://console.test"));
    let told = GetStatusResponse::decode(listed.messages[0].clone()).unwrap();
    assert!(!told.version.is_empty());
    let other = web_call(&server, status, &(), "https://elsewhere.test").await;
    assert_eq!(allowed(&other), None);
}
