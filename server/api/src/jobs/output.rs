//! The stream of what a job has said while it ran.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_engine::{Engine, OutputFrom, OutputItem};
use coretex_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::call::Call;
use crate::convert::output;
use crate::problem::Result;
use crate::validate::check;

/// Pieces as messages. They are converted when the transport takes them.
#[derive(Debug)]
pub(crate) struct Pieces {
    call: Call,
    /// Names the job in resume tokens.
    name: u64,
    /// What is left of the page that was read last.
    page: VecDeque<OutputItem>,
    pages: mpsc::Receiver<coretex_engine::Result<Vec<OutputItem>>>,
}

/// Begins to read.
pub(super) async fn open(
    engine: &Engine,
    call: Call,
    request: v1::ReadJobOutputRequest,
) -> Result<Pieces> {
    let (id, mut wanted, token) = check(|fields| {
        let id = fields.job("job_id", &request.job_id);
        let wanted = output::read(fields, &request);
        (
            id,
            wanted,
            fields.token("resume_token", request.resume_token),
        )
    })?;
    let name = output::name(&id);
    if let Some(at) = output::resume(token, name)? {
        wanted.from = OutputFrom::Position(at);
    }
    let pages = engine.read_output(&call.caller, &id, wanted).await?;
    Ok(Pieces {
        call,
        name,
        page: VecDeque::new(),
        pages,
    })
}

impl Stream for Pieces {
    type Item = std::result::Result<v1::ReadJobOutputResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(item) = self.page.pop_front() {
                return Poll::Ready(Some(Ok(output::write(item, self.name))));
            }
            match std::task::ready!(self.pages.poll_recv(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(page)) => self.page = page.into(),
                Some(Err(error)) => return Poll::Ready(Some(Err(self.call.status(error.into())))),
            }
        }
    }
}
