//! One issuer's keys over time: fetched in the background, kept while the provider is down, asked for again when a token
//! names a key nobody has seen.
//!
//! The request path reads a pointer and, at worst, leaves a note for the task; it never fetches. Who waits for the note
//! to be answered waits outside, with a deadline of its own.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::keys::{self, KeySet, KeySetError, Skipped};
use super::outbound::{self, Client, chain};
use super::provider::{self, ProviderError};
use super::settings::{Algorithm, IssuerSettings, KeyOrigin, OutboundSettings};
use crate::clock::{Clock, Now};

/// An issuer's keys. Dropping it ends its task.
pub(crate) struct KeySource {
    state: Arc<State>,
    /// Ends the task, which holds `state` itself.
    end: CancellationToken,
    _end_on_drop: DropGuard,
}

struct State {
    name: Arc<str>,
    /// `None` for pinned keys: nothing to fetch.
    discovery: Option<Discovery>,
    keys: ArcSwapOption<KeySet>,
    gate: Mutex<Gate>,
    /// Wakes the task; `Gate::asked` says whether there is reason to.
    asked: Notify,
    /// How many attempts have ended.
    ended: watch::Sender<u64>,
    pace: Pace,
}

struct Discovery {
    issuer_url: Url,
    issuer: String,
    outbound: OutboundSettings,
    algorithms: Vec<Algorithm>,
}

/// What decides whether a fetch may start now, and what became of the past ones.
#[derive(Default)]
struct Gate {
    /// A task is there to answer.
    running: bool,
    /// An attempt is under way, or asked for and about to be.
    in_flight: bool,
    /// Somebody asked, and the task has not yet begun.
    asked: bool,
    /// Before this nobody may ask: an earlier ask, or the provider's `Retry-After`.
    closed_until: Option<Instant>,
    /// Where the keys were last time, so that an ask costs the provider one request.
    jwks_uri: Option<Url>,
    /// When the present keys were fetched.
    fetched_at: Option<Instant>,
    attempts: u64,
    failures: u64,
    /// The last attempt failed, which has been logged.
    down: bool,
    last_error: Option<String>,
}

/// How often things happen. Tests bring their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Wait after the first failure; doubles up to `backoff_max`.
    pub(crate) backoff_first: Duration,
    pub(crate) backoff_max: Duration,
    /// Keys are fetched again after `max-age`, within these bounds, or after `refresh_max` where there is none.
    pub(crate) refresh_min: Duration,
    pub(crate) refresh_max: Duration,
    /// At most one fetch is asked for in this time, however it ends.
    pub(crate) cooldown: Duration,
}

impl Pace {
    pub(crate) const PRODUCTION: Pace = Pace {
        backoff_first: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        refresh_min: Duration::from_secs(60),
        // A key that the issuer has withdrawn is out of use after this.
        refresh_max: Duration::from_secs(600),
        cooldown: Duration::from_secs(30),
    };
}

/// Resolves when the key fetch that a request waits for has ended, one way or the other. The caller bounds it by its
/// own deadline; dropping it stops nothing.
pub(crate) struct KeyWait(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for KeyWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for KeyWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyWait")
    }
}

/// How an issuer's keys are doing, for readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerStatus {
    /// The config's name of the issuer.
    pub name: Arc<str>,
    /// Whether tokens of this issuer can be verified at all.
    pub has_keys: bool,
    /// How many usable keys there are.
    pub keys: usize,
    /// Whether the keys come from the config and never change.
    pub pinned: bool,
    /// Seconds since the keys were fetched; `None` for pinned keys, and before the first success.
    pub age_s: Option<u64>,
    /// Attempts to fetch that have ended.
    pub fetches: u64,
    /// Those that failed.
    pub failures: u64,
    /// Why the last attempt failed; `None` after a success. Names hosts, holds no secret.
    pub last_error: Option<String>,
}

impl KeySource {
    /// Pinned keys are read here, and must be good; others come with [`KeySource::spawn`].
    pub(crate) fn new(settings: &IssuerSettings, pace: Pace) -> Result<KeySource, KeySetError> {
        let (keys, discovery) = match &settings.keys {
            KeyOrigin::Pinned { jwks } => {
                let (keys, skipped) = KeySet::parse(jwks, &settings.algorithms)?;
                log_keys(&settings.name, "the config", &keys, &skipped);
                (Some(Arc::new(keys)), None)
            }
            KeyOrigin::Discovery { issuer } => {
                let discovery = Discovery {
                    issuer_url: issuer.clone(),
                    issuer: settings.issuer.clone(),
                    outbound: settings.outbound.clone(),
                    algorithms: settings.algorithms.clone(),
                };
                (None, Some(discovery))
            }
            KeyOrigin::None => (None, None),
        };
        let state = State {
            name: Arc::clone(&settings.name),
            discovery,
            keys: ArcSwapOption::new(keys),
            gate: Mutex::default(),
            asked: Notify::new(),
            ended: watch::Sender::new(0),
            pace,
        };
        let end = CancellationToken::new();
        Ok(KeySource { state: Arc::new(state), _end_on_drop: end.clone().drop_guard(), end })
    }

