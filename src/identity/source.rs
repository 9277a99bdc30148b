//! One issuer's keys over time: fetched in the background, kept while the provider is down, asked for again when a token
//! names a key nobody has seen.
//!
//! The request path reads a pointer and, at worst, leaves a note for the task; it never fetches. Who waits for the note
//! to be answered waits outside, with a deadline of its own.
//!
//! Four clocks run. A key that a newer set lacks lingers for five minutes, since the machines of one provider disagree for
//! a while ([`Pace::linger`]); with a set fetched each five minutes at the latest a key that was withdrawn is out of use
//! after ten. A set in good order without a usable key ends all keys when it is seen again a minute later
//! ([`Pace::confirm`]). Keys that could not be fetched anew for `key_age_max` end too. A copy on disk starts an agent
//! whose provider is down if it is a day old at most.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
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

use super::keep::{CopyFile, KeptKeys};
use super::keys::{self, Key, KeySet, KeySetError, Skipped};
use super::outbound::{self, Client, chain};
use super::provider::{self, Place, ProviderError};
use super::settings::{Algorithm, IssuerSettings, KeyOrigin, OutboundSettings};
use super::skew::Skew;
use super::unknown::UnknownKids;
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
    unknown: UnknownKids,
    skew: Skew,
    /// Wakes the task; `Gate::asked` says whether there is reason to.
    asked: Notify,
    /// How many attempts have ended.
    ended: watch::Sender<u64>,
    pace: Pace,
}

struct Discovery {
    place: Place,
    outbound: OutboundSettings,
    algorithms: Vec<Algorithm>,
    age_max: Duration,
    copy: Option<CopyFile>,
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
    fetched: Option<Fetched>,
    attempts: u64,
    failures: u64,
    /// The last attempt failed, which has been logged.
    down: bool,
    last_error: Option<String>,
}

/// When a key set was fetched: so much before an instant, which may lie before this process.
#[derive(Clone, Copy)]
struct Fetched {
    noted: Instant,
    before: Duration,
}

impl Fetched {
    fn age(&self, now: Now) -> Duration {
        now.instant().saturating_duration_since(self.noted).saturating_add(self.before)
    }
}

/// What the task knows from one attempt to the next.
#[derive(Default)]
struct Course {
    failures_in_a_row: u32,
    /// Keys that the newest set lacks, and until when they count.
    missing: Vec<(Arc<Key>, Instant)>,
    /// When the provider first said that there is no usable key, if it has not said otherwise since.
    said_none: Option<Instant>,
    /// That the keys are old has been logged.
    told_old: bool,
    /// The copy was looked for; it is for the start only.
    started: bool,
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
    /// For so long a name that was asked for is not asked for again.
    pub(crate) unknown: Duration,
    /// For so long a key counts that a newer set lacks.
    pub(crate) linger: Duration,
    /// The time between two answers without a usable key that end all keys.
    pub(crate) confirm: Duration,
    /// A fetch takes so long at most.
    pub(crate) fetch_max: Duration,
}

