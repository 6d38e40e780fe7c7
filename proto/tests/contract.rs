//! What every file of the contract must keep, checked from its descriptors and comments.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use coretex_proto::methods::{AUTHENTICATED, Idempotency, methods};
use coretex_proto::v1::ErrorReason;
use coretex_proto::{FILE_DESCRIPTOR_SET, descriptor_pool, method_permissions};
use prost_reflect::{
    DescriptorPool, EnumDescriptor, ExtensionDescriptor, FileDescriptor, MessageDescriptor,
};

/// Longer files are not read to the end.
const MAX_LINES: usize = 300;
/// The package of our files; the others are imported.
const PACKAGE: &str = "coretex.v1";

/// Names that are keywords or clash with what generators make, in the languages of the SDKs.
const HURTFUL_FIELDS: [&str; 12] = [
    "bytes",
    "else",
    "class",
    "def",
    "from",
    "import",
    "lambda",
    "func",
    "package",
    "self",
    "descriptor",
    "function",
];
const HURTFUL_RPCS: [&str; 3] = ["Connect", "New", "Close"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(root().join("coretex/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 10, "the contract is not where it should be");
    files
}

/// The contract, compiled anew with comments, which the built descriptor set does not have.
fn commented() -> DescriptorPool {
    let mut compiler = protox::Compiler::new([root(), root().join("../proto-deps")]).unwrap();
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files())
        .unwrap();
    compiler.descriptor_pool()
}

fn ours(pool: &DescriptorPool) -> Vec<FileDescriptor> {
    pool.files()
        .filter(|file| file.package_name() == PACKAGE)
        .collect()
}

/// All messages of a file with the nested ones, but not the entries of maps.
fn messages(file: &FileDescriptor) -> Vec<MessageDescriptor> {
    let mut found = Vec::new();
    let mut rest: Vec<_> = file.messages().collect();
    while let Some(message) = rest.pop() {
        rest.extend(message.child_messages());
        if !message.is_map_entry() {
            found.push(message);
        }
    }
    found
}

fn enums(file: &FileDescriptor) -> Vec<EnumDescriptor> {
    let nested = messages(file)
        .into_iter()
        .flat_map(|message| message.child_enums().collect::<Vec<_>>());
    file.enums().chain(nested).collect()
}

#[test]
fn everything_has_a_comment() {
    let pool = commented();
    let mut naked = Vec::new();
    for file in ours(&pool) {
        let comments: BTreeMap<Vec<i32>, String> = file
            .file_descriptor_proto()
            .source_code_info
            .as_ref()
            .unwrap()
            .location
            .iter()
            .map(|location| {
                (
                    location.path.clone(),
                    location.leading_comments().to_owned(),
                )
            })
            .collect();
        let mut check = |path: &[i32], name: &str| {
            let comment = comments.get(path).map_or("", |comment| comment.trim());
            // A comment of one or two words repeats the name.
            if comment.split_whitespace().count() < 2 || !comment.ends_with(['.', ':', ')', '`']) {
                naked.push(format!("{}: {name}: {comment:?}", file.name()));
            }
        };
        // The statement `package` is field 2 of the file; its comment is that of the file.
        let detached = file
            .file_descriptor_proto()
            .source_code_info
            .as_ref()
            .unwrap()
            .location
            .iter()
            .any(|location| location.path == [2] && location.leading_comments.is_some());
        assert!(detached, "{} does not say what it is for", file.name());
        for message in messages(&file) {
            check(message.path(), message.full_name());
            for field in message.fields() {
                check(field.path(), field.full_name());
            }
            for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
                check(oneof.path(), oneof.full_name());
            }
        }
        for one in enums(&file) {
            check(one.path(), one.full_name());
            for value in one.values() {
                check(value.path(), value.full_name());
            }
        }
        for service in file.services() {
            check(service.path(), service.full_name());
            for method in service.methods() {
                check(method.path(), method.full_name());
            }
        }
        for extension in file.extensions() {
            check(extension.path(), extension.full_name());
        }
    }
    assert!(
        naked.is_empty(),
        "without a proper comment:\n{}",
        naked.join("\n")
    );
}

#[test]
fn files_are_short() {
    for path in files() {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines", path.display());
    }
}

#[test]
fn services_and_resources_have_files_of_their_own() {
    let pool = commented();
    for file in ours(&pool) {
        let name = Path::new(file.name())
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap();
        for service in file.services() {
            let noun = service
                .name()
                .strip_suffix("Service")
                .unwrap()
                .to_lowercase();
            assert_eq!(name, format!("{noun}_service"));
        }
        assert!(file.services().len() <= 1, "{name}");
        assert_eq!(
            name.ends_with("_service"),
            file.services().len() == 1,
            "{name}"
        );
    }
}

