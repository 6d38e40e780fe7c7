//! The bytes under the database: a locked file or memory, with a seam for faults.
//!
//! Two things here make an I/O error survivable. The ranges written since the last good sync are
//! remembered, because after a failed fsync the kernel may take them for clean: they are written
//! again before anything builds on them. And while the medium refuses writes, the database can be
//! opened over a scratch layer in memory, so that reads go on.
//!
//! Over 500 lines because file, memory and surviving a failed sync are one seam.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use redb::StorageBackend;

/// An operation on the medium, as a [`DiskHook`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskOp {
    /// Bytes are read.
    Read {
        /// Where.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// Bytes are written.
    Write {
        /// Where.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// The file gets this length.
    SetLen {
        /// In bytes.
        len: u64,
    },
    /// What was written is made durable.
    Sync,
    /// The engine tries whether writes work again.
    Probe,
}

/// Free bytes of the file system that holds a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub available: u64,
}

/// Sees every operation before it happens and may refuse it: how tests make disks fail.
pub trait DiskHook: Send + Sync + std::fmt::Debug {
    /// Is asked before each operation.
    ///
    /// # Errors
    /// The error that the operation shall end with, without having had any effect.
    fn before(&self, op: DiskOp) -> io::Result<()>;

    /// Replaces what the file system says about its free space.
    fn space(&self) -> Option<Space> {
        None
    }
}

const BLOCK: usize = 4096;
/// Memory grows by this much, so that growth never copies.
const CHUNK: usize = 256 * 1024;
/// Above this many remembered ranges they become one.
const MAX_RANGES: usize = 1 << 16;

#[derive(Debug)]
enum Medium {
    File(File),
    Memory(RwLock<Vec<Box<[u8]>>>),
}

/// Blocks that were written while the medium refuses writes.
#[derive(Debug)]
struct Scratch {
    blocks: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    /// What lies beyond was cut off once and reads as zeros.
    medium_len: u64,
}

/// One medium for the life of a store, across reopenings of the database in it.
#[derive(Debug)]
pub(super) struct Disk {
    medium: Medium,
    hook: Option<Arc<dyn DiskHook>>,
    len: AtomicU64,
    written: AtomicU64,
    unsynced: Mutex<Vec<(u64, u64)>>,
    scratch: RwLock<Option<Scratch>>,
}

/// Why a file could not be taken.
#[derive(Debug)]
pub(super) enum TakeError {
    InUse,
    Io(io::Error),
}

