//! Lists, details and answers in each format, and the verbs that only look.

use coretex::proto::*;
use coretex::{JobState, Payload};
use serde_json::json;

use crate::support::{Scene, failed, job};

#[tokio::test]
async fn json_is_proto_json_with_original_names_defaults_and_whole_numbers() {
    let scene = Scene::new().await;
    scene.fake.get_job.set(|_| {
        let input = Payload::from_json(&json!({"n": 3, "x": 0.5}));
        Ok(GetJobResponse {
            job: Some(Job {
                input: Some(input),
                ..job("a", JobState::Running)
            }),
        })
    });
    let ran = scene.run(&["--output", "json", "job", "get", "a"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let json = ran.json();
    assert_eq!(json["job_id"], "a");
    assert_eq!(json["state"], "JOB_STATE_RUNNING");
    assert_eq!(json["attempt"], 0);
    assert_eq!(json["waiting_reason"], "");
    assert_eq!(json["input"]["json"].to_string(), r#"{"n":3,"x":0.5}"#);
    assert!(ran.stdout.contains("\"n\": 3,"), "{}", ran.stdout);

    let ran = scene.run(&["-o", "yaml", "job", "get", "a"]).await;
    assert!(ran.stdout.contains("job_id: a\n"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("state: JOB_STATE_RUNNING\n"),
        "{}",
        ran.stdout
    );
}

fn pages(scene: &Scene, total: usize) {
    scene.fake.list_jobs.set(move |request| {
        let from: usize = request.page_token.parse().unwrap_or(0);
        let size = usize::try_from(request.page_size).unwrap().min(2);
        let to = (from + size).min(total);
        Ok(ListJobsResponse {
            jobs: (from..to)
                .map(|n| job(&format!("j{n}"), JobState::Pending))
                .collect(),
            next_page_token: if to < total {
                to.to_string()
            } else {
                String::new()
            },
            resume_token: format!("r{from}"),
        })
    });
}

#[tokio::test]
async fn a_list_is_one_object_over_all_its_pages() {
    let scene = Scene::new().await;
    pages(&scene, 5);
    let ran = scene
        .run(&[
            "job",
            "list",
            "-o",
            "json",
            "--label",
            "a=b",
            "--created-after",
            "1h",
        ])
        .await;
    let json = ran.json();
    assert_eq!(json["jobs"].as_array().unwrap().len(), 5);
    assert_eq!(
        (&json["next_page_token"], &json["resume_token"]),
        (&json!(""), &json!("r0"))
    );
    let filter = scene.fake.list_jobs.asked().remove(0).filter.unwrap();
    assert_eq!(filter.labels["a"], "b");
    assert!(filter.created_after.is_some());
}

#[tokio::test]
async fn a_limited_list_says_how_to_go_on() {
    let scene = Scene::new().await;
    pages(&scene, 5);
    let ran = scene.run(&["job", "list", "--limit", "3"]).await;
    assert_eq!(ran.stdout.lines().count(), 4, "{}", ran.stdout);
    assert!(
        ran.stdout.starts_with("JOB  TOPIC  STATE    ATTEMPT"),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("--page-token 3"), "{}", ran.stderr);
    let ran = scene
        .run(&["job", "list", "--page-token", "3", "-o", "json"])
        .await;
    assert_eq!(ran.json()["jobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn history_and_diagnosis_are_shown() {
    let scene = Scene::new().await;
    scene.fake.list_job_attempts.set(|_| {
        let attempt = |number| JobAttempt {
            attempt: number,
            worker_id: "w".into(),
            end_state: JobState::Failed.into(),
            error: failed("a").error,
            ..JobAttempt::default()
        };
        Ok(ListJobAttemptsResponse {
            attempts: vec![attempt(1), attempt(2)],
            ..ListJobAttemptsResponse::default()
        })
    });
    let ran = scene.run(&["job", "attempts", "a"]).await;
    assert_eq!(
        ran.stdout.matches("the disk is full (exit_7)").count(),
        2,
        "{}",
        ran.stdout
    );
    let ran = scene.run(&["job", "attempts", "a", "-o", "json"]).await;
    assert_eq!(ran.json()["attempts"][1]["attempt"], 2);

    scene.fake.diagnose_job.set(|_| {
        Ok(DiagnoseJobResponse {
            state: JobState::Pending.into(),
            causes: vec![JobCause {
                code: "no_workers".into(),
                message: "no worker serves job.x".into(),
                remedy: "start one".into(),
                ..JobCause::default()
            }],
            queue_position: 1_000,
            queue_position_capped: true,
            pools: vec![PoolDiagnosis {
                pool: "default".into(),
                reason: "no_worker_matches".into(),
                message: "no worker suits the job".into(),
                workers: vec![WorkerDiagnosis {
                    worker_id: "w".into(),
                    reason: "label_mismatch".into(),
                    message: "zone is us".into(),
                    ..WorkerDiagnosis::default()
                }],
                ..PoolDiagnosis::default()
            }],
        })
    });
    let ran = scene.run(&["job", "diagnose", "a"]).await;
    for expected in [
        "no_workers: no worker serves job.x",
        "start one",
        "1000+",
        "no_worker_matches: no worker suits the job",
        "label_mismatch: zone is us",
    ] {
        assert!(ran.stdout.contains(expected), "{expected}: {}", ran.stdout);
    }

    scene.fake.count_jobs.set(|_| {
        Ok(CountJobsResponse {
            count: 12,
            capped: true,
        })
    });
    let ran = scene.run(&["job", "count", "--state", "pending"]).await;
    assert_eq!(ran.stdout, "12+\n");

    scene
        .fake
        .list_job_events
        .set(|_| Ok(ListJobEventsResponse::default()));
    scene
        .fake
        .list_job_decisions
        .set(|_| Ok(ListJobDecisionsResponse::default()));
    for verb in ["events", "decisions"] {
        let ran = scene.run(&["job", verb, "a", "-o", "json"]).await;
        assert_eq!(ran.json()[verb], json!([]), "{ran:?}");
    }
}

#[tokio::test]
async fn workers_and_pools_are_listed_shown_and_drained() {
    let scene = Scene::new().await;
    let worker = || Worker {
        worker_id: "w1".into(),
        pool: "default".into(),
        state: WorkerState::Ready.into(),
        topics: vec!["job.x".into()],
        max_parallel_jobs: 4,
        active_jobs: 1,
        ..Worker::default()
    };
    scene.fake.list_workers.set(move |_| {
        Ok(ListWorkersResponse {
            workers: vec![worker()],
            ..ListWorkersResponse::default()
        })
    });
    let ran = scene.run(&["worker", "list", "--pool", "default"]).await;
    assert!(
        ran.stdout.contains("w1      default  READY  1/4"),
        "{}",
        ran.stdout
    );
    let ran = scene.run(&["worker", "list", "-o", "json"]).await;
    assert_eq!(ran.json()["workers"][0]["worker_id"], "w1");

    scene.fake.get_worker.set(move |_| {
        let running = AttemptRef {
            job_id: "a".into(),
            attempt: 2,
            ..AttemptRef::default()
        };
        Ok(GetWorkerResponse {
            worker: Some(worker()),
            running: vec![running],
        })
    });
    let ran = scene.run(&["worker", "get", "w1"]).await;
    assert!(ran.stdout.contains("a (attempt 2)"), "{}", ran.stdout);

    scene.fake.drain_worker.set(move |request| {
        let state = if request.undo {
            WorkerState::Ready
        } else {
            WorkerState::Draining
        };
        Ok(DrainWorkerResponse {
            worker: Some(Worker {
                state: state.into(),
                ..worker()
            }),
        })
    });
    assert!(
        scene
            .run(&["worker", "drain", "w1"])
            .await
            .stdout
            .contains("DRAINING")
    );
    assert!(
        scene
            .run(&["worker", "undrain", "w1"])
            .await
            .stdout
            .contains("READY")
    );

    scene.fake.list_pools.set(|_| {
        let pool = Pool {
            pool: "default".into(),
            capacity: 4,
            saturation: 0.25,
            topics: vec!["job.served".into()],
            topic_patterns: vec!["job.>".into()],
            ..Pool::default()
        };
        let without_workers = Pool {
            pool: "gpu".into(),
            topic_patterns: vec!["job.a.*".into(), "job.b".into()],
            ..Pool::default()
        };
        Ok(ListPoolsResponse {
            pools: vec![pool, without_workers],
            ..ListPoolsResponse::default()
        })
    });
    let pools = scene.run(&["pool", "list"]).await.stdout;
    assert!(pools.contains("25%"), "{pools}");
    assert!(pools.contains("job.served\n"), "{pools}");
    assert!(pools.contains("job.a.*,job.b\n"), "{pools}");
}

#[tokio::test]
async fn keys_show_their_secret_once_and_are_revoked_with_a_yes() {
    let scene = Scene::new().await;
    scene.fake.create_api_key.set(|request| {
        assert_eq!(request.roles, ["submitter", "viewer"]);
        assert!(request.expire_time.is_some());
        let api_key = ApiKey {
            key_id: "k1".into(),
            ..ApiKey::default()
        };
        Ok(CreateApiKeyResponse {
            api_key: Some(api_key),
            secret: "ck_very_secret".into(),
        })
    });
    let create = [
        "key",
        "create",
        "--name",
        "ci",
        "--role",
        "submitter,viewer",
        "--expires-in",
        "30d",
    ];
    let ran = scene.run(&create).await;
    assert!(ran.stdout.contains("ck_very_secret"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("shown this once") && !ran.stderr.contains("ck_"),
        "{}",
        ran.stderr
    );

    let ran = scene.run(&["key", "revoke", "k1"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("hint: say --yes"), "{}", ran.stderr);
    assert!(scene.fake.revoke_api_key.asked().is_empty());

    scene.fake.revoke_api_key.set(|request| {
        Ok(RevokeApiKeyResponse {
            api_key: Some(ApiKey {
                key_id: request.key_id,
                ..ApiKey::default()
            }),
        })
    });
    let ran = scene
        .run(&["key", "revoke", "k1", "--yes", "-o", "json"])
        .await;
    assert_eq!((ran.code, &ran.json()["key_id"]), (Some(0), &json!("k1")));

    scene.fake.list_api_keys.set(|request| {
        assert!(request.show_inactive);
        Ok(ListApiKeysResponse::default())
    });
    assert_eq!(
        scene
            .run(&["key", "list", "--all", "-o", "json"])
            .await
            .json()["api_keys"],
        json!([])
    );
}

#[tokio::test]
async fn the_system_and_the_caller_are_shown() {
    let scene = Scene::new().await;
    scene.fake.get_status.set(|_| {
        Ok(GetStatusResponse {
            version: "0.1.0".into(),
            engines: vec![EngineStatus {
                component: "store".into(),
                name: "embedded".into(),
                durability: Durability::Fsync.into(),
                healthy: true,
                version: "7.0.15".into(),
                ..EngineStatus::default()
            }],
            store_usage: Some(StoreUsage {
                used_bytes: 2_048,
                limit_bytes: 0,
            }),
            queue_depths: vec![QueueDepth {
                topic: "job.x".into(),
                waiting: 10_000,
                capped: true,
                ..QueueDepth::default()
            }],
            queue_depths_capped: true,
            config_problem: "c.toml:2:1: unknown key `x`; c.toml:3:1: unknown key `y`".into(),
            ..GetStatusResponse::default()
        })
    });
    let ran = scene.run(&["status"]).await;
    for expected in [
        "0.1.0",
        "store   embedded  yes      fsync       7.0.15",
        "2.0 KiB",
        "job.x  10000+   -",
        "more topics than these",
        "config   c.toml:2:1: unknown key `x`\n         c.toml:3:1: unknown key `y`\n",
    ] {
        assert!(ran.stdout.contains(expected), "{expected}: {}", ran.stdout);
    }
    scene.fake.who_am_i.set(|_| {
        Ok(WhoAmIResponse {
            principal_id: "key:k1".into(),
            ..WhoAmIResponse::default()
        })
    });
    assert_eq!(
        scene.run(&["whoami", "-o", "json"]).await.json()["principal_id"],
        "key:k1"
    );
}

#[tokio::test]
async fn completions_and_help_need_no_server() {
    let scene = Scene::new().await;
    for shell in ["bash", "zsh", "fish"] {
        let ran = scene.run(&["completions", shell]).await;
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains("coretexctl"), "{shell}");
    }
    let ran = scene.run(&["--version"]).await;
    assert_eq!(
        ran.stdout,
        format!("coretexctl {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(scene.fake.credentials.lock().is_empty());
}
