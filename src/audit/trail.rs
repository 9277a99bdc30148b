//! The files of one trail, and the lines of a file.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files of the trail that is written to `base`, oldest first: those that were rotated, then `base` itself where it
/// is there.
pub fn files(base: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = rotated(base)?;
    if base.symlink_metadata().is_ok() || files.is_empty() {
        // Where there is nothing at all, opening it says so.
        files.push(base.to_owned());
    }
    Ok(files)
}

/// A file of a trail, as it was when the trail was opened.
#[derive(Debug)]
pub struct TrailFile {
    /// Where it was then.
    pub path: PathBuf,
    file: Option<File>,
}

/// Opens the files of the trail that is written to `base`, oldest first, all of one moment: a rotation that comes while they
/// are read neither hides a file nor shows one twice.
pub fn open(base: &Path) -> io::Result<Vec<TrailFile>> {
    // The live file first. Where it is rotated before the others are listed it is among those, and the last to be read.
    let live = match File::open(base) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(cannot_read(base, &error)),
    };
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let live_id = live.as_ref().map(|file| file.metadata().map(id)).transpose()?;
    let mut files: Vec<TrailFile> = Vec::new();
    for path in rotated(base)? {
        let opened = if files.len() < HANDLES_MAX { File::open(&path).map(Some) } else { Ok(None) };
        let found = opened.and_then(|file| {
            let metadata = file.as_ref().map_or_else(|| path.metadata(), File::metadata)?;
            Ok((file, id(metadata)))
        });
        match found {
            Ok((file, id)) if Some(id) == live_id => {
                files.push(TrailFile { path, file: file.or(live) });
                return Ok(files);
            }
            Ok((file, _)) => files.push(TrailFile { path, file }),
            // Beyond `keep` by now, as are those before it. Where they are not, the chain tells of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => files.retain(|file| file.path.exists()),
            Err(error) => return Err(cannot_read(&path, &error)),
        }
    }
    if live.is_none() && files.is_empty() {
        return Err(cannot_read(base, &io::ErrorKind::NotFound.into()));
    }
    files.extend(live.map(|file| TrailFile { path: base.to_owned(), file: Some(file) }));
    Ok(files)
}

fn cannot_read(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
}

impl TrailFile {
    /// Its lines, from the first; the error names the file.
    pub fn lines(&self) -> io::Result<Lines> {
        let open = || {
            let Some(file) = &self.file else { return File::open(&self.path) };
            let mut file = file.try_clone()?;
            match file.rewind() {
                // A pipe is read once.
                Err(error) if error.kind() != io::ErrorKind::NotSeekable => Err(error),
                _ => Ok(file),
            }
        };
        open().map(Lines::of).map_err(|error| cannot_read(&self.path, &error))
    }
}

/// Those that were rotated, oldest first.
pub(super) fn rotated(base: &Path) -> io::Result<Vec<PathBuf>> {
    let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
    let folder = base.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?.file_name();
        let number = entry.to_str().and_then(|entry| entry.strip_prefix(&name));
        let digits = number.filter(|number| number.len() >= DIGITS && number.bytes().all(|b| b.is_ascii_digit()));
        if let Some(number) = digits.and_then(|digits| digits.parse::<u64>().ok()) {
            found.push((number, base.with_file_name(entry)));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// What the file is called once it is full: its own name and the number of its first line.
pub(super) fn rotated_name(base: &Path, first_seq: u64) -> PathBuf {
    let name = base.file_name().unwrap_or_default().to_string_lossy();
    base.with_file_name(format!("{name}.{first_seq:0DIGITS$}"))
}

/// One after the other, each with its place; memory for one of them.
pub struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    number: u64,
}

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// From 1.
    pub number: u64,
    /// Without its newline; of one that is longer than any record only the beginning.
    pub bytes: &'a [u8],
    /// Whether a newline ends it, and it is no longer than a record can be.
    pub is_whole: bool,
}

impl Lines {
    fn of(file: File) -> Lines {
        Lines { reader: BufReader::with_capacity(READ_BYTES, file), line: Vec::new(), number: 0 }
    }