impl Disk {
    /// Opens and locks a file, creating it when there is none.
    pub(super) fn file(path: &Path, hook: Option<Arc<dyn DiskHook>>) -> Result<Self, TakeError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(TakeError::Io)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => TakeError::InUse,
            TryLockError::Error(error) => TakeError::Io(error),
        })?;
        let len = file.metadata().map_err(TakeError::Io)?.len();
        Ok(Self::new(Medium::File(file), len, hook))
    }

    /// Memory that is gone with the store.
    pub(super) fn memory(hook: Option<Arc<dyn DiskHook>>) -> Self {
        Self::new(Medium::Memory(RwLock::default()), 0, hook)
    }

    fn new(medium: Medium, len: u64, hook: Option<Arc<dyn DiskHook>>) -> Self {
        Self {
            medium,
            hook,
            len: AtomicU64::new(len),
            written: AtomicU64::new(0),
            unsynced: Mutex::default(),
            scratch: RwLock::default(),
        }
    }

    /// Bytes of the file or of the memory.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Asks the operating system to read the whole file ahead, in its order.
    pub(super) fn prefetch(&self) {
        if let Medium::File(file) = &self.medium {
            // Advice: what cannot be followed does no harm.
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::WillNeed);
        }
    }

    /// Bytes that are really in use: the database makes its file larger than it needs, with holes.
    pub(super) fn used(&self) -> u64 {
        match &self.medium {
            Medium::File(file) => file
                .metadata()
                .map_or_else(|_| self.len(), |metadata| metadata.blocks() * 512),
            Medium::Memory(_) => self.len(),
        }
    }

    /// Bytes written so far, for figures.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Free space as a test says; `None` = ask the file system.
    pub(super) fn told_space(&self) -> Option<Space> {
        self.hook.as_ref()?.space()
    }

    /// From now on writes go to a layer in memory, until [`Self::probe`] succeeds.
    pub(super) fn cover(&self) {
        *self.scratch.write() = Some(Scratch {
            blocks: BTreeMap::new(),
            len: self.len(),
            medium_len: self.len(),
        });
    }

    /// Tries whether the medium takes writes, changing nothing.
    pub(super) fn try_writes(&self, scratch_file: Option<&Path>) -> io::Result<()> {
        self.before(DiskOp::Probe)?;
        let Some(path) = scratch_file else {
            return Ok(());
        };
        let file = File::create(path)?;
        let result = file
            .write_all_at(&[0; 16 * BLOCK], 0)
            .and_then(|()| file.sync_data());
        std::fs::remove_file(path)?;
        result
    }

    /// Makes the medium whole after a failure: everything written since the last good sync is
    /// written again and synced. On success the layer in memory is gone, and the caller reopens
    /// the database.
    pub(super) fn probe(&self, scratch_file: Option<&Path>) -> io::Result<()> {
        self.try_writes(scratch_file)?;
        if let Medium::File(file) = &self.medium {
            let len = file.metadata()?.len();
            self.len.store(len, Ordering::Release);
            let ranges = self.unsynced.lock().clone();
            let mut block = vec![0; 64 * BLOCK];
            for (mut at, end) in ranges {
                let end = end.min(len);
                while at < end {
                    let part =
                        usize::try_from(end - at).map_or(block.len(), |n| n.min(block.len()));
                    file.read_exact_at(&mut block[..part], at)?;
                    self.before(DiskOp::Write {
                        offset: at,
                        len: part,
                    })?;
                    file.write_all_at(&block[..part], at)?;
                    at += part as u64;
                }
            }
        }
        self.sync_medium()?;
        self.unsynced.lock().clear();
        *self.scratch.write() = None;
        Ok(())
    }

    fn before(&self, op: DiskOp) -> io::Result<()> {
        match &self.hook {
            Some(hook) => hook.before(op),
            None => Ok(()),
        }
    }

    fn sync_medium(&self) -> io::Result<()> {
        self.before(DiskOp::Sync)?;
        match &self.medium {
            Medium::File(file) => file.sync_data(),
            Medium::Memory(_) => Ok(()),
        }
    }

    fn remember(&self, offset: u64, len: u64) {
        if matches!(self.medium, Medium::Memory(_)) {
            return;
        }
        let mut ranges = self.unsynced.lock();
        if let Some(last) = ranges.last_mut()
            && last.1 == offset
        {
            last.1 += len;
            return;
        }
        ranges.push((offset, offset + len));
        if ranges.len() > MAX_RANGES {
            let start = ranges.iter().map(|range| range.0).min().unwrap_or(0);
            let end = ranges.iter().map(|range| range.1).max().unwrap_or(0);
            *ranges = vec![(start, end)];
        }
    }

    fn read_medium(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &self.medium {
            Medium::File(file) => file.read_exact_at(out, offset),
            Medium::Memory(chunks) => {
                let chunks = chunks.read();
                each_part(offset, out.len(), CHUNK, |part, index, within| {
                    let chunk = chunks.get(index).ok_or(io::ErrorKind::UnexpectedEof)?;
                    let len = part.len();
                    out[part].copy_from_slice(&chunk[within..within + len]);
                    Ok(())
                })
            }
        }
    }

    fn write_medium(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &self.medium {
            Medium::File(file) => file.write_all_at(data, offset),
            Medium::Memory(chunks) => {
                let mut chunks = chunks.write();
                each_part(offset, data.len(), CHUNK, |part, index, within| {
                    let chunk = chunks.get_mut(index).ok_or(io::ErrorKind::UnexpectedEof)?;
                    let len = part.len();
                    chunk[within..within + len].copy_from_slice(&data[part]);
                    Ok(())
                })
            }
        }
    }

    fn set_len_medium(&self, len: u64) -> io::Result<()> {
        match &self.medium {
            Medium::File(file) => file.set_len(len),
            Medium::Memory(chunks) => {
                let mut chunks = chunks.write();
                let wanted = usize::try_from(len.div_ceil(CHUNK as u64))
                    .map_err(|_| io::ErrorKind::OutOfMemory)?;
                // What is cut off and grown again must read as zeros.
                let within = usize::try_from(len % CHUNK as u64).unwrap_or(0);
                if len < self.len()
                    && within > 0
                    && let Some(last) = chunks.get_mut(wanted - 1)
                {
                    last[within..].fill(0);
                }
                chunks.resize_with(wanted, || vec![0; CHUNK].into_boxed_slice());
                Ok(())
            }
        }
    }

    fn read_covered(&self, scratch: &Scratch, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > scratch.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let medium_len = scratch.medium_len;
        each_part(offset, out.len(), BLOCK, |part, index, within| {
            let len = part.len();
            let out = &mut out[part];
            if let Some(block) = scratch.blocks.get(&(index as u64)) {
                out.copy_from_slice(&block[within..within + len]);
                return Ok(());
            }
            let at = (index * BLOCK + within) as u64;
            let inside = usize::try_from(medium_len.saturating_sub(at)).map_or(len, |n| n.min(len));
            out[inside..].fill(0);
            self.read_medium(at, &mut out[..inside])
        })
    }

    fn write_covered(&self, scratch: &mut Scratch, offset: u64, data: &[u8]) -> io::Result<()> {
        let medium_len = scratch.medium_len;
        each_part(offset, data.len(), BLOCK, |part, index, within| {
            let len = part.len();
            let block = match scratch.blocks.entry(index as u64) {
                Entry::Occupied(block) => block.into_mut(),
                Entry::Vacant(place) => {
                    let mut block = vec![0; BLOCK].into_boxed_slice();
                    let at = (index * BLOCK) as u64;
                    let inside = usize::try_from(medium_len.saturating_sub(at))
                        .map_or(BLOCK, |n| n.min(BLOCK));
                    self.read_medium(at, &mut block[..inside])?;
                    place.insert(block)
                }
            };
            block[within..within + len].copy_from_slice(&data[part]);
            Ok(())
        })
    }
}

