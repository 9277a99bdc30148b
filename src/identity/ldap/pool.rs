//! Connections kept for the next question, so many and no more.
//!
//! There are two pools for a directory. In one every connection is bound as the search account when it is opened and
//! only searches afterwards. In the other every use of a connection begins with a bind as the user in question, and that
//! bind replaces whoever was bound before (RFC 4511, section 4.2.1) or, where it fails, leaves nobody. So no search of
//! ours ever runs with the rights of a user who logged in before, whatever went wrong in between.
//!
//! Strangers wait for each other, and not before those who are known: where there are several connections one is never
//! a stranger's, and the line for it is another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::connection::{Answer, Connection, Opener};
use super::error::LdapError;
use super::message::Operation;
use super::settings::Account;
use super::throttle::Attempt;
use crate::clock::Now;

/// Connections of one kind.
pub(super) struct Pool {
    opener: Arc<Opener>,
    reach: Arc<Reach>,
    account: Option<Account>,
    slots: Semaphore,
    /// One slot less, where there are several.
    strangers: Semaphore,
    idle: Mutex<Vec<Idle>>,
    waiting: AtomicUsize,
    strangers_waiting: AtomicUsize,
    wait_max: Duration,
}

struct Idle {
    connection: Connection<'static>,
    opened: Instant,
    since: Instant,
}

impl Pool {
    /// A pool of `connections_max`; with an account every connection is bound as that.
    pub(super) fn new(
        opener: Arc<Opener>,
        reach: Arc<Reach>,
        account: Option<Account>,
        connections_max: usize,
        wait_max: Duration,
    ) -> Pool {
        Pool {
            opener,
            reach,
            account,
            slots: Semaphore::new(connections_max.max(1)),
            strangers: Semaphore::new(connections_max.saturating_sub(1).max(1)),
            idle: Mutex::default(),
            waiting: AtomicUsize::new(0),
            strangers_waiting: AtomicUsize::new(0),
            wait_max,
        }
    }

    /// The right to use one connection, waited for in line. The connection itself is opened when it is first used.
    pub(super) async fn lease(&self, attempt: Attempt, now: Now) -> Result<Lease<'_>, LdapError> {
        let in_line = async {
            let strange = match attempt {
                Attempt::New => Some(permit(&self.strangers, &self.strangers_waiting).await?),
                Attempt::Known => None,
            };
            Ok((permit(&self.slots, &self.waiting).await?, strange))
        };
        let permits = tokio::time::timeout(self.wait_max, in_line).await.unwrap_or(Err(LdapError::Busy))?;
        Ok(Lease { pool: self, connection: self.take_idle(now), now, _permits: permits })
    }

    /// A connection that nobody uses and that seems to be alive.
    fn take_idle(&self, now: Now) -> Option<Held> {
        loop {
            let Idle { mut connection, opened, since } = self.idle.lock().pop()?;
            let age = |from: Instant| now.instant().saturating_duration_since(from);
            if age(since) < IDLE_MAX && age(opened) < AGE_MAX && connection.is_quiet() {
                return Some(Held { connection, opened, reused: true });
            }
            connection.close();
        }
    }

    async fn open(&self, now: Now) -> Result<Held, LdapError> {
        if let Some(error) = self.reach.recently_failed(now) {
            return Err(error);
        }
        let opened = self.open_bound().await;
        self.reach.learn(opened.as_ref().err(), now);
        Ok(Held { connection: opened?, opened: now.instant(), reused: false })
    }

    async fn open_bound(&self) -> Result<Connection<'static>, LdapError> {
        let mut connection = self.opener.open().await?;
        if let Some(bind) = self.account.as_ref().and_then(|account| Operation::bind(&account.dn, &account.password)) {
            let outcome = connection.exchange(&bind).await?.outcome;
            if outcome.code != 0 {
                let server = connection.server().to_owned();
                return Err(LdapError::AccountRefused { server, code: outcome.code, message: outcome.message });
            }
        }
        Ok(connection)
    }
}

