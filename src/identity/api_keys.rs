//! API keys: whom each of them names, in tables that are replaced while requests look into them.
//!
//! An identity is made for each key when its file is read, so that a look-up is a digest, a hash table and one
//! comparison, and allocates nothing. Nothing else is remembered about a key: one that is gone from its file is unknown
//! to the next request.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use parking_lot::Mutex;

use super::api_key::{self, KeyPrefix};
use super::{CredentialKind, GroupSet, Groups, Identity, Rejection};
use crate::clock::Now;
use crate::trace::{Outcome, Trace};

/// One key as its file says it. The key itself is in no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// What names it.
    pub prefix: KeyPrefix,
    /// SHA-256 of the whole key.
    pub sha256: [u8; 32],
    /// Whom it names; several keys may name the same user.
    pub user: String,
    /// Groups, as the file writes them: the config's `groups:` say what they are here.
    pub groups: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// The first second, in Unix time, at which it is refused; `None` where it lasts.
    pub expires_at_s: Option<i64>,
    /// For people.
    pub note: Option<String>,
}

/// A file of keys, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The config's name for it.
    pub name: Arc<str>,
    /// Where it is.
    pub path: PathBuf,
    /// Which file it was.
    pub stamp: FileStamp,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// Its keys, no prefix twice.
    pub keys: Vec<ApiKey>,
}

/// What changes when a file does: another file in its place, or other bytes in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    len: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl FileStamp {
    /// Of the file that has this metadata.
    pub fn of(metadata: &std::fs::Metadata) -> FileStamp {
        use std::os::unix::fs::MetadataExt;
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change that is yet to come would show. The kernel's clock for files ticks every few milliseconds, so
    /// that two changes within one tick and of the same length look like one: a file that was changed just now has to be
    /// read again whatever its stamp says.
    pub fn is_settled(&self, now: Now) -> bool {
        const TICK_NS_MAX: i128 = 3_000_000_000;
        let age_ns = i128::from(now.unix_us()) * 1_000 - self.changed_ns;
        // One from the future is of another machine's clock, and nothing can be told from it.
        !(-TICK_NS_MAX..TICK_NS_MAX).contains(&age_ns)
    }
}

/// How one file of keys is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFileStatus {
    /// The config's name for it.
    pub name: Arc<str>,
    /// Where it is.
    pub path: PathBuf,
    /// The version of it that is in force.
    pub stamp: FileStamp,
    /// SHA-256 of that version.
    pub digest: [u8; 32],
    /// Keys in force.
    pub keys: usize,
    /// False while the file as it is now is refused and an earlier version of it is in force.
    pub is_current: bool,
}

/// A prefix in two files: the key would be two callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the prefix {0} is also in another file of keys")]
pub struct PrefixTaken(pub KeyPrefix);

/// All files of keys.
pub(super) struct ApiKeys {
    groups: Arc<Groups>,
    files: Vec<Loaded>,
}

struct Loaded {
    name: Arc<str>,
    path: PathBuf,
    table: ArcSwap<Table>,
    /// Of the file that `table` is; never asked for by a request.
    stamp: Mutex<FileStamp>,
    is_current: AtomicBool,
}

struct Table {
    digest: [u8; 32],
    // foldhash is seeded at random for each table; prefixes are public, and cannot be chosen to collide.
    by_prefix: HashMap<KeyPrefix, Entry, foldhash::fast::RandomState>,
}

struct Entry {
    sha256: [u8; 32],
    /// `i64::MAX` where it lasts.
    expires_at_s: i64,
    identity: Arc<Identity>,
}

impl ApiKeys {
    pub(super) fn new(files: Vec<KeyFile>, groups: &Arc<Groups>) -> ApiKeys {
        let load = |file: KeyFile| Loaded {
            table: ArcSwap::from_pointee(Table::new(&file, groups)),
            stamp: Mutex::new(file.stamp),
            name: file.name,
            path: file.path,
            is_current: AtomicBool::new(true),
        };
        ApiKeys { groups: Arc::clone(groups), files: files.into_iter().map(load).collect() }
    }

