//! Another config, while the agent serves: on SIGHUP, and whenever one of its files has changed.
//!
//! A bad one changes nothing and says why. A good one is in force from the next decision on; what is being decided ends
//! under the one before. Connections, caches, keys, revocations, grants and counters live on, as far as what they rest on is
//! the same. It is read away from the threads that answer HAProxy.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::SHA256;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use tollgate::audit::Audit;
use tollgate::clock::{Clock, Now};
use tollgate::config::flags::RunArgs;
use tollgate::identity::settings::FileStamp;
use tollgate::limit::{CounterSettings, Counters};
use tollgate::pipeline::Live;
use tollgate::telemetry::Telemetry;

use super::agent::{load, pipeline, wrong_config};
use super::{Failure, failed};

/// What another config is put in force with.
pub(super) struct Reloader {
    pub(super) flags: RunArgs,
    pub(super) live: Arc<Live>,
    /// Those that the counters in force were made with.
    pub(super) counters: CounterSettings,
    pub(super) clock: Clock,
    pub(super) telemetry: Telemetry,
    pub(super) audit: Audit,
    pub(super) end: CancellationToken,
}

/// Reads the config again until the end. With `watched`, the files of the config in force, also where one of them has
/// changed.
pub(super) async fn run(mut reloader: Reloader, mut hangup: Signal, mut watched: Option<Seen>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = reloader.end.clone();
    loop {
        let why = tokio::select! {
            () = end.cancelled() => return,
            received = hangup.recv() => match received {
                Some(()) => "SIGHUP",
                None => return,
            },
            _ = ticks.tick(), if watched.is_some() => "a file has changed",
        };
        let is_asked = why == "SIGHUP";
        let now = reloader.clock.now();
        // Reading takes a moment where there are ten thousand rules, and a file system may take its time.
        let done = tokio::task::spawn_blocking(move || {
            if !is_asked && !watched.as_mut().is_some_and(|seen| seen.changed(now)) {
                return (reloader, watched);
            }
            // Before it is read: what changes meanwhile is seen at the next look.
            let before = watched.map(|seen| Seen::of(seen.files.into_iter().map(|file| file.path).collect()));
            let files = reloader.reload(why);
            (reloader, before.map(|before| before.of_these(files)))
        });
        // A file system that hangs keeps nobody from stopping.
        let done = tokio::select! {
            () = end.cancelled() => return,
            done = done => done,
        };
        match done {
            Ok(done) => (reloader, watched) = done,
            // Each reload catches its own.
            Err(error) => {
                tracing::error!(%error, "the config will not be read again before a restart");
                return;
            }
        }
    }
}

impl Reloader {
    /// Gives the files that decide whether another reload is worth while.
    fn reload(&mut self, why: &str) -> Vec<PathBuf> {
        let config = self.flags.config.config.clone();
        // One that panics is one that failed: the next one still counts.
        let mut files = vec![config.clone()];
        let reloaded = catch_unwind(AssertUnwindSafe(|| self.put_in_force(&mut files)))
            .unwrap_or_else(|_| Err(Failure::text("reading it panicked".to_owned())));
        self.telemetry.reloaded(reloaded.is_ok());
        match reloaded {
            Ok(()) => {
                tracing::info!(config = %config.display(), why, "the config was read again and is in force; `spop` (but for its deadline) and `admin` wait for a restart");
                files
            }
            Err(failure) => {
                self.audit.reload_refused(&failure.to_string());
                tracing::error!(config = %config.display(), why, "the config was refused, the old one stays: {failure}");
                match failure {
                    Failure::Config(errors) => errors.files(),
                    // It reads well and cannot work: one of its files may be what has to change.
                    _ => files,
                }
            }
        }
    }

    fn put_in_force(&mut self, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
        let config = load(&self.flags)?;
        files.clone_from(&config.files);
        for warning in &config.warnings {
            tracing::warn!("{}", warning.in_file(&self.flags.config.config));
        }
        let previous = self.live.pipeline();
        // Counters live on: a reload must not give everybody a fresh budget.
        let counters = config.counters.clone();
        let store = if counters == self.counters {
            Arc::clone(&previous.counters)
        } else {
            Arc::new(Counters::new(&counters).map_err(failed)?)
        };
        let version = config.version;
        let audit_settings = config.audit.clone();
        let next = pipeline(config, Some(&previous), store, 0).map_err(wrong_config)?;
        let change = self.audit.prepare(audit_settings.as_ref()).map_err(failed)?;
        // From here on nothing fails that was to be in force.
        next.identities.spawn(&self.clock, &self.end);
        // An issuer whose keys come from elsewhere now has none yet; the policy in force has those that it had. Whoever
        // does not answer in that time is no reason to wait longer.
        let fetched = async { tokio::time::timeout(FETCH_WAIT, next.identities.fetched()).await };
        let _ = tokio::runtime::Handle::current().block_on(fetched);
        self.live.store(next);
        self.counters = counters;
        self.audit.apply(change, version).map_err(failed)
    }
}

