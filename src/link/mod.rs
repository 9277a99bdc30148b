//! The one Redis that all agents share: its address, its connection, and what is known of how it does.
//!
//! An answer that does not come in time is not asked for again: what was asked may have been done. After three failures
//! in a row nobody asks any more until a probe has been answered, so that a dead Redis costs three questions their
//! timeout and the rest nothing. Whoever asks says what to do then; here is no opinion on it.

mod breaker;
mod feed;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, ErrorKind, IntoConnectionInfo, RedisError};

use crate::clock::Now;
use crate::secret::Secret;
use breaker::{Breaker, Change};
pub use feed::{Feed, Pushes};

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `redis+unix://` URL. It may hold a password, hence a secret.
    pub url: Secret,
    /// The URL without user and password, for logs and `/readyz`.
    pub address: String,
    /// How long one question may wait for its answer.
    pub timeout: Duration,
}

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
    client: Client,
    /// Reconnects by itself after an error of the connection; replaced where the server at its other end is the wrong
    /// one.
    manager: ArcSwap<ConnectionManager>,
    address: String,
    timeout: Duration,
    breaker: Breaker,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client knows the password.
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Link {
    /// Does not connect yet. Must be called inside a tokio runtime.
    pub fn new(settings: &RedisSettings) -> Result<Link, StoreError> {
        // The library's error may hold the URL, and that a password.
        let wrong = |error: RedisError| StoreError::Address {
            address: settings.address.clone(),
            reason: error.category().to_owned(),
        };
        // Without it Nagle's algorithm and delayed acknowledgements add up to 40 ms.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = settings.url.expose().into_connection_info().map_err(wrong)?.set_tcp_settings(tcp);
        let client = Client::open(info).map_err(wrong)?;
        let manager = connect(&client).map_err(wrong)?;
        Ok(Link {
            inner: Arc::new(Inner {
                client,
                manager: ArcSwap::from_pointee(manager),
                address: settings.address.clone(),
                timeout: settings.timeout,
                breaker: Breaker::default(),
            }),
        })
    }

    /// How long a question asked at `now` may wait, so that its answer comes within the timeout and before `deadline`;
    /// an error where Redis is known not to answer.
    pub fn patience(&self, now: Now, deadline: Instant) -> Result<Duration, StoreError> {
        if self.inner.breaker.is_open() {
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
        let call = |mut manager: ConnectionManager| async move {
            both.query_async::<(redis::Value, Option<Vec<u8>>)>(&mut manager).await
        };
        self.ask(timeout, call, |(set, got)| match set {
            redis::Value::Okay => Some(Claimed::Ours),
            // Without a value it ended between the two; who asked again would find nothing, but it was there.
            redis::Value::Nil => Some(Claimed::Theirs(got.unwrap_or_default())),
            _ => None,
        })
        .await
    }

    /// Sends what `call` sends, and reads the reply with `read`, `None` being no answer. What comes of it counts for the
    /// breaker.
    pub(crate) async fn ask<T, R, F>(
        &self,
        timeout: Duration,
        call: impl FnOnce(ConnectionManager) -> F,
        read: impl FnOnce(T) -> Option<R>,
    ) -> Result<R, StoreError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let manager = ConnectionManager::clone(&self.inner.manager.load());
        let answered = tokio::time::timeout(timeout, call(manager)).await;
        let answer = self.inner.judge(answered, timeout).and_then(|reply| read(reply).ok_or(StoreError::Garbage));
        self.inner.learn(answer.as_ref().err());
        answer
    }

    /// Asks whether Redis answers, and in time; ends an outage if so.
    pub async fn probe(&self) {
        let link = &*self.inner;
        // Connecting may take longer than a request may wait; only then is it asked whether it is fast enough.
        let connected = link.send(redis::cmd("PING"), CONNECT_TIMEOUT * 5).await;
        if connected.is_err()
            && let Ok(fresh) = connect(&link.client)
        {
            // The library's connection keeps a refusal at its beginning (a wrong password, LOADING) for good, and a peer
            // that is gone without a word until the system notices. The next probe begins with a new one; once a second
            // is no storm.
            link.manager.store(Arc::new(fresh));
        }
        // A write, so that a replica and a full Redis are seen for what they are.
        let mut write = redis::cmd("SET");
        write.arg("tg:probe").arg(1).arg("PX").arg(60_000);
        let answered = match connected {
            Ok(()) => link.send(write, link.timeout).await,
            Err(error) => Err(error),
        };
        link.learn(answered.as_ref().err());
    }

    /// How it does.
    pub fn status(&self) -> StoreStatus {
        self.inner.breaker.status()
    }
}

impl Inner {
    async fn send(&self, command: redis::Cmd, timeout: Duration) -> Result<(), StoreError> {
        let mut manager = ConnectionManager::clone(&self.manager.load());
        self.judge(tokio::time::timeout(timeout, command.query_async::<redis::Value>(&mut manager)).await, timeout)
            .map(drop)
    }

    fn judge<T>(
        &self,
        answered: Result<Result<T, RedisError>, tokio::time::error::Elapsed>,
        timeout: Duration,
    ) -> Result<T, StoreError> {
        match answered {
            Ok(Ok(reply)) => Ok(reply),
            Err(_) => Err(StoreError::Timeout { timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) }),
            Ok(Err(error)) => {
                // A demoted primary keeps its connections, and would answer READONLY until somebody drops them.
                if matches!(error.code(), Some("READONLY" | "MASTERDOWN"))
                    && let Ok(fresh) = connect(&self.client)
                {
                    self.manager.store(Arc::new(fresh));
                }
                Err(told(&error))
            }
        }
    }

    /// One log line when it stops answering, one when it answers again.
    fn learn(&self, error: Option<&StoreError>) {
        let address = &self.address;
        match (self.breaker.learn(error), error) {
            (Change::Opened, Some(error)) => {
                tracing::warn!(%address, %error, "Redis does not answer; each part that needs it does what its `on_failure` says");
            }
            (Change::Closed, _) => tracing::info!(%address, "Redis answers again"),
            _ => {}
        }
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

fn connect(client: &Client) -> Result<ConnectionManager, RedisError> {
    client.get_connection_manager_lazy(
        ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            // Each call has its own, shorter, timeout; this one ends what nobody waits for any more.
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(100))
            // A call that finds the queue full waits, and its timeout runs: at 10 ms a call and 20 µs each, 500 are
            // ever useful; four times that is room for a burst.
            .set_pipeline_buffer_size(2048)
            .set_concurrency_limit(2048),
    )
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
