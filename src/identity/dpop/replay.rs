//! Which proofs were seen: in this process, and by all agents through Redis (RFC 9449, section 11.1).
//!
//! A proof is known by a hash of its key and its `jti`. Beside it stands which request it was seen in: HAProxy asks
//! again where a connection to an agent ended before the answer came, and that is no replay.

use std::collections::HashMap;
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
    /// `None` where HAProxy names no request: then no two are the same.
    request: Option<[u8; 8]>,
}

impl Sighting {
    /// `key` signed the proof, its `jti` is the claim, `request` is HAProxy's `unique-id`, which no client chooses.
    pub(super) fn new(key: &Thumbprint, jti: &str, request: Option<&[u8]>) -> Sighting {
        // 128 bits: who makes two of their own proofs collide has refused themselves one.
        let proof = prefix(&[key, jti.as_bytes()]);
        Sighting { proof, request: request.map(|id| prefix(&[b"request", id])) }
    }

    fn is_same_request(&self, other: Option<[u8; 8]>) -> bool {
        self.request.is_some() && self.request == other
    }
}

/// The proofs that this process has seen, each for `window` at least and twice that at most. In parts, so that one that
/// grows keeps few others waiting, and not for long: 30,000 entries are moved in some 100 µs.
pub(crate) struct Seen(Box<[Mutex<Generations>]>);

struct Generations {
    since: Option<Instant>,
    newer: Proofs,
    older: Proofs,
    max: usize,
}

/// Each with the request that it was seen in.
type Proofs = HashMap<[u8; 16], Option<[u8; 8]>, foldhash::fast::RandomState>;

/// What this process knows of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    Replayed,
    /// There is no room to remember it, so that it may have been seen.
    Full,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen::new(PARTS, SEEN_MAX / PARTS)
    }
}

impl Seen {
    fn new(parts: usize, max_each: usize) -> Seen {
        let part = || Generations { since: None, newer: Proofs::default(), older: Proofs::default(), max: max_each };
        Seen((0..parts.max(1)).map(|_| Mutex::new(part())).collect())
    }

    fn part(&self, sighting: Sighting) -> &Mutex<Generations> {
        // A hash: each part has its share. There is at least one.
        &self.0[usize::from(sighting.proof[0]) % self.0.len()]
    }

    /// Remembers a proof in this process alone.
    pub(super) fn record_here(&self, sighting: Sighting, window: Duration, now: Now) -> Result<(), Rejection> {
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
        if self.part(sighting).lock().find(sighting) == Known::Replayed {
            return Err(Rejection::DpopReplayed);
        }
        let key = [b"tg:dpop:".as_slice(), &sighting.proof].concat();
        let value = sighting.request.unwrap_or_default();
        // The pipeline, which knows the deadline, waits no longer than that; the link's own timeout is shorter.
        let claimed = match link.patience(now, now.instant() + TIMEOUT_MAX) {
            Ok(timeout) => link.claim(&key, &value, window, timeout).await,
            Err(error) => Err(error),
        };
        match claimed {
            Ok(Claimed::Ours) => {
                // Only to spare Redis a question: with no room here, there is Redis.
                let _ = self.part(sighting).lock().record(sighting, window, now);
                Ok(())
            }
            Ok(Claimed::Theirs(value)) => match sighting.is_same_request(value.try_into().ok()) {
                true => Ok(()),
                false => Err(Rejection::DpopReplayed),
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
            self.since = Some(now.instant());
        }
        let known = self.find(sighting);
        if known != Known::No {
            return known;
        }
        if self.newer.len() >= self.max {
            return Known::Full;
        }
        self.newer.insert(sighting.proof, sighting.request);
        Known::No
    }

    fn find(&self, sighting: Sighting) -> Known {
        match self.newer.get(&sighting.proof).or_else(|| self.older.get(&sighting.proof)) {
            Some(request) if !sighting.is_same_request(*request) => Known::Replayed,
            _ => Known::No,
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

/// Proofs remembered in one window: with the default of 66 s, 6,900 a second. Maps of so many take 13 MiB (2^19 slots of
/// 25 bytes and one), and there are two of each. Who sends more has a Redis, or is refused what nobody can vouch for.
const SEEN_MAX: usize = 458_752;

/// Seven eighths of 2^15 are what each has room for, which is what a map of 2^15 slots holds.
const PARTS: usize = 16;

/// As long as a config lets Redis take.
const TIMEOUT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::link::testing::Redis;

    const WINDOW: Duration = Duration::from_secs(66);

    fn sighting(jti: &str, request: &str) -> Sighting {
        Sighting::new(&[1; 32], jti, (!request.is_empty()).then_some(request.as_bytes()))
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
        let (mine, other) = (sighting("z", "r"), Sighting::new(&[2; 32], "z", Some(b"r2")));
        assert_eq!(seen.record_here(mine, WINDOW, clock.now()), Ok(()));
        assert_eq!(seen.record_here(other, WINDOW, clock.now()), Ok(()), "another key's `jti` is another");
    }

    #[test]
    fn with_no_room_nothing_is_vouched_for() {
        let clock = Clock::by_hand(1_800_000_000);
        let seen = Seen::new(1, 2);
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
            (1, "b", "", Ok(())),
            (0, "b", "", Err(Rejection::DpopReplayed)),
        ] {
            assert_eq!(record(agent, jti, request, Deny).await, expected, "{jti} in {request} by {agent}");
        }
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
