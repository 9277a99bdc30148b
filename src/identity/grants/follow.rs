//! Keeping up with Redis: it is asked twice a second whether anything is different.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::InForce;
use super::ledger::{GRANTS_MAX, Ledger, Read};
use super::record::{Grant, GrantId};
use crate::clock::Clock;
use crate::link::StoreError;

/// Keeps `in_force` up to date for as long as it is polled.
pub(super) async fn follow(in_force: &InForce, ledger: &Ledger, clock: &Clock) {
    let mut follower = Follower { in_force, ledger, version: None, known: HashMap::new(), failing: false };
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now_s = clock.now().unix_s();
        let asked = follower.poll(now_s).await;
        follower.learn(asked.err());
        follower.forget_ended(now_s);
    }
}

/// What has become of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantChange {
    /// Its name.
    pub id: GrantId,
    /// It.
    pub grant: Grant,
    /// What happened.
    pub became: Became,
}

/// What happened to a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// It holds from now on.
    Granted,
    /// Somebody has ended it, or Redis has lost it.
    Revoked,
    /// It has run out.
    Ended,
}

impl Became {
    /// The word in the audit trail.
    pub fn name(self) -> &'static str {
        match self {
            Became::Granted => "granted",
            Became::Revoked => "grant_revoked",
            Became::Ended => "grant_ended",
        }
    }

    fn said(self) -> &'static str {
        match self {
            Became::Granted => "a group is granted",
            Became::Revoked => "a grant is revoked",
            Became::Ended => "a grant has run out",
        }
    }
}

struct Follower<'a> {
    in_force: &'a InForce,
    ledger: &'a Ledger,
    /// The one that `known` is of.
    version: Option<String>,
    /// Those that hold.
    known: HashMap<GrantId, Grant>,
    failing: bool,
}

impl Follower<'_> {
    async fn poll(&mut self, now_s: i64) -> Result<(), StoreError> {
        let version = self.ledger.version().await?;
        if self.version.as_ref() == Some(&version) {
            return Ok(());
        }
        // What changes while it is read has another version, and is seen at the next look.
        let Read { grants, strange } = self.ledger.read().await?;
        self.version = Some(version);
        let (taken, left): (Vec<_>, Vec<_>) =
            grants.into_iter().partition(|(_, grant)| self.ledger.lets_in(grant, now_s));
        let passed_over = strange.saturating_add(u32::try_from(left.len()).unwrap_or(u32::MAX));
        if passed_over > 0 {
            tracing::warn!(
                passed_over,
                "there are grants in Redis that this agent does not take: of groups or for a time that `grants` does not allow, or not sealed with `grants.key`"
            );
        }
        let taken: HashMap<_, _> = taken.into_iter().filter(|(_, grant)| grant.until_s > now_s).collect();
        for (id, grant) in taken.iter().filter(|(id, _)| !self.known.contains_key(id)) {
            self.tell(*id, grant, Became::Granted);
        }
        for (id, grant) in self.known.iter().filter(|(id, _)| !taken.contains_key(id)) {
            self.tell(*id, grant, Became::Revoked);
        }
        self.known = taken;
        self.put_in_force();
        // It fails where it was said before.
        let _ = self.in_force.read.set(());
        Ok(())
    }

    /// A request looks at the end of a grant itself; this is so that it is said, and takes no room.
    fn forget_ended(&mut self, now_s: i64) {
        let ended: Vec<_> = self.known.extract_if(|_, grant| grant.until_s <= now_s).collect();
        for (id, grant) in &ended {
            self.tell(*id, grant, Became::Ended);
        }
        if !ended.is_empty() {
            self.put_in_force();
        }
    }

    fn tell(&self, id: GrantId, grant: &Grant, became: Became) {
        let Grant { issuer, user, group, at_s, until_s, reason, by } = grant;
        // Debug escapes what could look like another line.
        tracing::info!(target: GRANTS, %id, %issuer, ?user, %group, at_s, until_s, ?reason, ?by, "{}", became.said());
        let mut changes = self.in_force.changes.lock();
        if changes.len() == GRANTS_MAX {
            changes.pop_front();
        }
        changes.push_back(GrantChange { id, grant: grant.clone(), became });
    }

    fn put_in_force(&self) {
        let mut people = super::People::new();
        for (id, grant) in &self.known {
            let of_issuer = people.entry(grant.issuer.clone()).or_default();
            of_issuer.entry(grant.user.clone()).or_default().push((*id, grant.clone()));
        }
        self.in_force.people.store(Arc::new(people));
        self.in_force.count.store(self.known.len() as u64, Ordering::Relaxed);
    }

    /// One log line when it stops answering, one when it answers again.
    fn learn(&mut self, failed: Option<StoreError>) {
        match (failed, self.failing) {
            (Some(error), false) => {
                self.failing = true;
                tracing::warn!(%error, "grants cannot be read from Redis; the known ones hold until they run out");
            }
            (None, true) => {
                self.failing = false;
                tracing::info!("grants can be read from Redis again");
            }
            _ => {}
        }
    }
}

/// The log target of what happens to grants.
const GRANTS: &str = "tollgate::grants";

/// A grant is to hold everywhere within a second.
const POLL: Duration = Duration::from_millis(500);
