//! Whatever answers under one address: a server, the master that sentinels name, or a Cluster.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::cluster::{Cluster, Routed};
use super::dial::{Dial, Target};
use super::server::{Live, Server, Whom};
use super::settings::{RedisSettings, Servers};
use super::{StoreError, StoreStatus, slot, told};

pub(super) struct Reach {
    dial: Arc<Dial>,
    way: Way,
}

enum Way {
    One(Arc<Server>),
    Cluster(Cluster),
}

/// What a question is asked on. A clone asks the same one.
#[derive(Clone)]
pub(crate) enum Connection {
    /// One server.
    One(MultiplexedConnection),
    /// Whichever server of a Cluster has the key.
    Cluster(Routed),
}

/// Who was asked in the end, and over which connection.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) server: Option<Arc<Server>>,
    pub(super) live: Option<Arc<Live>>,
    /// Why nobody was asked.
    pub(super) failure: Option<StoreError>,
}

impl Reach {
    /// Does not connect yet. Must be called inside a Tokio runtime.
    pub(super) fn new(settings: &RedisSettings) -> Result<Reach, StoreError> {
        let (dial, place) = Dial::new(settings)?;
        let dial = Arc::new(dial);
        let whom = match place.servers {
            Servers::One(node) => Whom::Known(Target::Node(node)),
            Servers::Unix(path) => Whom::Known(Target::Unix(path)),
            Servers::Sentinel { sentinels, master } => Whom::Master { sentinels, name: master },
            Servers::Cluster(nodes) => {
                let way = Way::Cluster(Cluster::new(&dial, nodes, settings.timeout));
                return Ok(Reach { dial, way });
            }
        };
        let server = Server::new(&dial, whom, settings.address.clone(), settings.timeout);
        Ok(Reach { dial, way: Way::One(Arc::new(server)) })
    }

    /// Sends what `call` sends, and waits for the answer. Says who was asked. In a Cluster, what has no key goes where
    /// what had one went before, and to the server of `home` if it is the first.
    pub(super) async fn ask<T, F>(
        &self,
        timeout: Duration,
        home: Option<&[u8]>,
        call: impl FnOnce(Connection) -> F,
    ) -> (Result<T, StoreError>, Asked)
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let mut asked = Asked::default();
        let mut routed = None;
        let answered = match &self.way {
            Way::One(server) => {
                asked.server = Some(Arc::clone(server));
                let answered = async {
                    let live = server.live().await?;
                    let connection = Connection::One(live.connection());
                    asked.live = Some(live);
                    call(connection).await.map_err(|error| told(&error))
                };
                tokio::time::timeout(timeout, answered).await
            }
            Way::Cluster(cluster) => {
                let answered = async {
                    let (connection, noted) = cluster.routed(home).await?;
                    routed = Some(Arc::clone(&noted));
                    let answered = call(Connection::Cluster(connection)).await;
                    answered.map_err(|error| noted.lock().failure.take().unwrap_or_else(|| told(&error)))
                };
                tokio::time::timeout(timeout, answered).await
            }
        };
        if let Some(routed) = routed {
            asked = std::mem::take(&mut *routed.lock());
        }
        (answered.unwrap_or_else(|_| Err(StoreError::timeout(timeout))), asked)
    }

    /// Asks every server the same, and adds up what they say. One that does not answer says nothing.
    pub(super) async fn sum(
        &self,
        timeout: Duration,
        command: &Cmd,
        read: impl Fn(Value) -> u64,
    ) -> Result<u64, StoreError> {
        let counting = async {
            let servers = match &self.way {
                Way::One(server) => vec![Arc::clone(server)],
                Way::Cluster(cluster) => cluster.servers().await?,
            };
            let asked = servers.iter().map(|server| async {
                let mut connection = server.live().await?.connection();
                command.query_async::<Value>(&mut connection).await.map_err(|error| told(&error))
            });
            let answers = futures_util::future::join_all(asked).await;
            match answers.iter().all(Result::is_err) {
                true => answers.into_iter().next().unwrap_or(Err(StoreError::Garbage)).map(|_| 0),
                false => Ok(answers.into_iter().flatten().map(read).fold(0, u64::saturating_add)),
            }
        };
        tokio::time::timeout(timeout, counting).await.unwrap_or_else(|_| Err(StoreError::timeout(timeout)))
    }

    /// Listens to `channel` on another connection, in a Cluster at the server of `home`: what is said to one of its
    /// servers is said by all.
    pub(super) async fn listen(&self, channel: &str, home: &[u8], timeout: Duration) -> Result<PubSub, StoreError> {
        let listening = async {
            let live = match &self.way {
                Way::One(server) => server.live().await?,
                Way::Cluster(cluster) => cluster.home(home).await?.live().await?,
            };
            let mut pubsub = self.dial.open_pubsub(live.target()).await?;
            pubsub.subscribe(channel).await.map_err(|error| told(&error))?;
            Ok(pubsub)
        };
        tokio::time::timeout(timeout, listening).await.unwrap_or_else(|_| Err(StoreError::timeout(timeout)))
    }

    /// What came of a question counts for the breaker of whom was asked.
    pub(super) fn learn(&self, error: Option<&StoreError>, asked: &Asked) {
        match &self.way {
            Way::One(server) => server.learn(error, asked.live.as_ref()),
            Way::Cluster(cluster) => cluster.learn(error, asked),
        }
    }

    /// What came of a question may end the connection that it went over, and says nothing to the breaker: for questions
    /// that nobody's request waits for.
    pub(super) fn heed(&self, error: &StoreError, asked: &Asked) {
        if let Way::Cluster(cluster) = &self.way {
            cluster.doubt();
        }
        // Nobody asks so much that silence could be a queue.
        if let (Some(server), Some(live)) = (&asked.server, &asked.live)
            && (error.ends_connection() || matches!(error, StoreError::Timeout { .. }))
        {
            server.doom(live, error);
        }
    }

    /// Whether nobody is asked at present.
    pub(super) fn is_open(&self) -> bool {
        match &self.way {
            Way::One(server) => server.is_open(),
            Way::Cluster(cluster) => cluster.is_open(),
        }
    }

    pub(super) async fn probe(&self) {
        match &self.way {
            Way::One(server) => server.probe().await,
            Way::Cluster(cluster) => cluster.probe().await,
        }
    }

    pub(super) fn status(&self) -> StoreStatus {
        match &self.way {
            Way::One(server) => server.status(),
            Way::Cluster(cluster) => cluster.status(),
        }
    }

    pub(super) fn slot(&self, key: &[u8]) -> Option<u16> {
        match &self.way {
            Way::One(_) => None,
            Way::Cluster(_) => Some(slot::of(key)),
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::One(connection) => connection.req_packed_command(command),
            Connection::Cluster(routed) => Box::pin(routed.command(command)),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(routed) => Box::pin(routed.pipeline(pipeline, offset, count)),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::One(connection) => connection.get_db(),
            Connection::Cluster(_) => 0,
        }
    }
}
