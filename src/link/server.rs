//! One server, or whoever is the master now, and the one connection to it that is kept.
//!
//! A task of its own connects, greets, proves and carries the connection; nobody else ever connects, so there is one
//! attempt at a time whoever waits for it. A request takes the connection that is there, waits for one that is being made
//! as long as it may wait for its answer, and is told at once where the last attempt failed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::breaker::{Breaker, Change};
use super::dial::{Dial, Driver, Role, Target};
use super::pace::{Gate, Pace};
use super::settings::Node;
use super::{StoreError, StoreStatus, sentinel, told};
use crate::clock::Clock;
use crate::supervise;

/// The server. Dropping it ends its connection.
pub(super) struct Server {
    kept: Arc<Kept>,
    task: AbortHandle,
}

/// A connection that is up.
pub(super) struct Live {
    connection: MultiplexedConnection,
    /// Who is at its other end, as it was found.
    target: Target,
    doomed: Notify,
    /// Why.
    doom: Mutex<Option<StoreError>>,
}

/// How a connection ended.
enum Ended {
    /// It was up.
    Lived(StoreError),
    /// It never was.
    Failed(StoreError),
}

/// Whom to connect to.
pub(super) enum Whom {
    Known(Target),
    Master { sentinels: Vec<Node>, name: String },
}

struct Kept {
    dial: Arc<Dial>,
    whom: Whom,
    /// For logs.
    address: String,
    /// How long an answer may take.
    timeout: Duration,
    breaker: Breaker,
    state: watch::Sender<State>,
    wanted: Notify,
    /// What is written to see whether it takes writes; none where it has no keys of its own.
    proof: Mutex<Option<String>>,
}

#[derive(Clone)]
enum State {
    /// Nobody has asked yet, or an attempt is being made.
    Coming,
    Up(Arc<Live>),
    /// The last attempt failed, and the next is not due.
    Down(StoreError),
}

impl Live {
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }
}

impl Server {
    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub(super) fn new(dial: &Arc<Dial>, whom: Whom, address: String, timeout: Duration) -> Server {
        let kept = Arc::new(Kept {
            dial: Arc::clone(dial),
            whom,
            address,
            timeout,
            breaker: Breaker::default(),
            state: watch::Sender::new(State::Coming),
            wanted: Notify::new(),
            proof: Mutex::new(Some(PROOF.to_owned())),
        });
        let task = {
            let kept = Arc::clone(&kept);
            tokio::spawn(supervise::run("redis", move || Kept::keep(Arc::clone(&kept)))).abort_handle()
        };
        Server { kept, task }
    }

    /// The connection, as soon as there is one; the last failure where there will be none for some time.
    pub(super) async fn live(&self) -> Result<Arc<Live>, StoreError> {
        // Not behind the subscription: this is the way of every request.
        match &*self.kept.state.borrow() {
            State::Up(live) => return Ok(Arc::clone(live)),
            State::Down(error) => return Err(error.clone()),
            State::Coming => {}
        }
        self.changed(|state| match state {
            State::Up(live) => Some(Ok(Arc::clone(live))),
            State::Down(error) => Some(Err(error.clone())),
            State::Coming => None,
        })
        .await
    }

    /// The connection where there is one now.
    pub(super) fn up(&self) -> Option<Arc<Live>> {
        match &*self.kept.state.borrow() {
            State::Up(live) => Some(Arc::clone(live)),
            State::Down(_) | State::Coming => None,
        }
    }

