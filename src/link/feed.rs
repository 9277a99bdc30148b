//! A hash that agents share, and the channel on which its changes are said.
//!
//! On connections of its own: a page of a large hash would keep the answers waiting that a request waits for. What comes
//! of it says nothing to the breaker either, since nobody's request depends on how long it takes.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSubStream;
use redis::{Cmd, FromRedisValue};

use super::reach::Reach;
use super::{RedisSettings, StoreError};

/// One hash and its channel.
pub struct Feed {
    reach: Reach,
    key: &'static str,
    channel: &'static str,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whoever connects knows the password.
        f.debug_struct("Feed").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What is said on the channel.
pub struct Pushes(PubSubStream);

impl Pushes {
    /// The next one, empty where it is no text; `None` once the connection has ended.
    pub async fn next(&mut self) -> Option<String> {
        Some(self.0.next().await?.get_payload().unwrap_or_default())
    }
}

impl Feed {
    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub fn new(settings: &RedisSettings, key: &'static str, channel: &'static str) -> Result<Feed, StoreError> {
        let reach = Reach::new(&RedisSettings { timeout: TIMEOUT, ..settings.clone() })?;
        Ok(Feed { reach, key, channel })
    }

    /// One field of the hash.
    pub async fn field(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.ask(redis::cmd("HGET").arg(self.key).arg(name)).await
    }

    /// Some fields and values of the hash, about `count` of them, and where the next begin: `"0"` is both the beginning
    /// and the end. What is there from the beginning to the end is in one of the pages.
    pub async fn page(&self, from: &str, count: usize) -> Result<(String, Vec<(String, String)>), StoreError> {
        self.ask(redis::cmd("HSCAN").arg(self.key).arg(from).arg("COUNT").arg(count)).await
    }

    /// Removes fields.
    pub async fn remove(&self, names: &[String]) -> Result<(), StoreError> {
        let _: u64 = self.ask(redis::cmd("HDEL").arg(self.key).arg(names)).await?;
        Ok(())
    }

    /// Runs a script with the hash as its only key, and the channel before all other arguments. It gives two numbers and
    /// two texts.
    pub async fn run(&self, script: &str, arguments: &[String]) -> Result<(u64, u64, String, String), StoreError> {
        self.ask(redis::cmd("EVAL").arg(script).arg(1).arg(self.key).arg(self.channel).arg(arguments)).await
    }

    /// Redis's clock in Unix seconds, rounded up.
    pub async fn now_s(&self) -> Result<i64, StoreError> {
        let (seconds, us): (i64, i64) = self.ask(&redis::cmd("TIME")).await?;
        Ok(seconds.saturating_add(i64::from(us > 0)))
    }

    /// How many connections listen to the channel.
    pub async fn listening(&self) -> Result<u64, StoreError> {
        let command = redis::cmd("PUBSUB").arg("NUMSUB").arg(self.channel).to_owned();
        let count = |value| redis::from_redis_value::<(String, u64)>(value).map_or(0, |(_, count)| count);
        self.reach.sum(TIMEOUT, &command, count).await
    }

    /// Listens to the channel, on another connection.
    pub async fn listen(&self) -> Result<Pushes, StoreError> {
        let (_, stream) = self.reach.listen(self.channel, self.key.as_bytes(), TIMEOUT).await?.split();
        Ok(Pushes(stream))
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let call = |mut connection| async move { command.query_async::<T>(&mut connection).await };
        let (answered, asked) = self.reach.ask(TIMEOUT, Some(self.key.as_bytes()), call).await;
        if let Err(error) = &answered {
            self.reach.heed(error, &asked);
        }
        answered
    }
}

/// Ten times what connecting may take where a request waits: nobody's does, and the terminal may be far away.
const TIMEOUT: Duration = Duration::from_secs(1);
