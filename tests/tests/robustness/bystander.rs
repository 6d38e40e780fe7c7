//! Who keeps to the rules while others do not, and what the server may cost meanwhile.

use coretex::{Client, JobExt};
use coretex_tests::cluster::server::{Options, Server};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::cluster::{MIB, in_time};
use serde_json::json;

/// A server with a client and a worker that only want to work.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) client: Client,
    _worker: RunningWorker,
    resident_before: usize,
}

impl Scene {
    /// Starts a server, and remembers what it costs when it has run its first jobs.
    pub(crate) async fn start(options: Options) -> Self {
        let server = Server::start(options).await;
        let client = server.client();
        let worker = RunningWorker::echo(client.clone(), "job.bystander", 4).await;
        let mut scene = Self {
            server,
            client,
            _worker: worker,
            resident_before: 0,
        };
        for _ in 0..20 {
            scene.works().await;
        }
        scene.resident_before = scene.server.resident_bytes();
        scene
    }

    /// A job runs from end to end.
    pub(crate) async fn works(&mut self) {
        let submit = self.client.submit("job.bystander", json!("still there?"));
        let job = in_time("a job of a bystander", Box::pin(submit.result()))
            .await
            .unwrap();
        assert!(job.succeeded(), "{job:?}");
        assert_eq!(job.attempt, 1, "{job:?}");
        assert!(self.server.is_running());
    }

    /// The server has not come to need much more memory than it did.
    pub(crate) fn grew_at_most(&self, mebibytes: usize) {
        let now = self.server.resident_bytes();
        let grown = now.saturating_sub(self.resident_before) / MIB;
        assert!(
            grown <= mebibytes,
            "the server grew by {grown} MiB, from {} MiB to {} MiB",
            self.resident_before / MIB,
            now / MIB,
        );
    }
}
