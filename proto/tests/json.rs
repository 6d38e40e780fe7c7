//! Messages as JSON and YAML and back, and errors that name the field.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use coretex_proto::v1::{
    CreateApiKeyResponse, Job, JobPriority, JobState, OpenSessionResponse, Payload, RetryPolicy,
    ServerAssignment, SubmitJobRequest, SubmitJobsRequest, SubmitJobsResponse, SubmitJobsResult,
    open_session_response, payload, submit_jobs_result,
};
use coretex_proto::{json, value};
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

fn read(text: &str) -> Result<SubmitJobsRequest, String> {
    json::from_json(text).map_err(|error| error.to_string())
}

/// The error of reading `text`, which must be one.
fn refusal(text: &str) -> String {
    read(text).unwrap_err()
}

#[test]
fn names_are_those_of_the_contract_and_defaults_are_shown() {
    let job = Job {
        job_id: "j".to_owned(),
        state: JobState::Running as i32,
        input: Some(Payload::from_json(&json!({"n": 3, "f": 2.5}))),
        estimated_cost: Some(4.0),
        create_time: Some(coretex_proto::time::timestamp_from_micros(1_500_000)),
        ..Job::default()
    };
    let shown = json::to_value(&job).unwrap();
    assert_eq!(shown["job_id"], "j");
    assert_eq!(shown["state"], "JOB_STATE_RUNNING");
    assert_eq!(shown["priority"], "JOB_PRIORITY_UNSPECIFIED");
    assert_eq!(shown["attempt"], 0);
    assert_eq!(shown["labels"], json!({}));
    assert_eq!(shown["create_time"], "1970-01-01T00:00:01.500Z");
    // Text, because JSON values compare 3 and 3.0 as different already, and people see the text.
    assert_eq!(shown["input"]["json"].to_string(), r#"{"f":2.5,"n":3}"#);
    assert_eq!(shown["estimated_cost"].to_string(), "4");
    // What is not there is not shown as if it were.
    assert!(shown.get("output").is_none());
}

#[test]
fn a_null_is_data_and_no_data_is_not() {
    let null = Payload::from_json(&json!(null));
    let text = json::to_string(&null).unwrap();
    assert_eq!(text, r#"{"json":null,"content_type":""}"#);
    assert_eq!(json::from_json::<Payload>(&text).unwrap(), null);
    let none = json::from_json::<Payload>("{}").unwrap();
    assert_eq!(none.data, None);
    assert_eq!(none.to_json().unwrap(), None);
}

#[test]
fn yaml_and_json_read_alike() {
    let text = "
requests:
- topic: job.wc
  priority: JOB_PRIORITY_CRITICAL
  timeout: 90s
  labels: {a: '1'}
  input: {json: {n: 3, list: [1, 2.5, null, x]}}
  retry: {max_attempts: 0}
";
    let from_yaml: SubmitJobsRequest = json::from_yaml(text).unwrap();
    let request = &from_yaml.requests[0];
    assert_eq!(request.priority(), JobPriority::Critical);
    assert_eq!(request.timeout.unwrap().seconds, 90);
    assert_eq!(request.retry.as_ref().unwrap().max_attempts, Some(0));
    assert_eq!(request.retry.as_ref().unwrap().jitter, None);
    let from_json = read(&json::to_string_pretty(&from_yaml).unwrap()).unwrap();
    assert_eq!(from_json, from_yaml);
    let again: SubmitJobsRequest = json::from_yaml(&json::to_yaml(&from_yaml).unwrap()).unwrap();
    assert_eq!(again, from_yaml);
}

#[test]
fn errors_name_the_field() {
    for (text, expected) in [
        ("[]", "(top level): must be an object"),
        (r#"{"requests": {}}"#, "requests: must be a list"),
        (
            r#"{"requests": [{}, {"topci": "job.x"}]}"#,
            "requests[1].topci: unknown field, did you mean `topic`?",
        ),
        (
            r#"{"requests": [{"priority": "urgent"}]}"#,
            "requests[0].priority: must be one of JOB_PRIORITY_UNSPECIFIED, \
             JOB_PRIORITY_INTERACTIVE, JOB_PRIORITY_BATCH, JOB_PRIORITY_CRITICAL",
        ),
        (
            r#"{"requests": [{"labels": {"a": "b", "c": 1}}]}"#,
            "requests[0].labels.c: invalid type: integer `1`, expected a string",
        ),
        (
            r#"{"requests": [{"labels": []}]}"#,
            "requests[0].labels: must be an object",
        ),
    ] {
        assert_eq!(refusal(text), expected, "{text}");
    }
    for (text, path) in [
        (
            r#"{"requests": [{"timeout": "5m"}]}"#,
            "requests[0].timeout: ",
        ),
        (
            r#"{"requests": [{"not_before": "soon"}]}"#,
            "requests[0].not_before: ",
        ),
        (
            r#"{"requests": [{"retry": {"max_attempts": "many"}}]}"#,
            "requests[0].retry.max_attempts: ",
        ),
        (
            r#"{"requests": [{"maxRedispatch": 1.5}]}"#,
            "requests[0].maxRedispatch: ",
        ),
        (
            r#"{"requests": [{"input": {"raw": "*"}}]}"#,
            "requests[0].input.raw: ",
        ),
        (
            r#"{"requests": [{"metadata": {"risk_tags": ["a", 7]}}]}"#,
            "requests[0].metadata.risk_tags[1]: ",
        ),
        (r#"{"requests": [7]}"#, "requests[0]: "),
        (r#"{"requests": "#, "EOF while parsing a value at line 1"),
    ] {
        assert!(refusal(text).starts_with(path), "{text}: {}", refusal(text));
    }
    let error = json::from_yaml::<SubmitJobsRequest>("requests: [").unwrap_err();
    assert!(error.to_string().contains("line 2 column 1"), "{error}");
}

#[test]
fn two_parts_of_one_oneof_are_refused() {
    let error = json::from_json::<Payload>(r#"{"raw": "", "artifact_id": "a"}"#).unwrap_err();
    assert!(error.to_string().starts_with("(top level): "), "{error}");
}

#[test]
fn statuses_with_details_are_shown() {
    let details = tonic_types::ErrorDetails::with_error_info(
        "JOB_ALREADY_EXISTS",
        coretex_proto::errors::ERROR_DOMAIN,
        [("job_id".to_owned(), "j".to_owned())],
    );
    let status = <tonic::Status as tonic_types::StatusExt>::with_error_details(
        tonic::Code::AlreadyExists,
        "job j exists",
        details,
    );
    let status = tonic_types::Status::decode(status.details()).unwrap();
    let response = SubmitJobsResponse {
        results: vec![SubmitJobsResult {
            outcome: Some(submit_jobs_result::Outcome::Status(status)),
            replayed: false,
        }],
    };
    let shown = json::to_value(&response).unwrap();
    let detail = &shown["results"][0]["status"]["details"][0];
    assert_eq!(detail["reason"], "JOB_ALREADY_EXISTS");
    assert_eq!(detail["domain"], "coretex.dev");
    assert_eq!(
        json::from_value::<SubmitJobsResponse>(&shown).unwrap(),
        response
    );
}

#[test]
fn secrets_are_not_in_debug_output() {
    let response = CreateApiKeyResponse {
        api_key: None,
        secret: "hush-hush".to_owned(),
    };
    assert!(!format!("{response:?}").contains("hush"));
    let message = OpenSessionResponse {
        message: Some(open_session_response::Message::Assignment(Box::new(
            ServerAssignment {
                secrets: [("token".to_owned(), "hush-hush".to_owned())].into(),
                ..ServerAssignment::default()
            },
        ))),
    };
    let shown = format!("{message:?}");
    assert!(
        shown.contains("token") && !shown.contains("hush"),
        "{shown}"
    );
}

#[test]
fn the_deepest_json_survives_the_longest_way() {
    let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }));
    let deepest = Payload::from_json(&nested(value::MAX_DEPTH));
    assert!(matches!(deepest.data, Some(payload::Data::Json(_))));
    let message = OpenSessionResponse {
        message: Some(open_session_response::Message::Assignment(Box::new(
            ServerAssignment {
                job: Some(Job {
                    input: Some(deepest),
                    ..Job::default()
                }),
                ..ServerAssignment::default()
            },
        ))),
    };
    let bytes = message.encode_to_vec();
    assert_eq!(
        OpenSessionResponse::decode(bytes.as_slice()).unwrap(),
        message
    );
    let deeper = nested(value::MAX_DEPTH + 1);
    let raw = Payload::from_json(&deeper);
    assert!(matches!(raw.data, Some(payload::Data::Raw(_))));
    assert_eq!(raw.to_json().unwrap(), Some(deeper));
}

#[test]
fn payloads_know_their_media_type() {
    let text = Payload::from_bytes("[1]", "application/json; charset=utf-8");
    assert!(text.is_json());
    assert_eq!(text.to_json().unwrap(), Some(json!([1])));
    let exact = json!({"id": 9_007_199_254_740_993_u64});
    let kept = Payload::from_json(&exact);
    assert_eq!(kept.media_type(), "application/json");
    assert_eq!(kept.to_json().unwrap(), Some(exact));
    let raw = Payload::from_bytes("abc", "");
    assert_eq!(raw.media_type(), "application/octet-stream");
    assert_eq!(
        raw.to_json().unwrap_err().to_string(),
        "the data is application/octet-stream, not json"
    );
    let broken = Payload::from_bytes("{", "application/json");
    assert_eq!(
        broken.to_json().unwrap_err().to_string(),
        "the data is not valid json"
    );
    let artifact = Payload {
        data: Some(payload::Data::ArtifactId("a1".to_owned())),
        content_type: String::new(),
    };
    assert!(!artifact.is_json());
    assert_eq!(
        artifact.to_json().unwrap_err().to_string(),
        "the data is in artifact a1"
    );
}

/// JSON as callers send it: whole and broken numbers, text, nesting.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|flag| json!(flag)),
        (-(1_i64 << 53)..=1 << 53).prop_map(|whole| json!(whole)),
        any::<f64>()
            .prop_filter("whole ones become integers", |n| n.is_finite()
                && n.fract() != 0.0)
            .prop_map(|number| json!(number)),
        ".*".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            prop::collection::btree_map(".*", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_values_survive(json in any_json()) {
        prop_assert!(value::survives(&json));
        let converted = value::from_json(&json);
        prop_assert_eq!(value::to_json(&converted).to_string(), json.to_string());
        let payload = Payload::from_json(&json);
        prop_assert_eq!(payload.to_json().unwrap(), Some(json));
        let text = json::to_string(&payload).unwrap();
        prop_assert_eq!(json::from_json::<Payload>(&text).unwrap(), payload);
    }

    #[test]
    fn requests_survive(
        topic in ".*",
        labels in prop::collection::btree_map(".*", ".*", 0..4),
        raw in prop::collection::vec(any::<u8>(), 0..64),
        priority in 0..4_i32,
        max_attempts in prop::option::of(any::<i32>()),
        multiplier in any::<f64>().prop_filter("json has no NaN equal to itself", |n| !n.is_nan()),
        seconds in 0..1_000_000_i64,
        nanos in 0..1_000_000_000_i32,
        tokens in any::<i64>(),
    ) {
        let request = SubmitJobRequest {
            topic,
            labels,
            input: Some(Payload::from_bytes(raw, "x/y")),
            priority,
            retry: Some(RetryPolicy { max_attempts, multiplier, ..RetryPolicy::default() }),
            timeout: Some(prost_types::Duration { seconds, nanos }),
            budget: Some(coretex_proto::v1::Budget {
                max_total_tokens: tokens,
                ..Default::default()
            }),
            ..SubmitJobRequest::default()
        };
        let text = json::to_string(&request).unwrap();
        prop_assert_eq!(json::from_json::<SubmitJobRequest>(&text).unwrap(), request.clone());
        // Equal messages have equal bytes, however they were put together: fingerprints rely on it.
        let mut again = SubmitJobRequest { labels: Default::default(), ..request.clone() };
        again.labels.extend(request.labels.clone().into_iter().rev());
        prop_assert_eq!(again.encode_to_vec(), request.encode_to_vec());
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".*") {
        if let Ok(request) = read(&text) {
            prop_assert_eq!(read(&json::to_string(&request).unwrap()).unwrap(), request);
        }
    }
}
