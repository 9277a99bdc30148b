//! Which proofs were seen: in this process, and by all agents through Redis (RFC 9449, section 11.1).
//!
//! A proof is known by a hash of its key and its `jti`. Beside it stands which request it was seen in: HAProxy asks
//! again where a connection to an agent ended before the answer came, and that is no replay. It does so at once and three
//! times at most, so more often or later it is one.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;

use super::super::Rejection;
use super::super::binding::Thumbprint;
use super::OnReplayFailure;
use crate::clock::Now;
use crate::link::{Claimed, Link};

/// One proof in one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    proof: [u8; 16],
    /// Of whoever made it.
    key: [u8; 8],
    /// `None` where HAProxy names no request: then no two are the same.
    request: Option<[u8; 8]>,
    issued_at_s: i64,
}

impl Sighting {
    /// `key` signed the proof, its `jti` is the claim, `request` is HAProxy's `unique-id`, which no client may choose; an
    /// empty one names nothing. `issued_at_s` is the proof's own word.
    pub(super) fn new(key: &Thumbprint, jti: &str, request: Option<&[u8]>, issued_at_s: i64) -> Sighting {
        // 128 bits: who makes two of their own proofs collide has refused themselves one.
        let proof = prefix(&[key, jti.as_bytes()]);
        let request = request.filter(|id| !id.is_empty()).map(|id| prefix(&[b"request", id]));
        Sighting { proof, key: prefix(&[key]), request, issued_at_s }
    }

    /// Whether HAProxy asks again about what it asked about at `at_s`, in Unix seconds.
    fn is_again(&self, request: Option<[u8; 8]>, at_s: u64, now: Now) -> bool {
        self.request.is_some() && self.request == request && now.unix_s().abs_diff(at_s.cast_signed()) <= AGAIN_WITHIN_S
    }

    /// What Redis keeps: the request and the second.
    fn value(&self, now: Now) -> [u8; 16] {
        let mut value = [0; 16];
        let (request, at_s) = value.split_at_mut(8);
        request.copy_from_slice(&self.request.unwrap_or_default());
        at_s.copy_from_slice(&now.unix_s().to_be_bytes());
        value
    }
}

/// The proofs that this process has seen, each for `window` at least and twice that at most. In parts, so that one that
/// grows keeps few others waiting, and not for long: 30,000 entries are moved in some 100 µs.
pub(crate) struct Seen {
    parts: Box<[Mutex<Generations>]>,
    /// The second in which this process began to see any.
    since_s: OnceLock<i64>,
}

struct Generations {
    since: Option<Instant>,
    newer: Proofs,
    older: Proofs,
    /// How many of the newer are of one key.
    of_keys: Counts,
    max: usize,
}

type Proofs = HashMap<[u8; 16], Sight, foldhash::fast::RandomState>;

/// When a proof was seen. In bytes, so that none are lost between two.
#[derive(Clone, Copy)]
struct Sight {
    request: Option<[u8; 8]>,
    at_s: [u8; 4],
    times: u8,
}

/// How many of each key, roughly: never too few, and too many only where two keys meet in both rows. Who meets whom
/// nobody can choose, as the places are drawn at random for each process.
struct Counts {
    places: foldhash::fast::RandomState,
    rows: [Box<[u16]>; 2],
}

impl Counts {
    fn new() -> Counts {
        let row = || vec![0; COUNTS_EACH].into_boxed_slice();
        Counts { places: foldhash::fast::RandomState::default(), rows: [row(), row()] }
    }

    fn cells(&mut self, key: [u8; 8]) -> impl Iterator<Item = &mut u16> {
        let hash = self.places.hash_one(key);
        let halves = [hash as usize, (hash >> 32) as usize];
        self.rows.iter_mut().zip(halves).filter_map(|(row, half)| row.get_mut(half % COUNTS_EACH))
    }

    fn of(&mut self, key: [u8; 8]) -> usize {
        self.cells(key).map(|count| usize::from(*count)).min().unwrap_or(0)
    }

    fn add(&mut self, key: [u8; 8]) {
        self.cells(key).for_each(|count| *count = count.saturating_add(1));
    }

    fn clear(&mut self) {
        self.rows.iter_mut().for_each(|row| row.fill(0));
    }
}

/// What this process knows of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    Replayed,
    /// There is no room to remember it, in all or for its key, so that it may have been seen.
    Full,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen::new(PARTS, SEEN_MAX / PARTS)
    }
}

impl Seen {
    fn new(parts: usize, max_each: usize) -> Seen {
        let part = || Generations {
            since: None,
            newer: Proofs::default(),
            older: Proofs::default(),
            of_keys: Counts::new(),
            max: max_each,
        };
        Seen { parts: (0..parts.max(1)).map(|_| Mutex::new(part())).collect(), since_s: OnceLock::new() }
    }