/// The files of a config, as they were when it was read.
#[derive(Clone)]
pub(super) struct Seen {
    files: Vec<File>,
    /// What they were like at the last look, where that was something else.
    changing: Option<Vec<Digest>>,
}

#[derive(Clone)]
struct File {
    path: PathBuf,
    /// `None` where it is not there.
    stamp: Option<FileStamp>,
    digest: Digest,
}

/// `None` of a file that cannot be read.
type Digest = Option<[u8; 32]>;

impl Seen {
    /// As they are now.
    pub(super) fn of(files: Vec<PathBuf>) -> Seen {
        Seen { files: files.into_iter().map(File::of).collect(), changing: None }
    }

    /// Whether they are different, and have been so for a look: an editor writes a file in several steps.
    fn changed(&mut self, now: Now) -> bool {
        let mut same = self.changing.is_none();
        for file in &mut self.files {
            let stamp = stamp(&file.path);
            same &= stamp == file.stamp && stamp.is_none_or(|stamp| stamp.is_settled(now));
            file.stamp = stamp;
        }
        if same {
            return false;
        }
        let digests: Vec<_> = self.files.iter().map(|file| digest(&file.path)).collect();
        if digests.iter().zip(&self.files).all(|(digest, file)| *digest == file.digest) {
            self.changing = None;
            return false;
        }
        self.changing.replace(digests.clone()) == Some(digests)
    }

    /// Of `files`, those that are known as they were, so that what has changed since is still to be seen.
    fn of_these(&self, files: Vec<PathBuf>) -> Seen {
        let known = |path: PathBuf| {
            let known = self.files.iter().find(|file| file.path == path);
            known.cloned().unwrap_or_else(|| File::of(path))
        };
        Seen { files: files.into_iter().map(known).collect(), changing: None }
    }
}

impl File {
    fn of(path: PathBuf) -> File {
        File { stamp: stamp(&path), digest: digest(&path), path }
    }
}

fn stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().map(|metadata| FileStamp::of(&metadata))
}

fn digest(path: &Path) -> Digest {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > BYTES_MAX {
        return None;
    }
    let digest = aws_lc_rs::digest::digest(&SHA256, &std::fs::read(path).ok()?);
    digest.as_ref().first_chunk().copied()
}

/// A change is in force within a second and a half.
const LOOK: Duration = Duration::from_millis(500);

/// As long as a fetch may take.
const FETCH_WAIT: Duration = Duration::from_secs(5);

/// No file of a config may be larger.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_it_has_held_for_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        std::fs::write(&one, "1").unwrap();
        let now = Clock::system().now();
        let mut seen = Seen::of(vec![one.clone(), other.clone()]);
        assert!(!seen.changed(now), "nothing happened");
        std::fs::write(&one, "2").unwrap();
        assert!(!seen.changed(now), "it may still be written");
        std::fs::write(&one, "3").unwrap();
        assert!(!seen.changed(now), "it was");
        assert!(seen.changed(now));
        let mut seen = Seen::of(vec![one.clone(), other.clone()]);
        std::fs::write(&one, "3").unwrap();
        assert_eq!([seen.changed(now), seen.changed(now)], [false; 2], "it was written, and is the same");
        std::fs::write(&other, "").unwrap();
        assert_eq!([seen.changed(now), seen.changed(now)], [false, true], "one has appeared");
        let mut seen = Seen::of(vec![one.clone(), other]);
        std::fs::remove_file(&one).unwrap();
        assert_eq!([seen.changed(now), seen.changed(now)], [false, true], "one is gone");
        let later = now.later(Duration::from_secs(60));
        let mut seen = Seen::of(vec![one]);
        assert_eq!([seen.changed(later), seen.changed(later)], [false; 2]);
    }
}
