//! Groups for a time: `tollgate grant` puts somebody into one until it runs out, in every agent within a second.
//!
//! Reading order: `record` (one grant, and who may have written it), `ledger` (Redis, where they are kept), `follow` (keeping
//! up with it).
//!
//! Whoever can write to Redis could write a grant, so an agent takes one only for a group that the config lets be granted, for
//! as long as it lets, and with `grants.key` only if it was sealed with that. One that Redis loses is gone: that opens nothing.

mod follow;
mod ledger;
mod record;

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Groups, Identity};
use crate::clock::{Clock, Now};
use crate::link::{RedisSettings, StoreError};
use crate::secret::Secret;
use crate::trace::{Outcome, Trace};
pub use follow::{Became, GrantChange};
pub use ledger::{GrantError, Ledger};
pub use record::{Grant, GrantId};

/// Where grants are, and which of them count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantSettings {
    /// The Redis that all agents share.
    pub redis: RedisSettings,
    /// What they are sealed with; without it whoever can write to Redis can grant.
    pub key: Option<Secret>,
    /// The policy groups that can be granted; any where empty.
    pub groups: Vec<String>,
    /// No grant is longer.
    pub lifetime_max: Duration,
}

/// The grants of one Redis, as an agent knows them.
pub(super) struct Grants {
    settings: GrantSettings,
    in_force: Arc<InForce>,
    ledger: Arc<Ledger>,
    spawned: AtomicBool,
    /// Ends the task with the last stage that has these.
    end: CancellationToken,
    _end: DropGuard,
}

/// Issuer, user, what they have.
type People = HashMap<String, HashMap<String, Vec<(GrantId, Grant)>>>;

/// What requests are held against.
#[derive(Default)]
struct InForce {
    people: ArcSwap<People>,
    count: AtomicU64,
    /// Redis was read once.
    read: SetOnce<()>,
    /// What has become of grants, until somebody asks; the latest [`ledger::GRANTS_MAX`].
    changes: Mutex<VecDeque<GrantChange>>,
}

impl Grants {
    /// Begins with none. Those of `previous` are kept where they are of the same Redis and the same counts.
    pub(super) fn new(settings: &GrantSettings, previous: Option<&Arc<Grants>>) -> Result<Arc<Grants>, StoreError> {
        if let Some(previous) = previous.filter(|previous| previous.settings == *settings) {
            return Ok(Arc::clone(previous));
        }
        let end = CancellationToken::new();
        let in_force = InForce::default();
        if let Some(previous) = previous.filter(|previous| previous.settings.redis.url == settings.redis.url) {
            // Until Redis has been read again, of which nobody knows when that is.
            let known = previous.in_force.people.load();
            let kept = known.iter().map(|(issuer, people)| {
                let kept = people.iter().map(|(user, grants)| {
                    let counts = |(_, grant): &&(GrantId, Grant)| settings.let_in(grant, grant.at_s);
                    (user.clone(), grants.iter().filter(counts).cloned().collect())
                });
                (issuer.clone(), kept.collect())
            });
            in_force.people.store(Arc::new(kept.collect()));
        }
        Ok(Arc::new(Grants {
            settings: settings.clone(),
            in_force: Arc::new(in_force),
            ledger: Arc::new(Ledger::new(settings)?),
            spawned: AtomicBool::new(false),
            _end: end.clone().drop_guard(),
            end,
        }))
    }

