//! Opening the database: refusing what is not ours or damaged, creating what is not there.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coretex_core::time::Timestamp;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError, TableError};

use super::disk::{Disk, Handle, TakeError};
use super::group::Tables;
use super::layout::{CLOCK, IDENTITY, STATE, seal, unseal, unseal_u64};
use super::options::{EmbeddedOptions, OpenError, RepairProgress, Verify};

/// The layout of tables and rows that this build reads and writes.
pub(super) const FORMAT: u32 = 1;
/// The database in the directory of a store.
const DATABASE: &str = "store.redb";
/// Says that there was a store, should the database be missing or empty.
const MARK: &str = "store.id";
/// Written and removed to see whether writes work.
const PROBE: &str = "store.probe";
/// A file up to this many bytes is verified whole at every opening, in about 10 ms; a larger one only
/// after it was not closed ([`Verify::Auto`]).
pub const VERIFIED_BYTES: u64 = 16 * 1024 * 1024;

/// The places of a store in a directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) directory: PathBuf,
    pub(super) database: PathBuf,
    pub(super) probe: PathBuf,
    mark: PathBuf,
}

impl Files {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            database: directory.join(DATABASE),
            probe: directory.join(PROBE),
            mark: directory.join(MARK),
        }
    }
}

/// What is recorded in a store about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: u128,
    pub(super) shards: u16,
    /// No later store time falls below it.
    pub(super) time: Timestamp,
}

/// An opened database.
pub(super) struct Opened {
    pub(super) files: Option<Files>,
    pub(super) disk: Arc<Disk>,
    pub(super) database: Database,
    pub(super) identity: Identity,
}

/// Opens a store for the first time in this process.
pub(super) fn open(options: &EmbeddedOptions) -> Result<Opened, OpenError> {
    let files = options.path.as_deref().map(Files::new);
    let disk = Arc::new(match &files {
        None => Disk::memory(options.disk_hook.clone()),
        Some(files) => {
            let io = |source| OpenError::Io {
                path: files.directory.clone(),
                source,
            };
            fs::create_dir_all(&files.directory).map_err(io)?;
            Disk::file(&files.database, options.disk_hook.clone()).map_err(|error| match error {
                TakeError::InUse => OpenError::InUse {
                    path: files.directory.clone(),
                },
                TakeError::Io(source) => io(source),
            })?
        }
    });
    let place = place(files.as_ref());
    let marked = match &files {
        None => None,
        Some(files) => read_mark(files)?,
    };
    if disk.len() == 0 && marked.is_some() {
        return Err(OpenError::Damaged {
            path: place,
            reason: "it is missing or empty, but this directory had a store".to_owned(),
        });
    }
    let (database, identity) = open_database(&disk, options, files.as_ref())?;
    if let Some(files) = &files {
        match marked {
            Some(id) if id != identity.id => {
                return Err(OpenError::Damaged {
                    path: place,
                    reason: "it belongs to another store than the file store.id".to_owned(),
                });
            }
            Some(_) => {}
            None => write_mark(files, identity.id).map_err(|source| OpenError::Io {
                path: files.mark.clone(),
                source,
            })?,
        }
    }
    Ok(Opened {
        files,
        disk,
        database,
        identity,
    })
}

/// Opens the database on a disk that is already ours.
pub(super) fn open_database(
    disk: &Arc<Disk>,
    options: &EmbeddedOptions,
    files: Option<&Files>,
) -> Result<(Database, Identity), OpenError> {
    let place = place(files);
    // The database trusts a file that was closed cleanly, and may panic on one that was changed
    // since. A panic here is an answer about the file.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = build(disk, options).map_err(|error| explain(error, &place))?;
        let identity = identify(&database, options, &place)?;
        Ok((database, identity))
    }));
    opened.unwrap_or_else(|panic| {
        Err(OpenError::Damaged {
            path: place,
            reason: panic_text(panic.as_ref()),
        })
    })
}

fn build(disk: &Arc<Disk>, options: &EmbeddedOptions) -> Result<Database, DatabaseError> {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes);
    let len = disk.len();
    let verify = match options.verify {
        Verify::Auto => len <= VERIFIED_BYTES,
        Verify::Always => true,
        Verify::AfterCrash => false,
    };
    builder.set_check_integrity_on_open(verify && len > 0 && options.path.is_some());
    let (observer, medium) = (options.on_repair.clone(), disk.clone());
    builder.set_repair_callback(move |session| {
        let fraction = session.progress();
        if fraction == 0.0 {
            medium.prefetch();
        }
        if let Some(observer) = &observer {
            observer(RepairProgress {
                fraction,
                file_bytes: medium.used(),
            });
        }
    });
    builder.create_with_backend(Handle(disk.clone()))
}

