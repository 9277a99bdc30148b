//! Background work that outlives its own panics.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;

/// Runs `task` until it ends; where it panics, it is begun again after a second, counted and logged.
pub async fn run<F: Future<Output = ()>>(name: &'static str, mut task: impl FnMut() -> F) {
    while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
        RESTARTS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = name, "a background task panicked; it begins again in a second");
        // A task that panics at once must not take a processor.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The same on a thread of its own, for work that may be blocked for as long as it likes.
pub fn thread(name: &'static str, mut task: impl FnMut() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        while catch_unwind(AssertUnwindSafe(&mut task)).is_err() {
            RESTARTS.fetch_add(1, Ordering::Relaxed);
            tracing::error!(task = name, "a background task panicked; it begins again in a second");
            std::thread::sleep(Duration::from_secs(1));
        }
    })?;
    Ok(())
}

/// How often any of them was begun again.
pub fn restarts() -> u64 {
    RESTARTS.load(Ordering::Relaxed)
}

static RESTARTS: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_again_until_it_ends() {
        let (before, mut begun) = (restarts(), 0);
        let work = run("test", || {
            begun += 1;
            let last = begun == 3;
            async move { assert!(last, "a test asked for it") }
        });
        work.await;
        assert_eq!(begun, 3);
        assert!(restarts() >= before + 2);
    }
}