    /// The next one.
    pub fn read(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let bound = LINE_BYTES_MAX as u64 + 1;
        if self.reader.by_ref().take(bound).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let ended = self.line.pop_if(|byte| *byte == b'\n').is_some();
        if !ended && self.line.len() > LINE_BYTES_MAX {
            self.skip_rest()?;
        }
        Ok(Some(Line { number: self.number, bytes: &self.line, is_whole: ended }))
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.reader.fill_buf()?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(bytes.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() || used == 0 {
                return Ok(());
            }
        }
    }
}

/// How a file ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The last line that a newline ends, without it.
    pub(super) line: Option<Vec<u8>>,
    /// What stands behind it.
    pub(super) torn: Vec<u8>,
}

/// Reads the end of a file. `None` where there is no newline as far back as a line can reach.
pub(super) fn tail(file: &mut File) -> io::Result<Option<Tail>> {
    let len = file.seek(SeekFrom::End(0))?;
    let from = len.saturating_sub(2 * LINE_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(len - from).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        return Ok((bytes.len() <= LINE_BYTES_MAX).then_some(Tail { line: None, torn: bytes }));
    };
    let torn = bytes.split_off(end + 1);
    bytes.truncate(end);
    let begin = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
    Ok(Some(Tail { line: Some(bytes.split_off(begin)), torn }))
}

/// The first line of a file, as far as a line can reach.
pub(super) fn first_line(file: &mut File) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    BufReader::new(file.take(LINE_BYTES_MAX as u64)).read_until(b'\n', &mut line)?;
    line.pop_if(|byte| *byte == b'\n');
    Ok(line)
}

/// A record is a few hundred bytes; one made of the largest token, escaped throughout, some 200 KiB.
pub(super) const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Files of a trail that are open at once. Those behind are opened when they are read: they would have to be rotated away
/// meanwhile.
const HANDLES_MAX: usize = 200;

const READ_BYTES: usize = 64 * 1024;

/// A trillion lines sort as text.
const DIGITS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_are_read_in_the_order_of_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("audit.jsonl");
        assert_eq!(files(&base).unwrap(), std::slice::from_ref(&base));
        let names = ["000000000012", "000000000002", "1000000000000", "12", "00000000000x", "000000000012.gz"];
        for name in names {
            std::fs::write(folder.path().join(format!("audit.jsonl.{name}")), "").unwrap();
        }
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            files
                .iter()
                .map(|file| file.file_name().unwrap().to_str().unwrap()["audit.jsonl".len()..].to_owned())
                .collect()
        };
        assert_eq!(names(files(&base).unwrap()), [".000000000002", ".000000000012", ".1000000000000"]);
        std::fs::write(&base, "").unwrap();
        assert_eq!(names(files(&base).unwrap()), [".000000000002", ".000000000012", ".1000000000000", ""]);
        assert_eq!(rotated_name(&base, 2), folder.path().join("audit.jsonl.000000000002"));
    }

    #[test]
    fn lines_of_any_length_are_read_with_memory_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let long = "x".repeat(3 * LINE_BYTES_MAX);
        std::fs::write(&path, format!("a\n\n{long}\nb")).unwrap();
        let mut lines = Lines::of(File::open(&path).unwrap());
        let mut read = Vec::new();
        while let Some(line) = lines.read().unwrap() {
            read.push((line.number, line.bytes.len(), line.is_whole));
        }
        assert_eq!(read, [(1, 1, true), (2, 0, true), (3, LINE_BYTES_MAX + 1, false), (4, 1, false)]);
    }

    #[test]
    fn a_file_ends_in_its_last_line_and_what_is_torn() {
        for (text, line, torn) in [
            ("", None, ""),
            ("a\n", Some("a"), ""),
            ("a\nb\n", Some("b"), ""),
            ("a\nb", Some("a"), "b"),
            ("b", None, "b"),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            let expected = Tail { line: line.map(|line| line.as_bytes().to_vec()), torn: torn.as_bytes().to_vec() };
            assert_eq!(tail(&mut file).unwrap(), Some(expected), "{text:?}");
        }
    }
}
