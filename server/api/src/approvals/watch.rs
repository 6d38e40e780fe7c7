//! The stream of a watch.

use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_engine::ApprovalWatchItem;
use coretex_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::call::Call;
use crate::convert::approval;
use crate::convert::job::View;

/// What happens to approvals, as messages. Items are converted when the transport takes them.
#[derive(Debug)]
pub(crate) struct Watch {
    call: Call,
    items: mpsc::Receiver<coretex_engine::Result<ApprovalWatchItem>>,
}

impl Watch {
    pub(super) const fn new(
        call: Call,
        items: mpsc::Receiver<coretex_engine::Result<ApprovalWatchItem>>,
    ) -> Self {
        Self { call, items }
    }
}

fn write(item: ApprovalWatchItem) -> v1::WatchApprovalsResponse {
    match item {
        ApprovalWatchItem::Checkpoint { resume_token } => v1::WatchApprovalsResponse {
            event: None,
            approval: None,
            resume_token,
            checkpoint: true,
        },
        ApprovalWatchItem::Event {
            event,
            answer,
            resume_token,
        } => v1::WatchApprovalsResponse {
            event: Some(approval::event(&event)),
            approval: Some(approval::write(&answer, View::Basic)),
            resume_token,
            checkpoint: false,
        },
    }
}

impl Stream for Watch {
    type Item = Result<v1::WatchApprovalsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx).map(|next| {
            next.map(|item| match item {
                Ok(item) => Ok(write(item)),
                Err(error) => Err(self.call.status(error.into())),
            })
        })
    }
}
