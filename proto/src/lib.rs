//! The protobuf contract of Coretex as Rust types, with its descriptor set.
//!
//! Here live the generated messages, clients and servers of `coretex.v1` ([`v1`]), what can be read
//! from their descriptors ([`methods`], [`descriptor_pool`]), and their conversions to JSON, YAML
//! and std types ([`json`], [`value`], [`time`], [`mod@payload`]). No rule of the domain lives here:
//! a message that this crate accepts may still be refused by the server.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

pub mod errors;
pub mod json;
pub mod methods;
pub mod payload;
mod redact;
pub mod time;
pub mod value;

pub use methods::method_permissions;

/// The messages, clients and servers of the package `coretex.v1`.
///
/// Generated from `proto/coretex/v1/*.proto`; the documentation of each item is its comment there.
#[allow(
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    missing_debug_implementations,
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    rustdoc::bare_urls,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("coretex.v1");
}

/// The encoded descriptors of the contract and of all that it imports, with the options of methods.
///
/// Serves reflection. Holds `google/rpc/*.proto` and `google/protobuf/*.proto` too, and no comments.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/coretex_descriptor.bin"));

/// The descriptors of [`FILE_DESCRIPTOR_SET`], decoded once.
#[must_use]
pub fn descriptor_pool() -> &'static DescriptorPool {
    #[expect(
        clippy::expect_used,
        reason = "the bytes were made by the build of this very crate; its tests decode them"
    )]
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the built descriptor set is valid")
    });
    &POOL
}
