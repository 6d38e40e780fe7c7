//! The programs of the workspace as built beside the running test.
//!
//! Cargo hands a test only the binaries of its own package, and building from
//! inside a test would select other features and compile everything again. So the
//! binary must be there, and be current: what cargo noted as its sources tells.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The path of a program of this workspace, for example `coretexd`.
///
/// # Panics
/// When it was not built, or when one of its sources is younger than it is: a test
/// of yesterday's program would prove nothing.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let folder = profile_folder();
    let binary = folder.join(name);
    assert!(
        binary.is_file(),
        "{} is missing: run `make build`",
        binary.display()
    );
    if let Some(source) = younger_source(&binary, &folder.join(format!("{name}.d"))) {
        panic!(
            "{} is older than {source}: run `make build`",
            binary.display()
        );
    }
    binary
}

/// `target/debug` or wherever this test was built: the test is in `deps` of it.
fn profile_folder() -> PathBuf {
    let test = env::current_exe().unwrap_or_else(|error| panic!("no path of my own: {error}"));
    let deps = test.parent().unwrap_or(&test);
    deps.parent().unwrap_or(deps).to_path_buf()
}

/// The first source in the dep-info file `BINARY: SOURCE SOURCE ...` that was
/// changed after the binary. Removed sources count as unchanged.
fn younger_source(binary: &Path, dep_info: &Path) -> Option<String> {
    let built = modified(binary)?;
    let text = fs::read_to_string(dep_info).ok()?;
    let (_, sources) = text.split_once(": ")?;
    // A space inside a path is written with a backslash before it.
    let sources = sources.trim().replace("\\ ", "\0");
    sources
        .split_whitespace()
        .map(|source| source.replace('\0', " "))
        .find(|source| modified(Path::new(source)).is_some_and(|changed| changed > built))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    fn file(folder: &Path, name: &str, age: u64) -> PathBuf {
        let path = folder.join(name);
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let file = File::create(&path).unwrap();
        file.set_modified(noon - Duration::from_secs(age)).unwrap();
        path
    }

    #[test]
    fn a_binary_is_stale_when_a_source_is_younger() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let binary = file(folder, "program", 10);
        let old = file(folder, "old.rs", 20);
        let young = file(folder, "you ng.rs", 0);
        let info = folder.join("program.d");
        let escape = |path: &Path| path.display().to_string().replace(' ', "\\ ");

        fs::write(
            &info,
            format!("{}: {} /gone.rs\n", escape(&binary), escape(&old)),
        )
        .unwrap();
        assert_eq!(younger_source(&binary, &info), None);

        fs::write(
            &info,
            format!("{}: {} {}\n", escape(&binary), escape(&old), escape(&young)),
        )
        .unwrap();
        assert_eq!(
            younger_source(&binary, &info),
            Some(young.display().to_string())
        );
    }
}
