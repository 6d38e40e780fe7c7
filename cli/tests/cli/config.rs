//! Configuration: what is typed becomes a document, and what comes back is shown.

use coretex::ErrorReason;
use coretex::proto::*;
use coretex::proto_value::{struct_from_json, struct_to_json};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::support::{Scene, refusal};

fn data(json: &Value) -> Option<coretex::well_known::Struct> {
    json.as_object().map(struct_from_json)
}

fn document(says: &Value, etag: &str) -> Config {
    Config {
        scope: ConfigScope::Team.into(),
        scope_id: "t".into(),
        data: data(says),
        etag: etag.into(),
        revision: 3,
        principal_id: "key:1".into(),
        ..Config::default()
    }
}

fn gone() -> Status {
    refusal(
        Code::NotFound,
        "no such document",
        ErrorReason::ConfigNotFound,
    )
}

/// The server has this document, and writes what it is told.
fn holds(scene: &Scene, says: &Value) {
    let found = document(says, "7");
    scene.fake.get_config.set(move |_| {
        Ok(GetConfigResponse {
            config: Some(found.clone()),
        })
    });
    writes(scene);
}

fn writes(scene: &Scene) {
    scene.fake.set_config.set(|request| {
        let mut config = document(&json!({}), "8");
        config.data = request.data;
        Ok(SetConfigResponse {
            config: Some(config),
        })
    });
}

fn written(request: &SetConfigRequest) -> Value {
    Value::Object(struct_to_json(request.data.as_ref().unwrap()))
}

#[tokio::test]
async fn keys_are_set_in_what_is_there() {
    let scene = Scene::new().await;
    holds(
        &scene,
        &json!({"limits": {"max_labels": 1}, "models": {"default": "a"}}),
    );
    let typed = [
        "config",
        "set",
        "team/t",
        "limits.max_attempts=2",
        "/topics/job.a/timeout=5m",
        "--unset",
        "models.default",
    ];
    let ran = scene.run(&typed).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let request = scene.fake.set_config.only();
    assert_eq!(
        (request.scope(), &*request.scope_id),
        (ConfigScope::Team, "t")
    );
    assert_eq!(
        request.etag, "7",
        "somebody who writes meanwhile is noticed"
    );
    assert_eq!(
        written(&request),
        json!({
            "limits": {"max_labels": 1, "max_attempts": 2},
            "topics": {"job.a": {"timeout": "5m"}},
        })
    );
    for words in ["team/t", "revision", "max_attempts: 2", "key:1"] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
}

#[tokio::test]
async fn a_file_is_the_whole_document() {
    let scene = Scene::new().await;
    writes(&scene);
    let file = scene.ctl.file("config.yaml", "limits:\n  max_labels: 4\n");
    for (flags, etag, only) in [
        (&[][..], "*", false),
        (&["--etag", "9"], "9", false),
        (&["--create", "--validate-only"], "", true),
    ] {
        let typed = [
            &["config", "set", "org", "--file", &file, "-o", "json"],
            flags,
        ]
        .concat();
        let ran = scene.run(&typed).await;
        assert_eq!(
            ran.json()["data"],
            json!({"limits": {"max_labels": 4}}),
            "{ran:?}"
        );
        let request = scene.fake.set_config.asked().pop().unwrap();
        assert_eq!((&*request.etag, request.validate_only), (etag, only));
        assert_eq!(written(&request), json!({"limits": {"max_labels": 4}}));
    }
    let typed = ["config", "set", "org", "-f", "-"];
    let ran = scene.ctl.run_with_stdin(&typed, "{\"models\": {}}").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let request = scene.fake.set_config.asked().pop().unwrap();
    assert_eq!(written(&request), json!({"models": {}}));
}

