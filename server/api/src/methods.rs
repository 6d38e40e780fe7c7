//! What the layers know about each RPC: who may call it, whether it changes anything, its metrics.
//!
//! Built once from the descriptors of the contract; nothing is reflected while calls are served.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use coretex_proto::methods::{AUTHENTICATED, Idempotency, MethodInfo};
use metrics::{Counter, Histogram, Label, counter, histogram};
use tonic::Code;

/// Calls, by method and code.
const CALLS: &str = "grpc_requests_total";
/// Seconds until the answer, or its first part for streams, by method.
const DURATION: &str = "grpc_request_duration_seconds";

/// Services that need no credential, with the name of their metrics.
const OPEN_SERVICES: [(&str, &str); 3] = [
    ("/grpc.health.v1.Health/", "grpc.health.v1.Health"),
    (
        "/grpc.reflection.v1.ServerReflection/",
        "grpc.reflection.v1.ServerReflection",
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/",
        "grpc.reflection.v1alpha.ServerReflection",
    ),
];

/// Who may call a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody, without a credential.
    Open,
    /// Every valid credential.
    Authenticated,
    /// Those whose roles grant this permission.
    Permission(String),
    /// Nobody: the contract names no permission.
    Undeclared,
    /// Nobody: there is no such method.
    Unknown,
}

/// One RPC.
#[derive(Debug)]
pub(crate) struct Method {
    /// Who may call it.
    pub(crate) access: Access,
    /// Whether it only reads.
    pub(crate) read_only: bool,
    /// Whether either side sends a stream.
    pub(crate) streams: bool,
    /// Whether the caller sends a stream.
    pub(crate) client_streams: bool,
    name: String,
    duration: Histogram,
    calls: [OnceLock<Counter>; CODES],
}

/// Codes of gRPC: 0 to 16.
const CODES: usize = 17;

impl Method {
    fn new(
        name: impl Into<String>,
        access: Access,
        read_only: bool,
        (client_streams, server_streams): (bool, bool),
    ) -> Self {
        let name = name.into();
        Self {
            access,
            read_only,
            streams: client_streams || server_streams,
            client_streams,
            duration: histogram!(DURATION, "method" => name.clone()),
            calls: [const { OnceLock::new() }; CODES],
            name,
        }
    }

    /// The name in logs and metrics, for example `coretex.v1.JobService/SubmitJob`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Counts a call that ended with `code`.
    pub(crate) fn count(&self, code: Code) {
        // Every code is below CODES; a foreign one would count as UNKNOWN.
        let counter = self.calls.get(code as usize).or(self.calls.get(2));
        let make = || {
            let labels = vec![
                Label::new("method", self.name.clone()),
                Label::new("code", code_name(code)),
            ];
            counter!(CALLS, labels)
        };
        if let Some(counter) = counter {
            counter.get_or_init(make).increment(1);
        }
    }

    /// Records how long the answer took, in seconds.
    pub(crate) fn took(&self, seconds: f64) {
        self.duration.record(seconds);
    }
}

/// The name of a code as the specification writes it.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Every RPC by its path.
#[derive(Debug)]
pub(crate) struct MethodTable {
    by_path: HashMap<String, Arc<Method>>,
    open: Vec<(&'static str, Arc<Method>)>,
    unknown: Arc<Method>,
}

impl MethodTable {
    /// Reads the contract. Metrics are registered with the recorder that is installed now.
    pub(crate) fn new() -> Self {
        let known = coretex_proto::methods::methods();
        let paths = coretex_proto::descriptor_pool()
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
        let by_path = paths
            .map(|path| {
                let method = declared(&path, known.get(&path));
                (path, Arc::new(method))
            })
            .collect();
        let open = OPEN_SERVICES
            .map(|(prefix, name)| {
                (
                    prefix,
                    Arc::new(Method::new(name, Access::Open, true, (true, true))),
                )
            })
            .to_vec();
        Self {
            by_path,
            open,
            unknown: Arc::new(Method::new(
                "unknown",
                Access::Unknown,
                true,
                (false, false),
            )),
        }
    }

    /// What is known about the RPC at `path`.
    pub(crate) fn get(&self, path: &str) -> &Arc<Method> {
        if let Some(method) = self.by_path.get(path) {
            return method;
        }
        self.open
            .iter()
            .find(|(prefix, _)| path.starts_with(prefix))
            .map_or(&self.unknown, |(_, method)| method)
    }

    /// The paths of all RPCs of the contract.
    #[cfg(test)]
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }
}

fn declared(path: &str, info: Option<&MethodInfo>) -> Method {
    let name = path.trim_start_matches('/');
    let Some(info) = info else {
        return Method::new(name, Access::Undeclared, true, (false, false));
    };
    let access = match info.permission.as_str() {
        AUTHENTICATED => Access::Authenticated,
        permission => Access::Permission(permission.to_owned()),
    };
    let read_only = info.idempotency == Idempotency::NoSideEffects;
    let streams = (info.client_streaming, info.server_streaming);
    Method::new(name, access, read_only, streams)
}

#[cfg(test)]
mod tests {
    use coretex_engine::{Role, grants};

    use super::*;

    #[test]
    fn every_rpc_declares_a_permission() {
        let table = MethodTable::new();
        let bare: Vec<_> = table
            .paths()
            .filter(|path| table.get(path).access == Access::Undeclared)
            .collect();
        assert!(table.paths().count() > 20);
        assert_eq!(bare, Vec::<&str>::new());
    }

    #[test]
    fn every_permission_is_granted_by_a_role_that_is_not_almighty() {
        // What only admins may do is a short list, and grows by decision only.
        const ADMINS_ONLY: [&str; 4] = [
            "keys.create",
            "keys.revoke",
            "policy.write",
            "policy.publish",
        ];
        let table = MethodTable::new();
        for path in table.paths() {
            let Access::Permission(permission) = &table.get(path).access else {
                continue;
            };
            let granted = |role: &Role| grants(*role, permission);
            assert!(granted(&Role::Admin), "{path}: no role grants {permission}");
            let others = Role::ALL.iter().filter(|role| **role != Role::Admin);
            let narrow = others.into_iter().any(granted);
            let admins_only = ADMINS_ONLY.contains(&permission.as_str());
            assert_ne!(narrow, admins_only, "{path}: {permission}");
        }
    }

    #[test]
    fn paths_outside_the_contract_are_open_only_where_listed() {
        let table = MethodTable::new();
        assert_eq!(
            table.get("/grpc.health.v1.Health/Check").access,
            Access::Open
        );
        for path in [
            "/",
            "/grpc.health.v1.HealthX/Check",
            "/coretex.v1.JobService/Nope",
            "/coretex.v1.JobService/SubmitJob/x",
            "coretex.v1.JobService/SubmitJob",
        ] {
            assert_eq!(table.get(path).access, Access::Unknown, "{path}");
        }
    }
}