    /// Whether there are, or will be, any: an issuer of opaque tokens has none.
    pub(crate) fn has_keys_at_all(&self) -> bool {
        self.state.discovery.is_some() || self.keys().is_some()
    }

    /// The present keys, however old; `None` before the first success.
    pub(crate) fn keys(&self) -> arc_swap::Guard<Option<Arc<KeySet>>> {
        self.state.keys.load()
    }

    /// Starts the task, once; needs a Tokio runtime. It ends with `stop`, or when the source is dropped.
    pub(crate) fn spawn(&self, clock: Clock, stop: CancellationToken) {
        if self.state.discovery.is_none() {
            return;
        }
        let mut gate = self.state.gate.lock();
        if !gate.running {
            (gate.running, gate.in_flight) = (true, true);
            tokio::spawn(run(Arc::clone(&self.state), clock, self.end.clone(), stop));
        }
    }

    /// Says that a token named a key which is not in the present set. `None` where that changes nothing now: pinned
    /// keys, no task, or a fetch was asked for a moment ago. However many ask, one fetch answers all.
    pub(crate) fn ask(&self, now: Now) -> Option<KeyWait> {
        let mut gate = self.state.gate.lock();
        if !gate.running {
            return None;
        }
        if !gate.in_flight {
            if gate.closed_until.is_some_and(|until| now.instant() < until) {
                return None;
            }
            // The attempt closes the gate, not its success: a provider that is down is not asked more often.
            gate.closed_until = now.instant().checked_add(self.state.pace.cooldown);
            (gate.in_flight, gate.asked) = (true, true);
            self.state.asked.notify_one();
        }
        Some(self.state.wait())
    }

    /// Waits for the attempt that is under way, if there is one, without asking for any.
    pub(crate) fn under_way(&self) -> Option<KeyWait> {
        let gate = self.state.gate.lock();
        (gate.running && gate.in_flight).then(|| self.state.wait())
    }

    /// Resolves once a first attempt has ended; at once where no task is running.
    pub(crate) async fn fetched(&self) {
        if !self.state.gate.lock().running {
            return;
        }
        let mut ended = self.state.ended.subscribe();
        // An error would mean that the sender is gone, which `self` holds.
        let _ = ended.wait_for(|ended| *ended > 0).await;
    }

    pub(crate) fn status(&self, now: Now) -> IssuerStatus {
        let keys = self.keys().as_ref().map_or(0, |keys| keys.len());
        let gate = self.state.gate.lock();
        IssuerStatus {
            name: Arc::clone(&self.state.name),
            has_keys: keys > 0,
            keys,
            pinned: self.state.discovery.is_none(),
            age_s: gate.fetched_at.map(|at| now.instant().saturating_duration_since(at).as_secs()),
            fetches: gate.attempts,
            failures: gate.failures,
            last_error: gate.last_error.clone(),
        }
    }
}

impl State {
    /// For the attempt that is under way; the caller holds the gate, so none ends in between.
    fn wait(&self) -> KeyWait {
        let mut ended = self.ended.subscribe();
        let before = *ended.borrow_and_update();
        KeyWait(Box::pin(async move {
            // An error means that the source was dropped: there is nothing left to wait for.
            let _ = ended.wait_for(|ended| *ended > before).await;
        }))
    }

    /// Notes that an attempt begins, and gives where the keys were last time if it is one that somebody asked for.
    fn begin(&self) -> Option<Url> {
        let mut gate = self.gate.lock();
        gate.in_flight = true;
        std::mem::take(&mut gate.asked).then(|| gate.jwks_uri.clone()).flatten()
    }

    /// Takes over what an attempt brought, and gives the time until the next.
    fn conclude(&self, outcome: Result<NewKeys, ProviderError>, failures_in_a_row: u32, now: Now) -> Duration {
        match outcome {
            Ok(new) => {
                self.replace(new.keys, &new.host, &new.skipped);
                let was_down = self.end_attempt(|gate| {
                    (gate.jwks_uri, gate.fetched_at) = (Some(new.jwks_uri), Some(now.instant()));
                    gate.last_error = None;
                    std::mem::take(&mut gate.down)
                });
                if was_down {
                    tracing::info!(issuer = &*self.name, host = new.host, "keys can be fetched again");
                }
                let refresh = new.max_age.unwrap_or(self.pace.refresh_max);
                let refresh = refresh.clamp(self.pace.refresh_min, self.pace.refresh_max);
                // Up to a tenth earlier, so that agents started together do not stay together.
                refresh.mul_f64(1.0 - random_unit() / 10.0).max(self.pace.refresh_min)
            }
            Err(error) => {
                let retry_after = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
                let chain = chain(&error);
                let was_down = self.end_attempt(|gate| {
                    gate.failures += 1;
                    gate.last_error = Some(chain.clone());
                    gate.closed_until = gate.closed_until.max(now.instant().checked_add(retry_after));
                    // The keys may have moved; the next attempt looks.
                    gate.jwks_uri = None;
                    std::mem::replace(&mut gate.down, true)
                });
                // Once an episode: the metric tells how long it lasts.
                if !was_down {
                    let stale = self.keys.load().is_some();
                    tracing::warn!(
                        issuer = &*self.name,
                        serving_stale = stale,
                        error = chain,
                        "keys cannot be fetched"
                    );
                }
                let doublings = failures_in_a_row.saturating_sub(1).min(16);
                let backoff = self.pace.backoff_first.saturating_mul(1 << doublings).min(self.pace.backoff_max);
                backoff.mul_f64(0.5 + random_unit() / 2.0).max(retry_after)
            }
        }
    }

