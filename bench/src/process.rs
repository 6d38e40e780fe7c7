//! What the kernel says about a process.

use std::path::Path;
use std::time::Duration;

use crate::Result;

/// CPU time used by a process so far, user and system, its threads included.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces; the fields after it do not.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let ticks = |position: usize| -> Result<u64> {
        Ok(fields.get(position).ok_or("short /proc stat")?.parse()?)
    };
    let hertz = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(
        (ticks(11)? + ticks(12)?) as f64 / hertz as f64,
    ))
}

/// Resident memory in bytes.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .ok_or("short /proc statm")?
        .parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Bytes of all files in a directory.
pub(crate) fn directory_bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let found = entry?.metadata()?;
        if found.is_file() {
            use std::os::unix::fs::MetadataExt;
            // What is allocated, not the length: store files may have holes.
            bytes += found.blocks() * 512;
        }
    }
    Ok(bytes)
}

/// How long an fsync of a 64 KiB append takes: median and 99th percentile.
pub(crate) fn fsync_times(directory: &Path) -> Result<(Duration, Duration)> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    let block = vec![7; 64 * 1024];
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&block)?;
        let begun = std::time::Instant::now();
        file.as_file().sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}
