//! The data directory and the files that are only the server's and its user's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes the directory, for this user alone, unless it is there.
pub(crate) fn ensure(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o077;
    if mode & 0o022 != 0 {
        // Whoever can write there can replace the store; left as it is, because it may be a
        // mount that somebody manages.
        tracing::warn!(path = %path.display(), "the data directory can be written by others");
    }
    Ok(())
}

/// Reads a small text file; `None` when there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that only this user can read: all of it or nothing, even if the machine stops.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    // A leftover of a crash may have any mode.
    remove(&temporary)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn directories_and_private_files_are_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a/b");
        ensure(&data).unwrap();
        ensure(&data).unwrap();
        assert_eq!(
            (mode(&folder.path().join("a")), mode(&data)),
            (0o700, 0o700)
        );

        let file = data.join("secret");
        fs::write(data.join("secret.new"), "leftover of a crash").unwrap();
        write_private(&file, "one").unwrap();
        write_private(&file, "two").unwrap();
        assert_eq!(read(&file).unwrap().as_deref(), Some("two"));
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
        assert_eq!(read(&data.join("none")).unwrap(), None);
    }

    #[test]
    fn a_directory_that_is_there_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        ensure(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o755);
    }
}