impl Pace {
    pub(crate) const PRODUCTION: Pace = Pace {
        backoff_first: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        refresh_min: Duration::from_secs(60),
        // With `linger` ten minutes, after which a key that the issuer has withdrawn is out of use.
        refresh_max: Duration::from_secs(300),
        cooldown: Duration::from_secs(30),
        // Twice the cooldown, so that one client with a token of long ago does not use up every ask that there is.
        unknown: Duration::from_secs(60),
        linger: Duration::from_secs(300),
        confirm: Duration::from_secs(60),
        fetch_max: outbound::TOTAL_TIMEOUT,
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
    /// The largest `iat` less now, in seconds, of tokens with a good signature in the last ten to twenty minutes; `None`
    /// where none had an `iat`. Above 0 the provider's clock is ahead of ours; far below 0 while new tokens come in, it is
    /// behind.
    pub iat_skew_s: Option<i64>,
}

impl KeySource {
    /// Pinned keys are read here, and must be good; others come with [`KeySource::spawn`]. `state_dir` is where a copy of
    /// fetched keys is kept.
    pub(crate) fn new(
        settings: &IssuerSettings,
        state_dir: Option<&Path>,
        pace: Pace,
    ) -> Result<KeySource, KeySetError> {
        let (keys, discovery) = match &settings.keys {
            KeyOrigin::Pinned { jwks } => {
                let (keys, skipped) = KeySet::parse(jwks, &settings.algorithms)?;
                log_keys(&settings.name, "the config", &keys, &skipped);
                (Some(Arc::new(keys)), None)
            }
            KeyOrigin::Discovery { issuer } => {
                let discovery = Discovery {
                    place: Place {
                        issuer: settings.issuer.clone(),
                        issuer_url: issuer.clone(),
                        key_hosts: settings.key_hosts.clone(),
                        insecure: settings.outbound.insecure,
                    },
                    outbound: settings.outbound.clone(),
                    algorithms: settings.algorithms.clone(),
                    age_max: settings.key_age_max,
                    copy: state_dir.map(|state_dir| CopyFile::of(state_dir, &settings.name)),
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
            unknown: UnknownKids::new(),
            skew: Skew::default(),
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
    pub(crate) fn ask(&self, kid: Option<&str>, now: Now) -> Option<KeyWait> {
        let mut gate = self.state.gate.lock();
        if !gate.running {
            return None;
        }
        if !gate.in_flight {
            if gate.closed_until.is_some_and(|until| now.instant() < until)
                || kid.is_some_and(|kid| self.state.unknown.contains(kid, now))
            {
                return None;
            }
            // The attempt closes the gate, not its success: a provider that is down is not asked more often. A time that
            // cannot be written down closes it for good.
            gate.closed_until = Some(now.instant().checked_add(self.state.pace.cooldown)?);
            (gate.in_flight, gate.asked) = (true, true);
            self.state.asked.notify_one();
        }
        // Only what is asked for before the fetch begins is answered by it: an answer that was on its way already may
        // be older than the key.
        if let Some(kid) = kid.filter(|_| gate.asked) {
            self.state.unknown.note(kid, self.state.pace.unknown, now);
        }
        Some(self.state.wait())
    }

    /// Notes when a token with a good signature was issued.
    pub(crate) fn issued(&self, iat_s: f64, now: Now) {
        self.state.skew.note(iat_s, now);
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
            age_s: gate.fetched.map(|fetched| fetched.age(now).as_secs()),
            fetches: gate.attempts,
            failures: gate.failures,
            last_error: gate.last_error.clone(),
            iat_skew_s: self.state.skew.largest(now),
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
    fn conclude(&self, course: &mut Course, outcome: Result<NewKeys, ProviderError>, now: Now) -> Duration {
        match outcome {
            Ok(new) => {
                (course.failures_in_a_row, course.said_none, course.told_old) = (0, None, false);
                self.replace(course, new.keys, &new.host, &new.skipped, now);
                let was_down = self.end_attempt(|gate| {
                    let fetched = Fetched { noted: now.instant(), before: Duration::ZERO };
                    (gate.jwks_uri, gate.fetched) = (Some(new.jwks_uri), Some(fetched));
                    gate.last_error = None;
                    std::mem::take(&mut gate.down)
                });
                if was_down {
                    tracing::info!(issuer = &*self.name, host = new.host, "keys can be fetched again");
                }
                refresh_after(new.max_age, self.pace, random_unit())
            }
            Err(error) => {
                course.failures_in_a_row = course.failures_in_a_row.saturating_add(1);
                let retry_after = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
                let chain = chain(&error);
                if error.says_there_is_no_key() {
                    self.heed_none(course, now);
                }
                self.end_overdue(course, now);
                // It answered nobody.
                self.unknown.forget();
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
                let doublings = course.failures_in_a_row.saturating_sub(1).min(16);
                let backoff = self.pace.backoff_first.saturating_mul(1 << doublings).min(self.pace.backoff_max);
                backoff.mul_f64(0.5 + random_unit() / 2.0).max(retry_after)
            }
        }
    }

    /// The provider says, in good order, that it has no usable key. One of its machines may be at fault, so it must say
    /// so twice.
    fn heed_none(&self, course: &mut Course, now: Now) {
        let first = *course.said_none.get_or_insert(now.instant());
        if now.instant().saturating_duration_since(first) >= self.pace.confirm {
            self.end_all(course, "the provider says that there are none");
        }
    }

    /// Ends what has outlived its time: keys that lingered, and all of them where nobody has vouched for them for too
    /// long.
    fn end_overdue(&self, course: &mut Course, now: Now) {
        let Some(keys) = self.keys.load_full() else { return };
        let age = self.age(now);
        if self.discovery.as_ref().is_some_and(|discovery| age >= discovery.age_max) {
            return self.end_all(course, "nobody has vouched for them for too long");
        }
        if age >= OLD && !std::mem::replace(&mut course.told_old, true) {
            tracing::warn!(issuer = &*self.name, age_s = age.as_secs(), "the keys are old: none can be withdrawn");
        }
        let before = course.missing.len();
        course.missing.retain(|(_, until)| now.instant() < *until);
        if course.missing.len() < before {
            let lingers = |key: &Arc<Key>| course.missing.iter().any(|(known, _)| Arc::ptr_eq(known, key));
            let fewer = Arc::new(keys.with_lingering(lingers));
            self.keys.store(Some(Arc::clone(&fewer)));
            fewer.retire_missing(&keys);
        }
    }

    fn end_all(&self, course: &mut Course, why: &'static str) {
        let Some(keys) = self.keys.swap(None) else { return };
        keys.retire();
        course.missing.clear();
        self.gate.lock().fetched = None;
        tracing::error!(issuer = &*self.name, why, "the keys are out of use");
    }

    /// The time until something is overdue.
    fn overdue_in(&self, course: &Course, now: Now) -> Option<Duration> {
        let lingering = course.missing.iter().map(|(_, until)| until.saturating_duration_since(now.instant())).min();
        let all = self.keys.load().as_ref().and(self.discovery.as_ref());
        let all = all.map(|discovery| discovery.age_max.saturating_sub(self.age(now)));
        [lingering, all].into_iter().flatten().min()
    }

    fn age(&self, now: Now) -> Duration {
        self.gate.lock().fetched.map(|fetched| fetched.age(now)).unwrap_or_default()
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
    /// verified; those that are missing linger, unless their name is another key's now; the others end.
    fn replace(&self, course: &mut Course, keys: KeySet, host: &str, skipped: &[Skipped], now: Now) {
        let Some(old) = self.keys.load_full() else {
            log_keys(&self.name, host, &keys, skipped);
            self.keys.store(Some(Arc::new(keys)));
            return;
        };
        let keys = keys.succeeding(&old);
        // Counted from when a set had the key, which is long ago after an outage.
        let longest = (self.pace.refresh_max + self.pace.linger).saturating_sub(self.age(now)).min(self.pace.linger);
        let until = |key: &Arc<Key>| {
            let known = course.missing.iter().find(|(known, _)| Arc::ptr_eq(known, key));
            known.map_or(now.instant() + longest, |(_, until)| *until)
        };
        let missing = keys.missing_from(&old).map(|key| (Arc::clone(key), until(key)));
        let missing: Vec<_> = missing.filter(|(_, until)| now.instant() < *until).collect();
        let replaced = keys.replaced_in(&old);
        if !replaced.is_empty() {
            tracing::warn!(issuer = &*self.name, host, kids = ?replaced, "another key has the same name: the newer one counts");
        }
        let keys = keys.joined_by(missing.iter().map(|(key, _)| Arc::clone(key)));
        if !keys.all_in(&old) {
            log_keys(&self.name, host, &keys, skipped);
        }
        course.missing = missing;
        let keys = Arc::new(keys);
        self.keys.store(Some(Arc::clone(&keys)));
        keys.retire_missing(&old);
    }

    /// At the start, where the provider does not answer: the keys as they were fetched before, if that is not long ago
    /// and the config still means the same place.
    async fn start_from_copy(&self, discovery: &Discovery, found: Option<&Url>, now: Now) {
        let Some(copy) = discovery.copy.clone() else { return };
        let algorithms = discovery.algorithms.clone();
        let read = blocking(move || {
            let Some(kept) = copy.load().map_err(|error| chain(&error))? else { return Ok(None) };
            let parsed = KeySet::parse(kept.jwks.as_bytes(), &algorithms).map_err(|error| chain(&error))?;
            Ok::<_, String>(Some((kept, parsed)))
        });
        let read = read.await.unwrap_or_else(|error| Err(chain(&error)));
        let passed_over = |why: String| tracing::warn!(issuer = &*self.name, why, "the kept keys are passed over");
        let (kept, (keys, skipped)) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return,
            Err(why) => return passed_over(why),
        };
        let age_s = now.unix_s().saturating_sub(kept.fetched_at_s);
        let uri = Url::parse(&kept.jwks_uri).ok();
        let uri = uri.filter(|uri| discovery.place.allows(uri).is_ok() && found.is_none_or(|found| found == uri));
        let (Some(uri), true) = (uri, kept.issuer == discovery.place.issuer) else {
            return passed_over("they are another issuer's, or from another place".to_owned());
        };
        let age_max = COPY_AGE_MAX.min(discovery.age_max);
        let Some(age) = u64::try_from(age_s).ok().map(Duration::from_secs).filter(|age| *age <= age_max) else {
            return passed_over(format!("they are {age_s} s old, expected 0 to {} s", age_max.as_secs()));
        };
        tracing::warn!(
            issuer = &*self.name,
            age_s,
            keys = keys.len(),
            "the provider does not answer: kept keys are used"
        );
        log_keys(&self.name, &outbound::host_of(&uri), &keys, &skipped);
        self.keys.store(Some(Arc::new(keys)));
        self.gate.lock().fetched = Some(Fetched { noted: now.instant(), before: age });
    }

    /// Keeps the set on disk, or keeps none, where a failure costs nothing but the next start.
    async fn keep_copy(&self, copy: &CopyFile, kept: Option<KeptKeys>) {
        let copy = copy.clone();
        let done = blocking(move || match kept {
            Some(kept) => copy.save(&kept),
            None => copy.forget(),
        });
        if let Err(error) =
            done.await.map_err(|error| chain(&error)).and_then(|done| done.map_err(|error| chain(&error)))
        {
            tracing::warn!(issuer = &*self.name, error, "the key set cannot be kept");
        }
    }
}

struct NewKeys {
    keys: KeySet,
    skipped: Vec<Skipped>,
    body: Vec<u8>,
    jwks_uri: Url,
    host: String,
    max_age: Option<Duration>,
}

/// The task: attempt, wait, again.
async fn run(state: Arc<State>, clock: Clock, end: CancellationToken, stop: CancellationToken) {
    let Some(discovery) = &state.discovery else { return };
    let work = async {
        loop {
            // A panic must not leave the issuer without its task. What the task knew is gone with it: keys that were
            // missing linger anew.
            let ended = AssertUnwindSafe(keep_up(&state, discovery, &clock)).catch_unwind().await;
            if ended.is_err() {
                tracing::error!(issuer = &*state.name, "fetching keys panicked and begins anew: this is a bug");
                tokio::time::sleep(state.pace.backoff_max).await;
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

async fn keep_up(state: &State, discovery: &Discovery, clock: &Clock) {
    let mut course = Course::default();
    loop {
        let known = state.begin();
        let mut found = known.clone();
        let attempted = AssertUnwindSafe(attempt(discovery, known, &mut found, state.pace.fetch_max)).catch_unwind();
        let outcome = attempted.await.unwrap_or(Err(ProviderError::Broken));
        let now = clock.now();
        if outcome.is_err() && !course.started && state.keys.load().is_none() {
            // Before the attempt ends: who waits for it finds them.
            state.start_from_copy(discovery, found.as_ref(), now).await;
        }
        course.started = true;
        let had_keys = state.keys.load().is_some();
        let kept = outcome.as_ref().ok().map(|new| new.kept(&discovery.place.issuer, now));
        let delay = state.conclude(&mut course, outcome, now);
        let has_keys = state.keys.load().is_some();
        if let Some(copy) = discovery.copy.as_ref().filter(|_| kept.is_some() || (had_keys && !has_keys)) {
            state.keep_copy(copy, kept).await;
        }
        let mut sleep = pin!(tokio::time::sleep(delay));
        loop {
            // Where nothing can be overdue, as good as never.
            let overdue_in = state.overdue_in(&course, clock.now()).unwrap_or(RETRY_AFTER_MAX);
            tokio::select! {
                () = &mut sleep => break,
                // A permit can outlive its reason, if the sleep ended just as somebody asked.
                () = state.asked.notified() => if state.gate.lock().asked { break },
                () = tokio::time::sleep(overdue_in.max(state.pace.backoff_first)) => {
                    state.end_overdue(&mut course, clock.now());
                }
            }
        }
    }
}

impl NewKeys {
    fn kept(&self, issuer: &str, now: Now) -> KeptKeys {
        KeptKeys {
            issuer: issuer.to_owned(),
            jwks_uri: self.jwks_uri.to_string(),
            fetched_at_s: now.unix_s(),
            // It was read as JSON, so it is UTF-8.
            jwks: String::from_utf8_lossy(&self.body).into_owned(),
        }
    }
}

/// One attempt: the discovery document, unless `known` says where the keys are, then the key set. `found` is where it is
/// said to be, also where it cannot be fetched.
async fn attempt(
    discovery: &Discovery,
    known: Option<Url>,
    found: &mut Option<Url>,
    fetch_max: Duration,
) -> Result<NewKeys, ProviderError> {
    let outbound = discovery.outbound.clone();
    // A new one each time costs nothing at one attempt a minute, keeps no connection open in between, and picks up
    // certificates that the operator has replaced.
    let client = blocking(move || Client::within(&outbound, fetch_max)).await??;
    let jwks_uri = match known {
        Some(url) => url,
        None => provider::discover(&client, &discovery.place).await?,
    };
    *found = Some(jwks_uri.clone());
    let fetched = provider::fetch(&client, jwks_uri.clone()).await?;
    let host = outbound::host_of(&jwks_uri);
    let algorithms = discovery.algorithms.clone();
    let body = fetched.body;
    // 256 keys take milliseconds to check.
    let (parsed, body) = blocking(move || (KeySet::parse(&body, &algorithms), body)).await?;
    let (keys, skipped) = parsed.map_err(|source| ProviderError::Keys { host: host.clone(), source })?;
    Ok(NewKeys { keys, skipped, body, jwks_uri, host, max_age: fetched.max_age })
}

/// `max-age` within bounds, up to a tenth less, so that agents started together do not stay together. `unit` is in
/// [0, 1).
fn refresh_after(max_age: Option<Duration>, pace: Pace, unit: f64) -> Duration {
    let refresh = max_age.unwrap_or(pace.refresh_max).clamp(pace.refresh_min, pace.refresh_max);
    refresh.mul_f64(1.0 - unit / 10.0).max(pace.refresh_min)
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
pub(super) fn random_unit() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness agents keep in step, which costs the provider more than us.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// A provider that says "come back tomorrow" would leave a withdrawn key in use until then.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Twelve fetches have failed: somebody should know.
const OLD: Duration = Duration::from_secs(3600);

/// A copy is for an agent that starts while the provider is down, not for one that was away for a week.
const COPY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_ahead_of_their_end_and_within_bounds() {
        for (max_age_s, unit, expected_s) in [
            (None, 0.0, 300.0),
            (None, 0.5, 285.0),
            (Some(200), 0.0, 200.0),
            (Some(200), 0.999, 180.02),
            (Some(86_400), 0.0, 300.0),
            (Some(0), 0.0, 60.0),
            (Some(60), 0.9, 60.0),
            (Some(u64::MAX), 0.0, 300.0),
        ] {
            let after = refresh_after(max_age_s.map(Duration::from_secs), Pace::PRODUCTION, unit);
            assert!((after.as_secs_f64() - expected_s).abs() < 0.001, "{max_age_s:?} {unit}: {after:?}");
        }
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random_unit())));
    }
}
