//! Tokens that mean something to their issuer only: asked about, remembered for a moment, asked about again ahead of
//! the moment's end.
//!
//! No request asks by itself. It starts a question, or finds one under way, and waits for half its deadline at most;
//! the question goes on without it and fills the cache. Where the issuer takes longer than that, the first request with
//! a new token is told so, and the next one finds the answer.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::api_key::sha256;
use super::breaker::{Attempt, Breaker, Change, Pace, Pass};
use super::cache::{Ground, Grounds, TokenCache};
use super::identities::{Identities, Obstacle, STAGE, rejected};
use super::inquiries::{Failure, Inquiries, Opening, Place, Refused, Verdict};
use super::introspection::{AskError, Authority, Owner};
use super::outbound::chain;
use super::settings::{CacheSettings, IntrospectionSettings, IssuerSettings, TokenUse, Userinfo};
use super::strangers::Asker;
use super::wait::{Answers, Wait};
use super::{CredentialKind, Groups, Identity, Rejection, claims};
use crate::clock::{Clock, Now};
use crate::request::Request;
use crate::trace::{Outcome, Trace};

impl Identities {
    pub(super) fn opaque(
        &self,
        request: &Request<'_>,
        token: &str,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Obstacle> {
        let Some(introspector) = Introspector::of(&self.introspectors, token) else {
            let about = || "no issuer's tokens begin like that".to_owned();
            return Err(rejected(trace, Rejection::IssuerUnknown, about).into());
        };
        let said = match &answers.identity {
            Some(Ok(identity)) => {
                trace.step(STAGE, Outcome::Pass, || format!("issuer {} says who it is", identity.issuer_name));
                Arc::clone(identity)
            }
            Some(Err(rejection)) => {
                return Err(rejected(trace, *rejection, || "by what the issuer said".to_owned()).into());
            }
            None => introspector.identify(token, request.src, answers, now, trace)?,
        };
        self.with_groups(said, &introspector.state, answers, now, trace)
    }

    /// What the issuer said, and what its directories know of the caller's groups.
    fn with_groups(
        &self,
        said: Arc<Identity>,
        state: &State,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Obstacle> {
        let (issuer, age_max) = (&state.issuer, state.settings.age_max);
        if issuer.groups_from.is_empty() {
            return Ok(said);
        }
        // By what was said, and not by the token: what is said next has other groups. No token begins with a zero.
        let place = (Arc::as_ptr(&said) as usize).to_ne_bytes();
        let key = [&[0], place.as_slice()].concat();
        if let Some(Ok(known)) = self.cache.find(&key, now) {
            trace.step(STAGE, Outcome::Pass, || "with the groups that its directories have".to_owned());
            return Ok(known);
        }
        let mut identity = Identity::clone(&said);
        let mut grounds = Some(Grounds::new());
        self.add_groups(&mut identity, issuer, &mut grounds, answers, now, trace)?;
        let identity = Arc::new(identity);
        if let Some(mut grounds) = grounds {
            grounds.push(Arc::new(Said { _held: said }));
            self.cache.keep_for(age_max, &key, Arc::clone(&identity), grounds, identity.expires_at_s, now);
        }
        Ok(identity)
    }

    /// How each issuer that is asked about tokens does, in the config's order.
    pub fn introspection_status(&self) -> Vec<IntrospectionStatus> {
        self.introspectors.iter().map(|introspector| introspector.status()).collect()
    }
}

/// How asking an issuer about its tokens goes, for readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionStatus {
    /// The config's name of the issuer.
    pub name: Arc<str>,
    /// Whether it answers, as far as is known.
    pub answering: bool,
    /// Questions asked.
    pub asked: u64,
    /// Those without an answer.
    pub failed: u64,
    /// Those not asked because too many were under way, or strangers had asked too often.
    pub no_place: u64,
    /// Requests whose token was known.
    pub hits: u64,
    /// Good tokens that are known, and their weight in bytes.
    pub known: (u64, u64),
    /// Why the last question had no answer; `None` after one that had. Names hosts, holds no secret.
    pub last_error: Option<String>,
}

/// One issuer's opaque tokens.
pub(crate) struct Introspector {
    state: Arc<State>,
    /// Where questions are asked from; nowhere before [`Introspector::spawn`].
    background: OnceLock<Background>,
}

struct Background {
    runtime: Handle,
    clock: Clock,
    stop: CancellationToken,
}

struct State {
    issuer: IssuerSettings,
    settings: IntrospectionSettings,
    groups: Arc<Groups>,
    cache_settings: CacheSettings,
    cache: TokenCache,
    /// Tokens that were good not long ago, by SHA-256: whoever comes back after a while is no stranger.
    good_before: Cache<[u8; 32], Instant, foldhash::fast::RandomState>,
    authority: Authority,
    inquiries: Arc<Inquiries>,
    /// The userinfo endpoint's own: where it is away, tokens are known all the same.
    userinfo: Mutex<Breaker>,
    pace: Pace,
    hits: AtomicU64,
    complained_at: Mutex<Option<Instant>>,
}

impl Introspector {
    /// `None` for an issuer that is not asked about tokens.
    pub(crate) fn new(
        issuer: &IssuerSettings,
        groups: &Arc<Groups>,
        cache: CacheSettings,
        pace: Pace,
    ) -> Option<Introspector> {
        let settings = issuer.introspection.clone()?;
        // What may be introspected and passed around as a bearer token is an access token, whatever the issuer's JWTs are.
        let judged = IssuerSettings { tokens: TokenUse::Access, ..issuer.clone() };
        let share = CacheSettings { bytes_max: cache.bytes_max / CACHE_SHARE, age_max: settings.age_max };
        let state = State {
            authority: Authority::new(&issuer.issuer, &settings, &issuer.outbound),
            cache: TokenCache::with_failed_age(share, REFUSED_AGE_MAX),
            good_before: Cache::<[u8; 32], Instant>::builder()
                .max_capacity(GOOD_BEFORE_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(GOOD_BEFORE_AGE_MAX)
                .build_with_hasher(foldhash::fast::RandomState::default()),
            cache_settings: cache,
            inquiries: Arc::new(Inquiries::new(pace, Rejection::IntrospectionUnavailable)),
            userinfo: Mutex::new(Breaker::new(pace)),
            issuer: judged,
            settings,
            groups: Arc::clone(groups),
            pace,
            hits: AtomicU64::new(0),
            complained_at: Mutex::new(None),
        };
        Some(Introspector { state: Arc::new(state), background: OnceLock::new() })
    }

    /// Whether everything that its answers rest on is as it is here.
    pub(crate) fn rests_on(&self, issuer: &IssuerSettings, groups: &Groups, cache: CacheSettings) -> bool {
        let state = &*self.state;
        let judged = IssuerSettings { tokens: state.issuer.tokens, ..issuer.clone() };
        judged == state.issuer && *state.groups == *groups && state.cache_settings == cache
    }

    /// Where questions are asked from, from now on; needs a Tokio runtime. They end with `stop`.
    pub(crate) fn spawn(&self, clock: &Clock, stop: &CancellationToken) {
        let mut first = false;
        let background = self.background.get_or_init(|| {
            first = true;
            Background { runtime: Handle::current(), clock: clock.clone(), stop: stop.clone() }
        });
        if first {
            let state = Arc::clone(&self.state);
            background.run(async move { state.prepare().await });
        }
    }

    /// The one to ask about that token: whose tokens begin like it, or the one that does not say how its own begin. The
    /// config sees to it that there is one at most.
    fn of<'a>(introspectors: &'a [Arc<Introspector>], token: &str) -> Option<&'a Arc<Introspector>> {
        let fitting = introspectors.iter().filter(|one| token.starts_with(one.state.settings.prefix.as_str()));
        fitting.max_by_key(|one| one.state.settings.prefix.len())
    }