    /// Whom the key names. A key with an unknown prefix and one with a wrong secret are refused by one reason and after
    /// one comparison, so that neither answer nor time says which prefixes there are.
    pub(super) fn find(&self, key: &[u8], now: Now, trace: &mut Trace) -> Result<Arc<Identity>, Rejection> {
        let Some(prefix) = api_key::prefix_of(key) else {
            trace.step(STAGE, Outcome::Fail, || "it has not the shape of a key, or its checksum is wrong".to_owned());
            return Err(Rejection::ApiKeyUnknown);
        };
        let presented = api_key::sha256(key);
        for file in &self.files {
            let table = file.table.load();
            let Some(entry) = table.by_prefix.get(&prefix) else { continue };
            if verify_slices_are_equal(&presented, &entry.sha256).is_err() {
                trace.step(STAGE, Outcome::Fail, || format!("its prefix is {prefix} of {}, its secret not", file.name));
                return Err(Rejection::ApiKeyUnknown);
            }
            // Only to whoever has the secret.
            if now.unix_s() >= entry.expires_at_s {
                trace.step(STAGE, Outcome::Fail, || format!("key {prefix} of {} has expired", file.name));
                return Err(Rejection::ApiKeyExpired);
            }
            trace.step(STAGE, Outcome::Pass, || format!("key {prefix} of {}", file.name));
            return Ok(Arc::clone(&entry.identity));
        }
        // Equal to none, since nobody knows what has this digest; the answer would not change if it were.
        let _ = std::hint::black_box(verify_slices_are_equal(&presented, &NOBODYS));
        trace.step(STAGE, Outcome::Fail, || format!("no file has a key {prefix}"));
        Err(Rejection::ApiKeyUnknown)
    }

