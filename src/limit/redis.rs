//! Counters in Redis: one script call for all limits of a request, by Redis's own clock.
//!
//! An answer that does not come in time is not asked for again: the charge may have been made, and a second try would
//! count it twice. After three failures in a row nobody asks any more until a probe has been answered, so that a dead
//! Redis costs three requests its timeout and the rest nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, ErrorKind, IntoConnectionInfo, RedisError, Script, ScriptInvocation};
use smallvec::SmallVec;

use super::RedisSettings;
use super::gcra::{Cell, Tat};
use super::store::{Budget, Charges, CountFuture, Exceeded, Outcome, StoreError, StoreStatus, Trial};
use crate::clock::Now;

/// One Redis.
#[derive(Debug)]
pub(super) struct RedisStore {
    link: Arc<Link>,
}

struct Link {
    client: Client,
    /// Reconnects by itself after an error of the connection; replaced where the server at its other end is the wrong
    /// one.
    manager: ArcSwap<ConnectionManager>,
    address: String,
    timeout: Duration,
    breaker: Breaker,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client knows the password.
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Does not connect yet. Must be called inside a tokio runtime.
    pub(super) fn new(settings: &RedisSettings) -> Result<RedisStore, StoreError> {
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
        Ok(RedisStore {
            link: Arc::new(Link {
                client,
                manager: ArcSwap::from_pointee(manager),
                address: settings.address.clone(),
                timeout: settings.timeout,
                breaker: Breaker::default(),
            }),
        })
    }

    /// Tests all charges, then makes all or none; the answer comes within the timeout and before `deadline`.
    pub(super) fn charge(&self, charges: Charges, now: Now, deadline: Instant) -> Result<CountFuture, StoreError> {
        if self.link.breaker.is_open() {
            return Err(StoreError::Open);
        }
        let link = Arc::clone(&self.link);
        let timeout = link.timeout.min(deadline.saturating_duration_since(now.instant()));
        Ok(Box::pin(async move {
            let outcome = link.run(&charges, true, timeout).await?;
            Ok(outcome.read(&charges))
        }))
    }

    /// How the limits stand. For a person, who has time.
    pub(super) async fn peek(&self, charges: Charges) -> Result<Result<Budget, Exceeded>, StoreError> {
        let outcome = self.link.run(&charges, false, CONNECT_TIMEOUT * 10).await?;
        Ok(outcome.read_standing(&charges))
    }

    /// Asks whether Redis answers, and in time; ends an outage if so.
    pub(super) async fn probe(&self) {
        let link = &self.link;
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
    pub(super) fn status(&self) -> StoreStatus {
        self.link.breaker.status()
    }
}

impl Link {
    async fn run(&self, charges: &Charges, commit: bool, timeout: Duration) -> Result<Outcome, StoreError> {
        let invocation = invocation(charges, commit);
        let mut manager = ConnectionManager::clone(&self.manager.load());
        let answered = tokio::time::timeout(timeout, invocation.invoke_async::<Vec<u64>>(&mut manager)).await;
        let outcome = self.judge(answered, timeout).and_then(|reply| read(&reply, charges).ok_or(StoreError::Garbage));
        self.learn(outcome.as_ref().err());
        outcome
    }

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
                tracing::warn!(%address, %error, "Redis does not answer; each limit does what its `on_failure` says");
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

fn invocation(charges: &Charges, commit: bool) -> ScriptInvocation<'static> {
    let mut invocation = CHARGE.prepare_invoke();
    invocation.arg(u8::from(commit));
    for charge in charges {
        let cell = Cell::new(charge.quota, charge.cost);
        invocation.key(charge.key.as_bytes());
        for number in [cell.step.us, cell.step.rem, cell.room.us, cell.room.rem, cell.count] {
            invocation.arg(number);
        }
    }
    invocation
}

/// Reads the script's reply; `None` where it is not of the shape that was asked for.
fn read(reply: &[u64], charges: &Charges) -> Option<Outcome> {
    let (now_us, rest) = reply.split_first()?;
    if rest.len() != 4 * charges.len() {
        return None;
    }
    let mut trials = SmallVec::new();
    for (index, (charge, told)) in charges.iter().zip(rest.chunks_exact(4)).enumerate() {
        let &[us, rem, room, place] = told else { return None };
        if place != index as u64 + 1 {
            return None;
        }
        let begin = Tat { us, rem };
        // The same arithmetic here says what the charge leaves.
        let after = Cell::new(charge.quota, charge.cost).charge(begin, *now_us).ok().filter(|_| room == 1);
        if after.is_some() != (room == 1) {
            return None;
        }
        trials.push(Trial { begin, after });
    }
    Some(Outcome { now_us: *now_us, trials })
}

/// Remembers failures. Closed, everybody asks; open, nobody does but the probe.
#[derive(Debug, Default)]
struct Breaker {
    state: Mutex<BreakerState>,
    episodes: AtomicU64,
}

#[derive(Debug, Default)]
struct BreakerState {
    failures: u32,
    open: bool,
    answered: bool,
    last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    /// One lost answer is a hiccup, two may be; three in a row are an outage.
    const FAILURES_MAX: u32 = 3;

    fn is_open(&self) -> bool {
        self.state.lock().open
    }

    fn learn(&self, error: Option<&StoreError>) -> Change {
        let mut state = self.state.lock();
        let Some(error) = error else {
            state.failures = 0;
            state.answered = true;
            state.last_error = None;
            return if std::mem::take(&mut state.open) { Change::Closed } else { Change::None };
        };
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(error.to_string());
        if state.open || state.failures < Breaker::FAILURES_MAX {
            return Change::None;
        }
        state.open = true;
        self.episodes.fetch_add(1, Ordering::Relaxed);
        Change::Opened
    }

    fn status(&self) -> StoreStatus {
        let state = self.state.lock();
        StoreStatus {
            reachable: state.answered && !state.open,
            episodes: self.episodes.load(Ordering::Relaxed),
            last_error: state.last_error.clone(),
        }
    }
}

/// What a connection attempt may take: on a network where Redis can answer in 10 ms, a hundred is a lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);

static CHARGE: LazyLock<Script> = LazyLock::new(|| Script::new(SCRIPT));

const SCRIPT: &str = include_str!("charge.lua");
