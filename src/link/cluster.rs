//! A Cluster: which server answers for which slot, and what to do when one says that another does.
//!
//! The library's own Cluster connection is not used. It stops everybody's requests while it asks for the slots anew, so
//! one dead shard of three would be an outage of all (docs/decisions/0016).
//!
//! Each server has its own connection and its own breaker. A task asks for the slots: where one of our own requests was
//! redirected or failed, while anything is not as it should be, and now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::ConnectionLike as _;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::breaker::Breaker;
use super::dial::{Dial, Role, Target};
use super::pace::{Gate, Pace};
use super::reach::Asked;
use super::server::{Live, PROOF, Server, Whom};
use super::settings::Node;
use super::{StoreError, StoreStatus, slot, told};
use crate::clock::Clock;
use crate::supervise;

/// The Cluster. Dropping it ends its connections.
pub(super) struct Cluster {
    known: Arc<Known>,
    task: AbortHandle,
}

/// What is known of it.
pub(super) struct Known {
    dial: Arc<Dial>,
    /// With the gate of each, which is forgotten by whoever does not hold it.
    seeds: Vec<(Node, Arc<Gate>)>,
    timeout: Duration,
    map: watch::Sender<Slots>,
    servers: Mutex<HashMap<Node, Kept>>,
    /// Somebody saw that the map is old.
    stale: Notify,
    /// For when it is not even known whom to ask.
    breaker: Breaker,
    /// Episodes of servers that are no part of it any more, so that the sum never falls.
    episodes_gone: AtomicU64,
    /// Who is asked for the slots next, so that one whose view is old is not asked for ever.
    turn: AtomicUsize,
}

struct Kept {
    server: Arc<Server>,
    since: Instant,
}

#[derive(Clone)]
enum Slots {
    Coming,
    Known(Arc<Map>),
    Unknown(StoreError),
}

struct Map {
    /// For each slot the index of its server, counted from 1; 0 where nobody answers for it. Changed in place where a
    /// server says that one slot has moved.
    owners: Box<[AtomicU16]>,
    servers: Vec<(Node, Arc<Server>)>,
}

/// From slot to slot, both included, and who answers for them.
type Range = (u16, u16, Node);

/// Where a question goes: to the server of its key, and on from there.
#[derive(Clone)]
pub(crate) struct Routed {
    known: Arc<Known>,
    asked: Arc<Mutex<Asked>>,
    /// Who was asked last: what has no key goes there too, such as a script that it did not know.
    last: Option<Arc<Server>>,
}

impl Cluster {
    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub(super) fn new(dial: &Arc<Dial>, seeds: Vec<Node>, timeout: Duration) -> Cluster {
        let known = Arc::new(Known {
            dial: Arc::clone(dial),
            seeds: seeds.into_iter().map(|node| (node.clone(), Gate::of(&node.to_string()))).collect(),
            timeout,
            map: watch::Sender::new(Slots::Coming),
            servers: Mutex::default(),
            stale: Notify::new(),
            breaker: Breaker::default(),
            episodes_gone: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        });
        let task = {
            let known = Arc::clone(&known);
            tokio::spawn(supervise::run("redis cluster", move || Known::follow(Arc::clone(&known)))).abort_handle()
        };
        Cluster { known, task }
    }

    /// Something to ask on, and where it will be noted who was asked. What has no key goes to the server of `home`.
    pub(super) async fn routed(&self, home: Option<&[u8]>) -> Result<(Routed, Arc<Mutex<Asked>>), StoreError> {
        let last = match home {
            Some(key) => Some(self.known.owner(slot::of(key)).await?),
            None => None,
        };
        let asked = Arc::new(Mutex::new(Asked::default()));
        Ok((Routed { known: Arc::clone(&self.known), asked: Arc::clone(&asked), last }, asked))
    }

    /// The server that answers for a key.
    pub(super) async fn home(&self, key: &[u8]) -> Result<Arc<Server>, StoreError> {
        self.known.owner(slot::of(key)).await
    }

