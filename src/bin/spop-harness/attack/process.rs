//! What the agent's process holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Memory and descriptors at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Resident, in KiB.
    pub rss_kib: u64,
    /// Open ones.
    pub descriptors: u64,
}

impl Held {
    /// What the process holds now; the error says what could not be read of it.
    pub fn now(pid: u32) -> Result<Held, String> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let unread = |error: std::io::Error| format!("cannot read process {pid}: {error}");
        let status = std::fs::read_to_string(folder.join("status")).map_err(unread)?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        Ok(Held {
            // A process that has ended and not been waited for has none.
            rss_kib: rss.ok_or_else(|| format!("process {pid} holds no memory; expected one that runs"))?,
            descriptors: std::fs::read_dir(folder.join("fd")).map_err(unread)?.count() as u64,
        })
    }

    /// The larger of each.
    pub fn most(self, other: Held) -> Held {
        Held { rss_kib: self.rss_kib.max(other.rss_kib), descriptors: self.descriptors.max(other.descriptors) }
    }

    /// The most at any look, ten a second, from `before` on until it is over.
    pub fn watch(before: Held, pid: u32, over: &AtomicBool) -> Result<Held, String> {
        let mut most = before;
        while !over.load(Ordering::Relaxed) {
            most = most.most(Held::now(pid)?);
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(most)
    }
}

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A thread that watches.
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Held, String>>,
}

impl Watch {
    /// Begins to watch, on a thread of its own with the priority of the caller's: the runtime is busy with the hostile
    /// peers, and looks late.
    pub fn begin(pid: u32, before: Held) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&over);
        Watch { over, thread: std::thread::spawn(move || Held::watch(before, pid, &watched)) }
    }

    /// Ends it and gives the most; within one look.
    pub fn end(self) -> Result<Held, String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the thread that watches the process panicked".to_owned())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_and_one_that_is_not_there_is_an_error() {
        let own = std::process::id();
        let held = Held::now(own).unwrap();
        assert!(held.rss_kib > 0 && held.descriptors > 0, "{held:?}");
        // Beyond the largest that Linux gives, 2^22.
        let error = Held::now(u32::MAX).unwrap_err();
        assert!(error.starts_with("cannot read process 4294967295: "), "{error}");
    }

    #[test]
    fn the_most_is_never_below_what_was_before() {
        let before = Held { rss_kib: u64::MAX, descriptors: 0 };
        let most = Watch::begin(std::process::id(), before).end().unwrap();
        assert_eq!(most.rss_kib, u64::MAX);
    }
}