    fn identify(
        &self,
        token: &str,
        source: Option<IpAddr>,
        answers: &Answers,
        now: Now,
        trace: &mut Trace,
    ) -> Result<Arc<Identity>, Obstacle> {
        let state = &*self.state;
        let name = || state.issuer.name.to_string();
        if let Some(hit) = state.cache.look_up(token.as_bytes(), now) {
            state.hits.fetch_add(1, Ordering::Relaxed);
            if hit.renew {
                // Whatever comes of it, the present answer holds to its end.
                let _ = self.ask(token, Asker::Known, now);
            }
            return match hit.verdict {
                Ok(identity) => {
                    trace.step(STAGE, Outcome::Pass, || format!("issuer {} said a moment ago who it is", name()));
                    Ok(identity)
                }
                Err(rejection) => {
                    Err(rejected(trace, rejection, || format!("by what issuer {} said a moment ago", name())).into())
                }
            };
        }
        let unavailable = |trace: &mut Trace, why: &str| {
            Err(rejected(trace, Rejection::IntrospectionUnavailable, || format!("issuer {}: {why}", name())).into())
        };
        if !answers.may_ask_for_identity() {
            return unavailable(trace, "it has not answered within half the deadline");
        }
        match self.ask(token, state.asker(token, source, now), now) {
            Ok(wait) => Err(Obstacle::Wait(wait)),
            Err(Refused::Unanswering) => unavailable(trace, "it does not answer"),
            Err(Refused::NoPlace) => unavailable(trace, "too many tokens are asked about, or were from that address"),
        }
    }