    /// All servers that answer for slots, as far as they are known.
    pub(super) async fn servers(&self) -> Result<Vec<Arc<Server>>, StoreError> {
        Ok(self.known.map().await?.servers.iter().map(|(_, server)| Arc::clone(server)).collect())
    }

    /// What came of a question counts for the server that was asked, and only for that one.
    pub(super) fn learn(&self, error: Option<&StoreError>, asked: &Asked) {
        if error.is_some() {
            self.known.stale.notify_one();
        }
        match &asked.server {
            // Nobody was asked.
            _ if error == Some(&StoreError::Open) => {}
            Some(server) => server.learn(error, asked.live.as_ref()),
            None => drop(self.known.breaker.learn(error)),
        }
    }

    /// A failure is a reason to look whether the slots have moved.
    pub(super) fn doubt(&self) {
        self.known.stale.notify_one();
    }

    /// Whether no server of it is asked at present.
    pub(super) fn is_open(&self) -> bool {
        match &*self.known.map.borrow() {
            Slots::Known(map) => !map.servers.is_empty() && map.servers.iter().all(|(_, server)| server.is_open()),
            Slots::Coming | Slots::Unknown(_) => self.known.breaker.is_open(),
        }
    }

    pub(super) async fn probe(&self) {
        match tokio::time::timeout(PROBE_WAIT, self.known.map_at_last()).await {
            Ok(map) => {
                self.known.breaker.proved(None);
                futures_util::future::join_all(map.servers.iter().map(|(_, server)| server.probe())).await;
            }
            Err(_) => {
                let error = match &*self.known.map.borrow() {
                    Slots::Unknown(error) => error.clone(),
                    _ => StoreError::timeout(PROBE_WAIT),
                };
                self.known.breaker.proved(Some(&error));
            }
        }
    }

