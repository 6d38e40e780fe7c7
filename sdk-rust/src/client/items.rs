//! List pages read one after the other.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::Error;

/// The items of a list, page by page as they are asked for. A [`Stream`]; ends after an error.
///
/// ```no_run
/// use coretex::proto::ListJobsRequest;
///
/// # async fn example(client: coretex::Client) -> Result<(), coretex::Error> {
/// let mut jobs = client.all_jobs(ListJobsRequest::default());
/// while let Some(job) = jobs.next().await.transpose()? {
///     if job.topic == "job.wc" { break }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Items<T> {
    stream: BoxStream<'static, Result<T, Error>>,
}

impl<T: Send + 'static> Items<T> {
    /// Reads pages with `read`: from a page token (empty for the first page) to the items of that
    /// page and the token of the next (empty after the last).
    pub(super) fn new<F, Fut>(first_token: String, read: F) -> Self
    where
        F: Fn(String) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(Vec<T>, String), Error>> + Send + 'static,
    {
        // A page may be empty and still not be the last: only an empty token ends the list.
        let pages = stream::try_unfold((Some(first_token), read), |(token, read)| async move {
            let Some(token) = token else {
                return Ok::<_, Error>(None);
            };
            let (items, next) = read(token).await?;
            let next = (!next.is_empty()).then_some(next);
            Ok(Some((
                stream::iter(items.into_iter().map(Ok)),
                (next, read),
            )))
        });
        Self {
            stream: pages.try_flatten().boxed(),
        }
    }

    /// The next item; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        self.stream.next().await
    }

    /// At most `limit` items, in a list.
    ///
    /// # Errors
    /// The first error of a page.
    pub async fn take(mut self, limit: usize) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        while items.len() < limit
            && let Some(item) = self.next().await
        {
            items.push(item?);
        }
        Ok(items)
    }
}

impl<T> Stream for Items<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl<T> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

/// Writes the methods of a client that read all pages of a list.
macro_rules! paged {
    ($($(#[$meta:meta])* $name:ident = $list:ident ($request:ident) -> $field:ident: $item:ident;)+) => {
        impl $crate::Client {
            $(
                $(#[$meta])*
                ///
                /// Starts at the request's `page_token`; `page_size` is how many are read at once.
                pub fn $name(
                    &self,
                    request: coretex_proto::v1::$request,
                ) -> $crate::Items<coretex_proto::v1::$item> {
                    let client = self.clone();
                    let first = request.page_token.clone();
                    $crate::Items::new(first, move |page_token| {
                        let client = client.clone();
                        let request = coretex_proto::v1::$request { page_token, ..request.clone() };
                        async move {
                            let page = client.$list(request).await?;
                            Ok((page.$field, page.next_page_token))
                        }
                    })
                }
            )+
        }
    };
}
pub(super) use paged;
