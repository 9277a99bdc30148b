//! What outlives the process: an issuer's last key set, in a file of its own below `state_dir`.
//!
//! Whoever can write such a file can make tokens, so one that others may write is not read, and neither is one in a
//! folder that others may write. The calls block: `spawn_blocking` is the caller's to say.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{json, keys};

/// A key set as it was fetched, and what it was the answer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptKeys {
    /// The exact `iss` value.
    pub(crate) issuer: String,
    /// Where the set was.
    pub(crate) jwks_uri: String,
    /// When, in Unix seconds.
    pub(crate) fetched_at_s: i64,
    /// The set as the provider sent it.
    pub(crate) jwks: String,
}

/// The file of one issuer.
#[derive(Clone, Debug)]
pub(crate) struct CopyFile {
    path: PathBuf,
}

impl CopyFile {
    /// The file for the issuer of that name, which need not be there.
    pub(crate) fn of(state_dir: &Path, issuer_name: &str) -> CopyFile {
        const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.');
        CopyFile { path: state_dir.join(format!("keys-{}.json", utf8_percent_encode(issuer_name, PLAIN))) }
    }

    /// Replaces the file. The folder is made where it is missing.
    pub(crate) fn save(&self, kept: &KeptKeys) -> Result<(), KeepError> {
        let KeptKeys { issuer, jwks_uri, fetched_at_s, jwks } = kept;
        let document = json!({
            "version": VERSION, "issuer": issuer, "jwks_uri": jwks_uri, "fetched_at": fetched_at_s, "jwks": jwks,
        });
        replace(&self.path, document.to_string().as_bytes()).map_err(|source| self.failed("written", source))
    }

    /// Reads it; `None` where there is none.
    pub(crate) fn load(&self) -> Result<Option<KeptKeys>, KeepError> {
        let bytes = match read(&self.path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let foreign = || KeepError::Foreign { path: self.path.clone() };
        let document = json::object(&bytes).map_err(|_| foreign())?;
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(foreign);
        if document.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(foreign());
        }
        Ok(Some(KeptKeys {
            issuer: text("issuer")?,
            jwks_uri: text("jwks_uri")?,
            fetched_at_s: document.get("fetched_at").and_then(Value::as_i64).ok_or_else(foreign)?,
            jwks: text("jwks")?,
        }))
    }

    /// Removes it, if it is there.
    pub(crate) fn forget(&self) -> Result<(), KeepError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("removed", error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> KeepError {
        KeepError::Io { path: self.path.clone(), what, source }
    }
}

/// Why a copy is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The system, or a file that is not ours alone.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// read, written, removed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Half a file, or one that something else wrote.
    #[error("{} is not a kept key set", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// Puts `bytes` in place of the file, whole or not at all, readable for our user only.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
    // A name of its own, so that two agents with one folder do not write into the same file.
    let beside = directory.join(format!(".{name}.{:016x}", u64::from_ne_bytes(random)));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&beside, path));
    if replaced.is_err() {
        // Of both errors the first is the one to tell.
        let _ = fs::remove_file(&beside);
        return replaced;
    }
    // The new name must outlive a loss of power too.
    File::open(directory)?.sync_all()
}

/// The file's bytes, at most so many, if nobody else could have written them.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // Of the file that was opened, whatever its name leads to by now.
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let directory = fs::metadata(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    for (what, meta) in [("it", &found), ("its folder", &directory)] {
        let ours = meta.uid() == rustix::process::geteuid().as_raw() || meta.uid() == 0;
        if !ours || meta.mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("others may write {what}; expected our own user's and mode 600 or 700"),
            ));
        }
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// As JSON inside of JSON a set can double, every quote of it gaining a backslash; and a little for what is around it.
const BYTES_MAX: u64 = 2 * keys::BYTES_MAX as u64 + 16 * 1024;

/// Another number for another format: a copy in a format of another release is passed over.
const VERSION: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn kept() -> KeptKeys {
        KeptKeys {
            issuer: "https://login.acme.example/".to_owned(),
            jwks_uri: "https://login.acme.example/keys?x=1".to_owned(),
            fetched_at_s: 1_800_000_000,
            jwks: r#"{"keys":[]}"#.to_owned(),
        }
    }

    #[test]
    fn a_copy_is_read_as_it_was_written_and_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("not/yet/there");
        for name in ["acme", "..", "a/b\0", "é"] {
            let copy = CopyFile::of(&state_dir, name);
            assert_eq!(copy.load().unwrap(), None, "{name:?}");
            copy.forget().unwrap();
            copy.save(&KeptKeys { jwks: "{}".to_owned(), ..kept() }).unwrap();
            copy.save(&kept()).unwrap();
            assert_eq!(copy.load().unwrap(), Some(kept()), "{name:?}");
            assert_eq!(fs::metadata(&copy.path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(copy.path.parent(), Some(&*state_dir));
        }
        assert_eq!(fs::read_dir(&state_dir).unwrap().count(), 4, "nothing else is left behind");
        let copy = CopyFile::of(&state_dir, "acme");
        copy.forget().unwrap();
        assert_eq!(copy.load().unwrap(), None);
    }

    #[test]
    fn a_bad_file_is_an_error_and_not_a_key_set() {
        let folder = tempfile::tempdir().unwrap();
        let copy = CopyFile::of(folder.path(), "acme");
        copy.save(&kept()).unwrap();
        let good = fs::read_to_string(&copy.path).unwrap();
        for (what, text) in [
            ("nothing", String::new()),
            ("half of it", good[..good.len() / 2].to_owned()),
            ("another version", good.replace("\"version\":1", "\"version\":2")),
            ("no issuer", good.replace("\"issuer\"", "\"issuer2\"")),
            ("a time that is text", good.replace("1800000000", "\"1800000000\"")),
            ("two of them", format!("{good}{good}")),
            ("a large one", format!("{good}{}", " ".repeat(BYTES_MAX as usize))),
        ] {
            fs::write(&copy.path, text).unwrap();
            assert!(copy.load().is_err(), "{what}");
        }
        fs::write(&copy.path, &good).unwrap();
        assert!(copy.load().is_ok());
        for (path, bad, right) in [(&*copy.path, 0o620, 0o600), (folder.path(), 0o777, 0o700)] {
            fs::set_permissions(path, fs::Permissions::from_mode(bad)).unwrap();
            assert!(copy.load().unwrap_err().to_string().contains("cannot be read"), "{path:?}");
            fs::set_permissions(path, fs::Permissions::from_mode(right)).unwrap();
            assert!(copy.load().is_ok());
        }
        fs::remove_file(&copy.path).unwrap();
        fs::create_dir(&copy.path).unwrap();
        assert!(copy.load().is_err());
        assert!(copy.save(&kept()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }
}