    /// Well where all of it is.
    pub(super) fn status(&self) -> StoreStatus {
        let mut whole = self.known.breaker.status();
        whole.episodes = whole.episodes.saturating_add(self.known.episodes_gone.load(Ordering::Relaxed));
        let map = match &*self.known.map.borrow() {
            Slots::Known(map) => Arc::clone(map),
            Slots::Coming | Slots::Unknown(_) => return StoreStatus { reachable: false, ..whole },
        };
        whole.reachable = map.is_whole();
        whole.last_error = (!whole.reachable).then(|| "nobody answers for some of the Cluster's slots".to_owned());
        for (node, server) in &map.servers {
            let status = server.status();
            whole.reachable &= status.reachable;
            whole.episodes = whole.episodes.saturating_add(status.episodes);
            if let Some(error) = status.last_error {
                whole.last_error = Some(format!("{node}: {error}"));
            }
        }
        whole
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Known {
    async fn map(&self) -> Result<Arc<Map>, StoreError> {
        match &*self.map.borrow() {
            Slots::Known(map) => return Ok(Arc::clone(map)),
            Slots::Unknown(error) => return Err(error.clone()),
            Slots::Coming => {}
        }
        self.changed(|slots| match slots {
            Slots::Known(map) => Some(Ok(Arc::clone(map))),
            Slots::Unknown(error) => Some(Err(error.clone())),
            Slots::Coming => None,
        })
        .await
    }

    async fn map_at_last(&self) -> Arc<Map> {
        self.changed(|slots| match slots {
            Slots::Known(map) => Some(Arc::clone(map)),
            Slots::Unknown(_) | Slots::Coming => None,
        })
        .await
    }

    async fn changed<T>(&self, mut pick: impl FnMut(&Slots) -> Option<T>) -> T {
        let mut turns = self.map.subscribe();
        if let Some(picked) = pick(&turns.borrow_and_update()) {
            return picked;
        }
        self.stale.notify_one();
        loop {
            // The sender is in `self`, so this cannot fail; if it did, nothing would ever change again.
            if turns.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(picked) = pick(&turns.borrow_and_update()) {
                return picked;
            }
        }
    }

    async fn owner(&self, slot: u16) -> Result<Arc<Server>, StoreError> {
        let map = self.map().await?;
        map.owner(slot).cloned().ok_or_else(|| {
            self.stale.notify_one();
            StoreError::Unreachable { reason: format!("nobody answers for slot {slot} of the Cluster") }
        })
    }

    /// The server at an address, which may be one that is not known to have any slots yet.
    fn server_at(&self, node: &Node) -> Result<Arc<Server>, StoreError> {
        let mut servers = self.servers.lock();
        if let Some(known) = servers.get(node) {
            return Ok(Arc::clone(&known.server));
        }
        if servers.len() >= SERVERS_MAX {
            return Err(StoreError::Unreachable { reason: format!("the Cluster has more servers than {SERVERS_MAX}") });
        }
        let whom = Whom::Known(Target::Node(node.clone()));
        let server = Arc::new(Server::new(&self.dial, whom, node.to_string(), self.timeout));
        // It has no slot as far as is known, so there is no key that could be written there.
        server.prove_with(None);
        let since = Clock::system().now().instant();
        servers.insert(node.clone(), Kept { server: Arc::clone(&server), since });
        Ok(server)
    }

    /// Notes that a slot has moved, and that there may be more to learn.
    fn moved(&self, slot: Option<u16>, to: &Node) {
        self.stale.notify_one();
        if let (Some(slot), Slots::Known(map)) = (slot, &*self.map.borrow())
            && let Some(index) = map.servers.iter().position(|(node, _)| node == to)
            && let (Some(owner), Ok(number)) = (map.owners.get(usize::from(slot)), u16::try_from(index + 1))
        {
            owner.store(number, Ordering::Relaxed);
        }
    }

    async fn follow(self: Arc<Known>) {
        self.stale.notified().await;
        let mut pace = Pace::default();
        loop {
            pace.next().await;
            match self.fetch().await {
                Ok(ranges) => self.take(&ranges),
                // It was not the turn of any.
                Err(None) => {}
                // An old map is better than none.
                Err(Some(error)) => {
                    self.map.send_if_modified(|slots| {
                        let is_known = matches!(slots, Slots::Known(_));
                        if !is_known {
                            *slots = Slots::Unknown(error);
                        }
                        !is_known
                    });
                }
            }
            if self.is_settled() {
                let _ = tokio::time::timeout(REFRESH_EVERY, self.stale.notified()).await;
                pace.lived();
            }
        }
    }

    /// Whether there is nothing to wait for: a server that is away may be replaced by another at any time.
    fn is_settled(&self) -> bool {
        match &*self.map.borrow() {
            Slots::Known(map) => {
                map.is_whole() && map.servers.iter().all(|(_, server)| server.up().is_some() && !server.is_open())
            }
            Slots::Coming | Slots::Unknown(_) => false,
        }
    }

    /// Asks for the slots: somebody who is connected to, or else anybody whose turn it is; an error without a reason where
    /// there is none.
    async fn fetch(&self) -> Result<Vec<Range>, Option<StoreError>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let command = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
        let mut known: Vec<_> =
            self.servers.lock().iter().map(|(node, known)| (node.clone(), Arc::clone(&known.server))).collect();
        known.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut failure = None;
        let up: Vec<_> = known.iter().filter_map(|(node, server)| Some((node, server.up()?))).collect();
        for (node, live) in rotated(&up, turn).take(ASKED_MAX) {
            let mut connection = live.connection();
            let answered = tokio::time::timeout(self.timeout, command.query_async::<Value>(&mut connection)).await;
            failure = Some(match answered {
                Ok(Ok(value)) => match ranges(&value, node) {
                    Some(ranges) => return Ok(ranges),
                    None => StoreError::Garbage,
                },
                Ok(Err(error)) => told(&error),
                Err(_) => StoreError::timeout(self.timeout),
            });
        }
        let mut others: Vec<Node> = self.seeds.iter().map(|(node, _)| node.clone()).collect();
        others.extend(known.into_iter().filter(|(_, server)| server.up().is_none()).map(|(node, _)| node));
        others.sort();
        others.dedup();
        for node in rotated(&others, turn).take(ASKED_MAX) {
            let gate = Gate::of(&node.to_string());
            if !gate.try_pass() {
                continue;
            }
            let answered = self.dial.ask_once::<Value>(&Target::Node(node.clone()), Role::Server, &command).await;
            match &answered {
                // Who refuses this question, as a server does that is no part of a Cluster, may take others.
                Ok(_) | Err(StoreError::Refused { .. }) => gate.succeeded(),
                Err(error) => gate.failed(error),
            }
            failure = Some(match answered {
                Ok(value) => match ranges(&value, node) {
                    Some(ranges) => return Ok(ranges),
                    None => StoreError::Garbage,
                },
                Err(error) => error,
            });
        }
        Err(failure)
    }

    fn take(&self, ranges: &[Range]) {
        let owners: Box<[AtomicU16]> = (0..slot::SLOTS).map(|_| AtomicU16::new(0)).collect();
        let mut servers: Vec<(Node, Arc<Server>)> = Vec::new();
        for (first, last, node) in ranges {
            let index = servers.iter().position(|(known, _)| known == node).or_else(|| {
                servers.push((node.clone(), self.server_at(node).ok()?));
                Some(servers.len() - 1)
            });
            let number = index.and_then(|index| u16::try_from(index + 1).ok()).unwrap_or(0);
            let range = usize::from(*first)..=usize::from(*last);
            owners.get(range).into_iter().flatten().for_each(|owner| owner.store(number, Ordering::Relaxed));
        }
        let map = Arc::new(Map { owners, servers });
        for (index, (_, server)) in map.servers.iter().enumerate() {
            let is_ours = |slot| map.number(slot) == index + 1;
            let is_good = server.proves_with().is_some_and(|key| is_ours(slot::of(key.as_bytes())));
            if !is_good {
                server.prove_with(slot::key_in(PROOF, is_ours));
            }
            server.want();
        }
        // Those that only import slots are not in the map, and are asked all the same while that lasts.
        let now = Clock::system().now().instant();
        self.servers.lock().retain(|node, known| {
            let stays = map.servers.iter().any(|(other, _)| other == node)
                || now.saturating_duration_since(known.since) < STRANGERS_STAY;
            if !stays {
                self.episodes_gone.fetch_add(known.server.status().episodes, Ordering::Relaxed);
            }
            stays
        });
        self.breaker.proved(None);
        self.map.send_replace(Slots::Known(map));
    }
}

impl Map {
    /// Counted from 1; 0 is nobody.
    fn number(&self, slot: u16) -> usize {
        self.owners.get(usize::from(slot)).map_or(0, |owner| usize::from(owner.load(Ordering::Relaxed)))
    }

