//! The stream of an operation on many things, and the fields that its requests have in common.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_engine::{BulkOptions, BulkProgress, MAX_BULK_RATE};
use coretex_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::call::Call;
use crate::convert::bulk::progress;
use crate::convert::submit;
use crate::validate::Fields;

/// How far an operation is, as messages. Items are converted when the transport takes them;
/// dropping it stops the operation.
pub(crate) struct Bulk<R> {
    call: Call,
    items: mpsc::Receiver<coretex_engine::Result<BulkProgress>>,
    wrap: fn(v1::BulkProgress) -> R,
}

impl<R> Bulk<R> {
    /// Each progress becomes a response by `wrap`.
    pub(crate) const fn new(
        call: Call,
        items: mpsc::Receiver<coretex_engine::Result<BulkProgress>>,
        wrap: fn(v1::BulkProgress) -> R,
    ) -> Self {
        Self { call, items, wrap }
    }
}

impl<R> fmt::Debug for Bulk<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk").finish_non_exhaustive()
    }
}

impl<R> Stream for Bulk<R> {
    type Item = Result<R, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx).map(|next| {
            next.map(|item| match item {
                Ok(item) => Ok((self.wrap)(progress(item, &self.call.request_id))),
                Err(error) => Err(self.call.status(error.into())),
            })
        })
    }
}

/// Reads how an operation is carried out.
pub(crate) fn options(
    fields: &mut Fields,
    rate: i32,
    dry_run: bool,
    page_token: String,
    idempotency_key: String,
) -> BulkOptions {
    BulkOptions {
        rate: fields.count("rate", rate, MAX_BULK_RATE),
        dry_run,
        page_token: fields.token("page_token", page_token),
        idempotency_key: submit::idempotency_key(fields, idempotency_key),
    }
}

/// Refuses a filter that selects everything unless the caller says that everything is meant: one
/// that was forgotten must not end or start all the work of a tenant.
pub(crate) fn refuse_empty<F: Default + PartialEq>(
    fields: &mut Fields,
    filter: Option<&F>,
    all: bool,
) {
    let empty = filter.is_none_or(|filter| *filter == F::default());
    if empty && !all {
        fields.refuse("filter", "must select something, unless `all` is set");
    }
}