    fn part(&self, sighting: Sighting) -> &Mutex<Generations> {
        // A hash: each part has its share. There is at least one.
        &self.parts[usize::from(sighting.proof[0]) % self.parts.len()]
    }

    /// From now on.
    pub(crate) fn begin(&self, now: Now) {
        self.since_s.get_or_init(|| now.unix_s());
    }

    /// Whether a proof of that second may have been shown to the process before this one, which has taken its memory with
    /// it. Whoever's clock is ahead of ours has proofs that look younger than they are.
    pub(super) fn may_be_older(&self, issued_at_s: i64) -> bool {
        self.since_s.get().is_some_and(|since_s| issued_at_s < *since_s)
    }

    /// Remembers a proof in this process alone.
    pub(super) fn record_here(&self, sighting: Sighting, window: Duration, now: Now) -> Result<(), Rejection> {
        if self.may_be_older(sighting.issued_at_s) {
            return Err(Rejection::ReplayUnknown);
        }
        match self.part(sighting).lock().record(sighting, window, now) {
            Known::No => Ok(()),
            Known::Replayed => Err(Rejection::DpopReplayed),
            Known::Full => Err(Rejection::ReplayUnknown),
        }
    }

    /// Remembers a proof in this process and in Redis, where all agents see it; what Redis says counts.
    pub(super) async fn record(
        &self,
        sighting: Sighting,
        window: Duration,
        link: Option<&Link>,
        on_failure: OnReplayFailure,
        now: Now,
    ) -> Result<(), Rejection> {
        let Some(link) = link else { return self.record_here(sighting, window, now) };
        if self.part(sighting).lock().find(sighting, now) == Some(Known::Replayed) {
            return Err(Rejection::DpopReplayed);
        }
        let key = [b"tg:dpop:".as_slice(), &sighting.proof].concat();
        // The pipeline, which knows the deadline, waits no longer than that; the link's own timeout is shorter.
        let claimed = match link.patience(now, now.instant() + TIMEOUT_MAX) {
            Ok(timeout) => link.claim(&key, &sighting.value(now), window, timeout).await,
            Err(error) => Err(error),
        };
        match claimed {
            Ok(Claimed::Ours) => {
                // Only to spare Redis a question: with no room here, there is Redis.
                let _ = self.part(sighting).lock().record(sighting, window, now);
                Ok(())
            }
            Ok(Claimed::Theirs(value)) => match value.split_first_chunk::<8>() {
                Some((request, at_s))
                    if at_s
                        .try_into()
                        .is_ok_and(|at_s| sighting.is_again(Some(*request), u64::from_be_bytes(at_s), now)) =>
                {
                    // Each agent counts how often it was asked again.
                    self.part(sighting).lock().note(sighting, now);
                    Ok(())
                }
                _ => Err(Rejection::DpopReplayed),
            },
            // The link has logged it, once an episode.
            Err(_) => match on_failure {
                OnReplayFailure::Deny => Err(Rejection::ReplayUnknown),
                OnReplayFailure::Local => self.record_here(sighting, window, now),
            },
        }
    }
}

impl Generations {
    fn record(&mut self, sighting: Sighting, window: Duration, now: Now) -> Known {
        let age = self.since.map(|since| now.instant().saturating_duration_since(since));
        if age.is_none_or(|age| age >= window) {
            self.older = std::mem::take(&mut self.newer);
            if age.is_some_and(|age| age >= 2 * window) {
                self.older = Proofs::default();
            }
            self.of_keys.clear();
            self.since = Some(now.instant());
        }
        if let Some(known) = self.find(sighting, now) {
            return known;
        }
        if self.newer.len() >= self.max || self.of_keys.of(sighting.key) >= (self.max / KEYS_SHARE).max(1) {
            return Known::Full;
        }
        self.of_keys.add(sighting.key);
        self.note(sighting, now);
        Known::No
    }

    /// What is known of a proof that was seen; `None` for any other. Asked again about the same request, it counts.
    fn find(&mut self, sighting: Sighting, now: Now) -> Option<Known> {
        let seen = self.newer.get_mut(&sighting.proof).or_else(|| self.older.get_mut(&sighting.proof))?;
        // The low half of a Unix second is enough: none is kept for 136 years.
        let [.., a, b, c, d] = now.unix_s().to_be_bytes();
        let ago_s = u32::from_be_bytes([a, b, c, d]).wrapping_sub(u32::from_be_bytes(seen.at_s));
        let at_s = now.unix_s().cast_unsigned().wrapping_sub(ago_s.into());
        if seen.times < TIMES_MAX && sighting.is_again(seen.request, at_s, now) {
            seen.times += 1;
            return Some(Known::No);
        }
        Some(Known::Replayed)
    }

