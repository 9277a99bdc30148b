//! Revocations in Redis: one hash, and a channel on which each change is said.

use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSubStream};
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo as _, RedisError};

use super::book::{Book, ENTRIES_MAX};
use super::record::{Id, Record};
use crate::identity::settings::RedisSettings;

/// One Redis.
pub(super) struct Store {
    client: Client,
    manager: ArcSwap<ConnectionManager>,
}

/// What became of records that were put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Put {
    /// How many changed something.
    pub(super) changed: u64,
    /// How many had no room.
    pub(super) full: u64,
    pub(super) before: String,
    pub(super) after: String,
}

/// What Redis pushes.
pub(super) struct Pushes(PubSubStream);

impl Pushes {
    /// The next one; `None` once the connection has ended.
    pub(super) async fn next(&mut self) -> Option<String> {
        // What is no text is nothing of ours, and makes whoever listens read everything.
        Some(self.0.next().await?.get_payload().unwrap_or_default())
    }
}

/// Why Redis has no answer. None of these holds a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It did not answer in time.
    #[error("Redis did not answer within {timeout_ms} ms")]
    Timeout {
        /// What it was given.
        timeout_ms: u64,
    },
    /// It cannot be reached, refuses, or its address is of no use.
    #[error("Redis: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl Store {
    /// How many records one call takes: some 100 KB, and about a millisecond of Redis's time, which limits wait for.
    pub(super) const BATCH: usize = 500;

    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub(super) fn new(settings: &RedisSettings) -> Result<Store, StoreError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let wrong = |error: RedisError| StoreError::Failed { reason: error.category().to_owned() };
        let info = settings.url.expose().into_connection_info().map_err(wrong)?.set_tcp_settings(tcp);
        let client = Client::open(info).map_err(wrong)?;
        let manager = connect(&client).map_err(wrong)?;
        Ok(Store { client, manager: ArcSwap::from_pointee(manager) })
    }

    /// What is different after each change; empty where Redis has none.
    pub(super) async fn version(&self) -> Result<String, StoreError> {
        let mut ask = redis::cmd("HGET");
        let version: Option<String> = self.ask(ask.arg(KEY).arg(VERSION)).await?;
        Ok(version.unwrap_or_default())
    }

    /// Every record. Page by page, so that nobody's limit waits for a hundred thousand of them; what is there from the
    /// beginning to the end is in one of the pages.
    pub(super) async fn read_all(&self) -> Result<Book, StoreError> {
        let (mut book, mut cursor, mut strange) = (Book::default(), "0".to_owned(), 0);
        loop {
            let mut ask = redis::cmd("HSCAN");
            ask.arg(KEY).arg(&cursor).arg("COUNT").arg(Store::BATCH);
            let (next, page): (String, Vec<(String, String)>) = self.ask(&ask).await?;
            for (name, record) in page {
                match Id::parse(&name).zip(Record::decode(&record)) {
                    Some((id, record)) => _ = book.note(id, record),
                    None => strange += u32::from(name != VERSION),
                }
            }
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        if strange > 0 {
            tracing::warn!(strange, "passed over what is in Redis among the revocations and is none");
        }
        Ok(book)
    }

    /// The record of that name.
    pub(super) async fn record(&self, id: Id) -> Result<Option<Record>, StoreError> {
        let mut ask = redis::cmd("HGET");
        let record: Option<String> = self.ask(ask.arg(KEY).arg(id.to_string())).await?;
        Ok(record.and_then(|record| Record::decode(&record)))
    }

    /// Takes records in, all or those for which there is room.
    pub(super) async fn put(&self, records: &[(Id, Record)]) -> Result<Put, StoreError> {
        let version = Id::random().ok_or_else(|| StoreError::Failed { reason: "no random numbers".to_owned() })?;
        let mut ask = redis::cmd("EVAL");
        ask.arg(SCRIPT).arg(1).arg(KEY).arg(CHANNEL).arg(version.to_string()).arg(ENTRIES_MAX);
        for (id, record) in records {
            ask.arg(id.to_string()).arg(record.encode());
        }
        let (changed, full, before, after) = self.ask(&ask).await?;
        Ok(Put { changed, full, before, after })
    }

    /// Removes records that have ended. Nobody need hear of that.
    pub(super) async fn forget(&self, names: &[Id]) -> Result<(), StoreError> {
        for batch in names.chunks(Store::BATCH) {
            let mut ask = redis::cmd("HDEL");
            ask.arg(KEY);
            for id in batch {
                ask.arg(id.to_string());
            }
            let _: u64 = self.ask(&ask).await?;
        }
        Ok(())
    }

    /// Redis's clock in Unix seconds, rounded up.
    pub(super) async fn now_s(&self) -> Result<i64, StoreError> {
        let (seconds, us): (i64, i64) = self.ask(&redis::cmd("TIME")).await?;
        Ok(seconds.saturating_add(i64::from(us > 0)))
    }

    /// How many agents would hear of a change.
    pub(super) async fn listening(&self) -> Result<u64, StoreError> {
        let mut ask = redis::cmd("PUBSUB");
        let (_, count): (String, u64) = self.ask(ask.arg("NUMSUB").arg(CHANNEL)).await?;
        Ok(count)
    }

    /// Listens to changes, on a connection of its own.
    pub(super) async fn listen(&self) -> Result<Pushes, StoreError> {
        within(async {
            let (mut sink, stream) = self.client.get_async_pubsub().await?.split();
            sink.subscribe(CHANNEL).await?;
            Ok(Pushes(stream))
        })
        .await
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        let mut manager = ConnectionManager::clone(&self.manager.load());
        let answered = within(command.query_async::<T>(&mut manager)).await;
        if answered.is_err()
            && let Ok(fresh) = connect(&self.client)
        {
            self.manager.store(std::sync::Arc::new(fresh));
        }
        answered
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StoreError::Failed { reason: error.to_string() }),
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

/// Nobody's request waits for these.
const TIMEOUT: Duration = Duration::from_secs(1);

const KEY: &str = "tg:revoked";
const VERSION: &str = "version";
const CHANNEL: &str = "tg:revoked";

const SCRIPT: &str = include_str!("revoked.lua");
