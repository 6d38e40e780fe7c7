//! What the contract promises for every RPC, checked against the descriptors: without a
//! credential it is refused, and a field that is wrong is named.
//!
//! A field that is new in the contract has no line here and fails until it gets one: a value that
//! the server must refuse, or a reason why there is none. The list of reasons may only shrink.
//!
//! Over 500 lines because its tables have a line for each field.

use std::collections::BTreeSet;

use bytes::Bytes;
use coretex::{Code, Error, ErrorReason};
use coretex_proto::descriptor_pool;
use coretex_proto::methods::methods;
use coretex_proto::v1::{SubmitJobsResponse, submit_jobs_result::Outcome};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::wire::{self, Manner};
use coretex_tests::problems::Problems;
use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor,
    ReflectMessage, Value,
};
use tonic::transport::Channel;

/// A value that no field of this kind or name may hold.
#[derive(Clone, Copy, Debug)]
enum Bad {
    Text(&'static str),
    /// A text of this many bytes.
    Long(usize),
    Number(f64),
    /// What is asked for is not built, so the call is refused as a whole.
    NotBuilt(&'static str),
}

impl Bad {
    fn is_not_built(self) -> bool {
        matches!(self, Self::NotBuilt(_))
    }
}

/// What is wrong in a field, by message and field. Times, durations, values of enums and labels
/// need no line: [`by_kind`] knows.
const BAD: &[(&str, Bad)] = &[
    ("*.job_id", Bad::Text("a b")),
    ("*.entry_id", Bad::Text("a b")),
    ("*.approval_id", Bad::Text("a b")),
    ("*.requested_by", Bad::Text("\n")),
    ("*.rule_id", Bad::Text("\n")),
    ("ResolveApprovalRequest.expected_hash", Bad::Text("no hash")),
    ("ResolveApprovalRequest.reason", Bad::Long(5_000)),
    ("*.parent_job_id", Bad::Text("a b")),
    ("*.worker_id", Bad::Text("a b")),
    ("*.key_id", Bad::Text("a b")),
    ("*.tenant_id", Bad::Text("a b")),
    ("*.team_id", Bad::Text("a b")),
    ("*.team_ids", Bad::Text("a b")),
    ("*.tenants_served", Bad::Text("a b")),
    ("*.pool", Bad::Text("a b")),
    ("*.topic", Bad::Text("no topic")),
    ("*.topics", Bad::Text("no topic")),
    ("*.page_size", Bad::Number(-1.0)),
    ("*.page_token", Bad::Text("\n")),
    ("*.resume_token", Bad::Text("\n")),
    ("*.idempotency_key", Bad::Text("\n")),
    ("*.memory_id", Bad::Text("\n")),
    ("*.fairness_key", Bad::Text("\n")),
    ("Budget.max_input_tokens", Bad::Number(-1.0)),
    ("Budget.max_output_tokens", Bad::Number(-1.0)),
    ("Budget.max_total_tokens", Bad::Number(-1.0)),
    ("*.rate", Bad::Number(-1.0)),
    ("*.reason_codes", Bad::Text("")),
    ("CancelJobRequest.reason", Bad::Long(5_000)),
    ("CancelJobsRequest.reason", Bad::Long(5_000)),
    ("CapAttributes.adapter_id", Bad::Text("\n")),
    ("CapAttributes.step_index", Bad::Number(-1.0)),
    ("CapContextHints.max_input_tokens", Bad::Number(-1.0)),
    ("CapContextHints.tags", Bad::Text("")),
    ("Bundle.bundle_id", Bad::Text("a b")),
    ("*.bundle_id", Bad::Text("a b")),
    ("*.bundle_ids", Bad::Text("a b")),
    ("Bundle.content", Bad::Text("")),
    ("Bundle.description", Bad::Long(5_000)),
    ("Bundle.signature", Bad::Text("\n")),
    ("*.note", Bad::Long(5_000)),
    ("*.snapshot_id", Bad::Text("a b")),
    ("*.compare_with", Bad::Text("a b")),
    ("PolicySubject.estimated_cost", Bad::Number(-1.0)),
    ("*.etag", Bad::Text("\n")),
    ("*.scope_id", Bad::Text("a b")),
    ("*.step_id", Bad::Text("a b")),
    ("*.workflow_id", Bad::Text("a b")),
    ("CreateApiKeyRequest.display_name", Bad::Text("\n")),
    ("CreateApiKeyRequest.roles", Bad::Text("emperor")),
    ("Fence.resource", Bad::NotBuilt("r")),
    ("Fence.token", Bad::NotBuilt("7")),
    ("JobConcurrency.key", Bad::Text("\n")),
    ("JobConcurrency.limit", Bad::Number(-1.0)),
    ("JobEdits.remove_labels", Bad::Text("")),
    ("*.principal_id", Bad::Text("\n")),
    ("JobFilter.run_id", Bad::NotBuilt("run")),
    ("JobFilter.trace_id", Bad::Text("\n")),
    ("JobMetadata.actor_id", Bad::Text("\n")),
    ("JobMetadata.capability", Bad::Text("\n")),
    ("JobMetadata.pack_id", Bad::Text("\n")),
    ("JobMetadata.requires", Bad::Text("")),
    ("JobMetadata.risk_tags", Bad::Text("")),
    ("JobPlacement.preferred_pool", Bad::Text("a b")),
    ("JobPlacement.preferred_worker_id", Bad::Text("a b")),
    ("JobPlacement.slots", Bad::Number(-1.0)),
    ("McpCall.action", Bad::Text("\n")),
    ("McpCall.resource", Bad::Text("\n")),
    ("McpCall.server", Bad::Text("\n")),
    ("McpCall.tool", Bad::Text("\n")),
    ("PausePoolRequest.reason", Bad::Long(5_000)),
    ("Payload.artifact_id", Bad::NotBuilt("a-1")),
    ("Payload.content_type", Bad::Text("\n")),
    ("ReadJobOutputRequest.attempt", Bad::Number(-1.0)),
    ("ReadJobOutputRequest.from_sequence", Bad::Number(-1.0)),
    ("RetryPolicy.jitter", Bad::Number(1.5)),
    ("RetryPolicy.max_attempts", Bad::Number(-1.0)),
    ("RetryPolicy.multiplier", Bad::Number(0.5)),
    ("RetryPolicy.non_retryable_codes", Bad::Text("")),
    ("SubmitJobRequest.estimated_cost", Bad::Number(-1.0)),
    ("SubmitJobRequest.max_redispatch", Bad::Number(-1.0)),
];

/// Fields that hold nothing wrong, with the reason. May only shrink.
const NEVER_WRONG: &[(&str, &str)] = &[
    ("CancelJobRequest.force", "both values of a flag are good"),
    ("CancelJobsRequest.force", "both values of a flag are good"),
    ("*.all", "both values of a flag are good"),
    ("*.validate_only", "both values of a flag are good"),
    ("*.dry_run", "both values of a flag are good"),
    ("*.all_tenants", "both values of a flag are good"),
    ("DrainWorkerRequest.undo", "both values of a flag are good"),
    (
        "ListApiKeysRequest.show_inactive",
        "both values of a flag are good",
    ),
    (
        "ReadJobOutputRequest.follow",
        "both values of a flag are good",
    ),
    (
        "SubmitJobRequest.confirm_start",
        "both values of a flag are good",
    ),
    (
        "CapContextHints.allow_retrieval",
        "both values of a flag are good",
    ),
    (
        "CapContextHints.allow_summarization",
        "both values of a flag are good",
    ),
    ("Bundle.enabled", "both values of a flag are good"),
    (
        "GetBundleRequest.published",
        "both values of a flag are good",
    ),
    (
        "Bundle.state",
        "only the server sets it; what a caller says is not looked at",
    ),
    (
        "Bundle.author",
        "only the server sets it; what a caller says is not looked at",
    ),
    (
        "Bundle.etag",
        "only the server sets it; what a caller says is not looked at",
    ),
    (
        "Bundle.update_time",
        "only the server sets it; what a caller says is not looked at",
    ),
    (
        "Bundle.base",
        "only the server sets it; what a caller says is not looked at",
    ),
    (
        "Bundle.digest",
        "only the server sets it; what a caller says is not looked at",
    ),
    (
        "Bundle.rule_count",
        "only the server sets it; what a caller says is not looked at",
    ),
    (
        "JobMetadata.verified",
        "only the server sets it; what a caller says is not looked at",
    ),
];

/// The path of one field within a request.
struct Case {
    /// As violations name it.
    path: String,
    /// From the request to the field.
    fields: Vec<FieldDescriptor>,
}

impl Case {
    fn last(&self) -> &FieldDescriptor {
        &self.fields[self.fields.len() - 1]
    }

    /// Message and field, as in the tables.
    fn name(&self) -> String {
        format!(
            "{}.{}",
            self.last().parent_message().name(),
            self.last().name()
        )
    }

    fn line<'a, T>(&self, table: &'a [(&'static str, T)]) -> Option<&'a (&'static str, T)> {
        let (name, any) = (self.name(), format!("*.{}", self.last().name()));
        table.iter().find(|(line, _)| *line == name || *line == any)
    }

    /// A request with a wrong value in this field and nothing else, or nothing else that is wrong.
    fn request(&self, bad: Value, complete: bool) -> DynamicMessage {
        build(&self.fields, bad, complete)
    }
}

/// What requests cannot do without.
const REQUIRED: [(&str, &str); 3] = [("topic", "job.x"), ("job_id", "j-1"), ("entry_id", "j-1")];

fn build(fields: &[FieldDescriptor], bad: Value, complete: bool) -> DynamicMessage {
    let (field, rest) = fields.split_first().unwrap();
    let value = match rest {
        [] => bad,
        rest => Value::Message(build(rest, bad, complete)),
    };
    let value = if field.is_list() {
        Value::List(vec![value])
    } else {
        value
    };
    let mut message = DynamicMessage::new(field.parent_message().clone());
    message.set_field(field, value);
    for (name, good) in REQUIRED {
        let required = message.descriptor().get_field_by_name(name);
        // One of several alternatives is not required.
        let required =
            required.filter(|found| found != field && found.containing_oneof().is_none());
        if let Some(required) = required.filter(|_| complete) {
            message.set_field(&required, Value::String(good.to_owned()));
        }
    }
    // A document has a scope.
    let scope = message.descriptor().get_field_by_name("scope");
    if let Some(scope) = scope.filter(|_| complete) {
        message.set_field(&scope, Value::EnumNumber(2));
    }
    // What is asked about other bundles names some.
    let bundles = message.descriptor().get_field_by_name("candidate_bundles");
    if let Some(bundles) = bundles.filter(|found| complete && found != field) {
        let Kind::Message(kind) = bundles.kind() else {
            panic!("bundles are messages");
        };
        let mut bundle = DynamicMessage::new(kind);
        bundle.set_field_by_name("bundle_id", Value::String("b".to_owned()));
        bundle.set_field_by_name("content", Value::String("version: 1".to_owned()));
        message.set_field(&bundles, Value::List(vec![Value::Message(bundle)]));
    }
    // An operation on many says that it means all of them, or what to select.
    let all = message.descriptor().get_field_by_name("all");
    if let Some(all) = all.filter(|_| complete) {
        message.set_field(&all, Value::Bool(true));
    }
    message
}

/// Every field of a request that holds a value of its own.
fn cases(message: &MessageDescriptor, path: &str, fields: &[FieldDescriptor]) -> Vec<Case> {
    let mut found = Vec::new();
    for field in message.fields() {
        let path = match path {
            "" => field.name().to_owned(),
            path => format!("{path}.{}", field.name()),
        };
        let fields = [fields, std::slice::from_ref(&field)].concat();
        match field.kind() {
            Kind::Message(inner) if !field.is_map() && inner.package_name() == "coretex.v1" => {
                found.extend(cases(&inner, &path, &fields));
            }
            _ => found.push(Case { path, fields }),
        }
    }
    found
}

/// Wrong values of what has the same form everywhere.
fn by_kind(field: &FieldDescriptor) -> Option<Value> {
    if field.is_map() {
        let entry = (MapKey::String(String::new()), Value::String("x".into()));
        return Some(Value::Map([entry].into()));
    }
    match field.kind() {
        Kind::Enum(_) => Some(Value::EnumNumber(9_999)),
        Kind::Message(inner) => {
            let mut message = DynamicMessage::new(inner.clone());
            match inner.full_name() {
                "google.protobuf.Timestamp" => {
                    message.set_field_by_name("seconds", Value::I64(i64::MAX));
                }
                "google.protobuf.Duration" => {
                    message.set_field_by_name("seconds", Value::I64(-1));
                }
                "google.protobuf.Value" => {
                    message.set_field_by_name("number_value", Value::F64(f64::NAN));
                }
                "google.protobuf.Struct" => {
                    let fields = inner.get_field_by_name("fields")?;
                    let entry = fields.kind().as_message()?.get_field_by_name("value")?;
                    let bad = by_kind(&entry)?;
                    let entry = (MapKey::String("x".to_owned()), bad);
                    message.set_field(&fields, Value::Map([entry].into()));
                }
                _ => return None,
            }
            Some(Value::Message(message))
        }
        // Raw bytes that are said to be JSON are another matter.
        Kind::Bytes => Some(Value::Bytes(vec![b'x'; 1024 * 1024 + 1].into())),
        _ => None,
    }
}

fn value(field: &FieldDescriptor, bad: Bad) -> Value {
    match bad {
        Bad::NotBuilt(number) if field.kind() == Kind::Int64 => Value::I64(number.parse().unwrap()),
        Bad::Text(text) | Bad::NotBuilt(text) => Value::String(text.to_owned()),
        Bad::Long(length) => Value::String("x".repeat(length)),
        Bad::Number(number) => match field.kind() {
            Kind::Int32 => Value::I32(number as i32),
            Kind::Int64 => Value::I64(number as i64),
            Kind::Double => Value::F64(number),
            other => panic!("{} is {other:?}, no number", field.full_name()),
        },
    }
}

/// What is wrong with the answer to a wrong field; `None` = it is refused as it should be.
fn judge(case: &Case, bad: Option<Bad>, answer: &Result<Bytes, Error>) -> Option<String> {
    let error = match answer {
        Err(error) => error.clone(),
        Ok(_) => return Some(format!("{} is accepted", case.path)),
    };
    let names_it = |field: &str| {
        let plain = strip_positions(field);
        plain == case.path || case.path.starts_with(&format!("{plain}."))
    };
    if bad.is_some_and(Bad::is_not_built) {
        let fields = error.metadata().get("field");
        let refused = error.reason() == Some(ErrorReason::FeatureNotAvailable)
            && error.code() == Code::Unimplemented
            && fields.is_some_and(|fields| fields.split(", ").any(names_it));
        return (!refused).then(|| format!("{} is not refused but {error:?}", case.path));
    }
    let named = error
        .violations()
        .iter()
        .any(|violation| names_it(&violation.field));
    let coded = error.code() == Code::InvalidArgument;
    (!named || !coded).then(|| format!("{} is not named by {error:?}", case.path))
}

/// `a[0].b[key]` is `a.b`.
fn strip_positions(field: &str) -> String {
    let mut depth = 0;
    field
        .chars()
        .filter(|c| {
            depth += i32::from(*c == '[');
            let outside = depth == 0;
            depth -= i32::from(*c == ']');
            outside
        })
        .collect()
}

/// The RPC of a path.
fn method(path: &str) -> MethodDescriptor {
    let name = path.trim_start_matches('/').replace('/', ".");
    let mut all = descriptor_pool().services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods
    });
    all.find(|method| method.full_name() == name).unwrap()
}

async fn ask(channel: &Channel, path: &str, request: &DynamicMessage) -> Result<Bytes, Error> {
    let message = request.encode_to_vec().into();
    let answer = wire::call(channel, path, message, Manner::default()).await?;
    if path.ends_with("/SubmitJobs") {
        // Each item has an answer of its own.
        let answer = SubmitJobsResponse::decode(answer.clone()).unwrap();
        let outcome = answer
            .results
            .into_iter()
            .next()
            .and_then(|result| result.outcome);
        if let Some(Outcome::Status(status)) = outcome {
            return Err(Error::from_item(&status));
        }
    }
    Ok(answer)
}

async fn every_rpc_is_refused_without_a_credential(pair: &Pair) {
    let server = Server::start(pair.options().secured()).await;
    let channel = server.channel().await;
    let mut wrong = Problems::default();
    for path in methods().keys() {
        for key in ["", "ck_0000000000000000.wrong"] {
            let manner = Manner {
                key,
                ..Manner::default()
            };
            let answer = wire::call(&channel, path, Bytes::new(), manner).await;
            let code = answer.as_ref().err().map(Error::code);
            if code != Some(Code::Unauthenticated) {
                wrong.add(&format!("{path}: {answer:?}"));
            }
        }
    }
    assert!(methods().len() > 20, "a rule about nothing holds always");
    wrong.none();
}

async fn every_wrong_field_is_refused_by_name(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let channel = server.channel().await;
    let mut wrong = Problems::default();
    let (mut lines, mut excused) = (BTreeSet::new(), BTreeSet::new());
    let mut tried = 0;
    for (path, info) in methods() {
        if info.client_streaming {
            continue;
        }
        let request = method(path).input();
        for case in cases(&request, "", &[]) {
            let line = case.line(BAD);
            let excuse = case.line(NEVER_WRONG);
            lines.extend(line.map(|(name, _)| *name));
            let bad = line.map(|(_, bad)| value(case.last(), *bad));
            if let Some((name, _)) = excuse {
                excused.insert(*name);
                continue;
            }
            let Some(bad) = bad.or_else(|| by_kind(case.last())) else {
                wrong.add(&format!("{} has no line in BAD", case.name()));
                continue;
            };
            tried += 1;
            let complete = line.is_some_and(|(_, bad)| bad.is_not_built());
            let answer = ask(&channel, path, &case.request(bad, complete)).await;
            // The items of a batch name their fields as a single one does.
            let case = Case {
                path: case.path.trim_start_matches("requests.").to_owned(),
                ..case
            };
            if let Some(problem) = judge(&case, line.map(|(_, bad)| *bad), &answer) {
                wrong.add(&format!("{path}: {problem}"));
            }
        }
    }
    for (name, _) in BAD.iter().filter(|(name, _)| !lines.contains(name)) {
        wrong.add(&format!("BAD: no field is {name} any more"));
    }
    for (name, _) in NEVER_WRONG
        .iter()
        .filter(|(name, _)| !excused.contains(name))
    {
        wrong.add(&format!("NEVER_WRONG: {name} excuses nothing any more"));
    }
    assert!(tried > 100, "a rule about nothing holds always");
    wrong.none();
}

async fn all_wrong_fields_are_named_at_once_and_nothing_is_stored(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let submit = client.submit("no topic", ()).edit(|request| {
        request.job_id = "a b".into();
        request.priority = 99;
        request.timeout = Some(prost_types::Duration {
            seconds: -5,
            nanos: 0,
        });
        request.labels.insert("coretex.mine".into(), "x".into());
        request.retry.get_or_insert_default().jitter = Some(7.0);
        request.metadata.get_or_insert_default().requires = vec![String::new(); 2];
    });
    let error = submit.send().await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::InvalidArgument, Some(ErrorReason::InvalidField))
    );
    let mut fields: Vec<_> = error
        .violations()
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    fields.sort_unstable();
    let expected = [
        "job_id",
        "labels[coretex.mine]",
        "metadata.requires[0]",
        "metadata.requires[1]",
        "priority",
        "retry.jitter",
        "timeout",
        "topic",
    ];
    assert_eq!(fields, expected);
    let count = client.count_jobs(Default::default()).await.unwrap();
    assert_eq!(count.count, 0);
}

on_both_pairs! {
    every_rpc_is_refused_without_a_credential,
    every_wrong_field_is_refused_by_name,
    all_wrong_fields_are_named_at_once_and_nothing_is_stored,
}