async fn permit<'a>(of: &'a Semaphore, waiting: &AtomicUsize) -> Result<SemaphorePermit<'a>, LdapError> {
    if let Ok(permit) = of.try_acquire() {
        return Ok(permit);
    }
    let _place = Waiting::new(waiting).ok_or(LdapError::Busy)?;
    of.acquire().await.map_err(|_| LdapError::Busy)
}

/// A place in the line for a connection.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Option<Waiting<'a>> {
        let place = Waiting(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection in use. It goes back when this is dropped, if the last answer on it was read to its end.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    connection: Option<Held>,
    now: Now,
    _permits: (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>),
}

struct Held {
    connection: Connection<'static>,
    opened: Instant,
    /// It was idle, and nothing has been asked on it since.
    reused: bool,
}

impl Lease<'_> {
    /// Asks, and reads the whole answer.
    ///
    /// A connection that was idle may have been closed by the server without our knowing; then the question, which is a
    /// bind or a search and so may be asked twice, goes over a new one. Never in the middle of a lease: what was bound is
    /// bound to the connection.
    pub(super) async fn exchange(&mut self, operation: &Operation) -> Result<Answer, LdapError> {
        let held = match &mut self.connection {
            Some(held) => held,
            none => none.insert(self.pool.open(self.now).await?),
        };
        let reused = std::mem::take(&mut held.reused);
        match held.connection.exchange(operation).await {
            Err(error) if error.is_lost() && reused => {
                // Where one is gone the others most likely are: the server went away.
                self.pool.idle.lock().clear();
                let held = self.connection.insert(self.pool.open(self.now).await?);
                held.connection.exchange(operation).await
            }
            answered => answered,
        }
    }

    /// The address of the server that was asked.
    pub(super) fn server(&self) -> &str {
        self.connection.as_ref().map_or("", |held| held.connection.server())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(Held { connection, opened, .. }) = self.connection.take()
            && connection.is_sound()
        {
            // Never more than there are slots, since each needs one to come back from.
            self.pool.idle.lock().push(Idle { connection, opened, since: self.now.instant() });
        }
    }
}

/// Whether the directory can be reached, so that it is not asked again at once when it cannot, and so that its going
/// and its coming are each logged once.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<Option<Failure>>);

#[derive(Debug)]
struct Failure {
    at: Instant,
    error: LdapError,
}

impl Reach {
    /// The error of the last attempt if it was a moment ago.
    fn recently_failed(&self, now: Now) -> Option<LdapError> {
        let failure = self.0.lock();
        let Failure { at, error } = failure.as_ref()?;
        let pause = match error {
            // Each attempt counts for the directory's own lock-out of the account.
            LdapError::AccountRefused { .. } => ACCOUNT_PAUSE,
            _ => CONNECT_PAUSE,
        };
        (now.instant().saturating_duration_since(*at) < pause).then(|| error.clone())
    }

    fn learn(&self, error: Option<&LdapError>, now: Now) {
        let mut failure = self.0.lock();
        match (error, failure.take()) {
            (None, None) => {}
            (None, Some(_)) => tracing::info!("the directory can be asked again"),
            (Some(error), before) => {
                if before.is_none() {
                    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(%error, cause, "the directory cannot be asked; names and passwords that it knows fail");
                }
                *failure = Some(Failure { at: now.instant(), error: error.clone() });
            }
        }
    }

    /// The failure that goes on, if one does.
    pub(super) fn failure(&self) -> Option<LdapError> {
        self.0.lock().as_ref().map(|failure| failure.error.clone())
    }
}

/// Many networks forget a silent connection after a few minutes and tell neither end.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// So that a directory that moved, by its name, is found, and an account that was taken away stops searching.
const AGE_MAX: Duration = Duration::from_secs(600);

/// A directory that is down costs one attempt a second.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Directories lock an account after three to ten attempts within minutes to an hour: half a minute tells an operator
/// soon enough, and is no flood.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(30);

/// Each line is one that a directory of 1 ms an answer works off in a quarter of a second with one connection.
const WAITING_MAX: usize = 256;
