//! Grants in Redis: one hash, read by agents and written by `tollgate grant`.

use super::GrantSettings;
use super::record::{Grant, GrantId, RECORD_BYTES_MAX, Seal};
use crate::link::{Feed, StoreError};

/// The grants of one Redis.
pub struct Ledger {
    feed: Feed,
    seal: Seal,
    settings: GrantSettings,
}

/// Why a grant is not in Redis.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Redis said no, or nothing.
    #[error("the grants in Redis cannot be changed or read")]
    Store(#[from] StoreError),
    /// There is no room.
    #[error("Redis holds {GRANTS_MAX} grants, which is as many as agents keep; revoke some (`tollgate grants revoke`)")]
    Full,
    /// It has more text than anybody reads.
    #[error("this grant takes {bytes} bytes, expected at most {RECORD_BYTES_MAX}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// No agent would take it.
    #[error("agents with this config do not take it: `grants.groups` and `grants.max` say which, and for how long")]
    NotTaken,
    /// Without randomness it has no name.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl Ledger {
    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub fn new(settings: &GrantSettings) -> Result<Ledger, StoreError> {
        let feed = Feed::new(&settings.redis, KEY, CHANNEL)?;
        Ok(Ledger { feed, seal: Seal::new(settings.key.as_ref()), settings: settings.clone() })
    }

    /// The second it is by Redis's clock, which is the one that counts.
    pub async fn now_s(&self) -> Result<i64, GrantError> {
        Ok(self.feed.now_s().await?)
    }

    /// Grants. Redis has it once this is `Ok`.
    pub async fn grant(&self, grant: &Grant) -> Result<GrantId, GrantError> {
        if !self.settings.let_in(grant, grant.at_s) {
            return Err(GrantError::NotTaken);
        }
        let id = GrantId::random().ok_or(GrantError::NoRandomness)?;
        let record = self.seal.encode(id, grant);
        if record.len() > RECORD_BYTES_MAX {
            return Err(GrantError::TooLong { bytes: record.len() });
        }
        if !self.put(id, &record).await? {
            // What has run out takes room until somebody needs it.
            let ended: Vec<String> = self.read().await?.ended(grant.at_s);
            if ended.is_empty() {
                return Err(GrantError::Full);
            }
            self.feed.remove(&ended).await?;
            if !self.put(id, &record).await? {
                return Err(GrantError::Full);
            }
        }
        Ok(id)
    }

    /// What holds now, the one that ends first in front.
    pub async fn list(&self) -> Result<Vec<(GrantId, Grant)>, GrantError> {
        let now_s = self.now_s().await?;
        let mut grants = self.read().await?.grants;
        // What agents with this config pass over does not hold.
        grants.retain(|(_, grant)| grant.until_s > now_s && self.settings.let_in(grant, now_s));
        grants.sort_by_key(|(id, grant)| (grant.until_s, *id));
        Ok(grants)
    }

    /// Ends a grant; `None` where there is none of that name, and inside it `None` of one that this config does not take.
    pub async fn revoke(&self, id: GrantId) -> Result<Option<Option<Grant>>, GrantError> {
        let Some(record) = self.feed.field(&id.to_string()).await? else { return Ok(None) };
        let grant = self.seal.decode(id, &record);
        self.put(id, "").await?;
        Ok(Some(grant))
    }

    /// What is different after each change; empty where Redis has none.
    pub(super) async fn version(&self) -> Result<String, StoreError> {
        Ok(self.feed.field(VERSION).await?.unwrap_or_default())
    }

    /// Every grant that counts by this config, ended ones too.
    pub(super) async fn read(&self) -> Result<Read, StoreError> {
        let (mut read, mut from) = (Read::default(), "0".to_owned());
        loop {
            let (next, page) = self.feed.page(&from, PAGE).await?;
            for (name, record) in page.iter().filter(|(name, _)| name != VERSION) {
                let id = GrantId::parse(name);
                match id.and_then(|id| Some((id, self.seal.decode(id, record)?))) {
                    Some(grant) if read.grants.len() < GRANTS_MAX => read.grants.push(grant),
                    _ => read.strange += 1,
                }
            }
            from = next;
            if from == "0" {
                // A page may come twice while the hash changes.
                read.grants.sort_by_key(|(id, _)| *id);
                read.grants.dedup_by_key(|(id, _)| *id);
                return Ok(read);
            }
        }
    }

    /// Whether a grant that was read counts at `now_s`.
    pub(super) fn lets_in(&self, grant: &Grant, now_s: i64) -> bool {
        self.settings.let_in(grant, now_s)
    }

    /// Whether there was room.
    async fn put(&self, id: GrantId, record: &str) -> Result<bool, GrantError> {
        let version = GrantId::random().ok_or(GrantError::NoRandomness)?;
        let arguments = [version.to_string(), GRANTS_MAX.to_string(), id.to_string(), record.to_owned()];
        let (_, full, _, _) = self.feed.run(SCRIPT, &arguments).await?;
        Ok(full == 0)
    }
}

/// What is in Redis.
#[derive(Default)]
pub(super) struct Read {
    pub(super) grants: Vec<(GrantId, Grant)>,
    /// What is no grant, or not sealed as it must be.
    pub(super) strange: u32,
}

impl Read {
    fn ended(&self, now_s: i64) -> Vec<String> {
        self.grants.iter().filter(|(_, grant)| grant.until_s <= now_s).map(|(id, _)| id.to_string()).collect()
    }
}

const SCRIPT: &str = include_str!("grants.lua");
const KEY: &str = "tg:grants";
/// Nobody listens: what is asked for twice a second needs no push.
const CHANNEL: &str = "tg:granted";
const VERSION: &str = "version";
const PAGE: usize = 500;

/// An exception for a thousand people is a rule.
pub(super) const GRANTS_MAX: usize = 1000;
