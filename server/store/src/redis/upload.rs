//! Large values: brought to Redis before their commit is sent, over a connection for reads, so
//! that they hold up nobody else's group. The commit then only moves them into place.

use std::sync::Arc;

use redis::{Pipeline, Value};

use crate::CommitError;

use super::Shared;
use super::encode::{Upload, UploadBody};
use super::errors::{judge, not_applied, reason};
use super::layout::FULL_HEADER;

/// How long an upload waits for its commit, which is on its way. Nothing refers to it before.
const LIFE_MILLIS: u64 = 60_000;

/// Uploads what a batch needs and returns the keys.
///
/// # Errors
/// `Unavailable`: without its uploads a batch is never sent.
pub(super) async fn send(
    shared: &Arc<Shared>,
    uploads: Vec<Upload>,
) -> Result<Vec<Vec<u8>>, CommitError> {
    let mut keys = Vec::with_capacity(uploads.len());
    if uploads.is_empty() {
        return Ok(keys);
    }
    let mut commands = Pipeline::new();
    for Upload { key, body } in uploads {
        let command = commands.cmd("SET").arg(key.as_slice());
        match body {
            UploadBody::Record(value) => {
                // The script writes the header in front.
                let mut stored = Vec::with_capacity(value.len() + FULL_HEADER);
                stored.resize(FULL_HEADER, 0);
                stored.extend_from_slice(&value);
                command.arg(stored);
            }
            UploadBody::Entry(entry) => {
                command.arg(entry);
            }
        }
        command.arg("PX").arg(LIFE_MILLIS);
        keys.push(key);
    }
    let answers = shared
        .query(&commands)
        .await
        .map_err(|error| not_applied(format!("a payload was not uploaded: {error}")))?;
    for answer in answers {
        if let Value::ServerError(error) = answer {
            shared.refused(judge(&error));
            return Err(not_applied(reason(&error)));
        }
    }
    Ok(keys)
}

/// Removes uploads that no commit has taken; what is left of them goes by itself.
pub(super) async fn remove(shared: &Arc<Shared>, keys: Vec<Vec<u8>>) {
    if keys.is_empty() {
        return;
    }
    let mut commands = Pipeline::new();
    let command = commands.cmd("DEL");
    for key in keys {
        command.arg(key);
    }
    if let Err(error) = shared.query(&commands).await {
        tracing::debug!(%error, "uploads are left to expire");
    }
}