    /// Keeps up with Redis in the background until `stop`, or until the last stage that has these is dropped. Does nothing
    /// where that is being done already.
    pub(super) fn spawn(&self, clock: &Clock, stop: &CancellationToken) {
        if self.spawned.swap(true, Ordering::Relaxed) {
            return;
        }
        let (in_force, ledger, clock) = (Arc::clone(&self.in_force), Arc::clone(&self.ledger), clock.clone());
        let (stop, end) = (stop.clone(), self.end.clone());
        tokio::spawn(async move {
            loop {
                let ended = tokio::select! {
                    () = stop.cancelled() => break,
                    () = end.cancelled() => break,
                    ended = AssertUnwindSafe(follow::follow(&in_force, &ledger, &clock)).catch_unwind() => ended,
                };
                if ended.is_err() {
                    tracing::error!("keeping up with grants panicked; it begins again");
                }
                // What panics at once must not take a processor.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// The same person, with the groups that they have for now. One atomic load where nobody has any.
    pub(super) fn apply(&self, identity: Arc<Identity>, groups: &Groups, now: Now, trace: &mut Trace) -> Arc<Identity> {
        let people = self.in_force.people.load();
        if people.is_empty() {
            return identity;
        }
        let of_issuer = people.get(&*identity.issuer_name);
        let Some(granted) = of_issuer.and_then(|people| people.get(&identity.user)) else { return identity };
        let mut person = identity;
        for (id, grant) in granted.iter().filter(|(_, grant)| grant.until_s > now.unix_s()) {
            // A reload may have taken the group away.
            let Some(group) = groups.id(&grant.group) else { continue };
            if person.groups.contains(group) {
                continue;
            }
            let changed = Arc::make_mut(&mut person);
            changed.groups.insert(group);
            changed.granted.push(grant.group.clone());
            changed.groups_joined = groups.join(&changed.groups);
            trace.step(super::identities::STAGE, Outcome::Note, || {
                format!("in group {} by grant {id}, for another {} s", grant.group, grant.until_s - now.unix_s())
            });
        }
        person
    }

    /// Resolves once Redis has been read; at once where nobody does.
    pub(super) async fn read(&self) {
        if self.spawned.load(Ordering::Relaxed) {
            self.in_force.read.wait().await;
        }
    }

    /// What has become of grants since this was asked last.
    pub(super) fn take_changes(&self) -> Vec<GrantChange> {
        std::mem::take(&mut *self.in_force.changes.lock()).into()
    }

    /// How many hold at present, as far as is known.
    pub(super) fn count(&self) -> u64 {
        self.in_force.count.load(Ordering::Relaxed)
    }
}

impl GrantSettings {
    /// The longest that a grant may be, and what it is where the config does not say.
    pub const LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

    /// A working day, and the night after it.
    pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

    /// Whether a grant that is in Redis counts at `now_s`, Unix seconds.
    fn let_in(&self, grant: &Grant, now_s: i64) -> bool {
        let lifetime_s = i64::try_from(self.lifetime_max.as_secs()).unwrap_or(i64::MAX);
        // Of one that is not sealed the beginning proves nothing, hence the end.
        let is_short = grant.until_s.saturating_sub(grant.at_s) <= lifetime_s
            && grant.until_s.saturating_sub(now_s) <= lifetime_s.saturating_add(CLOCK_S);
        is_short && (self.groups.is_empty() || self.groups.contains(&grant.group))
    }
}

/// By how much an agent's clock and Redis's may differ.
const CLOCK_S: i64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> GrantSettings {
        let redis = RedisSettings::new(Secret::new("redis://127.0.0.1:1"), Duration::from_secs(1));
        GrantSettings { redis, key: None, groups: vec!["ops".into()], lifetime_max: Duration::from_secs(3600) }
    }

    fn grant(group: &str, at_s: i64, until_s: i64) -> Grant {
        Grant {
            issuer: "acme".into(),
            user: "alice".into(),
            group: group.into(),
            at_s,
            until_s,
            reason: "ticket 7".into(),
            by: "root".into(),
        }
    }

    #[test]
    fn only_what_the_config_lets_be_granted_counts() {
        for (what, grant, expected) in [
            ("as long as may be", grant("ops", 1_000, 4_600), true),
            ("longer", grant("ops", 1_000, 4_601), false),
            ("it says that it began later", grant("ops", 1_500, 4_700), false),
            ("of the far future", grant("ops", 1_000_000, 1_000_060), false),
            ("another group", grant("admins", 1_000, 1_060), false),
            ("for ever", grant("ops", i64::MIN, i64::MAX), false),
        ] {
            assert_eq!(settings().let_in(&grant, 1_000), expected, "{what}");
        }
    }

    #[tokio::test]
    async fn a_grant_adds_its_group_until_it_runs_out_and_to_nobody_else() {
        let groups = Groups::new(["dev", "ops"].map(|name| (name, Vec::new()))).unwrap();
        let grants = Grants::new(&settings(), None).unwrap();
        let id = GrantId::parse("00000000000000ff").unwrap();
        let alice = [("alice".to_owned(), vec![(id, grant("ops", 1_000, 1_060)), (id, grant("gone", 1_000, 1_060))])];
        grants
            .in_force
            .people
            .store(Arc::new([("acme".to_owned(), alice.into_iter().collect())].into_iter().collect()));
        let who = |issuer: &str, user: &str| {
            let mut identity = Identity::anonymous();
            identity.issuer_name = issuer.into();
            identity.user = user.to_owned();
            Arc::new(identity)
        };
        let at = |second: u64| Clock::by_hand(second).now();
        for (what, identity, now, expected) in [
            ("she", who("acme", "alice"), at(1_059), "ops"),
            ("she, afterwards", who("acme", "alice"), at(1_060), ""),
            ("another", who("acme", "bob"), at(1_030), ""),
            ("one of that name elsewhere", who("other", "alice"), at(1_030), ""),
            ("nobody", who("", ""), at(1_030), ""),
        ] {
            let before = Arc::clone(&identity);
            let after = grants.apply(identity, &groups, now, &mut Trace::off());
            assert_eq!(after.groups_joined, expected, "{what}");
            assert_eq!(before.groups_joined, "", "what is cached stays as it was");
            assert_eq!(Arc::ptr_eq(&before, &after), expected.is_empty(), "{what}");
        }
    }
}