    /// Puts another version of a file in force. A file that is not there any more, because the config was read again
    /// meanwhile, is left alone.
    pub(super) fn replace(&self, file: &KeyFile) -> Result<(), PrefixTaken> {
        let Some(loaded) = self.files.iter().find(|loaded| loaded.name == file.name) else { return Ok(()) };
        let others = || self.files.iter().filter(|other| other.name != file.name);
        for other in others() {
            let table = other.table.load();
            if let Some(taken) = file.keys.iter().find(|key| table.by_prefix.contains_key(&key.prefix)) {
                return Err(PrefixTaken(taken.prefix));
            }
        }
        loaded.table.store(Arc::new(Table::new(file, &self.groups)));
        *loaded.stamp.lock() = file.stamp;
        loaded.is_current.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The file has these bytes under another stamp, or again: what is in force is what is in it.
    pub(super) fn confirm(&self, name: &str, digest: &[u8; 32], stamp: FileStamp) {
        for loaded in self.files.iter().filter(|loaded| *loaded.name == *name) {
            if loaded.table.load().digest == *digest {
                *loaded.stamp.lock() = stamp;
                loaded.is_current.store(true, Ordering::Relaxed);
            }
        }
    }

    /// The file as it is now is refused.
    pub(super) fn refuse(&self, name: &str) {
        for loaded in self.files.iter().filter(|loaded| *loaded.name == *name) {
            loaded.is_current.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn status(&self) -> Vec<KeyFileStatus> {
        let status = |loaded: &Loaded| {
            let table = loaded.table.load();
            KeyFileStatus {
                name: Arc::clone(&loaded.name),
                path: loaded.path.clone(),
                stamp: *loaded.stamp.lock(),
                digest: table.digest,
                keys: table.by_prefix.len(),
                is_current: loaded.is_current.load(Ordering::Relaxed),
            }
        };
        self.files.iter().map(status).collect()
    }

    /// The file that the config calls so.
    pub(super) fn named(&self, name: &str) -> Option<&Arc<str>> {
        self.files.iter().map(|loaded| &loaded.name).find(|known| ***known == *name)
    }
}

impl Table {
    fn new(file: &KeyFile, groups: &Groups) -> Table {
        let entry = |key: &ApiKey| {
            let expires_at_s = key.expires_at_s.unwrap_or(i64::MAX);
            let identity = Arc::new(identity(key, &file.name, groups));
            (key.prefix, Entry { sha256: key.sha256, expires_at_s, identity })
        };
        Table { digest: file.digest, by_prefix: file.keys.iter().map(entry).collect() }
    }
}

impl KeyFile {
    /// What no file has read yet.
    pub fn unread(name: &str, path: &Path) -> KeyFile {
        KeyFile {
            name: name.into(),
            path: path.to_owned(),
            stamp: FileStamp::default(),
            digest: [0; 32],
            keys: Vec::new(),
        }
    }
}

/// The prefix is the client: with it a limit can count each key by itself, and a log says which of a user's keys it was.
fn identity(key: &ApiKey, name: &Arc<str>, groups: &Groups) -> Identity {
    let mut set = GroupSet::default();
    for id in key.groups.iter().flat_map(|group| groups.of(name, group)) {
        set.insert(*id);
    }
    Identity {
        credential: CredentialKind::ApiKey,
        issuer_name: Arc::clone(name),
        issuer: name.to_string(),
        user: key.user.clone(),
        subject: key.user.clone(),
        client_id: key.prefix.to_string(),
        groups_joined: groups.join(&set),
        groups: set,
        groups_known: true,
        scopes: key.scopes.clone(),
        expires_at_s: key.expires_at_s.unwrap_or(i64::MAX),
        ..Identity::default()
    }
}

const STAGE: &str = "identify";

/// What a key with an unknown prefix is compared with.
const NOBODYS: [u8; 32] = [0; 32];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::identity::api_key::{NewKey, make};
    use crate::identity::testing::NOW_S;
    use std::time::Duration;

    fn entry(key: &NewKey, user: &str, expires_at_s: Option<i64>) -> ApiKey {
        ApiKey {
            prefix: key.prefix,
            sha256: key.sha256,
            user: user.to_owned(),
            groups: vec!["ops".to_owned(), "unknown".to_owned()],
            scopes: vec!["read".to_owned()],
            expires_at_s,
            note: None,
        }
    }

    fn file(name: &str, keys: Vec<ApiKey>) -> KeyFile {
        let digest = api_key::sha256(format!("{keys:?}").as_bytes());
        KeyFile { keys, digest, ..KeyFile::unread(name, Path::new("/nowhere")) }
    }

    fn groups() -> Arc<Groups> {
        Arc::new(Groups::new([("admins", vec![("a", "ops")]), ("others", vec![("b", "ops")])]).unwrap())
    }

    #[test]
    fn a_key_names_its_user_until_it_expires() {
        let clock = Clock::by_hand(NOW_S);
        let (first, second, none) = (make().unwrap(), make().unwrap(), make().unwrap());
        let expires = NOW_S as i64 + 10;
        let keys = ApiKeys::new(
            vec![file("a", vec![entry(&first, "alice", Some(expires))]), file("b", vec![entry(&second, "bob", None)])],
            &groups(),
        );
        let find = |text: &str, now| keys.find(text.as_bytes(), now, &mut Trace::off());
        let alice = find(&first.text, clock.now()).unwrap();
        assert_eq!((&*alice.user, &*alice.subject, &*alice.issuer_name), ("alice", "alice", "a"));
        assert_eq!((&*alice.client_id, &*alice.groups_joined), (first.prefix.as_str(), "admins"));
        assert_eq!((alice.credential, alice.expires_at_s), (CredentialKind::ApiKey, expires));
        assert_eq!(find(&second.text, clock.now()).unwrap().groups_joined, "others", "a group is of its file");
        // The same identity, not a new one.
        assert!(Arc::ptr_eq(&alice, &find(&first.text, clock.now()).unwrap()));

        clock.advance(Duration::from_secs(9));
        assert!(find(&first.text, clock.now()).is_ok());
        clock.advance(Duration::from_secs(1));
        assert_eq!(find(&first.text, clock.now()).err(), Some(Rejection::ApiKeyExpired));
        assert!(find(&second.text, clock.now()).is_ok());

        // The other key's prefix before this one's secret, with a checksum that holds; and who has no secret is not told
        // that a key has expired.
        let mut forged = format!("tg_{}{}", first.prefix, &none.text[11..55]);
        let checksum = api_key::checksum(forged.as_bytes());
        forged.extend(checksum.iter().copied().map(char::from));
        for text in [&*none.text, &forged, "", "x", &first.text[..60]] {
            assert_eq!(find(text, clock.now()).err(), Some(Rejection::ApiKeyUnknown), "{text}");
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let now = Clock::by_hand(NOW_S).now();
        let (first, second) = (make().unwrap(), make().unwrap());
        let one = file("a", vec![entry(&first, "alice", None)]);
        let keys = ApiKeys::new(vec![one.clone(), file("b", vec![])], &groups());
        let has = |key: &NewKey| keys.find(key.text.as_bytes(), now, &mut Trace::off()).is_ok();
        let other = file("a", vec![entry(&second, "alice", None)]);
        assert_eq!((keys.replace(&other), has(&first), has(&second)), (Ok(()), false, true));

        keys.refuse("a");
        assert_eq!((keys.status()[0].is_current, keys.status()[0].keys, has(&second)), (false, 1, true));
        let taken = file("b", vec![entry(&second, "bob", None)]);
        assert_eq!(keys.replace(&taken), Err(PrefixTaken(second.prefix)));
        assert_eq!(keys.replace(&file("gone", vec![])), Ok(()));
        keys.confirm("a", &one.digest, FileStamp { len: 7, ..FileStamp::default() });
        assert_eq!((keys.status()[0].is_current, keys.status()[0].stamp.len), (false, 0), "other bytes");
        keys.confirm("a", &other.digest, FileStamp { len: 7, ..FileStamp::default() });
        assert_eq!((keys.status()[0].is_current, keys.status()[0].stamp.len), (true, 7));
    }

    #[test]
    fn a_file_changed_just_now_is_not_settled() {
        let now = Clock::by_hand(NOW_S).now();
        let at = |seconds: i128| FileStamp {
            changed_ns: (i128::from(NOW_S) + seconds) * 1_000_000_000,
            ..FileStamp::default()
        };
        for (seconds, settled) in [(-60, true), (-3, true), (-2, false), (0, false), (2, false), (60, true)] {
            assert_eq!(at(seconds).is_settled(now), settled, "{seconds}");
        }
    }
}
