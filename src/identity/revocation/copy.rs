//! What outlives the process: all that an agent knows, in a file below `state_dir`.
//!
//! The calls block: `spawn_blocking` is the caller's to say.

use std::io;
use std::path::{Path, PathBuf};

use super::book::Book;
use super::record::{Fingerprint, Id, RECORD_BYTES_MAX, Record, sha256};
use crate::identity::keep;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    path: PathBuf,
}

impl Copy {
    pub(super) fn of(state_dir: &Path) -> Copy {
        Copy { path: state_dir.join("revocations") }
    }

    /// Replaces it: a line that says what it is, a line for each record, and the SHA-256 of all before.
    pub(super) fn save(&self, book: &Book) -> Result<(), CopyError> {
        let mut text = String::from(FIRST_LINE);
        for (id, record) in book.records() {
            text += &format!("{id} {}\n", record.encode());
        }
        let digest = Fingerprint(sha256(text.as_bytes()));
        text += &format!("{digest}\n");
        keep::replace(&self.path, text.as_bytes()).map_err(|source| self.failed("written", source))
    }

    /// Reads it; `None` where there is none.
    pub(super) fn load(&self) -> Result<Option<Book>, CopyError> {
        let bytes = match keep::read(&self.path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        // Half of it would be some revocations without others: all or nothing.
        read(&bytes).map(Some).ok_or_else(|| CopyError::Foreign { path: self.path.clone() })
    }

    fn failed(&self, what: &'static str, source: io::Error) -> CopyError {
        CopyError::Io { path: self.path.clone(), what, source }
    }
}

fn read(bytes: &[u8]) -> Option<Book> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (lines, digest) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let before = text.get(..=lines.len())?;
    if Fingerprint(sha256(before.as_bytes())).to_string() != digest {
        return None;
    }
    let mut book = Book::default();
    for line in before.strip_prefix(FIRST_LINE)?.lines() {
        let (id, record) = line.split_once(' ')?;
        book.note(Id::parse(id)?, Record::decode(record)?);
    }
    Some(book)
}

/// Why a copy is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The system, or a file that is not ours alone.
    #[error("{} cannot be {what}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// read, written.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Half a file, or one that something else wrote.
    #[error("{} is not a copy of revocations", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// Another number for another format: a copy in a format of another release is passed over.
const FIRST_LINE: &str = "tollgate revocations 1\n";

/// All that a [`Book`] may hold, at its longest.
const BYTES_MAX: u64 = 2 * super::book::ENTRIES_MAX as u64 * (RECORD_BYTES_MAX as u64 + 18) + 100;

#[cfg(test)]
mod tests {
    use super::super::record::{Revocation, What};
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn book() -> Book {
        let mut book = Book::default();
        let what = What::Subject { issuer: "https://a.example".to_owned(), subject: "a\nb \u{e9}".to_owned() };
        book.note(Id(7), Record::Revoked(Revocation { what, at_s: 1, until_s: 2 }));
        book.note(Id(8), Record::Undone { until_s: 3 });
        book
    }

    fn same(one: &Book, other: &Book) -> bool {
        one.len() == other.len() && one.beyond(other, 0).count() + other.beyond(one, 0).count() == 0
    }

    #[test]
    fn what_is_saved_is_loaded_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let copy = Copy::of(&folder.path().join("not/there"));
        assert!(copy.load().unwrap().is_none());
        for book in [Book::default(), book()] {
            copy.save(&book).unwrap();
            assert!(same(&copy.load().unwrap().unwrap(), &book));
            assert_eq!(fs::metadata(&copy.path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(copy.path.parent().unwrap()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn half_a_copy_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let copy = Copy::of(folder.path());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        copy.save(&book()).unwrap();
        let whole = fs::read(&copy.path).unwrap();
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_none(), "the first {end} bytes");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert!(read(&other).is_none(), "another byte {at}");
        }
        fs::write(&copy.path, &whole[..40]).unwrap();
        let said = copy.load().unwrap_err().to_string();
        assert!(said.contains("is not a copy of revocations"), "{said}");
        fs::set_permissions(&copy.path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(copy.load().unwrap_err().to_string().contains("others may write it"));
    }
}