    fn ask(&self, token: &str, asker: Asker, now: Now) -> Result<Wait, Refused> {
        let Some(background) = self.background.get() else { return Err(Refused::Unanswering) };
        match self.state.inquiries.open(token.as_bytes(), asker, now) {
            Opening::Join(wait) => Ok(wait),
            Opening::Refused(why) => Err(why),
            Opening::Begin(place, wait) => {
                let (state, clock, token) = (Arc::clone(&self.state), background.clock.clone(), token.to_owned());
                background.run(async move { state.inquire(place, &token, now, &clock).await });
                wait.ok_or(Refused::Unanswering)
            }
        }
    }

    fn status(&self) -> IntrospectionStatus {
        let (counts, answering, last_error) = self.state.inquiries.status();
        IntrospectionStatus {
            name: Arc::clone(&self.state.issuer.name),
            answering,
            asked: counts.asked,
            failed: counts.failed,
            no_place: counts.no_place,
            hits: self.state.hits.load(Ordering::Relaxed),
            known: self.state.cache.size(),
            last_error,
        }
    }
}

impl Background {
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }
}

impl State {
    async fn prepare(&self) {
        if let Ok(Err(error)) = tokio::time::timeout(self.pace.patience, self.authority.prepare()).await {
            // The first token finds the same, and says it where it counts.
            tracing::debug!(issuer = &*self.issuer.name, error = chain(&error), "introspection is not prepared");
        }
    }

    /// The whole of one question: asks, remembers, tells.
    async fn inquire(&self, place: Place, token: &str, began: Now, clock: &Clock) {
        let asked = tokio::time::timeout(self.pace.patience, self.authority.introspect(token)).await;
        let asked = asked.unwrap_or(Err(AskError::Late(self.pace.patience)));
        let now = clock.now();
        let verdict = match asked {
            Err(error) => {
                self.failed(&error, token, place.asker(), now);
                Err(Rejection::IntrospectionUnavailable)
            }
            Ok(answer) => {
                if self.inquiries.answered(now) == Change::Closed {
                    tracing::info!(issuer = &*self.issuer.name, "the issuer answers about tokens again");
                }
                self.judge(answer, token, began, clock).await
            }
        };
        match &verdict {
            Ok(_) => self.good_before.insert(sha256(token.as_bytes()), now.instant()),
            Err(rejection) if rejection.is_failure() => {}
            Err(rejection) => {
                self.cache.refuse(token.as_bytes(), *rejection, now);
                self.good_before.invalidate(&sha256(token.as_bytes()));
            }
        }
        place.conclude(verdict);
    }