    fn note(&mut self, sighting: Sighting, now: Now) {
        let [.., a, b, c, d] = now.unix_s().to_be_bytes();
        let sight = Sight { request: sighting.request, at_s: [a, b, c, d], times: 1 };
        if self.newer.len() < self.max && !self.older.contains_key(&sighting.proof) {
            self.newer.entry(sighting.proof).or_insert(sight);
        }
    }
}

fn prefix<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut prefix = [0; N];
    prefix.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    prefix
}

/// HAProxy's configuration asks about a request four times at most, one after the other.
const TIMES_MAX: u8 = 4;

/// Four times the longest `timeout processing` that is of use, and what clocks of agents differ by.
const AGAIN_WITHIN_S: u64 = 5;

/// Proofs remembered in one window: with the default of 66 s, 6,900 a second. Maps of so many take 16 MiB (2^19 slots of
/// 30 bytes and one), and there are two of each. Who sends more has a Redis, or is refused what nobody can vouch for.
const SEEN_MAX: usize = 458_752;

/// Seven eighths of 2^15 are what each has room for, which is what a map of 2^15 slots holds.
const PARTS: usize = 16;

/// One key has no more than a sixteenth of a part: 28,672 proofs in a window, 430 a second. Otherwise one client that has
/// a token could use up what all others need.
const KEYS_SHARE: usize = 16;

/// Two rows of 2 KiB for each part. With 28,672 proofs in it each cell has 28 of other keys, where a key's own share is
/// 1,792.
const COUNTS_EACH: usize = 1024;

