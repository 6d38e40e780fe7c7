//! A page of jobs that fits into a response.

use coretex_engine::{Caller, Engine, PageRequest};
use coretex_proto::v1;
use prost::Message;

use crate::convert;
use crate::convert::job::View;
use crate::convert::query;
use crate::page::{self, fitting};
use crate::problem::Result;
use crate::validate::check;

/// Lists jobs. The engine ends a page by what it knows of the size of records; payloads may be
/// larger as messages than as text. A page that turns out too large is asked for again, shorter:
/// only the engine can name the place where the next one begins.
pub(super) async fn list(
    engine: &Engine,
    caller: &Caller,
    request: v1::ListJobsRequest,
) -> Result<v1::ListJobsResponse> {
    let (filter, view, page) = check(|fields| {
        let filter = query::filter(fields, "filter", request.filter);
        let view = query::view(fields, request.view, View::Basic, caller);
        let page = page::read(fields, request.page_size, request.page_token);
        (filter, view, page)
    })?;
    let PageRequest { mut size, token } = page;
    loop {
        let token = token.clone();
        let page = PageRequest { size, token };
        let found = engine
            .list_jobs(caller, &filter, page, view.is_full())
            .await?;
        let mut jobs = Vec::with_capacity(found.jobs.len());
        for answer in &found.jobs {
            jobs.push(convert::job::answer(answer, view));
        }
        let fit = fitting(jobs.iter().map(Message::encoded_len));
        if fit >= jobs.len() {
            return Ok(v1::ListJobsResponse {
                jobs,
                next_page_token: found.next_page_token,
                resume_token: found.resume_token,
            });
        }
        size = fit;
    }
}