    /// What the answer makes of its token.
    async fn judge(&self, answer: Map<String, Value>, token: &str, began: Now, clock: &Clock) -> Verdict {
        let now = clock.now();
        let ends_at_s = self.end_of(&answer, now);
        let mut said = claims_of(answer, &self.issuer)?;
        let owner = if self.settings.userinfo != Userinfo::Off && !says_groups(&said, &self.issuer) {
            let owner = self.owner(token, &said, clock).await;
            if let Ok(Some(claims)) = &owner {
                add(&mut said, claims, &self.issuer);
            }
            owner.map(|claims| claims.is_some())
        } else {
            Ok(true)
        };
        let has_exp = said.contains_key("exp");
        if !has_exp {
            said.insert("exp".to_owned(), ends_at_s.into());
        }
        let identity = claims::check(said, &self.issuer, &self.groups, now, &mut Trace::off());
        let mut identity = match (identity, &owner) {
            (Ok(identity), _) => identity,
            // What is missing might have been in what nobody gave.
            (Err(Rejection::ClaimMissing), Err(Unreached)) => return Err(Rejection::IntrospectionUnavailable),
            (Err(rejection), _) => return Err(rejection),
        };
        if !has_exp {
            // Ours, and not the issuer's word.
            identity.claims.remove("exp");
        }
        if identity.credential == CredentialKind::Jwt {
            identity.credential = CredentialKind::Opaque;
        }
        identity.groups_known &= owner == Ok(true);
        let age_max = match owner {
            Ok(_) => self.settings.age_max,
            Err(Unreached) => self.settings.age_max.min(REFUSED_AGE_MAX),
        };
        let identity = Arc::new(identity);
        let known = || self.cache.find(token.as_bytes(), now).and_then(Result::ok);
        if owner.is_err() && known().is_some_and(|known| known.groups_known) {
            // Asked ahead of its end, what is known holds until then, with its groups.
            return Ok(identity);
        }
        // From when it was asked: what the issuer knew is at least that old.
        let (kept, grounds) = (Arc::clone(&identity), Grounds::new());
        self.cache.keep_for(age_max, token.as_bytes(), kept, grounds, ends_at_s, began);
        Ok(identity)
    }

    /// `exp`, or where there is none the second at which the answer is too old. Not later for any leeway: that is for
    /// clocks that differ, and this one issuer is asked again.
    fn end_of(&self, answer: &Map<String, Value>, now: Now) -> i64 {
        let age_max_s = i64::try_from(self.settings.age_max.as_secs()).unwrap_or(i64::MAX);
        match answer.get("exp").and_then(Value::as_f64) {
            // What is no date is refused where claims are checked.
            Some(exp) => exp.floor() as i64,
            None => now.unix_s().saturating_add(age_max_s),
        }
    }

    /// What the userinfo endpoint says of the token's owner; `None` where it says nothing, or of somebody else.
    async fn owner(
        &self,
        token: &str,
        said: &Map<String, Value>,
        clock: &Clock,
    ) -> Result<Option<Map<String, Value>>, Unreached> {
        if self.userinfo.lock().pass(clock.now()) == Pass::Shut {
            return Err(Unreached);
        }
        let asked = tokio::time::timeout(self.pace.patience, self.authority.userinfo(token)).await;
        let asked = asked.unwrap_or(Err(AskError::Late(self.pace.patience)));
        let (attempt, owner) = match asked {
            Ok(Owner::Untold) => (Attempt::Answered, Ok(None)),
            Ok(Owner::Claims(claims)) => {
                // OpenID Connect Core 1.0, section 5.3.2: else it must not be used.
                let same = claims.get("sub").is_some_and(|sub| sub.is_string() && Some(sub) == said.get("sub"));
                if !same {
                    self.complain(clock.now(), "the userinfo endpoint speaks of somebody else than the introspection");
                }
                (Attempt::Answered, Ok(same.then_some(claims)))
            }
            Err(error) => {
                self.authority.forget_endpoints();
                (Attempt::Failed { error: chain(&error), retry_after: error.retry_after() }, Err(Unreached))
            }
        };
        let mut breaker = self.userinfo.lock();
        match breaker.learn(attempt, clock.now()) {
            Change::Opened => {
                let error = breaker.last_error().unwrap_or_default();
                tracing::warn!(issuer = &*self.issuer.name, error, "no userinfo; groups that it has are unknown");
            }
            Change::Closed => tracing::info!(issuer = &*self.issuer.name, "the userinfo endpoint answers again"),
            Change::None => {}
        }
        owner
    }

