//! The calls of `DlqService`.

use coretex_proto::v1::dlq_service_client::DlqServiceClient;
use coretex_proto::v1::{
    PurgeDlqRequest, PurgeDlqResponse, RetryDlqEntriesRequest, RetryDlqEntriesResponse,
    RetryDlqEntryRequest, RetryDlqEntryResponse,
};

use super::bulk::{Bulk, Call};
use super::call::unary;
use super::items::paged;
use crate::{Client, Error};

unary! {
    /// Shows a page of dead letters, newest first. See also
    /// [`all_dlq_entries`](Self::all_dlq_entries).
    DlqServiceClient::list_dlq_entries(
        "/coretex.v1.DlqService/ListDlqEntries",
        ListDlqEntriesRequest
    ) -> ListDlqEntriesResponse;
    /// Shows one dead letter.
    DlqServiceClient::get_dlq_entry("/coretex.v1.DlqService/GetDlqEntry", GetDlqEntryRequest)
        -> GetDlqEntryResponse;
    /// Throws a dead letter away. When the answer to the first try is lost, the second may say that
    /// there is no such entry.
    DlqServiceClient::delete_dlq_entry(
        "/coretex.v1.DlqService/DeleteDlqEntry",
        DeleteDlqEntryRequest
    ) -> DeleteDlqEntryResponse;
}

paged! {
    /// All dead letters that match, newest first.
    all_dlq_entries = list_dlq_entries(ListDlqEntriesRequest) -> entries: DlqEntry;
}

impl Client {
    /// Runs the job of a dead letter again as a new job. Fills the idempotency key when it is
    /// empty.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn retry_dlq_entry(
        &self,
        mut request: RetryDlqEntryRequest,
    ) -> Result<RetryDlqEntryResponse, Error> {
        if request.idempotency_key.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        if let Some(edits) = &mut request.edits {
            self.fit(&mut edits.input).await?;
        }
        let path = "/coretex.v1.DlqService/RetryDlqEntry";
        let limit = self.deadline();
        self.call(path, limit, request, |channel, request| async move {
            DlqServiceClient::new(channel)
                .retry_dlq_entry(request)
                .await
        })
        .await
    }

    /// Retries every dead letter that matches. Goes on by itself where it was, when the connection
    /// breaks; makes no job twice. Fills the idempotency key when it is empty.
    ///
    /// # Errors
    /// Those of the payload store. What the contract names for the RPC comes as the last item.
    pub async fn retry_dlq_entries(
        &self,
        mut request: RetryDlqEntriesRequest,
    ) -> Result<Bulk, Error> {
        if request.idempotency_key.is_empty() && request.page_token.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        if let Some(edits) = &mut request.edits {
            self.fit(&mut edits.input).await?;
        }
        Ok(self.bulk(Call {
            request,
            resume: |request, progress| request.page_token.clone_from(&progress.page_token),
            open: |channel, request| async move {
                DlqServiceClient::new(channel)
                    .retry_dlq_entries(request)
                    .await
            },
            progress: |message: RetryDlqEntriesResponse| message.progress,
        }))
    }

    /// Throws every dead letter away that matches. Goes on by itself where it was, when the
    /// connection breaks.
    pub fn purge_dlq(&self, request: PurgeDlqRequest) -> Bulk {
        self.bulk(Call {
            request,
            resume: |request, progress| request.page_token.clone_from(&progress.page_token),
            open: |channel, request| async move {
                DlqServiceClient::new(channel).purge_dlq(request).await
            },
            progress: |message: PurgeDlqResponse| message.progress,
        })
    }
}