    fn owner(&self, slot: u16) -> Option<&Arc<Server>> {
        self.servers.get(self.number(slot).checked_sub(1)?).map(|(_, server)| server)
    }

    fn is_whole(&self) -> bool {
        self.owners.iter().all(|owner| owner.load(Ordering::Relaxed) != 0)
    }
}

impl Routed {
    pub(super) async fn command(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let slot = slot::key(command).map(slot::of);
        self.route(slot, &Question::Command(command)).await.map(|mut answers| answers.pop().unwrap_or_default())
    }

    pub(super) async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> Result<Vec<Value>, RedisError> {
        // All keys of one pipeline are in one slot: nobody here asks otherwise, and a server would refuse it.
        let slot = pipeline.cmd_iter().find_map(slot::key).map(slot::of);
        self.route(slot, &Question::Pipeline(pipeline, offset, count)).await
    }

    /// Asks the server of a slot, and whoever it sends us to. What was redirected was not done, so it is asked again.
    async fn route(&mut self, slot: Option<u16>, question: &Question<'_>) -> Result<Vec<Value>, RedisError> {
        let first = match (slot, &self.last) {
            (None, Some(last)) => Ok(Arc::clone(last)),
            (Some(slot), _) => self.known.owner(slot).await,
            (None, None) => self.known.map().await.and_then(|map| {
                let up = map.servers.iter().find(|(_, server)| server.up().is_some());
                let any = up.or(map.servers.first()).map(|(_, server)| Arc::clone(server));
                any.ok_or_else(|| StoreError::Unreachable { reason: "the Cluster has no servers".to_owned() })
            }),
        };
        let (mut server, mut asking) = (self.or_fail(first)?, false);
        for _ in 0..REDIRECTS_MAX {
            self.last = Some(Arc::clone(&server));
            *self.asked.lock() = Asked { server: Some(Arc::clone(&server)), ..Asked::default() };
            if server.is_open() {
                return Err(self.fail(StoreError::Open));
            }
            let live = server.live().await;
            let live = self.or_fail(live)?;
            self.asked.lock().live = Some(Arc::clone(&live));
            let error = match question.put(&live, asking).await {
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::Server(kind @ (ServerErrorKind::Moved | ServerErrorKind::Ask)) => {
                    let Some(to) = error.redirect_node().and_then(|(to, _)| node(to, live.target())) else {
                        return Err(error);
                    };
                    asking = kind == ServerErrorKind::Ask;
                    if !asking {
                        self.known.moved(slot, &to);
                    }
                    let next = self.known.server_at(&to);
                    server = self.or_fail(next)?;
                }
                // Some of the keys are here and some are there, and soon they will not be.
                ErrorKind::Server(ServerErrorKind::TryAgain) => tokio::time::sleep(TRY_AGAIN).await,
                _ => return Err(error),
            }
        }
        let reason = "the Cluster's servers send us from one to the other".to_owned();
        Err(self.fail(StoreError::Unreachable { reason }))
    }

