//! Deliveries against a server of this machine.
#![allow(clippy::unwrap_used)]

use std::sync::Arc as Shared;

use coretex_core::approval::Approval;
use coretex_core::id::{JobId, TenantId, Topic};
use coretex_core::job::JobSpec;
use coretex_core::job::transition::{NewJob, Verdict, accept};
use coretex_core::payload::Payload;
use coretex_core::policy::{Decision, JobDecision};
use coretex_core::time::Timestamp;
use coretex_engine::{ApprovalAnswer, ApprovalEvent, ApprovalEventKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const SECRET: &str = "a secret of the operator";

fn notice() -> Notice {
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let mut decision = JobDecision::plain(Decision::RequireApproval, "s".to_owned(), now);
    decision.approval_id = "approval-1".to_owned();
    decision.reason = "money moves".to_owned();
    let new = NewJob {
        id: JobId::from_trusted("job-1"),
        tenant: TenantId::from_trusted("acme"),
        spec: Shared::new(JobSpec::new(Topic::from_trusted("job.pay"))),
        principal_id: "key:sam".to_owned(),
        trace_id: String::new(),
        fingerprint: vec![1],
        idempotency_key: String::new(),
        rerun_of: None,
        input: Some(Payload::json("\"hush\"".into())),
        unmapped: None,
        keep: None,
    };
    let job = accept(new, Verdict::Decided(Box::new(decision)), now);
    let approval: Approval = job.approvals[0].clone();
    Notice {
        id: "0123".to_owned(),
        tenant: job.tenant.clone(),
        event: ApprovalEvent {
            approval_id: approval.id.clone(),
            kind: ApprovalEventKind::Requested,
            state: approval.state,
            time: now,
        },
        answer: ApprovalAnswer {
            approval,
            job: Shared::new(job),
        },
    }
}

/// Webhooks with one endpoint, as a file would say it.
fn webhooks(url: &str, allow: &str) -> Shared<Webhooks> {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let webhook = Webhook {
        name: "hook".to_owned(),
        url: url.parse().unwrap(),
        secret: SecretPlace::File(secret),
        tenants: Vec::new(),
        events: Vec::new(),
        allow_private: crate::config::notify::networks(allow),
    };
    Webhooks::load(&[webhook]).unwrap()
}

/// Answers one request with this, and gives it back.
async fn answers(listener: TcpListener, answer: &'static str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..read]);
        // Bodies of deliveries are objects.
        if read == 0 || request.ends_with(b"}") {
            break;
        }
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn a_delivery_is_signed_and_says_what_waits_but_not_the_input() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://localhost:{}/hook?x=1",
        listener.local_addr().unwrap().port()
    );
    let hooks = webhooks(&url, "127.0.0.0/8");
    let notice = notice();
    let (request, delivered) = tokio::join!(
        answers(listener, "HTTP/1.1 204 No Content\r\n\r\n"),
        hooks.deliver("hook", &notice)
    );
    assert_eq!(delivered, Ok(()));
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?x=1 HTTP/1.1"), "{head}");
    let header = |name: &str| {
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {head}"))
            .to_owned()
    };
    assert_eq!(header("coretex-delivery"), "0123");
    // As a receiver would check it.
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = format!("{}.{body}", header("coretex-timestamp"));
    let signature = header("coretex-signature");
    let tag: Vec<u8> = (3..signature.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap())
        .collect();
    ring::hmac::verify(&key, signed.as_bytes(), &tag).unwrap();
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["type"], "approval.requested");
    assert_eq!(json["tenant_id"], "acme");
    assert_eq!(json["approval"]["job_id"], "job-1");
    assert_eq!(json["approval"]["subject"]["topic"], "job.pay");
    assert!(!request.contains("hush") && !request.contains(SECRET));
    assert!(!format!("{hooks:?}").contains(SECRET));
}

#[tokio::test]
async fn redirects_and_errors_are_failures() {
    for answer in [
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let hooks = webhooks(&url, "127.0.0.1");
        let notice = notice();
        let (_, delivered) =
            tokio::join!(answers(listener, answer), hooks.deliver("hook", &notice));
        assert!(delivered.is_err(), "{answer}");
    }
}

#[tokio::test]
async fn what_is_not_listed_is_not_called() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (host, allow) in [
        ("127.0.0.1", ""),
        ("localhost", ""),
        ("127.0.0.1", "10.0.0.0/8"),
    ] {
        let hooks = webhooks(&format!("https://{host}:{port}/"), allow);
        let refused = hooks.deliver("hook", &notice()).await.unwrap_err();
        assert!(refused.contains("may not be called"), "{refused}");
    }
    // In the clear only to this machine, also where more is listed.
    let hooks = webhooks("http://192.0.2.1/", "0.0.0.0/0");
    let refused = hooks.deliver("hook", &notice()).await.unwrap_err();
    assert!(refused.contains("may not be called"), "{refused}");
}

#[test]
fn a_secret_has_to_be_there_and_long_enough() {
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("short");
    fs::write(&short, "short\n").unwrap();
    for place in [
        SecretPlace::File(short),
        SecretPlace::File(dir.path().join("missing")),
        SecretPlace::Env("NO_SUCH_VARIABLE_ANYWHERE".to_owned()),
    ] {
        let told = secret(&place).unwrap_err();
        assert!(!told.contains("short\n"), "{told}");
    }
}