    /// For whom that token is asked about.
    fn asker(&self, token: &str, source: Option<IpAddr>, now: Now) -> Asker {
        let good = self.good_before.get(&sha256(token.as_bytes()));
        let known = good.is_some_and(|at| now.instant().saturating_duration_since(at) < GOOD_BEFORE_AGE_MAX);
        if known { Asker::Known } else { Asker::Stranger(source) }
    }

    fn failed(&self, error: &AskError, token: &str, asker: Asker, now: Now) {
        let text = chain(error);
        if error.is_about_one_token() {
            self.inquiries.not_understood();
            self.complain(now, &text);
            if asker != Asker::Known {
                // Whatever it is, it will be the same in a moment; and nothing good is known that could be lost.
                self.cache.refuse(token.as_bytes(), Rejection::IntrospectionUnavailable, now);
            }
            return;
        }
        self.authority.forget_endpoints();
        let (retry_after, is_suspect) = (error.retry_after(), error.is_suspect());
        match self.inquiries.failed(asker, &Failure { error: text.clone(), retry_after, is_suspect }, now) {
            Some(Change::Opened) => tracing::warn!(
                issuer = &*self.issuer.name,
                error = text,
                "the issuer cannot be asked about tokens; those that are not known are refused"
            ),
            Some(Change::None | Change::Closed) => {}
            None => self.complain(now, &text),
        }
    }

    /// What a caller may be able to cause is said once a minute at most.
    fn complain(&self, now: Now, about: &str) {
        let mut complained_at = self.complained_at.lock();
        if complained_at.is_none_or(|at| now.instant().saturating_duration_since(at) >= COMPLAINTS_APART) {
            *complained_at = Some(now.instant());
            tracing::warn!(issuer = &*self.issuer.name, about, "an answer about a token cannot be used");
        }
    }
}

/// Held by whatever was added to it, so that nothing else is ever at its place in memory. Whether it still counts is
/// looked at before.
struct Said {
    _held: Arc<Identity>,
}

impl Ground for Said {
    fn holds(&self) -> bool {
        true
    }
}

/// Nobody was reached who could have said more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreached;

/// The answer (RFC 7662, section 2.2) as a claims set: the members have the meaning of the claims of the same name. What
/// an issuer need not say is filled in, but for what the config requires it to say.
fn claims_of(mut answer: Map<String, Value>, issuer: &IssuerSettings) -> Result<Map<String, Value>, Rejection> {
    // The one member that there must be. Whatever is not `true` is not active.
    if answer.remove("active") != Some(Value::Bool(true)) {
        return Err(Rejection::TokenInactive);
    }
    check_kind(&answer)?;
    let required = issuer.required_claims.iter().chain(issuer.require.iter().map(|(path, _)| path));
    let mut filled_in =
        required.filter_map(|path| path.steps().first()).filter(|name| FILLED_IN.contains(&name.as_str()));
    if !filled_in.all(|name| answer.contains_key(name)) {
        return Err(Rejection::ClaimMissing);
    }
    if !answer.contains_key("iss") {
        answer.insert("iss".to_owned(), issuer.issuer.as_str().into());
    }
    if !answer.contains_key("sub")
        && let Some(username) = answer.get("username").cloned()
    {
        answer.insert("sub".to_owned(), username);
    }
    Ok(answer)
}

