//! Asking the directory once about a name and a password, and not again for a while.
//!
//! Nothing here holds a password: a name and password are known by their HMAC with a key that is drawn when the process
//! starts and never leaves it, so that what is in memory cannot be tried against a list of passwords elsewhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use futures_util::FutureExt as _;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::super::strangers::{Allowance, Asker, Places, Rate};
use super::error::{LdapError, Refusal};
use super::settings::BasicCacheSettings;
use super::throttle::Attempt;
use super::{Ldap, Person};
use crate::clock::Now;
use crate::secret::Secret;

/// HTTP Basic against one directory: the directory, and what it said lately. A clone is the same.
#[derive(Clone, Debug)]
pub struct Basic {
    ldap: Arc<Ldap>,
    cache: BasicCache,
}

impl Basic {
    /// With nothing remembered yet. Fails where the system gives no randomness.
    pub fn new(ldap: Arc<Ldap>) -> Result<Basic, LdapError> {
        let cache = BasicCache::new(ldap.settings().cache)?;
        Ok(Basic { ldap, cache })
    }

    /// The directory.
    pub fn ldap(&self) -> &Arc<Ldap> {
        &self.ldap
    }

    /// What the directory said about this name and password, if it did lately. Does not wait and does not allocate.
    pub fn find(&self, user: &str, password: &Secret, now: Now) -> Option<Result<Arc<Person>, LdapError>> {
        self.cache.find(&self.cache.credential(user, password), now)
    }

    /// The same, and asks the directory where nothing is remembered. The question goes on when the caller goes away, and
    /// is asked once for all who wait for the same. `source` is where it comes from, as far as that is known. Must be
    /// called inside a tokio runtime.
    pub async fn authenticate(
        &self,
        user: &str,
        password: &Secret,
        source: Option<IpAddr>,
        now: Now,
    ) -> Result<Arc<Person>, LdapError> {
        let asked = (Arc::clone(&self.ldap), user.to_owned(), password.clone());
        let ask = move |attempt| {
            let (ldap, user, password) = asked;
            async move { ldap.authenticate(&user, &password, attempt, now).await }
        };
        self.cache.verify(self.cache.credential(user, password), source, now, ask).await
    }
}

/// A name and a password, as far as it is kept.
type Credential = [u8; 32];

type Verdict = Result<Arc<Person>, LdapError>;

/// What was said lately.
#[derive(Clone, Debug)]
struct BasicCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: BasicCacheSettings,
    key: hmac::Key,
    right: Cache<Credential, Right, foldhash::fast::RandomState>,
    wrong: Cache<Credential, Wrong, foldhash::fast::RandomState>,
    /// Right not long ago, so no guess.
    known: Cache<Credential, Instant, foldhash::fast::RandomState>,
    flights: Mutex<Flights>,
}

/// Questions under way, and what strangers have left.
#[derive(Debug)]
struct Flights {
    under_way: HashMap<Credential, (Asker, watch::Receiver<Option<Verdict>>)>,
    allowance: Allowance,
}

#[derive(Clone, Debug)]
struct Right {
    person: Arc<Person>,
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Wrong {
    refusal: Refusal,
    until: Instant,
}

impl BasicCache {
    fn new(settings: BasicCacheSettings) -> Result<BasicCache, LdapError> {
        let mut secret = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| LdapError::NoRandomness)?;
        let inner = Inner {
            settings,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()),
            right: Cache::<Credential, Right>::builder()
                .max_capacity(settings.bytes_max)
                .weigher(|_, right| u32::try_from(weight(&right.person)).unwrap_or(u32::MAX))
                .time_to_live(settings.age_max)
                .build_with_hasher(foldhash::fast::RandomState::default()),
            // Apart, so that whoever sends garbage can push out garbage only. Moka's own clock is housekeeping; what
            // counts is `until`, by the request's.
            wrong: Cache::<Credential, Wrong>::builder()
                .max_capacity(WRONG_MAX)
                .time_to_live(settings.refused_age_max.max(Duration::from_millis(1)))
                .build_with_hasher(foldhash::fast::RandomState::default()),
            known: Cache::<Credential, Instant>::builder()
                .max_capacity(KNOWN_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(KNOWN_AGE_MAX)
                .build_with_hasher(foldhash::fast::RandomState::default()),
            flights: Mutex::new(Flights { under_way: HashMap::new(), allowance: Allowance::new(OF_ALL, OF_A_SOURCE) }),
        };
        Ok(BasicCache(Arc::new(inner)))
    }

