//! Clocks that are wrong, and clocks that jump. Redis's clock decides what is counted; an agent's decides nothing here.
//!
//! Debian's libfaketime says what time it is: by a file that the test rewrites.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Caller, Callers, assert_episodes, assert_honest, config, count, until_up};
use crate::support::stack::{Agent, Redis};
use crate::support::{folder, free_port, not_alone};

/// A clock that runs beside the machine's.
struct WrongClock {
    folder: TempDir,
}

impl WrongClock {
    fn ahead_by(seconds: i64) -> WrongClock {
        let clock = WrongClock { folder: folder() };
        clock.jump_to(seconds);
        clock
    }

    /// From the next reading on it is this far ahead of the machine's.
    fn jump_to(&self, seconds: i64) {
        let written = self.folder.path().join("written");
        std::fs::write(&written, format!("{seconds:+}\n")).unwrap();
        // Replaced in one step: an empty file would be no offset.
        std::fs::rename(written, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// What runs a program by this clock. Timers go by the machine's, as they do where the time is set.
    fn runner(&self) -> Vec<String> {
        let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketime.so.1"))
            .into_iter()
            .find(|library| Path::new(library).exists())
            .expect("libfaketime is there; `scripts/install.sh test` installs it");
        vec![
            "env".to_owned(),
            // The C library's allocator before Redis's own: that one reads the clock before there is one to read.
            format!("LD_PRELOAD={library} libc.so.6"),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file().display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }

    async fn agent(&self, config: &str) -> Agent {
        let runner = self.runner();
        let runner: Vec<_> = runner.iter().map(String::as_str).collect();
        let agent = Agent::start_under(&runner, config, &format!("127.0.0.1:{}", free_port())).await;
        until_up(&agent).await;
        agent
    }

    async fn redis(&self) -> Redis {
        let runner = self.runner();
        let runner: Vec<_> = runner.iter().map(String::as_str).collect();
        Redis::start_under(&runner, free_port(), &[]).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_an_hour_apart_share_one_count_and_notice_no_jump() {
    let _others = not_alone().await;
    const LIMIT: u64 = 200;
    let redis = Redis::start().await;
    let config = config(&redis.url(), LIMIT, 2);
    let (early, late) = (WrongClock::ahead_by(-3600), WrongClock::ahead_by(3600));
    let (behind, ahead) = (early.agent(&config).await, late.agent(&config).await);
    let callers = Callers::start(&[&behind, &ahead], 3, &["/deny/x"], Duration::from_millis(10)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The time is set under way, back and forth.
    late.jump_to(3590);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for clock in [&early, &late] {
        clock.jump_to(-10);
        tokio::time::sleep(Duration::from_millis(100)).await;
        clock.jump_to(7200);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answers = callers.stop().await;
    // They do go by those clocks.
    let logged = ahead.program.log();
    let year_and_hour = |line: &str| line.split_once("\"timestamp\":\"").map(|(_, rest)| rest[..13].to_owned());
    let hours: std::collections::BTreeSet<_> = logged.lines().filter_map(year_and_hour).collect();
    assert!(hours.len() > 1, "{hours:?}");

    for agent in [&behind, &ahead] {
        assert_honest(agent, &answers).await;
        assert_episodes(agent, 0).await;
    }
    assert_eq!(count(&answers, |answer| answer.degraded), 0);
    assert!(answers.len() as u64 > LIMIT, "{}", answers.len());
    // Not one more comes back by an hour that went by only on an agent's clock; eighteen seconds are one of Redis's.
    assert_eq!(count(&answers, |answer| answer.was_counted()), LIMIT);
}

/// Ten in ten seconds: five jumps give five bursts more at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_of_redis_costs_one_burst_at_most() {
    let _others = not_alone().await;
    const BURST: u64 = 10;
    let clock = WrongClock::ahead_by(0);
    let redis = clock.redis().await;
    let agent = Agent::start(&config(&redis.url(), BURST, 1).replace("10/1h", "10/10s")).await;
    until_up(&agent).await;
    let mut caller = Caller::of(&agent).await;
    let begun = Instant::now();
    let mut answers = Vec::new();
    let jumps = [30, -30, 30, 0, 3600];
    for offset in [0].into_iter().chain(jumps) {
        clock.jump_to(offset);
        // A second at most is what an agent remembers of a counter that was spent.
        if !answers.is_empty() {
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        // As much as there is, and five more.
        for _ in 0..BURST + 5 {
            answers.push(caller.ask("/deny/x").await);
        }
        let spent = answers.last().unwrap();
        assert_eq!(spent.reason, "limit_exceeded", "{spent:?} at {offset}");
    }
    // Those that the time itself gave: one each second.
    let by_time = begun.elapsed().as_secs() + 1;
    let admitted = count(&answers, |answer| answer.was_counted());
    assert!(admitted >= BURST * 2, "the clock did jump: {admitted}");
    assert!(admitted <= BURST * (1 + jumps.len() as u64) + by_time, "{admitted} in {by_time} s");
    assert_honest(&agent, &answers).await;
    assert_episodes(&agent, 0).await;
}
