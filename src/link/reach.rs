//! Whatever answers under one address: a server, the master that sentinels name, or a Cluster.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::dial::{Dial, Target};
use super::server::{Live, Server, Whom};
use super::settings::{RedisSettings, Servers};
use super::{StoreError, told};

pub(super) struct Reach {
    dial: Arc<Dial>,
    way: Way,
}

enum Way {
    One(Arc<Server>),
}

/// What a question is asked on. A clone asks the same one.
#[derive(Clone)]
pub(crate) enum Connection {
    /// One server.
    One(MultiplexedConnection),
}

/// Who was asked in the end, and over which connection.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) server: Option<Arc<Server>>,
    pub(super) live: Option<Arc<Live>>,
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
            Servers::Cluster(_) => return Err(super::settings::wrong(settings, "not yet")),
        };
        let server = Server::new(&dial, whom, settings.address.clone(), settings.timeout);
        Ok(Reach { dial, way: Way::One(Arc::new(server)) })
    }

    /// Sends what `call` sends, and waits for the answer. Says who was asked.
    pub(super) async fn ask<T, F>(
        &self,
        timeout: Duration,
        call: impl FnOnce(Connection) -> F,
    ) -> (Result<T, StoreError>, Asked)
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let mut asked = Asked::default();
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
        };
        (answered.unwrap_or_else(|_| Err(StoreError::timeout(timeout))), asked)
    }

    /// Listens to `channel` on another connection, at whoever answers for `key`.
    pub(super) async fn listen(&self, channel: &str, timeout: Duration) -> Result<PubSub, StoreError> {
        let listening = async {
            let live = match &self.way {
                Way::One(server) => server.live().await?,
            };
            let mut pubsub = self.dial.open_pubsub(live.target()).await?;
            pubsub.subscribe(channel).await.map_err(|error| told(&error))?;
            Ok(pubsub)
        };
        tokio::time::timeout(timeout, listening).await.unwrap_or_else(|_| Err(StoreError::timeout(timeout)))
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        match &self.way {
            Way::One(server) => server,
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::One(connection) => connection.req_packed_command(command),
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
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::One(connection) => connection.get_db(),
        }
    }
}
