//! The calls of `ApprovalService`.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_proto::v1::approval_service_client::ApprovalServiceClient;
use coretex_proto::v1::{
    ResolveApprovalRequest, ResolveApprovalResponse, WatchApprovalsRequest, WatchApprovalsResponse,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tonic::Streaming;

use super::call::unary;
use super::items::paged;
use super::watch::{Watched, take_token};
use crate::{Client, Error};

unary! {
    /// Shows a page of approvals, newest first. See also [`all_approvals`](Self::all_approvals).
    ApprovalServiceClient::list_approvals(
        "/coretex.v1.ApprovalService/ListApprovals",
        ListApprovalsRequest
    ) -> ListApprovalsResponse;
    /// Shows one approval with everything that an approver has to know.
    ApprovalServiceClient::get_approval(
        "/coretex.v1.ApprovalService/GetApproval",
        GetApprovalRequest
    ) -> GetApprovalResponse;
}

paged! {
    /// All approvals that match, newest first.
    all_approvals = list_approvals(ListApprovalsRequest) -> approvals: Approval;
}

/// What happens to approvals, as it happens. A [`Stream`]; ends after an error.
#[must_use]
pub struct ApprovalWatch {
    stream: BoxStream<'static, Result<WatchApprovalsResponse, Error>>,
}

impl ApprovalWatch {
    /// The next message.
    pub async fn next(&mut self) -> Option<Result<WatchApprovalsResponse, Error>> {
        self.stream.next().await
    }
}

impl Stream for ApprovalWatch {
    type Item = Result<WatchApprovalsResponse, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl fmt::Debug for ApprovalWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApprovalWatch").finish_non_exhaustive()
    }
}

impl Watched for WatchApprovalsRequest {
    type Message = WatchApprovalsResponse;

    async fn open(self, client: &Client) -> Result<Streaming<WatchApprovalsResponse>, Error> {
        client
            .open_stream(self, |channel, request| async move {
                ApprovalServiceClient::new(channel)
                    .watch_approvals(request)
                    .await
            })
            .await
    }

    fn heard(&mut self, message: &WatchApprovalsResponse) -> bool {
        take_token(&mut self.resume_token, &message.resume_token);
        false
    }
}

impl Client {
    /// Votes on an approval. Fills the idempotency key when it is empty.
    ///
    /// `expected_hash` has to be the hash of the approval that was looked at: what has changed since
    /// is not approved by accident.
    ///
    /// ```no_run
    /// use coretex::proto::{ApprovalVerdict, GetApprovalRequest, ResolveApprovalRequest};
    ///
    /// # async fn example(client: coretex::Client) -> Result<(), coretex::Error> {
    /// let request = GetApprovalRequest { approval_id: "approval-1".into() };
    /// if let Some(approval) = client.get_approval(request).await?.approval {
    ///     // Show it to a person, who agrees.
    ///     let vote = ResolveApprovalRequest {
    ///         approval_id: approval.approval_id,
    ///         verdict: ApprovalVerdict::Approve.into(),
    ///         expected_hash: approval.hash,
    ///         ..Default::default()
    ///     };
    ///     client.resolve_approval(vote).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn resolve_approval(
        &self,
        mut request: ResolveApprovalRequest,
    ) -> Result<ResolveApprovalResponse, Error> {
        if request.idempotency_key.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        let path = "/coretex.v1.ApprovalService/ResolveApproval";
        let limit = self.deadline();
        self.call(path, limit, request, |channel, request| async move {
            ApprovalServiceClient::new(channel)
                .resolve_approval(request)
                .await
        })
        .await
    }

    /// Tells what happens to approvals, as it happens. Resumes by itself, as
    /// [`watch`](Self::watch) does; errors come as the last item.
    pub fn watch_approvals(&self, request: WatchApprovalsRequest) -> ApprovalWatch {
        ApprovalWatch {
            stream: self.resumed(request),
        }
    }
}