#[tokio::test]
async fn an_editor_changes_what_is_there_and_loses_nothing() {
    let mut scene = Scene::new().await;
    holds(&scene, &json!({"models": {"default": "a"}}));
    let editor = scene.ctl.file(
        "editor",
        "#!/bin/sh\nsed -i s/default:.a/default:\\ b/ \"$2\"\n",
    );
    crate::support::private(editor.as_ref(), 0o700);
    scene.ctl.set("EDITOR", format!("{editor} --wait"));
    scene
        .ctl
        .set("TMPDIR", scene.ctl.home.path().display().to_string());
    let ran = scene.run(&["config", "edit", "team/t"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let request = scene.fake.set_config.only();
    assert_eq!(
        (&*request.etag, written(&request)),
        ("7", json!({"models": {"default": "b"}}))
    );
    let drafts = || {
        let files = std::fs::read_dir(scene.ctl.home.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("coretex-config-"))
            .count()
    };
    assert_eq!(drafts(), 0);
    scene.fake.set_config.set(|_| {
        Err(refusal(
            Code::Aborted,
            "the etag is another",
            ErrorReason::EtagMismatch,
        ))
    });
    let ran = scene.run(&["config", "edit", "team/t"]).await;
    assert_eq!((ran.code, drafts()), (Some(1), 1), "{ran:?}");
    for words in ["ETAG_MISMATCH", "what was typed is in", "read it again"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    // Nothing typed is nothing written; where there is no document, an empty one is made.
    scene.ctl.set("EDITOR", "true");
    let asked = scene.fake.set_config.asked().len();
    let ran = scene.run(&["config", "edit", "team/t"]).await;
    assert!(ran.stderr.contains("nothing was changed"), "{ran:?}");
    assert_eq!(scene.fake.set_config.asked().len(), asked);
    scene.ctl.set("EDITOR", "false");
    let ran = scene.run(&["config", "edit", "team/t"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    scene.fake.get_config.set(|_| Err(gone()));
    writes(&scene);
    scene.ctl.set("EDITOR", "true");
    let ran = scene.run(&["config", "edit", "team/t"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let request = scene.fake.set_config.asked().pop().unwrap();
    assert_eq!((&*request.etag, written(&request)), ("", json!({})));
}

#[tokio::test]
async fn documents_are_listed_compared_and_deleted() {
    let scene = Scene::new().await;
    scene.fake.list_configs.set(|_| {
        Ok(ListConfigsResponse {
            configs: vec![document(&json!({"limits": {}, "models": {}}), "7")],
            ..ListConfigsResponse::default()
        })
    });
    let ran = scene.run(&["config", "list", "--scope", "team,org"]).await;
    let row = ran.stdout.lines().nth(1).unwrap();
    assert!(
        row.contains("team/t") && row.contains("limits,models"),
        "{row}"
    );
    let scopes = scene.fake.list_configs.only().scopes;
    assert_eq!(scopes, [ConfigScope::Team as i32, ConfigScope::Org as i32]);

    scene.fake.list_config_revisions.set(|_| {
        let revision = |number: i32, says: Option<Value>| ConfigRevision {
            revision: number,
            deleted: says.is_none(),
            data: says.as_ref().and_then(data),
            ..ConfigRevision::default()
        };
        Ok(ListConfigRevisionsResponse {
            revisions: vec![
                revision(4, Some(json!({"models": {"n": 4}}))),
                revision(3, None),
                revision(2, Some(json!({"models": {"n": 2}}))),
            ],
            ..ListConfigRevisionsResponse::default()
        })
    });
    let ran = scene.run(&["config", "history", "team/t"]).await;
    assert!(
        ran.stdout.lines().nth(2).unwrap().contains("deleted"),
        "{ran:?}"
    );
    let diff = async |more: &[&str]| {
        let ran = scene
            .run(&[&["config", "diff", "team/t"], more].concat())
            .await;
        (ran.code, ran.stdout)
    };
    assert_eq!(diff(&[]).await, (Some(0), "+ /models/n: 4\n".to_owned()));
    let both = "- /models/n: 2\n+ /models/n: 4\n";
    assert_eq!(diff(&["2"]).await.1, both);
    assert_eq!(diff(&["2", "3"]).await.1, "- /models/n: 2\n");
    assert_eq!(diff(&["1"]).await.0, Some(2));
    holds(&scene, &json!({"models": {"n": 2}}));
    let file = scene.ctl.file("other.json", "{\"models\": {\"n\": 4}}");
    assert_eq!(diff(&["--file", &file]).await.1, both);

    scene
        .fake
        .delete_config
        .set(|_| Ok(DeleteConfigResponse {}));
    assert_eq!(
        scene.run(&["config", "delete", "team/t"]).await.code,
        Some(2)
    );
    let ran = scene
        .run(&["config", "delete", "team/t", "--yes", "--etag", "7"])
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(scene.fake.delete_config.only().etag, "7");
}

#[tokio::test]
async fn what_is_in_force_says_where_it_comes_from() {
    let scene = Scene::new().await;
    scene.fake.get_effective_config.set(|_| {
        Ok(GetEffectiveConfigResponse {
            data: data(
                &json!({"limits": {"max_labels": 2}, "topics": {"job.a/b": {"risk_tags": ["x"]}}}),
            ),
            version: 5,
            hash: "abc".into(),
            origins: vec![
                ConfigOrigin {
                    scope: ConfigScope::Org.into(),
                    scope_id: "acme".into(),
                    revision: 4,
                    pointers: vec![
                        "/limits/max_labels".into(),
                        "/topics/job.a~1b/risk_tags".into(),
                    ],
                    ..ConfigOrigin::default()
                },
                ConfigOrigin {
                    scope: ConfigScope::Team.into(),
                    scope_id: "t".into(),
                    revision: 1,
                    pointers: vec!["/topics/job.a~1b/risk_tags".into()],
                    ..ConfigOrigin::default()
                },
            ],
        })
    });
    let place = [
        "config",
        "effective",
        "--team",
        "t",
        "--workflow",
        "w",
        "--step",
        "s",
    ];
    let ran = scene.run(&place).await;
    assert!(ran.stdout.contains("max_labels: 2"), "{}", ran.stdout);
    let asked = scene.fake.get_effective_config.only();
    assert_eq!(
        (&*asked.team_id, &*asked.workflow_id, &*asked.step_id),
        ("t", "w", "s")
    );
    let ran = scene.run(&["config", "effective", "--origins"]).await;
    let row = |key: &str| {
        ran.stdout
            .lines()
            .find(|line| line.contains(key))
            .unwrap()
            .to_owned()
    };
    assert!(
        row("/limits/max_labels").contains("org (revision 4)"),
        "{}",
        ran.stdout
    );
    let both = row("/topics/job.a~1b/risk_tags");
    assert!(
        both.contains("[\"x\"]") && both.contains("org (revision 4), team/t"),
        "{both}"
    );
    let ran = scene.run(&["config", "effective", "-o", "json"]).await;
    assert_eq!(ran.json()["origins"], json!([]));
    let ran = scene
        .run(&["config", "effective", "--origins", "-o", "json"])
        .await;
    assert_eq!(
        ran.json()["origins"][0]["pointers"][0],
        "/limits/max_labels"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let scene = Scene::new().await;
    for (typed, says) in [
        (
            &["config", "get", "teem/a"][..],
            "must be system, org, team/ID",
        ),
        (&["config", "get", "team"], "needs an id"),
        (&["config", "set", "org"], "nothing to set"),
        (
            &["config", "set", "org", "a=1", "--file", "x"],
            "cannot be used with",
        ),
        (
            &["config", "set", "org", "--file", "/nowhere"],
            "cannot read",
        ),
        (&["config", "effective", "--step", "s"], "--workflow"),
    ] {
        let ran = scene.run(typed).await;
        assert_eq!(ran.code, Some(2), "{typed:?}: {ran:?}");
        assert!(ran.stderr.contains(says), "{typed:?}: {}", ran.stderr);
    }
    assert!(scene.fake.set_config.asked().is_empty());
}