/// Walks a span of bytes by parts that lie in one unit each: the part within the span, the number
/// of the unit, the place within the unit.
fn each_part(
    offset: u64,
    len: usize,
    unit: usize,
    mut visit: impl FnMut(std::ops::Range<usize>, usize, usize) -> io::Result<()>,
) -> io::Result<()> {
    let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut done = 0;
    while done < len {
        let at = offset + done;
        let within = at % unit;
        let part = (unit - within).min(len - done);
        visit(done..done + part, at / unit, within)?;
        done += part;
    }
    Ok(())
}

/// The disk as redb sees it; a new one for every opening of the database.
#[derive(Debug)]
pub(super) struct Handle(pub(super) Arc<Disk>);

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(match &*self.0.scratch.read() {
            Some(scratch) => scratch.len,
            None => self.0.len(),
        })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.before(DiskOp::Read {
            offset,
            len: out.len(),
        })?;
        match &*self.0.scratch.read() {
            Some(scratch) => self.0.read_covered(scratch, offset, out),
            None => self.0.read_medium(offset, out),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if let Some(scratch) = &mut *self.0.scratch.write() {
            scratch.len = len;
            scratch.medium_len = scratch.medium_len.min(len);
            scratch.blocks.split_off(&len.div_ceil(BLOCK as u64));
            if let Some(block) = scratch.blocks.get_mut(&(len / BLOCK as u64)) {
                block[usize::try_from(len % BLOCK as u64).unwrap_or(0)..].fill(0);
            }
            return Ok(());
        }
        self.0.before(DiskOp::SetLen { len })?;
        self.0.set_len_medium(len)?;
        self.0.len.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.0.scratch.read().is_some() {
            return Ok(());
        }
        self.0.sync_medium()?;
        self.0.unsynced.lock().clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(scratch) = &mut *self.0.scratch.write() {
            return self.0.write_covered(scratch, offset, data);
        }
        self.0.before(DiskOp::Write {
            offset,
            len: data.len(),
        })?;
        // Remembered first: a write that fails half-way may have left anything there.
        self.0.remember(offset, data.len() as u64);
        self.0
            .written
            .fetch_add(data.len() as u64, Ordering::Relaxed);
        self.0.write_medium(offset, data)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "a failed step of a test should stop the test"
    )]

    use super::*;

    /// Random writes, reads and resizes agree with a plain vector, covered or not.
    fn agrees_with_a_vector(disk: Disk, mut model: Vec<u8>) {
        let handle = Handle(Arc::new(disk));
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        for round in 0..500 {
            match random(10) {
                0 => {
                    let len = random(3 * CHUNK);
                    model.resize(len, 0);
                    handle.set_len(len as u64).unwrap();
                }
                1..6 if !model.is_empty() => {
                    let at = random(model.len());
                    let len = random((model.len() - at).min(3 * BLOCK)) + 1;
                    let byte = (round % 255) as u8;
                    model[at..at + len].fill(byte);
                    handle.write(at as u64, &vec![byte; len]).unwrap();
                }
                _ if !model.is_empty() => {
                    let at = random(model.len());
                    let len = random((model.len() - at).min(3 * BLOCK)) + 1;
                    let mut out = vec![0xee; len];
                    handle.read(at as u64, &mut out).unwrap();
                    assert!(out == model[at..at + len], "round {round}");
                }
                _ => {}
            }
        }
        assert_eq!(handle.len().unwrap(), model.len() as u64);
    }

    #[test]
    fn memory_behaves_as_a_file() {
        agrees_with_a_vector(Disk::memory(None), Vec::new());
    }

    #[test]
    fn a_covered_disk_behaves_as_a_file_and_forgets() {
        let disk = Disk::memory(None);
        let handle = Handle(Arc::new(disk));
        handle.set_len(CHUNK as u64).unwrap();
        handle.write(0, &[7; CHUNK]).unwrap();
        let disk = Arc::into_inner(handle.0).unwrap();
        disk.cover();
        agrees_with_a_vector(disk, vec![7; CHUNK]);

        let disk = Arc::new(Disk::memory(None));
        let handle = Handle(disk.clone());
        handle.set_len(CHUNK as u64).unwrap();
        disk.cover();
        handle.write(5, b"lost").unwrap();
        disk.probe(None).unwrap();
        let mut out = [1; 4];
        handle.read(5, &mut out).unwrap();
        assert_eq!(out, [0; 4]);
    }

    #[test]
    fn one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let first = Disk::file(&path, None).unwrap();
        assert!(matches!(Disk::file(&path, None), Err(TakeError::InUse)));
        drop(first);
        assert!(Disk::file(&path, None).is_ok());
    }
}