/// That the token is one to be shown to an API, as far as the answer says: a refresh token is active too.
fn check_kind(answer: &Map<String, Value>) -> Result<(), Rejection> {
    match answer.get("token_type") {
        // `aud` is for whom it is; only where neither is said could it be anything.
        None if answer.contains_key("aud") => {}
        None => return Err(Rejection::TokenType),
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("Bearer") => {}
        // RFC 9449, section 6.2: `cnf` then says to which key, and whether that is proved is asked on every request.
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("DPoP") => {
            if answer.get("cnf").and_then(|cnf| cnf.get("jkt")).is_none() {
                return Err(Rejection::ProofMissing);
            }
        }
        Some(Value::String(_)) => return Err(Rejection::TokenType),
        Some(_) => return Err(Rejection::ClaimMalformed),
    }
    match answer.get("token_use").and_then(Value::as_str) {
        None | Some("access" | "access_token") => Ok(()),
        Some(_) => Err(Rejection::TokenType),
    }
}

/// Whether there is anything at all where groups are looked for.
fn says_groups(claims: &Map<String, Value>, issuer: &IssuerSettings) -> bool {
    issuer.claims.groups.iter().any(|path| !path.find(claims).is_empty())
}

/// Adds what the userinfo endpoint says of a person. What the introspection said counts, and nothing about the token
/// itself is taken from there.
fn add(said: &mut Map<String, Value>, owner: &Map<String, Value>, issuer: &IssuerSettings) {
    let of_token = [&issuer.claims.audience, &issuer.claims.client_id, &issuer.claims.scopes];
    let is_of_token = |name: &str| {
        OF_THE_TOKEN.contains(&name)
            || of_token.into_iter().flatten().any(|path| path.steps().first().is_some_and(|step| step == name))
    };
    // Whether an address is verified goes with the address.
    let has_email = said.contains_key("email") || said.contains_key("email_verified");
    for (name, value) in owner {
        let of_email = has_email && matches!(name.as_str(), "email" | "email_verified");
        if !of_email && !is_of_token(name) && !said.contains_key(name) {
            said.insert(name.clone(), value.clone());
        }
    }
}

/// What an answer need not have, and a claims set must.
const FILLED_IN: [&str; 3] = ["iss", "sub", "exp"];

/// RFC 7519, section 4.1; RFC 7662, section 2.2; RFC 7800; RFC 8693, section 4; RFC 9068, section 2.2.
const OF_THE_TOKEN: [&str; 19] = [
    "active",
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "scope",
    "client_id",
    "azp",
    "token_type",
    "typ",
    "token_use",
    "cnf",
    "act",
    "may_act",
    "events",
    "auth_time",
];

/// A refusal is remembered so long: a retry loop costs the issuer little, and a token that has just become good waits
/// no longer. Groups that could not be had are asked for again as soon.
const REFUSED_AGE_MAX: Duration = Duration::from_secs(5);

/// Of `cache.max_bytes`, for each issuer: a quarter of 128 MiB holds some 25,000 tokens with what is known of them.
const CACHE_SHARE: u64 = 4;

/// Some 3 MiB for each issuer.
const GOOD_BEFORE_MAX: u64 = 20_000;

/// A working day, as for passwords.
const GOOD_BEFORE_AGE_MAX: Duration = Duration::from_secs(12 * 3600);

const COMPLAINTS_APART: Duration = Duration::from_secs(60);

#[cfg(test)]
impl Identities {
    /// Whether a token is known to be good, and still will be at `now`.
    pub(super) fn cached_opaque(&self, token: &str, now: Now) -> bool {
        let verdict = |one: &Arc<Introspector>| one.state.cache.find(token.as_bytes(), now);
        Introspector::of(&self.introspectors, token).and_then(verdict).is_some_and(|verdict| verdict.is_ok())
    }
}
