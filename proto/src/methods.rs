//! What the contract says about its RPCs: the permission they need and whether they may be
//! repeated, read from the options in the descriptors.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use prost_reflect::{MethodDescriptor, Value};

use crate::descriptor_pool;

/// The value of the permission option that stands for any valid credential, whatever its roles.
pub const AUTHENTICATED: &str = "authenticated";

/// The option that names the permission, in `permission.proto`.
const PERMISSION_OPTION: &str = "coretex.v1.permission";

/// Numbers of `google.protobuf.MethodOptions.IdempotencyLevel`.
const NO_SIDE_EFFECTS: i32 = 1;
const IDEMPOTENT: i32 = 2;

/// Whether an RPC may be sent again when its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idempotency {
    /// It only reads.
    NoSideEffects,
    /// A repetition has no further effect. RPCs that create something need an `idempotency_key`
    /// (or the id of what they create) for that.
    Idempotent,
    /// A repetition may do the thing twice.
    Unknown,
}

impl Idempotency {
    /// Whether a client may repeat the call by itself.
    #[must_use]
    pub const fn repeatable(self) -> bool {
        match self {
            Self::NoSideEffects | Self::Idempotent => true,
            Self::Unknown => false,
        }
    }
}

/// What the contract says about one RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    /// The permission the caller needs, or [`AUTHENTICATED`].
    pub permission: String,
    /// Whether it may be sent again.
    pub idempotency: Idempotency,
    /// Whether the client sends a stream.
    pub client_streaming: bool,
    /// Whether the server sends a stream.
    pub server_streaming: bool,
}

/// Every RPC of the contract by its path, for example `/coretex.v1.JobService/SubmitJob`.
///
/// An RPC without a permission is left out: nobody may call it.
#[must_use]
pub fn methods() -> &'static BTreeMap<String, MethodInfo> {
    static METHODS: LazyLock<BTreeMap<String, MethodInfo>> = LazyLock::new(|| {
        descriptor_pool()
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .filter_map(|method| Some((path(&method), info(&method)?)))
            .collect()
    });
    &METHODS
}

/// The permission of every RPC by its path: what the authorizing layer of a server needs.
#[must_use]
pub fn method_permissions() -> &'static HashMap<String, String> {
    static PERMISSIONS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        methods()
            .iter()
            .map(|(path, method)| (path.clone(), method.permission.clone()))
            .collect()
    });
    &PERMISSIONS
}

/// The path of a method in an HTTP request.
fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

fn info(method: &MethodDescriptor) -> Option<MethodInfo> {
    let options = method.options();
    let extension = descriptor_pool().get_extension_by_name(PERMISSION_OPTION)?;
    let permission = match &*options.get_extension(&extension) {
        Value::String(permission) if !permission.is_empty() => permission.clone(),
        _ => return None,
    };
    let level = options.get_field_by_name("idempotency_level");
    let idempotency = match level.as_deref().and_then(Value::as_enum_number) {
        Some(NO_SIDE_EFFECTS) => Idempotency::NoSideEffects,
        Some(IDEMPOTENT) => Idempotency::Idempotent,
        _ => Idempotency::Unknown,
    };
    Some(MethodInfo {
        permission,
        idempotency,
        client_streaming: method.is_client_streaming(),
        server_streaming: method.is_server_streaming(),
    })
}
