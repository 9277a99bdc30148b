//! The one Redis that all agents share: its address, its connection, and what is known of how it does.
//!
//! An answer that does not come in time is not asked for again: what was asked may have been done. After three failures
//! in a row nobody asks any more until a probe has been answered, so that a dead Redis costs three questions their
//! timeout and the rest nothing. Whoever asks says what to do then; here is no opinion on it.

mod breaker;
mod cluster;
mod dial;
mod feed;
mod pace;
mod reach;
mod sentinel;
mod server;
mod settings;
mod slot;
#[cfg(test)]
pub(crate) mod testing;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{ErrorKind, RedisError};

use crate::clock::Now;
pub use dial::TlsError;
pub use feed::{Feed, Pushes};
pub(crate) use reach::Connection;
use reach::Reach;
pub use settings::{Login, Place, RedisSettings, TlsFiles};

/// Why the store has no answer. None of these holds a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The address is of no use.
    #[error("{address} is no address of a Redis: {reason}")]
    Address {
        /// Without credentials.
        address: String,
        /// Why.
        reason: String,
    },
    /// It did not answer in time.
    #[error("Redis did not answer within {timeout_ms} ms")]
    Timeout {
        /// What it was given.
        timeout_ms: u64,
    },
    /// It failed before and is not asked until a probe succeeds.
    #[error("Redis has failed before and is not asked until it answers a probe")]
    Open,
    /// The connection failed.
    #[error("Redis cannot be reached: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It answered with an error (LOADING, READONLY, OOM, NOAUTH and so on).
    #[error("Redis refuses: {reason}")]
    Refused {
        /// Its error code and text.
        reason: String,
    },
    /// It answered something that is no answer.
    #[error("Redis gave an answer that is none")]
    Garbage,
}

impl StoreError {
    fn timeout(timeout: Duration) -> StoreError {
        StoreError::Timeout { timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Whether the connection that it came over is of no use any more. A demoted primary keeps its connections, and would
    /// answer READONLY until somebody drops them; a replica that loads its data anew is the same; one that wants another
    /// password wants it on another connection. After garbage the next answer could be the last question's.
    fn ends_connection(&self) -> bool {
        match self {
            StoreError::Garbage => true,
            StoreError::Refused { reason } => {
                const CODES: [&str; 3] = ["READONLY", "MASTERDOWN", "LOADING"];
                let code = reason.split(' ').next().unwrap_or_default();
                // Before Redis 7 what a script is refused stands inside an error of the script's.
                CODES.contains(&code) || reason.contains("-READONLY ") || self.is_of_password()
            }
            _ => false,
        }
    }

    fn is_of_password(&self) -> bool {
        match self {
            StoreError::Refused { reason } => {
                ["NOAUTH", "WRONGPASS"].iter().any(|code| reason.starts_with(code))
                    || reason.contains("authentication failed")
            }
            _ => false,
        }
    }
}

/// How Redis does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// It answered last time.
    pub reachable: bool,
    /// How often it stopped answering.
    pub episodes: u64,
    /// What it said last when it did not.
    pub last_error: Option<String>,
}

/// What became of [`Link::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing was there; now the value is.
    Ours,
    /// This was there.
    Theirs(Vec<u8>),
}