    /// The HMAC of name, NUL, password. Neither a name nor a password that was ever right holds a NUL, so no other pair reads
    /// the same as a right one.
    fn credential(&self, user: &str, password: &Secret) -> Credential {
        let mut context = hmac::Context::with_key(&self.0.key);
        context.update(user.as_bytes());
        context.update(&[0]);
        context.update(password.expose().as_bytes());
        let mut credential = [0; 32];
        credential.copy_from_slice(context.sign().as_ref());
        credential
    }

    fn find(&self, credential: &Credential, now: Now) -> Option<Verdict> {
        if let Some(Right { person, until }) = self.0.right.get(credential)
            && now.instant() < until
        {
            return Some(Ok(person));
        }
        let Wrong { refusal, until } = self.0.wrong.get(credential)?;
        (now.instant() < until).then_some(Err(LdapError::Refused(refusal)))
    }

    async fn verify<A, F>(&self, credential: Credential, source: Option<IpAddr>, now: Now, ask: A) -> Verdict
    where
        A: FnOnce(Attempt) -> F,
        F: Future<Output = Result<Person, LdapError>> + Send + 'static,
    {
        let mut flight = {
            let mut flights = self.0.flights.lock();
            // Looked up under the lock: a flight keeps its answer before it ends, so nobody finds neither.
            if let Some(verdict) = self.find(&credential, now) {
                return verdict;
            }
            match flights.under_way.get(&credential) {
                Some((_, flight)) => flight.clone(),
                None => {
                    let known = self.0.known.get(&credential).is_some_and(|until| now.instant() < until);
                    let asker = if known { Asker::Known } else { Asker::Stranger(source) };
                    if !PLACES.has_one(asker, flights.under_way.values().map(|(asker, _)| *asker)) {
                        return Err(LdapError::Crowded);
                    }
                    if !known && !flights.allowance.take(source, now) {
                        return Err(LdapError::Crowded);
                    }
                    let question = ask(if known { Attempt::Known } else { Attempt::New });
                    let (sender, receiver) = watch::channel(None);
                    flights.under_way.insert(credential, (asker, receiver.clone()));
                    let cache = self.clone();
                    // A task of its own: who asked first may go away, and the others still wait.
                    tokio::spawn(async move {
                        let answered = AssertUnwindSafe(question).catch_unwind().await;
                        let verdict = answered.unwrap_or(Err(LdapError::Unanswered)).map(Arc::new);
                        cache.keep(credential, &verdict, now);
                        {
                            let mut flights = cache.0.flights.lock();
                            flights.under_way.remove(&credential);
                            if !known && verdict.is_ok() {
                                flights.allowance.give_back(source);
                            }
                        }
                        sender.send_replace(Some(verdict));
                    });
                    receiver
                }
            }
        };
        let verdict = match flight.wait_for(Option::is_some).await {
            Ok(verdict) => verdict.clone(),
            // The runtime is ending.
            Err(_) => None,
        };
        verdict.unwrap_or(Err(LdapError::Unanswered))
    }

    /// Remembers a verdict, counted from when it was asked for. What failed says nothing about the password and is not
    /// remembered; nor is what was not asked.
    fn keep(&self, credential: Credential, verdict: &Verdict, now: Now) {
        let inner = &self.0;
        match verdict {
            Ok(person) => {
                let person = Arc::clone(person);
                inner.right.insert(credential, Right { person, until: now.instant() + inner.settings.age_max });
                inner.known.insert(credential, now.instant() + KNOWN_AGE_MAX);
            }
            Err(LdapError::Refused(refusal)) => {
                let until = now.instant() + inner.settings.refused_age_max;
                inner.wrong.insert(credential, Wrong { refusal: *refusal, until });
                inner.right.invalidate(&credential);
                inner.known.invalidate(&credential);
            }
            Err(_) => {}
        }
    }
}

/// Bytes that a remembered person takes: strings with their headers, and some 300 of moka's.
fn weight(person: &Person) -> usize {
    let Person { dn, user, email, name, groups } = person;
    let strings = [dn, user, email, name].into_iter().chain(groups);
    strings.map(|text| text.capacity() + size_of::<String>()).sum::<usize>() + 300
}