    fn or_fail<T>(&self, result: Result<T, StoreError>) -> Result<T, RedisError> {
        result.map_err(|error| self.fail(error))
    }

    /// The library's errors cannot hold ours, so it is kept beside.
    fn fail(&self, error: StoreError) -> RedisError {
        self.asked.lock().failure = Some(error);
        RedisError::from((ErrorKind::Client, "not asked"))
    }
}

/// What is asked of one server, and of another if that one says so.
enum Question<'q> {
    Command(&'q Cmd),
    Pipeline(&'q Pipeline, usize, usize),
}

impl Question<'_> {
    /// All answers; an error where the server did not do it. `asking` is how a server is asked for keys that it is about
    /// to have.
    async fn put(&self, live: &Live, asking: bool) -> Result<Vec<Value>, RedisError> {
        let mut connection = live.connection();
        let mut answers: Vec<Value> = match self {
            Question::Command(command) if asking => {
                let mut both = redis::pipe();
                both.cmd("ASKING").add_command((*command).clone());
                connection.req_packed_commands(&both, 0, 2).await?.into_iter().skip(1).collect()
            }
            Question::Command(command) => vec![connection.req_packed_command(command).await?],
            // Within a transaction it would have to come before the beginning, and nobody here makes one.
            Question::Pipeline(pipeline, 0, count) if asking => {
                let mut both = redis::pipe();
                pipeline.cmd_iter().for_each(|command| {
                    both.cmd("ASKING").add_command(command.clone());
                });
                let answers = connection.req_packed_commands(&both, 0, count.saturating_mul(2)).await?;
                answers.into_iter().skip(1).step_by(2).collect()
            }
            Question::Pipeline(pipeline, offset, count) => {
                connection.req_packed_commands(pipeline, *offset, *count).await?
            }
        };
        // Redirected is the whole or nothing, so the first answer says it.
        match answers.first_mut() {
            Some(first) if matches!(first, Value::ServerError(_)) => {
                std::mem::take(first).extract_error().map(|_| answers)
            }
            _ => Ok(answers),
        }
    }
}

/// Reads the answer to `CLUSTER SLOTS`. Servers that do not say where they are, are where the answer came from.
fn ranges(value: &Value, from: &Node) -> Option<Vec<Range>> {
    let Value::Array(ranges) = value else { return None };
    ranges
        .iter()
        .map(|range| {
            let Value::Array(parts) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = parts.as_slice() else {
                return None;
            };
            let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
            let host = match host {
                Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok()?,
                Value::SimpleString(text) => text.clone(),
                Value::Nil => String::new(),
                _ => return None,
            };
            let host = if host.is_empty() { from.host.clone() } else { host };
            let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
            (first <= last && last < slot::SLOTS).then_some(())?;
            Some((first, last, Node { host, port: u16::try_from(*port).ok()? }))
        })
        .collect()
}

/// Reads `HOST:PORT` of a redirection; without a host it is the one that said so.
fn node(text: &str, from: &Target) -> Option<Node> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = match (host, from) {
        ("", Target::Node(from)) => from.host.clone(),
        ("", Target::Unix(_)) => return None,
        _ => host.to_owned(),
    };
    Some(Node { host, port: port.parse().ok()? })
}

