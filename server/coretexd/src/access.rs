//! The first admin key and its file, `<data_dir>/admin.key`.
//!
//! The store keeps only a hash, so the key that the file misses is lost. Two things are done about
//! that. A file beside it says that a key is being made: a start that was cut short between the
//! store and the file is seen by the next one, which makes another. And a server in memory, whose
//! key is new with every start, puts the key that it finds aside for the store that it belongs to.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use coretex_core::id::TenantId;
use coretex_engine::{Caller, DEFAULT_TENANT, Engine, PageRequest, Role};

use crate::StartError;
use crate::datadir;

/// The key.
const KEY: &str = "admin.key";
/// The key of the store in the directory, while a server in memory uses the name.
const KEPT: &str = "admin.key.kept";
/// There while a key is being made.
const PENDING: &str = "admin.key.pending";

/// How callers get in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// Without a credential.
    Open,
    /// With the key in this file, or others.
    Key {
        path: PathBuf,
        /// The key, when it is new and somebody is watching.
        shown: Option<String>,
    },
    /// With keys that are not in this file.
    Elsewhere { path: PathBuf },
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Key { path, .. } => f.debug_tuple("Key").field(path).finish(),
            Self::Elsewhere { path } => f.debug_tuple("Elsewhere").field(path).finish(),
        }
    }
}

/// Makes sure that a store without keys gets its first one, and that the file holds it.
pub(crate) async fn ensure(
    engine: &Engine,
    data_dir: &Path,
    ephemeral: bool,
) -> Result<Access, StartError> {
    let path = data_dir.join(KEY);
    let files = Files { data_dir };
    if works(engine, files.read(KEY)?.as_deref()).await {
        return Ok(Access::Key { path, shown: None });
    }
    if !ephemeral {
        let kept = files.read(KEPT)?;
        if works(engine, kept.as_deref()).await {
            files.rename(KEPT, KEY)?;
            tracing::info!(path = %path.display(), "admin key of this store put back");
            return Ok(Access::Key { path, shown: None });
        }
    }

    let cut_short = files.read(PENDING)?.is_some();
    files.write(PENDING, "")?;
    let mut made = engine.ensure_admin_key().await?;
    if made.is_none() && cut_short {
        revoke_lost(engine).await?;
        made = engine.ensure_admin_key().await?;
    }
    let Some(secret) = made else {
        files.remove(PENDING)?;
        if files.read(KEY)?.is_some() {
            tracing::warn!(path = %path.display(), "the key in the file is not one of this store");
        }
        return Ok(Access::Elsewhere { path });
    };
    if !ephemeral {
        files.remove(KEPT)?;
    } else if files.read(KEY)?.is_some() && files.read(KEPT)?.is_none() {
        files.rename(KEY, KEPT)?;
    }
    files.write(KEY, &format!("{secret}\n"))?;
    files.remove(PENDING)?;
    tracing::info!(path = %path.display(), "admin key written");
    let shown = io::stderr().is_terminal().then_some(secret);
    Ok(Access::Key { path, shown })
}

/// Whether the text of a file is a key of the store.
async fn works(engine: &Engine, found: Option<&str>) -> bool {
    match found.map(str::trim) {
        Some(secret) => engine.authenticate(secret).await.is_ok(),
        None => false,
    }
}

/// Revokes first admin keys that nobody has ever used: nobody has seen them.
async fn revoke_lost(engine: &Engine) -> Result<(), StartError> {
    let owner = Caller {
        principal_id: "coretexd".to_owned(),
        tenant: TenantId::from_trusted(DEFAULT_TENANT),
        team_ids: BTreeSet::new(),
        roles: BTreeSet::from([Role::Admin]),
        tenants_served: BTreeSet::new(),
        system: true,
    };
    // A store whose first start was cut short has one key.
    let page = PageRequest {
        size: 10,
        token: String::new(),
    };
    let (keys, more) = engine.list_api_keys(&owner, page, false).await?;
    if keys.len() == 1 && more.is_empty() {
        for key in keys.iter().filter(|key| key.last_used_time.is_none()) {
            tracing::warn!(key_id = %key.key_id, "the last start was cut short and lost its key");
            engine.revoke_api_key(&owner, &key.key_id).await?;
        }
    }
    Ok(())
}

/// The files, with their names in errors.
#[derive(Clone, Copy)]
struct Files<'a> {
    data_dir: &'a Path,
}

impl Files<'_> {
    fn failed(self, name: &str) -> impl Fn(io::Error) -> StartError {
        let what = format!("cannot use {}", self.data_dir.join(name).display());
        move |error| StartError::Io {
            what: what.clone(),
            error,
        }
    }

    fn read(self, name: &str) -> Result<Option<String>, StartError> {
        datadir::read(&self.data_dir.join(name)).map_err(self.failed(name))
    }

    fn write(self, name: &str, text: &str) -> Result<(), StartError> {
        datadir::write_private(&self.data_dir.join(name), text).map_err(self.failed(name))
    }

    fn rename(self, from: &str, to: &str) -> Result<(), StartError> {
        std::fs::rename(self.data_dir.join(from), self.data_dir.join(to)).map_err(self.failed(to))
    }

    fn remove(self, name: &str) -> Result<(), StartError> {
        datadir::remove(&self.data_dir.join(name)).map_err(self.failed(name))
    }
}