#[test]
fn requests_and_responses_are_named_after_their_rpc_and_used_once() {
    let mut seen = BTreeSet::new();
    for file in ours(descriptor_pool()) {
        for method in file
            .services()
            .flat_map(|s| s.methods().collect::<Vec<_>>())
        {
            let name = method.name();
            assert_eq!(method.input().name(), format!("{name}Request"));
            assert_eq!(method.output().name(), format!("{name}Response"));
            assert!(seen.insert(name.to_owned()), "two RPCs are called {name}");
            assert!(!HURTFUL_RPCS.contains(&name), "{name}");
        }
    }
    assert!(seen.contains("SubmitJob") && seen.contains("OpenSession"));
}

#[test]
fn every_rpc_says_its_permission_and_whether_it_may_be_repeated() {
    let mut rpcs = 0;
    for service in descriptor_pool().services() {
        for method in service.methods() {
            rpcs += 1;
            let path = format!("/{}/{}", service.full_name(), method.name());
            assert!(
                method.options().has_field_by_name("idempotency_level"),
                "{path}"
            );
            let info = methods().get(&path).unwrap();
            let words: Vec<_> = info.permission.split('.').collect();
            assert!(
                info.permission == AUTHENTICATED || words.len() == 2,
                "{path}"
            );
            assert!(
                words.iter().all(|word| {
                    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                }),
                "{path}: {}",
                info.permission
            );
            assert_eq!(method_permissions()[&path], info.permission);
            // A stream of requests cannot be sent again as it was.
            assert!(
                !(info.client_streaming && info.idempotency.repeatable()),
                "{path}"
            );
            // What only reads is named so.
            let reads = [
                "Get", "List", "Count", "Wait", "Watch", "Read", "Diagnose", "WhoAmI", "Evaluate",
                "Explain", "Simulate", "Replay",
            ]
            .iter()
            .any(|verb| method.name().starts_with(verb));
            assert_eq!(
                reads,
                info.idempotency == Idempotency::NoSideEffects,
                "{path}"
            );
        }
    }
    assert_eq!(rpcs, methods().len());
    assert_eq!(
        method_permissions()["/coretex.v1.JobService/SubmitJob"],
        "jobs.submit"
    );
    assert_eq!(
        method_permissions()["/coretex.v1.AccessService/WhoAmI"],
        AUTHENTICATED
    );
}

#[test]
fn enums_start_with_nothing_and_carry_their_name() {
    for one in ours(descriptor_pool()).iter().flat_map(enums) {
        let mut prefix = String::new();
        for c in one.name().chars() {
            if c.is_ascii_uppercase() && !prefix.is_empty() {
                prefix.push('_');
            }
            prefix.push(c.to_ascii_uppercase());
        }
        assert_eq!(
            one.get_value(0).unwrap().name(),
            format!("{prefix}_UNSPECIFIED")
        );
        for value in one.values() {
            assert!(
                value.name().starts_with(&format!("{prefix}_")),
                "{}",
                value.full_name()
            );
        }
    }
}

#[test]
fn names_hurt_nobody() {
    let mut names = BTreeSet::new();
    for file in ours(descriptor_pool()) {
        for one in enums(&file) {
            assert!(
                names.insert(one.name().to_owned()),
                "{} is there twice",
                one.name()
            );
        }
        for message in messages(&file) {
            assert!(
                names.insert(message.name().to_owned()),
                "{} is there twice",
                message.name()
            );
            for field in message.fields() {
                assert!(
                    !HURTFUL_FIELDS.contains(&field.name()),
                    "{}",
                    field.full_name()
                );
            }
        }
    }
}

#[test]
fn times_are_named_and_typed_alike() {
    const PLAIN_TIMES: [&str; 5] = [
        "time",
        "deadline",
        "not_before",
        "created_after",
        "created_before",
    ];
    for message in ours(descriptor_pool()).iter().flat_map(messages) {
        for field in message.fields() {
            let kind = field.kind();
            let type_name = kind.as_message().map_or("", |message| message.full_name());
            let is_time = field.name().ends_with("_time") || PLAIN_TIMES.contains(&field.name());
            assert_eq!(
                is_time,
                type_name == "google.protobuf.Timestamp",
                "{}",
                field.full_name()
            );
            let counted_in_units = ["_ms", "_seconds", "_millis", "_secs", "_s"]
                .iter()
                .any(|unit| field.name().ends_with(unit));
            assert!(
                !counted_in_units,
                "{} should be a duration",
                field.full_name()
            );
        }
    }
}

