//! The stream of a watch.

use std::pin::Pin;
use std::task::{Context, Poll};

use coretex_core::id::JobId;
use coretex_engine::{Engine, JobFilter, WatchItem, WatchTarget};
use coretex_proto::v1;
use coretex_proto::v1::watch_jobs_request::Target;
use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;

use crate::call::Call;
use crate::convert;
use crate::convert::job::View;
use crate::convert::query;
use crate::problem::Result;
use crate::validate::check;

/// What happens to jobs, as messages. Items are converted when the transport takes them.
#[derive(Debug)]
pub(crate) struct Watch {
    call: Call,
    view: View,
    /// The checkpoint of a watch on one job, which holds the job.
    first: Option<v1::WatchJobsResponse>,
    items: mpsc::Receiver<coretex_engine::Result<WatchItem>>,
}

/// Opens a watch.
pub(super) async fn open(
    engine: &Engine,
    call: Call,
    request: v1::WatchJobsRequest,
) -> Result<Watch> {
    let (target, view, resume_token) = check(|fields| {
        let target = match request.target {
            None => WatchTarget::Filter(JobFilter::default()),
            Some(Target::Filter(filter)) => {
                WatchTarget::Filter(query::filter(fields, "filter", Some(filter)))
            }
            Some(Target::JobId(id)) => WatchTarget::Job(fields.job("job_id", &id)),
        };
        let view = query::view(fields, request.view, View::Basic, &call.caller);
        (
            target,
            view,
            fields.token("resume_token", request.resume_token),
        )
    })?;
    let one = match &target {
        WatchTarget::Job(id) => Some(id.clone()),
        WatchTarget::Filter(_) => None,
    };
    let full = view.is_full();
    let items = engine
        .watch_jobs(&call.caller, target, resume_token, full)
        .await?;
    let mut watch = Watch {
        call,
        view,
        first: None,
        items,
    };
    if let Some(id) = one {
        watch.first = watch.first_of(engine, &id).await?;
    }
    Ok(watch)
}

impl Watch {
    /// The first message of a watch on one job. The job is read after the watch began, so that
    /// nothing falls between the two.
    async fn first_of(
        &mut self,
        engine: &Engine,
        id: &JobId,
    ) -> Result<Option<v1::WatchJobsResponse>> {
        let Some(first) = self.items.recv().await else {
            return Ok(None);
        };
        let mut message = self.write(first?);
        if message.checkpoint {
            let full = self.view.is_full();
            let job = engine.get_job(&self.call.caller, id, full).await?;
            message.job = Some(convert::job::answer(&job, self.view));
        }
        Ok(Some(message))
    }

    fn write(&self, item: WatchItem) -> v1::WatchJobsResponse {
        match item {
            WatchItem::Checkpoint { resume_token } => v1::WatchJobsResponse {
                event: None,
                job: None,
                resume_token,
                checkpoint: true,
            },
            WatchItem::Event {
                event,
                answer,
                resume_token,
            } => v1::WatchJobsResponse {
                event: Some(convert::history::event(&event, &answer.job.id)),
                job: Some(convert::job::answer(&answer, self.view)),
                resume_token,
                checkpoint: false,
            },
        }
    }
}

impl Stream for Watch {
    type Item = std::result::Result<v1::WatchJobsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        self.items.poll_recv(cx).map(|next| {
            next.map(|item| match item {
                Ok(item) => Ok(self.write(item)),
                Err(error) => Err(self.call.status(error.into())),
            })
        })
    }
}