/// About 3 MiB; 2,000 wrong passwords a second are more than a directory answers.
const WRONG_MAX: u64 = 10_000;

/// About 2 MiB: the people of a large site.
const KNOWN_MAX: u64 = 10_000;

/// A working day: who logged in this morning is not locked out this afternoon by somebody who guesses.
const KNOWN_AGE_MAX: Duration = Duration::from_secs(12 * 3600);

/// Questions under way. Each holds a name and a password, 1.3 KiB at the most, and waits for one of a few connections.
const PLACES: Places = Places { all: 256, kept: 64, of_source: 64 };

/// Right passwords cost nothing, so this is for wrong ones. A directory whose hashes take 50 ms tries 80 a second over four
/// connections.
const OF_ALL: Rate = Rate { at_once: 500, each: Duration::from_millis(20) };

/// Thirty at once and two a second: an office in which a password was changed and five programs have the old one, which is
/// refused for five seconds without asking.
const OF_A_SOURCE: Rate = Rate { at_once: 30, each: Duration::from_millis(500) };

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;
    use crate::clock::Clock;

    /// A directory that counts.
    #[derive(Clone, Default)]
    struct Asked(Arc<AtomicUsize>);

    impl Asked {
        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }

        fn answer(
            &self,
            verdict: Result<Person, LdapError>,
        ) -> impl FnOnce(Attempt) -> std::future::Ready<Result<Person, LdapError>> + use<> {
            let count = Arc::clone(&self.0);
            move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                std::future::ready(verdict)
            }
        }
    }

    fn ann() -> Person {
        let text = str::to_owned;
        Person { dn: text("uid=ann"), user: text("ann"), email: text(""), name: text(""), groups: vec![text("ops")] }
    }

    fn v4(n: usize) -> Option<IpAddr> {
        Some(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()))
    }

    fn cache() -> BasicCache {
        BasicCache::new(BasicCacheSettings::default()).unwrap()
    }

    #[tokio::test]
    async fn what_was_said_is_believed_until_it_is_old() {
        let refused = LdapError::Refused(Refusal::Bind(49));
        for (verdict, age_s) in [(Ok(ann()), 60), (Err(refused), 5)] {
            let (cache, clock, asked) = (cache(), Clock::by_hand(1_000), Asked::default());
            let credential = cache.credential("ann", &Secret::new("right"));
            let right = verdict.is_ok();
            for (after_s, count) in [(0, 1), (age_s - 1, 1), (1, 2), (age_s, 3)] {
                clock.advance(Duration::from_secs(after_s));
                let got = cache.verify(credential, None, clock.now(), asked.answer(verdict.clone())).await;
                assert_eq!((got.is_ok(), asked.count()), (right, count), "{right} after {after_s} s");
                assert!(cache.find(&credential, clock.now()).is_some());
            }
        }
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered_and_another_password_is_another_question() {
        let (cache, now, asked) = (cache(), Clock::by_hand(1_000).now(), Asked::default());
        let credential = cache.credential("ann", &Secret::new("right"));
        for error in [LdapError::Busy, LdapError::Throttled { retry_after: Duration::from_secs(1) }] {
            assert!(cache.verify(credential, None, now, asked.answer(Err(error))).await.is_err());
            assert!(cache.find(&credential, now).is_none());
        }
        assert!(cache.verify(credential, None, now, asked.answer(Ok(ann()))).await.is_ok());
        assert_eq!(asked.count(), 3);
        for (user, password) in
            [("ann", "righ"), ("ann", "rightt"), ("annr", "ight"), ("ANN", "right"), ("", "annright")]
        {
            assert!(cache.find(&cache.credential(user, &Secret::new(password)), now).is_none(), "{user} {password}");
        }
        let other = self::cache();
        assert_ne!(other.credential("ann", &Secret::new("right")), credential, "a key of its own");
    }

    #[tokio::test]
    async fn many_who_ask_the_same_are_one_question() {
        let (cache, now, asked, gate) =
            (cache(), Clock::by_hand(1_000).now(), Asked::default(), Arc::new(Notify::new()));
        let credential = cache.credential("ann", &Secret::new("right"));
        let verify = |cache: BasicCache| {
            let (asked, gate) = (asked.clone(), Arc::clone(&gate));
            async move {
                let ask = move |_| async move {
                    asked.0.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    Ok(ann())
                };
                cache.verify(credential, None, now, ask).await
            }
        };
        // The first goes away at once; what it asked goes on.
        assert!(verify(cache.clone()).now_or_never().is_none());
        let waiting: Vec<_> = (0..100).map(|_| tokio::spawn(verify(cache.clone()))).collect();
        tokio::task::yield_now().await;
        gate.notify_one();
        for verdict in waiting {
            assert!(verdict.await.unwrap().is_ok());
        }
        assert_eq!(asked.count(), 1);
        assert!(cache.0.flights.lock().under_way.is_empty());
    }

    #[tokio::test]
    async fn questions_under_way_are_bounded_and_a_panic_is_an_error() {
        let (cache, now, asked) = (cache(), Clock::by_hand(1_000).now(), Asked::default());
        let one = |n: usize| cache.credential(&n.to_string(), &Secret::new("x"));
        let strange = PLACES.all - PLACES.kept;
        // One of a source is the last that it has.
        for n in 0..PLACES.of_source * 2 {
            let asked = cache.verify(one(n), v4(0), now, |_| std::future::pending()).now_or_never();
            assert_eq!(asked.is_none(), n < 30, "{n}: {asked:?}");
        }
        for n in 30..strange {
            assert!(cache.verify(one(n), v4(n), now, |_| std::future::pending()).now_or_never().is_none());
        }
        let more = cache.verify(one(strange), v4(strange), now, |_| std::future::pending()).await;
        assert!(matches!(more, Err(LdapError::Crowded)), "{more:?}");
        // Who was in today has a place all the same.
        cache.0.known.insert(one(strange), now.instant() + KNOWN_AGE_MAX);
        assert!(cache.verify(one(strange), v4(0), now, asked.answer(Ok(ann()))).await.is_ok());

        let cache = self::cache();
        let panicking = async { panic!("a bug") };
        let verdict = cache.verify(cache.credential("a", &Secret::new("b")), None, now, |_| panicking).await;
        assert!(matches!(verdict, Err(LdapError::Unanswered)), "{verdict:?}");
        assert!(cache.0.flights.lock().under_way.is_empty());
    }

    #[tokio::test]
    async fn a_source_tries_so_many_wrong_ones_and_takes_nothing_from_others() {
        let (cache, clock, asked) = (cache(), Clock::by_hand(1_000), Asked::default());
        let refused = || asked.answer(Err(LdapError::Refused(Refusal::Bind(49))));
        let one = |n: usize| cache.credential(&n.to_string(), &Secret::new("x"));
        for (after_s, asked_so_far) in [(0, 30), (1, 32)] {
            clock.advance(Duration::from_secs(after_s));
            for n in 0..100 {
                let n = n + usize::try_from(after_s).unwrap() * 1000;
                assert!(cache.verify(one(n), v4(1), clock.now(), refused()).await.is_err());
            }
            assert_eq!(asked.count(), asked_so_far);
        }
        for n in 100..200 {
            assert!(cache.verify(one(n), v4(2), clock.now(), asked.answer(Ok(ann()))).await.is_ok());
        }
    }

    #[tokio::test]
    async fn what_was_right_today_is_no_guess() {
        let (cache, clock) = (cache(), Clock::by_hand(1_000));
        let credential = cache.credential("ann", &Secret::new("right"));
        let verify = async |verdict: Result<Person, LdapError>| {
            let seen = Arc::new(Mutex::new(None));
            let tell = Arc::clone(&seen);
            let ask = move |attempt| {
                *tell.lock() = Some(attempt);
                async move { verdict }
            };
            let _ = cache.verify(credential, None, clock.now(), ask).await;
            *seen.lock()
        };
        assert_eq!(verify(Ok(ann())).await, Some(Attempt::New));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(verify(Ok(ann())).await, Some(Attempt::Known));
        clock.advance(Duration::from_secs(13 * 3600));
        assert_eq!(verify(Ok(ann())).await, Some(Attempt::New));
        clock.advance(Duration::from_secs(61));
        assert_eq!(verify(Err(LdapError::Refused(Refusal::Bind(49)))).await, Some(Attempt::Known));
        clock.advance(Duration::from_secs(6));
        assert_eq!(verify(Ok(ann())).await, Some(Attempt::New), "a password that was changed is one to guess again");
    }
}
