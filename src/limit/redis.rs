//! Counters in Redis: one script call for all limits of a request, by Redis's own clock.
//!
//! A charge that is not answered in time is not made again: it may have been made, and a second try would count it
//! twice.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{Script, ScriptInvocation};
use smallvec::SmallVec;

use super::gcra::{Cell, Tat};
use super::store::{Budget, Charges, CountFuture, Exceeded, Outcome, Trial};
use crate::clock::Now;
use crate::link::{CONNECT_TIMEOUT, Link, StoreError};

/// Counters in one Redis.
#[derive(Debug)]
pub(super) struct RedisStore {
    link: Link,
}

impl RedisStore {
    pub(super) fn new(link: Link) -> RedisStore {
        RedisStore { link }
    }

    /// Tests all charges, then makes all or none; the answer comes within the timeout and before `deadline`.
    pub(super) fn charge(&self, charges: Charges, now: Now, deadline: Instant) -> Result<CountFuture, StoreError> {
        let timeout = self.link.patience(now, deadline)?;
        let link = self.link.clone();
        Ok(Box::pin(async move {
            let outcome = run(&link, &charges, true, timeout).await?;
            Ok(outcome.read(&charges))
        }))
    }

    /// How the limits stand. For a person, who has time.
    pub(super) async fn peek(&self, charges: Charges) -> Result<Result<Budget, Exceeded>, StoreError> {
        let outcome = run(&self.link, &charges, false, CONNECT_TIMEOUT * 10).await?;
        Ok(outcome.read_standing(&charges))
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }
}

async fn run(link: &Link, charges: &Charges, commit: bool, timeout: Duration) -> Result<Outcome, StoreError> {
    let invocation = invocation(charges, commit);
    link.ask(
        timeout,
        |mut manager| async move { invocation.invoke_async::<Vec<u64>>(&mut manager).await },
        |reply| read(&reply, charges),
    )
    .await
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

static CHARGE: LazyLock<Script> = LazyLock::new(|| Script::new(SCRIPT));

const SCRIPT: &str = include_str!("charge.lua");
