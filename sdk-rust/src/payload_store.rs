//! Where payloads go that are too large for a message.

use std::fmt::Debug;

use async_trait::async_trait;
use coretex_proto::v1::{Payload, payload};
use prost::Message;
use tonic::Code;

use crate::Error;

/// Keeps large payloads elsewhere. Called for inputs and outputs over the client's payload limit.
///
/// ```
/// use coretex::{Error, Payload, PayloadExt, PayloadStore};
///
/// #[derive(Debug)]
/// struct Bucket;
///
/// #[async_trait::async_trait]
/// impl PayloadStore for Bucket {
///     async fn put(&self, payload: Payload) -> Result<String, Error> {
///         let data = payload.to_bytes()?;
///         // Upload `data`, and return the id under which the receiver finds it.
///         Ok(format!("{}-bytes", data.len()))
///     }
/// }
/// ```
#[async_trait]
pub trait PayloadStore: Send + Sync + Debug {
    /// Stores the payload; returns the artifact id to send in its place. Called again when the call
    /// that needs it is repeated by the caller.
    ///
    /// # Errors
    /// Any error; the call (or the attempt of a worker) fails with it.
    async fn put(&self, payload: Payload) -> Result<String, Error>;
}

/// The default: refuses, saying what to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPayloadStore;

#[async_trait]
impl PayloadStore for NoPayloadStore {
    async fn put(&self, payload: Payload) -> Result<String, Error> {
        let size = payload.encoded_len();
        let message = format!("the payload of {size} bytes is over the limit of this client");
        Err(Error::local(Code::InvalidArgument, message).with_hint(
            "store it elsewhere and send a reference, or give the client a payload store",
        ))
    }
}

/// Replaces a payload over `limit` bytes by a reference.
pub(crate) async fn fit(
    store: &dyn PayloadStore,
    limit: usize,
    slot: &mut Option<Payload>,
) -> Result<(), Error> {
    // Most payloads are small: nothing is moved then.
    if let Some(payload) = slot.take_if(|payload| payload.encoded_len() > limit) {
        let content_type = payload.content_type.clone();
        let artifact_id = store.put(payload).await?;
        *slot = Some(Payload {
            data: Some(payload::Data::ArtifactId(artifact_id)),
            content_type,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Named;

    #[async_trait]
    impl PayloadStore for Named {
        async fn put(&self, _payload: Payload) -> Result<String, Error> {
            Ok("art-7".into())
        }
    }

    #[tokio::test]
    async fn only_large_payloads_are_moved() -> Result<(), Error> {
        let mut small = Some(Payload::from_bytes("x", "text/plain"));
        fit(&NoPayloadStore, 100, &mut small).await?;
        assert!(matches!(
            small.and_then(|p| p.data),
            Some(payload::Data::Raw(_))
        ));
        let mut large = Some(Payload::from_bytes(vec![0; 200], "text/plain"));
        fit(&Named, 100, &mut large).await?;
        let moved = large.unwrap_or_default();
        assert_eq!(moved.data, Some(payload::Data::ArtifactId("art-7".into())));
        assert_eq!(moved.content_type, "text/plain");
        let mut refused = Some(Payload::from_bytes(vec![0; 200], "text/plain"));
        let error = fit(&NoPayloadStore, 100, &mut refused).await.err();
        assert!(error.is_some_and(|error| error.hint().is_some()));
        Ok(())
    }
}
