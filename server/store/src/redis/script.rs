//! The scripts, and their names once a server has them.

use sha1::{Digest, Sha1};

/// A script as the server gets it.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) text: String,
    /// By what it is called.
    pub(super) sha: String,
}

impl Script {
    fn new(flags: &str, body: &str) -> Self {
        let text = format!("#!lua{flags}\n{body}");
        let digest = Sha1::digest(text.as_bytes());
        let sha = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { text, sha }
    }
}

/// All scripts. Flags let the server refuse a script before it runs; see each of them.
#[derive(Debug)]
pub(super) struct Scripts {
    /// Refused as a whole when memory is full.
    pub(super) commit: Script,
    /// The same for batches that make room.
    pub(super) shrink: Script,
    /// Reads; works whatever the server refuses.
    pub(super) read: Script,
    /// Frees log entries.
    pub(super) trim: Script,
    /// Must work before anything can be committed after a broken connection.
    pub(super) fence: Script,
    /// Does everything that the others do, on a key of its own: shows what is not allowed.
    pub(super) rights: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let commit = include_str!("commit.lua");
        let full = " flags=allow-oom";
        Self {
            commit: Script::new("", commit),
            shrink: Script::new(full, commit),
            read: Script::new(" flags=no-writes,allow-oom", include_str!("read.lua")),
            trim: Script::new(full, include_str!("trim.lua")),
            fence: Script::new(full, include_str!("fence.lua")),
            rights: Script::new(full, include_str!("rights.lua")),
        }
    }

    /// What a writer calls.
    pub(super) fn of_writer(&self) -> [&Script; 3] {
        [&self.commit, &self.shrink, &self.fence]
    }
}
