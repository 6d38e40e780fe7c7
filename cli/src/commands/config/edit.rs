//! `coretexctl config edit`: a document in the editor of whoever is at the terminal.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value};

use super::{Cx, data, said, write};
use crate::args::config::Name;
use crate::failure::Failure;
use crate::view::config::{name_of, yaml};

pub(super) async fn run(cx: &Cx<'_>, name: &Name) -> Result<(), Failure> {
    let (before, etag) = said(cx, name).await?;
    let (scope, id) = &name.document;
    let head = format!(
        "# The configuration of {}. An empty document is one that says nothing.\n",
        name_of(*scope, id)
    );
    let path = draft(&format!("{head}{}", text_of(&before)))?;
    let typed = open(&path).and_then(|()| {
        fs::read_to_string(&path)
            .map_err(|error| Failure::usage("cannot read what was typed").cause(error))
    })?;
    let keep = |failure: Failure| {
        let kept = format!("what was typed is in {}", path.display());
        failure.or_hint(|| Some(kept.clone())).cause(kept)
    };
    let after = data::parse(&typed).map_err(keep)?;
    if after == before && !etag.is_empty() {
        cx.ui.note("nothing was changed");
    } else {
        let config = write(cx, name, &after, etag, false).await.map_err(keep)?;
        cx.ui.show(&config)?;
    }
    // It has arrived; a draft that stays does no harm.
    let _ = fs::remove_file(&path);
    Ok(())
}

fn text_of(data: &Map<String, Value>) -> String {
    if data.is_empty() {
        return String::new();
    }
    yaml(&Value::Object(data.clone()))
}

/// A file that only its owner can read.
fn draft(text: &str) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| Failure::usage("cannot write a draft").cause(error);
    let mut number = std::process::id();
    loop {
        let path = env::temp_dir().join(format!("coretex-config-{number}.yaml"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match file {
            Ok(mut file) => {
                file.write_all(text.as_bytes()).map_err(failed)?;
                return Ok(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                number = number.wrapping_add(1);
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Runs the editor, which may be a command with arguments.
fn open(path: &PathBuf) -> Result<(), Failure> {
    let given = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = given("VISUAL")
        .or_else(|| given("EDITOR"))
        .ok_or_else(|| Failure::usage("there is no editor").hint("set EDITOR"))?;
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let ran = Command::new(program).args(words).arg(path).status();
    let status =
        ran.map_err(|error| Failure::usage(format!("cannot run `{editor}`")).cause(error))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "`{editor}` ended with {status}; nothing was changed"
    )))
}
