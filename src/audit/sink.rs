//! Where lines go: standard output, or a file that is ours alone, is no symbolic link and is renamed when it is full.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::chain::{Hash, Last, Link, Seal};
use super::record::{Gap, read_time};
use super::trail;
use super::{Rotation, Target};

/// Something open to write to.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    regular: Option<Regular>,
}

/// What is known of a file, where it is one and no device or pipe.
#[derive(Debug)]
struct Regular {
    path: PathBuf,
    device_and_inode: (u64, u64),
    bytes: u64,
    /// The number and the time of its first line.
    begun: Option<(u64, u64)>,
}

/// A sink, and how the trail that is there already ends.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) sink: Sink,
    pub(super) last: Last,
    pub(super) gap: Option<Gap>,
}

/// A rotation that was done.
#[derive(Debug)]
pub(super) struct Rotated {
    /// What the full file is called now.
    pub(super) from: String,
    /// Those that were removed because only `keep` are kept.
    pub(super) removed: Vec<String>,
    /// Why one of those is still there.
    pub(super) kept: Option<SinkError>,
}

/// Why a trail cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file cannot be opened or read.
    #[error("the audit file {} cannot be opened", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process would break the chain.
    #[error("the audit file {} is being written by another process, expected one of this agent's own", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Whoever made the link would choose what is written to.
    #[error("the audit file {} is a symbolic link, expected a file", path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// It is some other file.
    #[error("the audit file {} does not end in a line of an audit trail, expected one, or a file that is not there", path.display())]
    NotATrail {
        /// The file.
        path: PathBuf,
    },
    /// The lines before could not be verified with the same key.
    #[error("`chain_key` cannot change while {} is written, expected a new `file` with a new key", path.display())]
    KeyChanged {
        /// The file.
        path: PathBuf,
    },
    /// Neither could those of a log that has two chains.
    #[error(
        "`chain_key` cannot change while standard output is written, expected a restart, and a log of its own from there on"
    )]
    StdoutKeyChanged,
    /// The file was rotated all the same.
    #[error("{} cannot be removed, which is beyond `keep`", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was written may be lost with the machine's power.
    #[error("the audit trail cannot be brought to the disk")]
    Sync {
        /// What the system said.
        source: io::Error,
    },
    /// There are no threads left.
    #[error("the audit trail has no thread to be written by")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

impl Sink {
    /// Opens `target`, and finds out what the next line has to follow.
    pub(super) fn open(target: &Target, seal: &Seal) -> Result<Opened, SinkError> {
        let path = match target {
            Target::Stdout => {
                let file =
                    io::stdout().as_fd().try_clone_to_owned().map_err(|source| failed("standard output", source))?;
                let sink = Sink { file: file.into(), regular: None };
                return Ok(Opened { sink, last: Last::NONE, gap: None });
            }
            Target::File(path) => path,
        };
        let mut sink = Sink::create(path)?;
        let Some(regular) = &sink.regular else { return Ok(Opened { sink, last: Last::NONE, gap: None }) };
        let unreadable = |source| failed(path, source);
        let earlier = || {
            let Some(before) = trail::rotated(path).map_err(unreadable)?.pop() else { return Ok((Last::NONE, None)) };
            let mut file = File::open(&before).map_err(|source| failed(&before, source))?;
            end_of(&mut file, &before, seal, || Ok(Last::NONE))
        };
        if regular.bytes == 0 {
            // A run that ended between two files, or a file that somebody took away. A torn line is in a file that is not
            // written any more: the next line follows what is whole.
            let (last, gap) = earlier()?;
            return Ok(Opened { sink, last, gap });
        }
        let (last, gap) = end_of(&mut sink.file, path, seal, || Ok(earlier()?.0))?;
        if matches!(gap, Some(Gap::Torn { .. })) || (last.seq > 0 && !ends_in_newline(&mut sink.file, path)?) {
            sink.file.write_all(b"\n").map_err(unreadable)?;
        }
        Ok(Opened { sink, last, gap })
    }

    fn create(path: &Path) -> Result<Sink, SinkError> {
        let io = |source| failed(path, source);
        if path.symlink_metadata().is_ok_and(|there| there.is_symlink()) {
            return Err(SinkError::Symlink { path: path.to_owned() });
        }
        // Reading as well, for the lines that are there already; and a pipe without a reader would else not open.
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Ok(Sink { file, regular: None });
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SinkError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // Between looking and opening somebody may have put a link there, or another process a new file.
        let there = path.symlink_metadata().map_err(io)?;
        if id(&there) != id(&metadata) {
            return Err(SinkError::Symlink { path: path.to_owned() });
        }
        let line = trail::first_line(&mut file).map_err(io)?;
        let begun = Link::read(&line).map(|link| (link.seq, time_of(&line)));
        let regular = Regular { path: path.to_owned(), device_and_inode: id(&metadata), bytes: metadata.len(), begun };
        Ok(Sink { file, regular: Some(regular) })
    }