fn rotated<T>(items: &[T], by: usize) -> impl Iterator<Item = &T> {
    let (before, after) = items.split_at(by.checked_rem(items.len()).unwrap_or(0));
    after.iter().chain(before)
}

/// As many as a Cluster can have nodes.
const SERVERS_MAX: usize = 1000;

/// A slot that moves costs one or two; more is a Cluster whose servers do not agree.
const REDIRECTS_MAX: usize = 5;

/// A key that is on its way takes about as long as a round trip.
const TRY_AGAIN: Duration = Duration::from_millis(2);

/// Moves of slots that nobody asks for are seen by and by.
const REFRESH_EVERY: Duration = Duration::from_secs(15);

/// How many are asked for the slots in one turn: with most of a Cluster away a turn must end.
const ASKED_MAX: usize = 3;

/// Longer than a slot with many keys takes to move.
const STRANGERS_STAY: Duration = Duration::from_secs(60);

/// Longer than from one attempt to the end of the next, so that a probe sees one.
const PROBE_WAIT: Duration = Duration::from_millis(1100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_servers_are() {
        let from = Node { host: "10.0.0.1".to_owned(), port: 7000 };
        let here = Target::Node(from.clone());
        for (text, expected) in [
            ("10.0.0.2:7001", Some("10.0.0.2:7001")),
            ("::1:7001", Some("[::1]:7001")),
            ("[::1]:7001", Some("[::1]:7001")),
            (":7002", Some("10.0.0.1:7002")),
            ("node", None),
            ("node:x", None),
        ] {
            assert_eq!(node(text, &here).map(|node| node.to_string()).as_deref(), expected, "{text}");
        }
        let text = |text: &str| Value::BulkString(text.into());
        let range = |first, last, host| {
            Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(vec![host, Value::Int(7003)])])
        };
        let good = Value::Array(vec![range(0, 5, text("h")), range(6, 16_383, Value::Nil)]);
        let read = ranges(&good, &from).unwrap();
        assert_eq!(read[0], (0, 5, Node { host: "h".to_owned(), port: 7003 }));
        assert_eq!(read[1], (6, 16_383, Node { port: 7003, ..from.clone() }));
        for bad in [
            Value::Nil,
            Value::Array(vec![range(6, 5, text("h"))]),
            Value::Array(vec![range(0, 16_384, text("h"))]),
            Value::Array(vec![range(-1, 3, text("h"))]),
            Value::Array(vec![Value::Array(vec![Value::Int(1)])]),
        ] {
            assert_eq!(ranges(&bad, &from), None, "{bad:?}");
        }
    }
}
