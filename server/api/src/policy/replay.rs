//! The stream of a replay.

use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_engine::Replayed;
use coretex_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::call::Call;
use crate::convert::policy::decision;

/// How far a replay is, as messages. Dropping it stops the replay.
#[derive(Debug)]
pub(crate) struct Replay {
    call: Call,
    items: mpsc::Receiver<coretex_engine::Result<Replayed>>,
}

impl Replay {
    pub(super) const fn new(
        call: Call,
        items: mpsc::Receiver<coretex_engine::Result<Replayed>>,
    ) -> Self {
        Self { call, items }
    }
}

impl Stream for Replay {
    type Item = Result<v1::ReplayPolicyResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx).map(|next| {
            next.map(|item| match item {
                Ok(item) => Ok(message(item)),
                Err(error) => Err(self.call.status(error.into())),
            })
        })
    }
}

fn message(item: Replayed) -> v1::ReplayPolicyResponse {
    let number = |count: u64| i32::try_from(count).unwrap_or(i32::MAX);
    v1::ReplayPolicyResponse {
        change: item
            .change
            .map(|(job, recorded, candidate)| v1::ChangedDecision {
                job_id: job.id.to_string(),
                topic: job.spec.topic.to_string(),
                recorded: Some(decision(&recorded, 1)),
                candidate: Some(decision(&candidate, 0)),
            }),
        judged: number(item.judged),
        changed: number(item.changed),
        undecided: number(item.undecided),
        done: item.done,
    }
}
