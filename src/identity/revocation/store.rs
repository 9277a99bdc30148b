//! Revocations in Redis: one hash, and a channel on which each change is said.

use super::book::{Book, ENTRIES_MAX};
use super::record::{Id, Record};
use crate::link::{Feed, Pushes, RedisSettings, StoreError};

/// One Redis.
#[derive(Debug)]
pub(super) struct Store {
    feed: Feed,
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

impl Store {
    /// How many records one call takes: some 100 KB, and about a millisecond of Redis's time, which limits wait for.
    pub(super) const BATCH: usize = 500;

    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub(super) fn new(settings: &RedisSettings) -> Result<Store, StoreError> {
        Ok(Store { feed: Feed::new(settings, KEY, CHANNEL)? })
    }

    /// What is different after each change; empty where Redis has none.
    pub(super) async fn version(&self) -> Result<String, StoreError> {
        Ok(self.feed.field(VERSION).await?.unwrap_or_default())
    }

    /// Every record. Page by page, so that nobody's limit waits for a hundred thousand of them.
    pub(super) async fn read_all(&self) -> Result<Book, StoreError> {
        let (mut book, mut from, mut strange) = (Book::default(), "0".to_owned(), 0);
        loop {
            let (next, page) = self.feed.page(&from, Store::BATCH).await?;
            for (name, record) in page {
                match Id::parse(&name).zip(Record::decode(&record)) {
                    Some((id, record)) => _ = book.note(id, record),
                    None => strange += u32::from(name != VERSION),
                }
            }
            from = next;
            if from == "0" {
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
        let record = self.feed.field(&id.to_string()).await?;
        Ok(record.and_then(|record| Record::decode(&record)))
    }

    /// Takes records in, all or those for which there is room.
    pub(super) async fn put(&self, records: &[(Id, Record)]) -> Result<Put, StoreError> {
        // Of the system's randomness, which does not fail in practice; a version that was there before would keep others
        // from reading this.
        let version = Id::random().ok_or_else(|| StoreError::Refused { reason: "no random numbers".to_owned() })?;
        let mut arguments = vec![version.to_string(), ENTRIES_MAX.to_string()];
        arguments.extend(records.iter().flat_map(|(id, record)| [id.to_string(), record.encode()]));
        let (changed, full, before, after) = self.feed.run(SCRIPT, &arguments).await?;
        Ok(Put { changed, full, before, after })
    }

    /// Removes records that have ended. Nobody need hear of that.
    pub(super) async fn forget(&self, names: &[Id]) -> Result<(), StoreError> {
        for batch in names.chunks(Store::BATCH) {
            let names: Vec<String> = batch.iter().map(ToString::to_string).collect();
            self.feed.remove(&names).await?;
        }
        Ok(())
    }

    /// Redis's clock in Unix seconds, rounded up.
    pub(super) async fn now_s(&self) -> Result<i64, StoreError> {
        self.feed.now_s().await
    }

    /// How many agents would hear of a change.
    pub(super) async fn listening(&self) -> Result<u64, StoreError> {
        self.feed.listening().await
    }

    /// Listens to changes.
    pub(super) async fn listen(&self) -> Result<Pushes, StoreError> {
        self.feed.listen().await
    }
}

const KEY: &str = "tg:revoked";
const VERSION: &str = "version";
const CHANNEL: &str = "tg:revoked";

const SCRIPT: &str = include_str!("revoked.lua");
