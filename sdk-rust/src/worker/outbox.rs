//! What waits to be sent on one connection.
//!
//! Pushing never waits. It is bounded because what is pushed is: a handful of messages for each
//! attempt in the table. A server that makes the worker answer without reading is cut off.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use coretex_proto::v1::OpenSessionRequest;
use coretex_proto::v1::open_session_request::Message;
use futures::Stream;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// Messages below which pieces of output are added; room for everything else stays free.
pub(super) const OUTPUT_ROOM: usize = 1_024;

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<OpenSessionRequest>,
    /// No more are taken: the worker says goodbye, the connection is gone, or it overflowed.
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    capacity: usize,
    waker: AtomicWaker,
}

/// The end that messages are pushed into. Clones push into the same connection.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    shared: Arc<Shared>,
}

/// The end that the connection reads. Dropping it closes the outbox.
#[derive(Debug)]
pub(super) struct OutboxStream {
    shared: Arc<Shared>,
}

impl Outbox {
    pub(super) fn new(capacity: usize) -> (Self, OutboxStream) {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            capacity,
            waker: AtomicWaker::new(),
        });
        let stream = OutboxStream {
            shared: Arc::clone(&shared),
        };
        (Self { shared }, stream)
    }

    /// Sends a message when the connection gets to it. Dropped when the outbox is closed: whoever
    /// owes the message sends it again on the next connection.
    pub(super) fn push(&self, message: Message) {
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return;
            }
            if queue.messages.len() >= self.shared.capacity {
                tracing::warn!("the server does not read, leaving it");
                queue.closed = true;
                queue.messages.clear();
            } else {
                queue.messages.push_back(OpenSessionRequest {
                    message: Some(message),
                });
            }
        }
        self.shared.waker.wake();
    }

    /// Whether so little waits that streamed output may be added, of which there may be much.
    pub(super) fn has_room_for_output(&self) -> bool {
        let queue = self.shared.queue.lock();
        !queue.closed && queue.messages.len() < OUTPUT_ROOM
    }

    /// Whether so little waits that messages nobody would miss may be added.
    pub(super) fn has_room(&self) -> bool {
        let queue = self.shared.queue.lock();
        !queue.closed && queue.messages.len() < self.shared.capacity / 2
    }

    /// Ends the stream after what is queued.
    pub(super) fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.waker.wake();
    }
}

impl Stream for OutboxStream {
    type Item = OpenSessionRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Registered before looking, so that a push in between wakes this task again.
        self.shared.waker.register(cx.waker());
        let mut queue = self.shared.queue.lock();
        match queue.messages.pop_front() {
            Some(message) => Poll::Ready(Some(message)),
            None if queue.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Drop for OutboxStream {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.messages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coretex_proto::v1::WorkerDrain;
    use futures::{FutureExt, StreamExt};

    fn drain() -> Message {
        Message::Drain(WorkerDrain {})
    }

    #[tokio::test]
    async fn what_is_queued_is_sent_before_the_end() {
        let (outbox, mut stream) = Outbox::new(4);
        outbox.push(drain());
        outbox.close();
        outbox.push(drain());
        assert!(stream.next().await.is_some());
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_full_outbox_gives_the_connection_up() {
        let (outbox, mut stream) = Outbox::new(4);
        assert!(outbox.has_room());
        for _ in 0..4 {
            outbox.push(drain());
        }
        assert!(!outbox.has_room());
        outbox.push(drain());
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_push_wakes_the_reader_and_a_gone_reader_keeps_nothing() {
        let (outbox, mut stream) = Outbox::new(4);
        assert!(stream.next().now_or_never().is_none());
        let (read, ()) = tokio::join!(stream.next(), async { outbox.push(drain()) });
        assert!(read.is_some());
        drop(stream);
        outbox.push(drain());
        assert!(outbox.shared.queue.lock().messages.is_empty());
    }
}