    /// Who is told that the attempt has ended must find its result, so the count moves last, and under the gate.
    fn end_attempt<T>(&self, note: impl FnOnce(&mut Gate) -> T) -> T {
        let mut gate = self.gate.lock();
        gate.in_flight = false;
        gate.attempts += 1;
        let noted = note(&mut gate);
        self.ended.send_modify(|ended| *ended += 1);
        noted
    }

    /// Puts a set in place of the present one. Keys that are in both keep their record, so that cached tokens stay
    /// verified; the others end.
    fn replace(&self, keys: KeySet, host: &str, skipped: &[Skipped]) {
        let old = self.keys.load_full();
        let keys = match &old {
            Some(old) => keys.succeeding(old),
            None => keys,
        };
        if old.as_ref().is_none_or(|old| !old.same_keys(&keys)) {
            log_keys(&self.name, host, &keys, skipped);
        }
        let keys = Arc::new(keys);
        self.keys.store(Some(Arc::clone(&keys)));
        if let Some(old) = old {
            keys.retire_missing(&old);
        }
    }
}

struct NewKeys {
    keys: KeySet,
    skipped: Vec<Skipped>,
    jwks_uri: Url,
    host: String,
    max_age: Option<Duration>,
}

/// The task: attempt, wait, again.
async fn run(state: Arc<State>, clock: Clock, end: CancellationToken, stop: CancellationToken) {
    let Some(discovery) = &state.discovery else { return };
    let mut failures_in_a_row = 0_u32;
    let work = async {
        loop {
            let known = state.begin();
            // A panic in a dependency must not leave the issuer without its task.
            let outcome = AssertUnwindSafe(attempt(discovery, known)).catch_unwind().await;
            let outcome = outcome.unwrap_or(Err(ProviderError::Broken));
            failures_in_a_row = if outcome.is_ok() { 0 } else { failures_in_a_row.saturating_add(1) };
            let delay = state.conclude(outcome, failures_in_a_row, clock.now());
            let mut sleep = pin!(tokio::time::sleep(delay));
            loop {
                tokio::select! {
                    () = &mut sleep => break,
                    // A permit can outlive its reason, if the sleep ended just as somebody asked.
                    () = state.asked.notified() => if state.gate.lock().asked { break },
                }
            }
        }
    };
    tokio::select! {
        () = end.cancelled() => {}
        () = stop.cancelled() => {}
        () = work => {}
    }
    let mut gate = state.gate.lock();
    (gate.running, gate.in_flight, gate.asked) = (false, false, false);
    state.ended.send_modify(|ended| *ended += 1);
}

/// One attempt: the discovery document, unless `known` says where the keys are, then the key set.
async fn attempt(discovery: &Discovery, known: Option<Url>) -> Result<NewKeys, ProviderError> {
    let outbound = discovery.outbound.clone();
    // A new one each time costs nothing at one attempt a minute, keeps no connection open in between, and picks up
    // certificates that the operator has replaced.
    let client = blocking(move || Client::new(&outbound)).await??;
    let jwks_uri = match known {
        Some(url) => url,
        None => provider::discover(&client, &discovery.issuer_url, &discovery.issuer).await?,
    };
    let fetched = provider::fetch(&client, jwks_uri.clone()).await?;
    let host = outbound::host_of(&jwks_uri);
    let algorithms = discovery.algorithms.clone();
    // 256 keys take milliseconds to check.
    let parsed = blocking(move || KeySet::parse(&fetched.body, &algorithms)).await?;
    let (keys, skipped) = parsed.map_err(|source| ProviderError::Keys { host: host.clone(), source })?;
    Ok(NewKeys { keys, skipped, jwks_uri, host, max_age: fetched.max_age })
}

/// Away from the threads that answer HAProxy.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ProviderError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ProviderError::Broken)
}

fn log_keys(issuer: &str, host: &str, keys: &KeySet, skipped: &[Skipped]) {
    let left_out = keys::list(skipped);
    tracing::info!(issuer, host, keys = keys.len(), skipped = skipped.len(), "new keys{left_out}");
}

/// At random in [0, 1).
fn random_unit() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness agents keep in step, which costs the provider more than us.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// A provider that says "come back tomorrow" would leave a withdrawn key in use until then.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