/// As long as a config lets Redis take.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::link::testing::Redis;

    const NOW_S: i64 = 1_800_000_000;
    const WINDOW: Duration = Duration::from_secs(66);

    fn sighting(jti: &str, request: &str) -> Sighting {
        Sighting::new(&[1; 32], jti, (!request.is_empty()).then_some(request.as_bytes()), NOW_S)
    }

    #[test]
    fn a_proof_is_seen_once_for_as_long_as_it_could_be_shown() {
        let clock = Clock::by_hand(1_800_000_000);
        let seen = Seen::default();
        let mut last_s = 0;
        for (at_s, jti, request, expected) in [
            (0, "a", "r1", Ok(())),
            (0, "a", "r2", Err(Rejection::DpopReplayed)),
            (0, "a", "", Err(Rejection::DpopReplayed)),
            // HAProxy asks again about the same request.
            (0, "a", "r1", Ok(())),
            (0, "b", "", Ok(())),
            (0, "b", "", Err(Rejection::DpopReplayed)),
            (65, "c", "r3", Ok(())),
            (66, "a", "r4", Err(Rejection::DpopReplayed)),
            (130, "c", "r5", Err(Rejection::DpopReplayed)),
            (132, "a", "r6", Ok(())),
            (400, "c", "r7", Ok(())),
        ] {
            clock.advance(Duration::from_secs(at_s - last_s));
            last_s = at_s;
            assert_eq!(seen.record_here(sighting(jti, request), WINDOW, clock.now()), expected, "{jti} at {at_s}");
        }
        let (mine, other) = (sighting("z", "r"), Sighting::new(&[2; 32], "z", Some(b"r2"), NOW_S));
        assert_eq!(seen.record_here(mine, WINDOW, clock.now()), Ok(()));
        assert_eq!(seen.record_here(other, WINDOW, clock.now()), Ok(()), "another key's `jti` is another");
    }

    /// What HAProxy asks about again it asks about at once, and three times more at most.
    #[test]
    fn the_same_request_is_the_same_for_a_moment_and_a_few_times() {
        let (seen, clock) = (Seen::default(), Clock::by_hand(1_800_000_000));
        let record = |jti, request: Option<&[u8]>| {
            seen.record_here(Sighting::new(&[1; 32], jti, request, NOW_S), WINDOW, clock.now()).is_ok()
        };
        let told = |jti, request, times: usize| (0..times).map(|_| record(jti, request)).collect::<Vec<_>>();
        assert_eq!(told("a", Some(b"r"), 6), [true, true, true, true, false, false]);
        assert_eq!(told("b", Some(b""), 2), [true, false], "an empty name is none");
        assert_eq!(told("c", Some(b"r"), 1), [true]);
        clock.advance(Duration::from_secs(5));
        assert_eq!(told("c", Some(b"r"), 1), [true]);
        clock.advance(Duration::from_secs(1));
        assert_eq!(told("c", Some(b"r"), 1), [false], "six seconds after it was seen first");
    }

    #[test]
    fn one_key_leaves_room_for_others() {
        let (seen, clock) = (Seen::new(2, 64), Clock::by_hand(1_800_000_000));
        let record = |key: u8, n: usize| {
            seen.record_here(Sighting::new(&[key; 32], &n.to_string(), None, NOW_S), WINDOW, clock.now())
        };
        let taken = |key| (0..200).filter(|n| record(key, *n).is_ok()).count();
        // Four of each part, a sixteenth.
        assert_eq!((taken(1), record(1, 500)), (8, Err(Rejection::ReplayUnknown)));
        assert_eq!(taken(2), 8);
        clock.advance(WINDOW);
        assert_eq!((0..200).filter(|n| record(1, 1000 + n).is_ok()).count(), 8);
    }

    #[test]
    fn what_was_made_before_the_start_may_have_been_seen_by_the_process_before() {
        let (seen, clock) = (Seen::default(), Clock::by_hand(1_800_000_000));
        seen.begin(clock.now());
        clock.advance(Duration::from_secs(10));
        // A reload goes on with the same.
        seen.begin(clock.now());
        for (issued_at_s, expected) in
            [(NOW_S - 1, Err(Rejection::ReplayUnknown)), (NOW_S, Ok(())), (NOW_S + 9, Ok(()))]
        {
            let sighting = Sighting::new(&[1; 32], &issued_at_s.to_string(), None, issued_at_s);
            assert_eq!(seen.record_here(sighting, WINDOW, clock.now()), expected, "{issued_at_s}");
        }
    }

    #[test]
    fn with_no_room_nothing_is_vouched_for() {
        let clock = Clock::by_hand(1_800_000_000);
        let seen = Seen::new(1, 2);
        let sighting = |jti: &str, _| Sighting::new(&[jti.as_bytes()[0]; 32], jti, None, NOW_S);
        for (jti, expected) in
            [("a", Ok(())), ("b", Ok(())), ("c", Err(Rejection::ReplayUnknown)), ("a", Err(Rejection::DpopReplayed))]
        {
            assert_eq!(seen.record_here(sighting(jti, ""), WINDOW, clock.now()), expected, "{jti}");
        }
        clock.advance(WINDOW);
        assert_eq!(seen.record_here(sighting("c", ""), WINDOW, clock.now()), Ok(()));
    }

    #[tokio::test]
    async fn two_agents_refuse_each_others_replays_and_say_when_they_cannot() {
        use OnReplayFailure::{Deny, Local};
        let mut redis = Redis::start();
        let links = [Link::new(&redis.settings()).unwrap(), Link::new(&redis.settings()).unwrap()];
        links[0].probe().await;
        links[1].probe().await;
        let agents = [Seen::default(), Seen::default()];
        let clock = Clock::system();
        let record = async |agent: usize, jti: &str, request: &str, on_failure| {
            agents[agent].record(sighting(jti, request), WINDOW, Some(&links[agent]), on_failure, clock.now()).await
        };
        for (agent, jti, request, expected) in [
            (0, "a", "r1", Ok(())),
            (1, "a", "r2", Err(Rejection::DpopReplayed)),
            (1, "a", "", Err(Rejection::DpopReplayed)),
            // HAProxy asks the other agent about the same request.
            (1, "a", "r1", Ok(())),
            (0, "a", "r1", Ok(())),
            (0, "a", "r3", Err(Rejection::DpopReplayed)),
            (0, "a", "r1", Ok(())),
            (0, "a", "r1", Ok(())),
            (0, "a", "r1", Err(Rejection::DpopReplayed)),
            (1, "b", "", Ok(())),
            (0, "b", "", Err(Rejection::DpopReplayed)),
        ] {
            assert_eq!(record(agent, jti, request, Deny).await, expected, "{jti} in {request} by {agent}");
        }
        // What Redis has of half a minute ago is not asked about again.
        let old = sighting("old", "r1");
        let key = [b"tg:dpop:".as_slice(), &old.proof].concat();
        let before = Clock::by_hand(clock.now().unix_s().cast_unsigned() - 30).now();
        links[0].claim(&key, &old.value(before), WINDOW, TIMEOUT_MAX).await.unwrap();
        assert_eq!(record(0, "old", "r1", Deny).await, Err(Rejection::DpopReplayed));
        assert!((60_000..=66_000).contains(&redis.ask(&["EVAL", LONGEST, "0"]).trim().parse().unwrap()));

        redis.stop();
        for (agent, jti, on_failure, expected) in [
            // Known here, whatever becomes of Redis.
            (0, "a", Deny, Err(Rejection::DpopReplayed)),
            (0, "c", Deny, Err(Rejection::ReplayUnknown)),
            (0, "c", Local, Ok(())),
            (0, "c", Local, Err(Rejection::DpopReplayed)),
            (1, "c", Local, Ok(())),
        ] {
            assert_eq!(record(agent, jti, "", on_failure).await, expected, "{jti} by {agent}, {on_failure:?}");
        }
    }

    const LONGEST: &str = "local longest = 0 for _, key in ipairs(redis.call('KEYS', 'tg:dpop:*')) do \
                           longest = math.max(longest, redis.call('PTTL', key)) end return longest";
}
