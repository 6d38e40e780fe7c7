//! Where the server's address and the key come from.

use coretex::ErrorReason;
use coretex::proto::*;
use tonic::Code;

use crate::support::{Scene, private};

async fn scene() -> Scene {
    let scene = Scene::new().await;
    scene.fake.who_am_i.set(|_| Ok(WhoAmIResponse::default()));
    scene
}

/// The credential that the next call carries.
async fn sent(scene: &Scene, args: &[&str]) -> String {
    let ran = scene.run(args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    scene.fake.credentials.lock().pop().unwrap()
}

#[tokio::test]
async fn a_key_comes_from_flag_then_environment_then_profile_then_admin_key() {
    let mut scene = scene().await;
    assert_eq!(sent(&scene, &["whoami"]).await, "");
    scene
        .ctl
        .file(".local/share/coretex/admin.key", "from-admin\n");
    assert_eq!(sent(&scene, &["whoami"]).await, "Bearer from-admin");
    let profiles = "[profiles.default]\napi_key = \"from-default\"\n\
                    [profiles.other]\napi_key = \"from-other\"\n";
    scene.ctl.file(".config/coretex/config.toml", profiles);
    assert_eq!(sent(&scene, &["whoami"]).await, "Bearer from-default");
    assert_eq!(
        sent(&scene, &["--profile", "other", "whoami"]).await,
        "Bearer from-other"
    );
    scene.ctl.set("CORETEX_PROFILE", "other");
    assert_eq!(sent(&scene, &["whoami"]).await, "Bearer from-other");
    scene.ctl.set("CORETEX_API_KEY", "from-env");
    assert_eq!(sent(&scene, &["whoami"]).await, "Bearer from-env");
    assert_eq!(
        sent(&scene, &["whoami", "--api-key", "from-flag"]).await,
        "Bearer from-flag"
    );
    // An empty variable is one that is not set.
    scene.ctl.set("CORETEX_API_KEY", "");
    assert_eq!(sent(&scene, &["whoami"]).await, "Bearer from-other");
}

#[tokio::test]
async fn the_profile_says_where_the_server_is_and_the_directories_can_be_moved() {
    let mut scene = scene().await;
    scene.ctl.environment.remove("CORETEX_SERVER");
    let config = format!(
        "default_profile = \"here\"\n[profiles.here]\nserver = \"{}\"\n",
        scene.url
    );
    scene.ctl.file("elsewhere/coretex/config.toml", config);
    scene.ctl.file("data/coretex/admin.key", "moved");
    let home = scene.ctl.home.path().display().to_string();
    scene
        .ctl
        .set("XDG_CONFIG_HOME", format!("{home}/elsewhere"));
    scene.ctl.set("XDG_DATA_HOME", format!("{home}/data"));
    assert_eq!(sent(&scene, &["whoami"]).await, "Bearer moved");
    scene.ctl.file("server/admin.key", "of-the-server");
    scene.ctl.set("CORETEX_DATA_DIR", format!("{home}/server"));
    assert_eq!(sent(&scene, &["whoami"]).await, "Bearer of-the-server");
}

#[tokio::test]
async fn an_admin_key_that_others_can_read_is_refused() {
    let scene = scene().await;
    let path = scene.ctl.file(".local/share/coretex/admin.key", "leaked");
    private(path.as_ref(), 0o644);
    let ran = scene.run(&["whoami"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("mode 644") && ran.stderr.contains("hint: chmod 600"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("leaked"));
    // Nobody needs it when there is a better one.
    assert_eq!(
        sent(&scene, &["whoami", "--api-key", "k"]).await,
        "Bearer k"
    );
}

#[tokio::test]
async fn bad_configuration_is_told_with_its_place() {
    let scene = scene().await;
    let config = "[profiles.default]\napi_key = \"secret\"\nservr = \"x\"\n";
    scene.ctl.file(".config/coretex/config.toml", config);
    let ran = scene.run(&["whoami"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("config.toml:3: unknown field `servr`"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("secret"));

    scene.ctl.file(
        ".config/coretex/config.toml",
        "[profiles.one]\n[profiles.two]\n",
    );
    let ran = scene.run(&["whoami", "--profile", "three"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("no profile three") && ran.stderr.contains("one, two"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_key_in_a_file_that_others_can_read_is_warned_about() {
    let scene = scene().await;
    let path = scene.ctl.file(
        ".config/coretex/config.toml",
        "[profiles.default]\napi_key = \"k\"\n",
    );
    private(path.as_ref(), 0o640);
    let ran = scene.run(&["whoami"]).await;
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stderr.starts_with("warning: ") && ran.stderr.contains("chmod 600"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_refused_credential_says_where_it_came_from() {
    let scene = scene().await;
    let refuse = |reason: ErrorReason| {
        scene.fake.who_am_i.set(move |_| {
            Err(crate::support::refusal(
                Code::Unauthenticated,
                "who are you",
                reason,
            ))
        });
    };
    refuse(ErrorReason::CredentialMissing);
    let ran = scene.run(&["whoami"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("hint: give a key with --api-key"),
        "{}",
        ran.stderr
    );

    refuse(ErrorReason::CredentialInvalid);
    scene
        .ctl
        .file(".local/share/coretex/admin.key", "of-another-server");
    let ran = scene.run(&["whoami"]).await;
    assert!(
        ran.stderr.contains("admin.key; another server"),
        "{}",
        ran.stderr
    );
}