#[test]
fn wide_integers_count_only_bytes_and_tokens() {
    for message in ours(descriptor_pool()).iter().flat_map(messages) {
        for field in message.fields() {
            let wide = matches!(
                field.kind(),
                prost_reflect::Kind::Int64 | prost_reflect::Kind::Uint64
            );
            // A fencing token is a number without end.
            let fencing = field.full_name() == "coretex.v1.Fence.token";
            let may_be = field.name().ends_with("_bytes") || field.name().ends_with("_tokens");
            let may_be = may_be || fencing;
            assert_eq!(wide, may_be, "{}", field.full_name());
        }
    }
}

#[test]
fn the_descriptor_set_serves_reflection() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    for name in [
        "google.rpc.Status",
        "google.rpc.ErrorInfo",
        "google.rpc.Code",
        "google.protobuf.Duration",
        "google.protobuf.Value",
        "google.protobuf.MethodOptions",
    ] {
        let found =
            pool.get_message_by_name(name).is_some() || pool.get_enum_by_name(name).is_some();
        assert!(found, "{name}");
    }
    let extensions: Vec<_> = pool
        .all_extensions()
        .map(|extension: ExtensionDescriptor| extension.full_name().to_owned())
        .collect();
    assert_eq!(extensions, ["coretex.v1.permission"]);
}

#[test]
fn numbers_shared_with_the_cap_protocol_stay() {
    use coretex_proto::v1::{JobPriority, JobState, PolicyDecision};
    let states = [
        JobState::Pending,
        JobState::Scheduled,
        JobState::Dispatched,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Denied,
        JobState::Timeout,
    ];
    assert!(
        states
            .iter()
            .zip(1..)
            .all(|(state, number)| *state as i32 == number)
    );
    assert_eq!(JobState::ApprovalRequired as i32, 20);
    assert_eq!(
        [
            JobPriority::Interactive,
            JobPriority::Batch,
            JobPriority::Critical
        ]
        .map(|p| p as i32),
        [1, 2, 3]
    );
    let decisions = [
        PolicyDecision::Allow,
        PolicyDecision::Deny,
        PolicyDecision::RequireApproval,
        PolicyDecision::Throttle,
        PolicyDecision::AllowWithConstraints,
    ];
    assert!(
        decisions
            .iter()
            .zip(1..)
            .all(|(decision, number)| *decision as i32 == number)
    );
}

#[test]
fn every_reason_names_its_code_and_is_found_by_its_name() {
    let pool = commented();
    let reasons = pool.get_enum_by_name("coretex.v1.ErrorReason").unwrap();
    let codes = grpc_codes();
    for value in reasons.values().filter(|value| value.number() != 0) {
        let reason = ErrorReason::try_from(value.number()).unwrap();
        assert_eq!(ErrorReason::from_reason(reason.reason()), Some(reason));
        assert!(!reason.reason().starts_with("ERROR_REASON_"));
        let comment = comment(&value.parent_enum().parent_file(), value.path());
        let code = comment.trim().split('.').next().unwrap().to_owned();
        assert!(codes.contains(&code), "{}: {comment}", value.name());
        let advice = comment.trim().split(". ").count();
        assert!(advice >= 2, "{} does not say what to do", value.name());
    }
    assert_eq!(ErrorReason::EtagMismatch.reason(), "ETAG_MISMATCH");
    assert_eq!(ErrorReason::from_reason("SOMETHING_NEWER"), None);
}

#[test]
fn reasons_named_in_comments_of_rpcs_exist() {
    let pool = commented();
    for service in pool.services() {
        for method in service.methods() {
            let comment = comment(&service.parent_file(), method.path()).replace('\n', " ");
            let Some((_, reasons)) = comment.split_once("Reasons:") else {
                continue;
            };
            for word in reasons.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
                if word.len() > 3 {
                    let known = ErrorReason::from_reason(word).is_some();
                    assert!(known, "{}: {word}", method.full_name());
                }
            }
        }
    }
}

fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file
        .file_descriptor_proto()
        .source_code_info
        .as_ref()
        .unwrap();
    let location = info.location.iter().find(|location| location.path == path);
    location.unwrap().leading_comments().to_owned()
}

/// The names of all gRPC codes.
fn grpc_codes() -> BTreeSet<String> {
    let codes = descriptor_pool()
        .get_enum_by_name("google.rpc.Code")
        .unwrap();
    codes
        .values()
        .map(|value| value.name().to_owned())
        .collect()
}