    async fn changed<T>(&self, mut pick: impl FnMut(&State) -> Option<T>) -> T {
        self.kept.wanted.notify_one();
        let mut turns = self.kept.state.subscribe();
        loop {
            if let Some(picked) = pick(&turns.borrow_and_update()) {
                return picked;
            }
            // The sender is in `self`, so this cannot fail; if it did, nothing would ever change again.
            if turns.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Writes something, and ends an outage if that went well in time.
    pub(super) async fn probe(&self) {
        // One that is not connected to is being connected to; what comes of that is what this is about.
        let up = self.changed(|state| match state {
            State::Up(live) => Some(Arc::clone(live)),
            State::Down(_) | State::Coming => None,
        });
        let proved = match tokio::time::timeout(PROBE_WAIT, up).await {
            Ok(live) => {
                let proved = self.kept.prove(&live.connection).await;
                if let Err(error) = &proved
                    && (error.ends_connection() || matches!(error, StoreError::Timeout { .. }))
                {
                    self.doom(&live, error);
                }
                proved
            }
            Err(_) => match &*self.kept.state.borrow() {
                State::Down(error) => Err(error.clone()),
                _ => Err(StoreError::Unreachable { reason: format!("{} is not connected to", self.kept.address) }),
            },
        };
        self.kept.proved(proved.as_ref().err());
    }

    /// What came of a request counts for the breaker, and may end the connection that it went over.
    pub(super) fn learn(&self, error: Option<&StoreError>, over: Option<&Arc<Live>>) {
        let change = self.kept.breaker.learn(error);
        if let (Some(error), Some(live)) = (error, over) {
            // Silence is a queue at first; then a peer that hangs, or one that is gone without a word.
            if error.ends_connection() || (change == Change::Opened && matches!(error, StoreError::Timeout { .. })) {
                self.doom(live, error);
            }
        }
        self.kept.tell(change, error);
    }

    /// Ends a connection, and with it what waits on it.
    pub(super) fn doom(&self, live: &Arc<Live>, why: &StoreError) {
        live.doom.lock().get_or_insert_with(|| why.clone());
        live.doomed.notify_one();
        // Nobody takes it any more, though its task has yet to see that.
        self.kept.state.send_if_modified(|state| {
            let is_it = matches!(state, State::Up(up) if Arc::ptr_eq(up, live));
            if is_it {
                *state = State::Coming;
            }
            is_it
        });
    }

    pub(super) fn is_open(&self) -> bool {
        self.kept.breaker.is_open()
    }

    pub(super) fn status(&self) -> StoreStatus {
        self.kept.breaker.status()
    }

    /// Begins to connect before anybody asks.
    pub(super) fn want(&self) {
        self.kept.wanted.notify_one();
    }

    /// What to write in order to see whether it takes writes; `None` is a PING.
    pub(super) fn prove_with(&self, key: Option<String>) {
        *self.kept.proof.lock() = key;
    }

    pub(super) fn proves_with(&self) -> Option<String> {
        self.kept.proof.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kept {
    async fn keep(self: Arc<Kept>) {
        self.state.send_replace(State::Coming);
        self.wanted.notified().await;
        let (mut pace, gate) = (Pace::default(), Gate::of(&self.address));
        let mut told = Clock::system().now().instant();
        loop {
            pace.next().await;
            gate.pass(|error| drop(self.state.send_replace(State::Down(error.clone())))).await;
            let error = match self.live(&gate).await {
                Ended::Lived(error) => {
                    told = Clock::system().now().instant();
                    if pace.lived() {
                        self.state.send_replace(State::Coming);
                        continue;
                    }
                    error
                }
                Ended::Failed(error) => {
                    gate.failed(&error);
                    self.breaker.note(&error);
                    // The beginning of an outage is told by the breaker. An operator who looks later should not have to
                    // look far back.
                    let now = Clock::system().now().instant();
                    if self.breaker.is_open() && now.saturating_duration_since(told) >= TELL_EVERY {
                        told = now;
                        tracing::warn!(address = %self.address, %error, "Redis still does not answer");
                    }
                    error
                }
            };
            self.state.send_replace(State::Down(error));
        }
    }

    /// One connection from its beginning to its end.
    async fn live(&self, gate: &Gate) -> Ended {
        let (live, driver) = match self.open().await {
            Ok((live, driver)) => (Arc::new(live), driver),
            Err(error) => return Ended::Failed(error),
        };
        let mut is_up = false;
        let life = async {
            match self.prove(&live.connection).await {
                // A replica, one that loads its data: not the server that is wanted, or not yet.
                Err(error) if error.ends_connection() => return error,
                // One that is slow or full is there, and is no better on another connection.
                proved => self.proved(proved.as_ref().err()),
            }
            gate.succeeded();
            self.state.send_replace(State::Up(Arc::clone(&live)));
            is_up = true;
            live.doomed.notified().await;
            live.doom.lock().take().unwrap_or(StoreError::Garbage)
        };
        let error = tokio::select! {
            // The end of the connection is seen before what failed because of it.
            biased;
            () = driver => StoreError::Unreachable { reason: format!("{} closed the connection", live.target) },
            error = life => error,
        };
        if is_up { Ended::Lived(error) } else { Ended::Failed(error) }
    }

    async fn open(&self) -> Result<(Live, Driver), StoreError> {
        let target = match &self.whom {
            Whom::Known(target) => target.clone(),
            Whom::Master { sentinels, name } => sentinel::master(&self.dial, sentinels, name).await?,
        };
        let (connection, driver) = self.dial.open(&target, Role::Server).await?;
        Ok((Live { connection, target, doomed: Notify::new(), doom: Mutex::default() }, driver))
    }

    /// A write, so that a replica and a full Redis are seen for what they are. Three in a row where there is an outage to
    /// end: an answer in time now and then is none that requests could rely on.
    async fn prove(&self, connection: &MultiplexedConnection) -> Result<(), StoreError> {
        let command = match &*self.proof.lock() {
            Some(key) => redis::cmd("SET").arg(key).arg(1).arg("PX").arg(60_000).to_owned(),
            None => redis::cmd("PING"),
        };
        let times = if self.breaker.is_open() { 3 } else { 1 };
        for _ in 0..times {
            let mut connection = connection.clone();
            let answered = command.query_async::<redis::Value>(&mut connection);
            match tokio::time::timeout(self.timeout, answered).await {
                Ok(Ok(_)) => {}
                // In a Cluster the keys are somewhere else now. Whoever says so is well.
                Ok(Err(error)) if error.redirect_node().is_some() => {}
                Ok(Err(error)) => return Err(told(&error)),
                Err(_) => return Err(StoreError::timeout(self.timeout)),
            }
        }
        Ok(())
    }

    fn proved(&self, error: Option<&StoreError>) {
        let change = self.breaker.proved(error);
        self.tell(change, error);
    }

    /// One log line when it stops answering, one when it answers again.
    fn tell(&self, change: Change, error: Option<&StoreError>) {
        let address = &self.address;
        match (change, error) {
            (Change::Opened, Some(error)) => {
                tracing::warn!(%address, %error, "Redis does not answer; each part that needs it does what its `on_failure` says");
            }
            (Change::Closed, _) => tracing::info!(%address, "Redis answers again"),
            _ => {}
        }
    }
}

/// A key of ours like all others, so that an ACL that allows them allows it.
pub(super) const PROOF: &str = "tg:probe";

/// Longer than from one attempt to the end of the next, so that a probe sees one.
const PROBE_WAIT: Duration = Duration::from_millis(1100);

const TELL_EVERY: Duration = Duration::from_secs(60);
