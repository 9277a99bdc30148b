//! A file with everybody's groups, YAML or JSON: a map of people to lists of groups. All of it is in memory; it is looked
//! at each second and read anew when it has changed. One that cannot be read leaves the last that could in force.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use tokio_util::sync::CancellationToken;

use super::super::api_keys::FileStamp;
use super::super::outbound::chain;
use super::memberships::{DirectoryStatus, Ignorance, Look, Membership};
use super::{Absent, DirectorySettings};
use crate::clock::{Clock, Now};

/// Person -> groups.
pub(super) type People = HashMap<Box<str>, Vec<String>>;

/// Why a file of groups is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is missing or not readable.
    #[error("it cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// Larger than it may be.
    #[error("it is larger than {} MiB", BYTES_MAX / 1024 / 1024)]
    TooLarge,
    /// Another shape.
    #[error("it is not a map of people to lists of groups: {0}")]
    Shape(String),
}

/// Reads such a file; JSON where its name ends so, else YAML. Blocks.
pub(super) fn read(path: &Path) -> Result<People, FileError> {
    // A bound beforehand, so that a wrong path (a device, a disk image) cannot fill memory.
    if std::fs::metadata(path).map_err(FileError::Unreadable)?.len() > BYTES_MAX {
        return Err(FileError::TooLarge);
    }
    let text = std::fs::read_to_string(path).map_err(FileError::Unreadable)?;
    let listed = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str::<Listed>(&text).map_err(|error| FileError::Shape(error.to_string()))
    } else {
        yaml(&text)
    };
    listed.map(|listed| listed.0)
}

fn yaml(text: &str) -> Result<Listed, FileError> {
    let options = serde_saphyr::options! {
        // 16 MiB of the shortest lines, `a: [b]`, are 2.4 million people and some ten million events.
        budget: serde_saphyr::budget! { max_depth: 8, max_events: 32_000_000, max_nodes: 16_000_000, },
        // Aliases are for lists that several have; unrolled they must not be more than a file without them.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 1_000_000, },
        // `Listed` refuses them, in words that are not about this library.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Listed>(text, options)
        .map_err(|error| FileError::Shape(error.to_string().chars().take(200).collect()))
}

/// The file as written; a person given twice is a mistake.
struct Listed(People);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Listed, D::Error> {
        deserializer.deserialize_map(OfPeople)
    }
}

struct OfPeople;

impl<'de> Visitor<'de> for OfPeople {
    type Value = Listed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of people to lists of groups")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
        let mut people = People::new();
        while let Some(person) = map.next_key::<Box<str>>()? {
            let groups = map.next_value()?;
            match people.entry(person) {
                Entry::Occupied(_) => return Err(A::Error::custom("a person is listed twice")),
                Entry::Vacant(place) => place.insert(groups),
            };
        }
        Ok(Listed(people))
    }
}

/// What tells that a file has changed. Its own time of change is part of it, which nobody can set: `touch -r`, `rsync -t`
/// and the like put the time of writing back.
fn stamp(path: &Path) -> Option<FileStamp> {
    Some(FileStamp::of(&std::fs::metadata(path).ok()?))
}

/// The file over time.
pub(super) struct GroupFile {
    name: Arc<str>,
    path: PathBuf,
    absent: Absent,
    present: ArcSwap<Present>,
    desk: Mutex<Desk>,
    look_again: Duration,
}

/// What counts now.
struct Present {
    people: HashMap<Box<str>, Arc<Membership>>,
    /// Of whoever is not in it: known to be in no group.
    nobody: Arc<Membership>,
    /// Of whoever is not in it: unknown.
    ignorance: Arc<Ignorance>,
    /// Whether the file has been read at all.
    is_read: bool,
}

#[derive(Default)]
struct Desk {
    running: bool,
    stamp: Option<FileStamp>,
    read_at: Option<Instant>,
    reads: u64,
    failures: u64,
    last_error: Option<String>,
}

impl GroupFile {
    /// Reads the file for the first time. One that cannot be read leaves everybody's groups unknown. Blocks.
    pub(super) fn new(settings: &DirectorySettings, path: &Path, look_again: Duration) -> GroupFile {
        let file = GroupFile {
            name: Arc::clone(&settings.name),
            path: path.to_owned(),
            absent: settings.absent,
            present: ArcSwap::from_pointee(Present {
                people: HashMap::new(),
                nobody: Membership::new(Vec::new()),
                ignorance: Arc::default(),
                is_read: false,
            }),
            desk: Mutex::default(),
            look_again,
        };
        file.read_if_changed(None);
        file
    }

