//! A hash that agents share, and the channel on which its changes are said.
//!
//! On connections of its own: a page of a large hash would keep the answers waiting that a request waits for. What comes
//! of it says nothing to the breaker either, since nobody's request depends on how long it takes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSubStream};
use redis::io::tcp::TcpSettings;
use redis::{Client, Cmd, FromRedisValue, IntoConnectionInfo as _, RedisError};

use super::{RedisSettings, StoreError, told};

/// One hash and its channel.
pub struct Feed {
    client: Client,
    /// Replaced after every failure: the library's connection keeps a refusal at its beginning for good.
    manager: ArcSwap<ConnectionManager>,
    key: &'static str,
    channel: &'static str,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client knows the password.
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
        // The library's error may hold the URL, and that a password.
        let wrong = |error: RedisError| StoreError::Address {
            address: settings.address.clone(),
            reason: error.category().to_owned(),
        };
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = settings.url.expose().into_connection_info().map_err(wrong)?.set_tcp_settings(tcp);
        let client = Client::open(info).map_err(wrong)?;
        let manager = connect(&client).map_err(wrong)?;
        Ok(Feed { client, manager: ArcSwap::from_pointee(manager), key, channel })
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
        let (_, count): (String, u64) = self.ask(redis::cmd("PUBSUB").arg("NUMSUB").arg(self.channel)).await?;
        Ok(count)
    }

    /// Listens to the channel, on another connection.
    pub async fn listen(&self) -> Result<Pushes, StoreError> {
        within(async {
            let (mut sink, stream) = self.client.get_async_pubsub().await?.split();
            sink.subscribe(self.channel).await?;
            Ok(Pushes(stream))
        })
        .await
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut manager = ConnectionManager::clone(&self.manager.load());
        let answered = within(command.query_async::<T>(&mut manager)).await;
        if answered.is_err()
            && let Ok(fresh) = connect(&self.client)
        {
            self.manager.store(Arc::new(fresh));
        }
        answered
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answered) => answered.map_err(|error| told(&error)),
        Err(_) => Err(StoreError::Timeout { timeout_ms: u64::try_from(TIMEOUT.as_millis()).unwrap_or(u64::MAX) }),
    }
}

fn connect(client: &Client) -> Result<ConnectionManager, RedisError> {
    client.get_connection_manager_lazy(
        ConnectionManagerConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(100)),
    )
}

/// Ten times what connecting may take where a request waits: nobody's does, and the terminal may be far away.
const TIMEOUT: Duration = Duration::from_secs(1);