/// Reads what the store says of itself, or says it for the first time.
fn identify(
    database: &Database,
    options: &EmbeddedOptions,
    place: &Path,
) -> Result<Identity, OpenError> {
    let damaged = |reason: String| OpenError::Damaged {
        path: place.to_owned(),
        reason,
    };
    let read = database
        .begin_read()
        .map_err(|error| damaged(error.to_string()))?;
    let state = match read.open_table(STATE) {
        Ok(state) => state,
        Err(TableError::TableDoesNotExist(_)) => {
            let tables = read
                .list_tables()
                .map_err(|error| damaged(error.to_string()))?;
            let multimaps = read
                .list_multimap_tables()
                .map_err(|error| damaged(error.to_string()))?;
            if tables.count() + multimaps.count() > 0 {
                return Err(OpenError::Foreign {
                    path: place.to_owned(),
                    reason: "it is the database of another program".to_owned(),
                });
            }
            drop(read);
            return create(database, options).map_err(|error| OpenError::Database {
                path: place.to_owned(),
                reason: error.to_string(),
            });
        }
        Err(TableError::Storage(error)) => return Err(damaged(error.to_string())),
        Err(error) => {
            return Err(OpenError::Foreign {
                path: place.to_owned(),
                reason: error.to_string(),
            });
        }
    };
    let read_row = |key: &'static [u8]| -> Result<Vec<u8>, OpenError> {
        use redb::ReadableTable;
        match ReadableTable::get(&state, key) {
            Ok(Some(row)) => Ok(row.value().to_vec()),
            Ok(None) => Err(damaged("it does not say what it is".to_owned())),
            Err(error) => Err(damaged(error.to_string())),
        }
    };
    let row = read_row(IDENTITY)?;
    let (format, id, shards) = unseal(IDENTITY, &row)
        .and_then(parse_identity)
        .ok_or_else(|| damaged("its identity fails the checksum".to_owned()))?;
    if format != FORMAT {
        return Err(OpenError::Format {
            found: format,
            supported: FORMAT,
        });
    }
    if shards != options.shards {
        return Err(OpenError::Shards {
            found: shards,
            wanted: options.shards,
        });
    }
    let time = unseal_u64(CLOCK, &read_row(CLOCK)?)
        .ok_or_else(|| damaged("its clock fails the checksum".to_owned()))?;
    Ok(Identity {
        id,
        shards,
        time: Timestamp::from_micros(time),
    })
}

fn create(database: &Database, options: &EmbeddedOptions) -> Result<Identity, redb::Error> {
    let identity = Identity {
        id: options.id,
        shards: options.shards,
        time: options.clock.now(),
    };
    let transaction = database.begin_write()?;
    {
        let mut tables = Tables::open(&transaction)?;
        let mut payload = Vec::with_capacity(22);
        payload.extend_from_slice(&FORMAT.to_le_bytes());
        payload.extend_from_slice(&identity.id.to_le_bytes());
        payload.extend_from_slice(&identity.shards.to_le_bytes());
        let row = seal(IDENTITY, &payload);
        tables.state.insert(IDENTITY, row.as_slice())?;
        super::group::write_clock(&mut tables.state, identity.time)?;
    }
    transaction.commit()?;
    Ok(identity)
}

fn parse_identity(payload: &[u8]) -> Option<(u32, u128, u16)> {
    let (format, rest) = payload.split_first_chunk::<4>()?;
    let format = u32::from_le_bytes(*format);
    if format != FORMAT {
        // What follows is for the build that wrote it.
        return Some((format, 0, 0));
    }
    let (id, shards) = rest.split_first_chunk::<16>()?;
    Some((
        format,
        u128::from_le_bytes(*id),
        u16::from_le_bytes(shards.try_into().ok()?),
    ))
}

fn read_mark(files: &Files) -> Result<Option<u128>, OpenError> {
    match fs::read_to_string(&files.mark) {
        Ok(text) => u128::from_str_radix(text.trim(), 16)
            .map(Some)
            .map_err(|_| OpenError::Damaged {
                path: files.mark.clone(),
                reason: "it is not the id of a store".to_owned(),
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Io {
            path: files.mark.clone(),
            source,
        }),
    }
}

fn write_mark(files: &Files, id: u128) -> io::Result<()> {
    // Renamed into place, so that there is never half a mark.
    let draft = files.mark.with_extension("new");
    fs::write(&draft, format!("{id:032x}\n"))?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, &files.mark)?;
    fs::File::open(&files.directory)?.sync_all()
}

fn place(files: Option<&Files>) -> PathBuf {
    files.map_or_else(|| PathBuf::from("(memory)"), |files| files.database.clone())
}

fn explain(error: DatabaseError, path: &Path) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        DatabaseError::Storage(StorageError::Corrupted(reason)) => {
            OpenError::Damaged { path, reason }
        }
        DatabaseError::Storage(StorageError::Io(source)) => match source.kind() {
            io::ErrorKind::InvalidData => OpenError::Foreign {
                path,
                reason: source.to_string(),
            },
            io::ErrorKind::UnexpectedEof => OpenError::Damaged {
                path,
                reason: "it is shorter than it says".to_owned(),
            },
            _ => OpenError::Io { path, source },
        },
        other => OpenError::Database {
            path,
            reason: other.to_string(),
        },
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "the database gave up without a word".to_owned())
}