    pub(super) fn look(&self, user: &str) -> Look {
        let present = self.present.load();
        match present.people.get(user) {
            Some(membership) => Look::Known(Arc::clone(membership)),
            None if present.is_read && self.absent == Absent::NoGroups => Look::Known(Arc::clone(&present.nobody)),
            None => Look::Unknown { wait: None, ignorance: Some(Arc::clone(&present.ignorance)) },
        }
    }

    pub(super) fn status(&self, now: Now) -> DirectoryStatus {
        let desk = self.desk.lock();
        DirectoryStatus {
            name: Arc::clone(&self.name),
            people: self.present.load().people.len(),
            age_s: desk.read_at.map(|at| now.instant().saturating_duration_since(at).as_secs()),
            fetches: desk.reads,
            failures: desk.failures,
            last_error: desk.last_error.clone(),
            ..DirectoryStatus::default()
        }
    }

    /// Whether the caller is to run the task; once.
    pub(super) fn begin(&self) -> bool {
        !std::mem::replace(&mut self.desk.lock().running, true)
    }

    /// The task: looks at the file each second.
    pub(super) async fn run(self: Arc<Self>, clock: Clock, end: CancellationToken, stop: CancellationToken) {
        let work = async {
            loop {
                tokio::time::sleep(self.look_again).await;
                let (file, now) = (Arc::clone(&self), clock.now());
                // Away from the threads that answer HAProxy; a panic in there ends that look, not the task.
                let _ = tokio::task::spawn_blocking(move || file.read_if_changed(Some(now))).await;
            }
        };
        tokio::select! {
            () = end.cancelled() => {}
            () = stop.cancelled() => {}
            () = work => {}
        }
        self.desk.lock().running = false;
    }

    /// Blocks.
    fn read_if_changed(&self, now: Option<Now>) {
        // Taken before reading: what changes in between is seen the next time.
        let stamp = stamp(&self.path);
        {
            let mut desk = self.desk.lock();
            if stamp.is_some() && desk.stamp == stamp {
                return;
            }
            desk.stamp = stamp;
        }
        let read = read(&self.path);
        let mut desk = self.desk.lock();
        desk.reads += 1;
        match read {
            Ok(people) => {
                let was_broken = desk.last_error.take().is_some();
                desk.read_at = now.map(Now::instant);
                drop(desk);
                let people = self.replace(people);
                tracing::info!(directory = &*self.name, people, was_broken, "groups read");
            }
            Err(error) => {
                desk.failures += 1;
                let chain = chain(&error);
                // Once for each that is wrong: a file that is not there is looked for each second.
                if desk.last_error.as_ref() != Some(&chain) {
                    let serving_stale = self.present.load().is_read;
                    tracing::warn!(
                        directory = &*self.name,
                        file = %self.path.display(),
                        serving_stale,
                        error = chain,
                        "groups cannot be read"
                    );
                }
                desk.last_error = Some(chain);
            }
        }
    }

    /// Puts what was read in force. Whose groups are the same keeps their record, so that what rests on it holds; the
    /// other records end.
    fn replace(&self, people: People) -> usize {
        let old = self.present.load_full();
        let renewed = people.into_iter().map(|(person, groups)| {
            let fresh = Membership::new(groups);
            let same = old.people.get(&person).filter(|known| known.groups() == fresh.groups());
            let membership = same.map_or(fresh, Arc::clone);
            (person, membership)
        });
        let people: HashMap<_, _> = renewed.collect();
        let count = people.len();
        let new =
            Arc::new(Present { people, nobody: Membership::new(Vec::new()), ignorance: Arc::default(), is_read: true });
        self.present.store(Arc::clone(&new));
        for (person, membership) in &old.people {
            if new.people.get(person).is_none_or(|kept| !Arc::ptr_eq(kept, membership)) {
                membership.retire();
            }
        }
        // Whoever was in nothing may be in it now.
        old.nobody.retire();
        old.ignorance.end();
        count
    }
}

/// A company of 100,000 people in ten groups each has 16 MiB with names of fifteen bytes.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
