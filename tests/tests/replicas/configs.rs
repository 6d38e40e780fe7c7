//! Configuration that one server writes is what the others go by.

use std::time::Duration;

use coretex::JobExt;
use coretex::proto::{ConfigScope, GetEffectiveConfigRequest, SetConfigRequest};
use coretex_tests::cluster::in_time;
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::poll;
use serde_json::{Value, json};

use crate::support::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_goes_by_a_change_soon() {
    let Some(cluster) = Cluster::start(2, &[]).await else {
        return;
    };
    let here = cluster.replicas[0].client();
    let there = cluster.replicas[1].client();
    let worker = RunningWorker::serve(there.clone(), "job.there", 1, |context, _| async move {
        Ok(context.config().unwrap_or_default())
    });
    let worker = worker.await;
    for n in 0..3 {
        let says = json!({"models": {"n": n}});
        let set = here.set_config(SetConfigRequest {
            scope: ConfigScope::Org.into(),
            data: says.as_object().map(coretex::proto_value::struct_from_json),
            etag: "*".into(),
            ..SetConfigRequest::default()
        });
        set.await.unwrap();
        poll::until_async(
            "a change to be in force",
            Duration::from_secs(5),
            async || {
                let request = GetEffectiveConfigRequest::default();
                let answer = there.get_effective_config(request).await.unwrap();
                let data = coretex::proto_value::struct_to_json(&answer.data.unwrap_or_default());
                let found = Value::Object(data);
                if found == says {
                    Ok(())
                } else {
                    Err(found.to_string())
                }
            },
        )
        .await;
    }
    let job = Box::pin(here.submit("job.there", ()).result());
    let job = in_time("a job", job).await.unwrap();
    let seen: Value = job.output_as().unwrap();
    assert_eq!(seen, json!({"models": {"n": 2}}));
    drop(worker);
}
