//! Policy bundles from files beside the server: `*.yaml` of one directory, each with its signature
//! in `*.yaml.sig` where it has one. Looked at when the server starts, once a second, and on request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coretex_core::policy::signature::PublicKeys;
use coretex_engine::{BaseBundle, Engine, MAX_BUNDLE_BYTES, MAX_BUNDLES, Signatures};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::Policy as PolicyConfig;

/// How often the directory is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Whoever writes a file in place may be caught in the middle; what counts is what two looks agree
/// on that are this far apart.
const SETTLE: Duration = Duration::from_millis(100);
/// The longest signature file.
const MAX_SIGNATURE_BYTES: u64 = 1_024;

/// The bundle of development mode.
const DEV_NAME: &str = "dev-allow-all";
const DEV_BUNDLE: &str = include_str!("policy/dev-allow-all.yaml");

/// What the files hold.
type Files = Vec<BaseBundle>;

/// Reads the keys whose signatures count.
///
/// # Errors
/// The file cannot be read or holds no keys.
pub(crate) fn signatures(config: &PolicyConfig) -> Result<Signatures, String> {
    let keys = match &config.trusted_keys {
        None => PublicKeys::default(),
        Some(path) => {
            let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
            PublicKeys::from_pem(&text).map_err(|error| named(&error))?
        }
    };
    Ok(Signatures {
        keys,
        required: config.require_signatures,
    })
}

/// Keeps the bundles of an engine what the files hold.
pub(crate) struct PolicyFiles {
    directory: Option<PathBuf>,
    dev: bool,
    engine: Engine,
    /// What was last handed on.
    seen: Files,
}

impl PolicyFiles {
    /// Hands on what the files hold now.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) async fn start(
        config: &PolicyConfig,
        dev: bool,
        engine: &Engine,
    ) -> Result<Self, String> {
        let mut files = Self {
            directory: config.directory.clone(),
            dev,
            engine: engine.clone(),
            seen: Vec::new(),
        };
        files.seen = files.read().await?;
        files.hand_on().await;
        Ok(files)
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if stop.run_until_cancelled(self.look()).await.is_none() {
                return;
            }
        }
    }

    async fn look(&mut self) {
        let mut now = self.read_or_keep().await;
        if now == self.seen {
            return;
        }
        sleep(SETTLE).await;
        let again = self.read_or_keep().await;
        if again != now {
            // The next look is soon.
            return;
        }
        std::mem::swap(&mut self.seen, &mut now);
        self.hand_on().await;
    }

    /// What the files hold; while the directory cannot be read, each as one that cannot be read.
    async fn read_or_keep(&self) -> Files {
        match self.read().await {
            Ok(files) => files,
            Err(reason) => {
                let unread = |file: &BaseBundle| BaseBundle {
                    content: Err(reason.clone()),
                    ..file.clone()
                };
                self.seen.iter().map(unread).collect()
            }
        }
    }

    async fn read(&self) -> Result<Files, String> {
        let mut files = match self.directory.clone() {
            None => Vec::new(),
            Some(directory) => {
                let reading = tokio::task::spawn_blocking(move || read(&directory));
                reading
                    .await
                    .map_err(|error| format!("not read: {error}"))??
            }
        };
        if self.dev {
            files.push(BaseBundle {
                name: DEV_NAME.to_owned(),
                content: Ok(DEV_BUNDLE.to_owned()),
                signature: String::new(),
            });
        }
        Ok(files)
    }

    async fn hand_on(&self) {
        match self.engine.set_base_bundles(self.seen.clone()).await {
            Ok(()) => tracing::info!(files = self.seen.len(), "policy files were read"),
            Err(error) => tracing::warn!(%error, "policy files not taken over yet"),
        }
        let problems = self.engine.policy_problems().len();
        metrics::gauge!("coretex_policy_file_problems").set(problems as f64);
    }
}

/// Reads the files of a directory, by name.
fn read(directory: &Path) -> Result<Files, String> {
    let named = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(named)? {
        let path = entry.map_err(named)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let name = path.file_stem().and_then(|name| name.to_str());
        let (Some("yaml" | "yml"), Some(name)) = (ending, name) else {
            continue;
        };
        // Cases for `policy test` may lie beside their bundle.
        if name.ends_with(".cases") || name.starts_with('.') {
            continue;
        }
        if files.len() >= MAX_BUNDLES {
            return Err(format!(
                "{}: holds more than {MAX_BUNDLES} bundles",
                directory.display()
            ));
        }
        files.insert(name.to_owned(), path);
    }
    Ok(files
        .into_iter()
        .map(|(name, path)| BaseBundle {
            content: check_name(&name).and_then(|()| text(&path, MAX_BUNDLE_BYTES as u64)),
            signature: signature(&path),
            name,
        })
        .collect())
}

fn check_name(name: &str) -> Result<(), String> {
    coretex_core::id::check_id(name).map_err(|error| format!("its name {error}"))
}

/// Reads a file that may not be too long.
fn text(path: &Path, most: u64) -> Result<String, String> {
    let length = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if length > most {
        return Err(format!("is longer than {most} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The signature beside a file; empty where there is none.
fn signature(path: &Path) -> String {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sig");
    text(Path::new(&beside), MAX_SIGNATURE_BYTES)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_directory_are_read_by_name_with_their_signatures() {
        let directory = tempfile::tempdir().unwrap();
        let put =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        put("b.yaml", "version: 1\n");
        put("b.yaml.sig", "c2ln\n");
        put("a.yml", "version: 1 # a\n");
        put("b.cases.yaml", "cases: []\n");
        put(".hidden.yaml", "");
        put("notes.txt", "");
        put("bad name.yaml", "version: 1\n");
        put("long.yaml", &"#".repeat(MAX_BUNDLE_BYTES + 1));
        let files = read(directory.path()).unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "bad name", "long"]);
        assert_eq!(files[0].content.as_deref(), Ok("version: 1 # a\n"));
        assert_eq!(files[1].signature, "c2ln");
        assert!(files[2].content.is_err() && files[3].content.is_err());
        assert!(read(&directory.path().join("missing")).is_err());
    }
}
