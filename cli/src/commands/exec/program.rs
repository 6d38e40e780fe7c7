//! The program that a worker runs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::failure::Failure;

/// A program that is there, and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// As it was typed; what the program sees as its own name.
    name: OsString,
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Finds the program now, so that a typing error is told once and not by every job.
    pub(crate) fn find(command: &[OsString]) -> Result<Self, Failure> {
        let Some((name, arguments)) = command.split_first() else {
            return Err(Failure::usage("no program was given"));
        };
        let path = locate(name, env::var_os("PATH").as_deref());
        let path = path.ok_or_else(|| {
            let failure = Failure::usage(format!("cannot run {}", Path::new(name).display()));
            failure.hint("it is not in PATH, does not exist or is not executable; shell syntax needs a shell: -- sh -c '...'")
        })?;
        Ok(Self {
            name: name.clone(),
            path,
            arguments: arguments.to_vec(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn raw_name(&self) -> &OsStr {
        &self.name
    }

    pub(super) fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        Path::new(&self.name).display().to_string()
    }
}

fn locate(name: &OsStr, search: Option<&OsStr>) -> Option<PathBuf> {
    let runs = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if name.is_empty() {
        return None;
    }
    let direct = Path::new(name);
    // As a shell does: with a slash it is a path, without it is searched for.
    if direct.components().count() > 1 || direct.is_absolute() {
        return Some(direct.to_path_buf()).filter(runs);
    }
    env::split_paths(search?)
        .map(|dir| dir.join(name))
        .find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_for_as_a_shell_does() {
        let path = OsStr::new("/nowhere:/bin:/usr/bin");
        assert!(locate(OsStr::new("sh"), Some(path)).is_some_and(|path| path.ends_with("sh")));
        assert_eq!(locate(OsStr::new("/bin/sh"), None), Some("/bin/sh".into()));
        assert_eq!(locate(OsStr::new("./sh"), Some(path)), None);
        assert_eq!(locate(OsStr::new("/etc"), None), None);
        assert_eq!(locate(OsStr::new("no-such-program"), Some(path)), None);
        assert_eq!(locate(OsStr::new(""), Some(path)), None);
    }

    #[test]
    fn a_missing_program_is_a_usage_error() {
        let missing = Program::find(&["no-such-program-anywhere".into()]);
        assert!(missing.is_err_and(|failure| failure.exit() == crate::failure::Exit::Usage));
    }
}