/// The connection. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    reach: Reach,
    address: String,
    timeout: Duration,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whoever connects knows the password.
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Link {
    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub fn new(settings: &RedisSettings) -> Result<Link, StoreError> {
        Ok(Link {
            inner: Arc::new(Inner {
                reach: Reach::new(settings)?,
                address: settings.address.clone(),
                timeout: settings.timeout,
            }),
        })
    }

    /// How long a question asked at `now` may wait, so that its answer comes within the timeout and before `deadline`;
    /// an error where Redis is known not to answer.
    pub fn patience(&self, now: Now, deadline: Instant) -> Result<Duration, StoreError> {
        if self.inner.reach.is_open() {
            return Err(StoreError::Open);
        }
        Ok(self.inner.timeout.min(deadline.saturating_duration_since(now.instant())))
    }

    /// Writes `value` under `key` for `ttl` where nothing is there yet, and says what is there otherwise; in one step.
    pub async fn claim(
        &self,
        key: &[u8],
        value: &[u8],
        ttl: Duration,
        timeout: Duration,
    ) -> Result<Claimed, StoreError> {
        // PX 0 would be an error, and what is there for no time need not be.
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX.unsigned_abs());
        // `SET … NX GET` says both at once, but not before Redis 7.0.
        let mut both = redis::pipe();
        both.cmd("SET").arg(key).arg(value).arg("NX").arg("PX").arg(ttl_ms).cmd("GET").arg(key);
        let call = |mut connection: Connection| async move {
            both.query_async::<(redis::Value, Option<Vec<u8>>)>(&mut connection).await
        };
        self.ask(timeout, call, |(set, got)| match set {
            redis::Value::Okay => Some(Claimed::Ours),
            // Without a value it ended between the two; who asked again would find nothing, but it was there.
            redis::Value::Nil => Some(Claimed::Theirs(got.unwrap_or_default())),
            _ => None,
        })
        .await
    }

    /// The slot of a key, if this is a Cluster: what one call of a script touches is in one slot. `None` where any keys can
    /// go together.
    pub fn slot(&self, key: &[u8]) -> Option<u16> {
        self.inner.reach.slot(key)
    }

    /// Sends what `call` sends, and reads the reply with `read`, `None` being no answer. What comes of it counts for the
    /// breaker; in a Cluster for that of the server which was asked, and a server that is not asked at present costs
    /// nothing but an error.
    ///
    /// In a Cluster all that `call` sends is about keys of one slot; what has no key goes to the same server.
    pub(crate) async fn ask<T, R, F>(
        &self,
        timeout: Duration,
        call: impl FnOnce(Connection) -> F,
        read: impl FnOnce(T) -> Option<R>,
    ) -> Result<R, StoreError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let (answered, asked) = self.inner.reach.ask(timeout, None, call).await;
        let answer = answered.and_then(|reply| read(reply).ok_or(StoreError::Garbage));
        self.inner.reach.learn(answer.as_ref().err(), &asked);
        answer
    }

    /// Asks whether Redis answers, and in time; ends an outage if so. May take a second where it is not connected to.
    pub async fn probe(&self) {
        self.inner.reach.probe().await;
    }

    /// How it does.
    pub fn status(&self) -> StoreStatus {
        self.inner.reach.status()
    }
}

fn told(error: &RedisError) -> StoreError {
    let reason = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        _ => error.to_string(),
    };
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::AuthenticationFailed | ErrorKind::Extension => StoreError::Refused { reason },
        ErrorKind::UnexpectedReturnType | ErrorKind::Parse => StoreError::Garbage,
        _ => StoreError::Unreachable { reason },
    }
}

/// What a connection attempt may take: on a network where Redis can answer in 10 ms, a hundred is a lost packet.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::testing::Redis;
    use super::*;
    use crate::clock::Clock;

    #[tokio::test]
    async fn what_is_there_is_not_written_again_and_goes_by_itself() {
        let redis = Redis::start();
        let links = [Link::new(&redis.settings()).unwrap(), Link::new(&redis.settings()).unwrap()];
        let (ttl, timeout) = (Duration::from_secs(100), Duration::from_secs(5));
        for (link, key, value, theirs) in [
            (0, "a", "1", None),
            (0, "a", "2", Some("1")),
            (1, "a", "3", Some("1")),
            (1, "b", "", None),
            (0, "b", "4", Some("")),
        ] {
            let answer = links[link].claim(key.as_bytes(), value.as_bytes(), ttl, timeout).await;
            let expected = theirs.map_or(Claimed::Ours, |theirs| Claimed::Theirs(theirs.into()));
            assert_eq!(answer, Ok(expected), "{key} by {link}");
        }
        assert!((90_000..=100_000).contains(&redis.ask(&["PTTL", "a"]).trim().parse().unwrap()));
        assert!(links[0].claim(b"c", b"1", Duration::ZERO, timeout).await.is_ok(), "no time is the shortest");
    }

    #[tokio::test]
    async fn a_question_waits_no_longer_than_it_may() {
        let mut redis = Redis::start();
        let link = Link::new(&redis.settings()).unwrap();
        let now = Clock::by_hand(1_700_000_000).now();
        let left = |ms| link.patience(now, now.instant() + Duration::from_millis(ms));
        assert_eq!(left(50), Ok(Duration::from_millis(50)));
        assert_eq!(left(5000), Ok(redis.settings().timeout));
        assert_eq!(link.patience(now, now.instant()), Ok(Duration::ZERO));
        redis.stop();
        for _ in 0..3 {
            let timeout = Duration::from_millis(50);
            assert!(link.claim(b"a", b"1", Duration::from_secs(1), timeout).await.is_err());
        }
        assert_eq!(left(50), Err(StoreError::Open));
    }
}