    /// Writes some of `bytes`; how many of them.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if let Some(regular) = &mut self.regular {
            regular.bytes += written as u64;
        }
        Ok(written)
    }

    /// The first line of an empty file has this number and time.
    pub(super) fn begins(&mut self, seq: u64, time_us: u64) {
        if let Some(regular) = self.regular.as_mut().filter(|regular| regular.begun.is_none()) {
            regular.begun = Some((seq, time_us));
        }
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.regular.is_some() { self.file.sync_data() } else { Ok(()) }
    }

    /// Whether the file is full, or old enough.
    pub(super) fn is_full(&self, rotation: Rotation, now_us: u64) -> bool {
        let Some(Regular { bytes, begun: Some((_, since_us)), .. }) = &self.regular else { return false };
        let age_us = now_us.saturating_sub(*since_us);
        *bytes >= rotation.bytes || rotation.every.is_some_and(|every| u128::from(age_us) >= every.as_micros())
    }

    /// Whether the path has another file by now, or none.
    pub(super) fn is_elsewhere(&self) -> bool {
        let Some(regular) = &self.regular else { return false };
        match regular.path.symlink_metadata() {
            Ok(there) => id(&there) != regular.device_and_inode,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Whether the next line is the first of its file.
    pub(super) fn is_unbegun(&self) -> bool {
        self.regular.as_ref().is_some_and(|regular| regular.begun.is_none())
    }

    /// Renames the full file and begins another, where there is a file.
    pub(super) fn rotate(&mut self, keep: usize) -> Result<Option<Rotated>, SinkError> {
        let Some(Regular { path, begun: Some((first_seq, _)), .. }) = &self.regular else { return Ok(None) };
        let path = path.clone();
        let io = |source| failed(&path, source);
        self.sync().map_err(io)?;
        let full = trail::rotated_name(&path, *first_seq);
        if full.symlink_metadata().is_ok() {
            return Err(failed(&full, io::ErrorKind::AlreadyExists.into()));
        }
        std::fs::rename(&path, &full).map_err(io)?;
        self.reopen()?;
        let (removed, kept) = remove_oldest(&path, keep);
        if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
            // Where the system cannot do that, the rename is on the disk a little later.
            let _ = folder.sync_all();
        }
        Ok(Some(Rotated { from: name_of(&full), removed, kept }))
    }

    /// Opens whatever is at the path now; on a failure the old file is written on. Whether something was in it already.
    pub(super) fn reopen(&mut self) -> Result<bool, SinkError> {
        let Some(regular) = &self.regular else { return Ok(false) };
        let path = regular.path.clone();
        let mut next = Sink::create(&path)?;
        let is_new = next.regular.as_ref().is_some_and(|regular| regular.bytes == 0);
        if !is_new && !ends_in_newline(&mut next.file, &path)? {
            next.file.write_all(b"\n").map_err(|source| failed(&path, source))?;
        }
        let _ = self.sync();
        *self = next;
        Ok(!is_new)
    }
}

fn failed(path: impl AsRef<Path>, source: io::Error) -> SinkError {
    SinkError::Io { path: path.as_ref().to_owned(), source }
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the next line has to follow, and what is wrong with the end. `earlier` is what the first line of the file follows.
fn end_of(
    file: &mut File,
    path: &Path,
    seal: &Seal,
    earlier: impl FnOnce() -> Result<Last, SinkError>,
) -> Result<(Last, Option<Gap>), SinkError> {
    let not_a_trail = || SinkError::NotATrail { path: path.to_owned() };
    let tail = trail::tail(file).map_err(|source| failed(path, source))?.ok_or_else(not_a_trail)?;
    let before = match &tail.line {
        Some(line) => Some(Link::read(line).ok_or_else(not_a_trail)?),
        None => None,
    };
    let last = before.map_or_else(earlier, |link| Ok(link.last()))?;
    if let Some(link) = Link::read(&tail.torn).filter(|link| link.is_whole(seal) && link.prev == last.hash) {
        // Only its newline is missing.
        return Ok((link.last(), None));
    }
    if !tail.torn.is_empty() {
        if before.is_none() && !tail.torn.starts_with(b"{\"v\":1,".get(..tail.torn.len().min(7)).unwrap_or_default()) {
            return Err(not_a_trail());
        }
        let gap = Gap::Torn { bytes: tail.torn.len() as u64, sha256: Hash::sha256(&tail.torn) };
        return Ok((last, Some(gap)));
    }
    let gap = before.filter(|link| !link.is_whole(seal)).map(|_| Gap::Unverified);
    Ok((last, gap))
}

fn ends_in_newline(file: &mut File, path: &Path) -> Result<bool, SinkError> {
    let tail = trail::tail(file).map_err(|source| failed(path, source))?;
    Ok(tail.is_some_and(|tail| tail.torn.is_empty()))
}

/// The time that a line says it was written.
fn time_of(line: &[u8]) -> u64 {
    let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
    value.and_then(|value| read_time(value.get("time")?.as_str()?)).unwrap_or(0)
}

/// Stops at the first that cannot be removed: without those behind it the trail would have a hole.
fn remove_oldest(path: &Path, keep: usize) -> (Vec<String>, Option<SinkError>) {
    let files = match trail::rotated(path) {
        Ok(files) => files,
        Err(source) => return (Vec::new(), Some(failed(path, source))),
    };
    let beyond = files.len().saturating_sub(keep);
    let mut removed = Vec::new();
    for file in files.into_iter().take(beyond) {
        match std::fs::remove_file(&file) {
            Ok(()) => removed.push(name_of(&file)),
            // Somebody else was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return (removed, Some(SinkError::Kept { path: file, source })),
        }
    }
    (removed, None)
}
