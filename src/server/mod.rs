//! Sockets: where questions come from and answers go. It knows nothing of how they are decided.

pub mod admin;
mod connection;
pub mod descriptors;
pub mod dumps;
mod memory;
mod places;
pub mod settings;
pub mod socket;
mod sparing;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::pipeline::Decide;
use crate::supervise;
use crate::telemetry::Telemetry;
use connection::Server;
use memory::Memory;
use places::Places;
use settings::SpopSettings;
use socket::{Listener, Socket};
use sparing::Sparing;

/// Serves SPOP on `listeners` until `stop`, then answers what is in flight, disconnects and returns, at the latest
/// after `settings.drain_timeout`.
pub async fn serve(
    listeners: Vec<Listener>,
    settings: SpopSettings,
    decide: Arc<dyn Decide>,
    clock: Clock,
    telemetry: Telemetry,
    audit: Audit,
    stop: CancellationToken,
) {
    let drain_timeout = settings.drain_timeout;
    let places = Places::new(settings.connections_max);
    let abandon = CancellationToken::new();
    let memory = Memory::new(telemetry.buffered(), settings.buffered_bytes_max);
    let (stopped, abandoned) = (stop.clone(), abandon.clone());
    let turns = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));
    let server = Arc::new(Server {
        decide,
        clock,
        telemetry,
        audit,
        settings,
        memory,
        turns,
        places,
        broken: Sparing::default(),
        stop: stopped,
        abandon: abandoned,
    });
    let refusals = Arc::new(Refusals { room: Arc::new(Semaphore::new(REFUSALS_MAX)), said: Sparing::default() });
    let connections = TaskTracker::new();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let (server, connections) = (Arc::clone(&server), connections.clone());
            let refusals = Arc::clone(&refusals);
            tokio::spawn(async move {
                tokio::select! {
                    () = supervise::run("accept", || accept(&listener, &server, &refusals, &connections)) => {}
                    () = server.stop.cancelled() => {}
                }
                // Closing resets what waits in the listen queue, with the question it brought; so that is taken first.
                let rest = accept(&listener, &server, &refusals, &connections);
                let _ = tokio::time::timeout(QUEUE_DRAIN, rest).await;
                // The listener goes here: health checks fail from now on, so HAProxy sends its requests elsewhere.
            })
        })
        .collect();
    for task in accepting {
        // It ends by `stop` only.
        let _ = task.await;
    }
    stop.cancelled().await;
    connections.close();
    if tokio::time::timeout(drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are left after the drain timeout");
        abandon.cancel();
        connections.wait().await;
    }
}

/// Peers that may not connect. They are held in a room of their own, so they take no place from those who may.
struct Refusals {
    room: Arc<Semaphore>,
    said: Sparing,
}

async fn accept(listener: &Listener, server: &Arc<Server>, refusals: &Arc<Refusals>, connections: &TaskTracker) {
    let mut short = false;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => {
                short = false;
                accepted
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting at once again would spin.
                if !short {
                    tracing::error!(%error, "cannot accept; trying again each 100 ms");
                    short = true;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Some(peer) = peer.filter(|peer| !may_connect(*peer, &server.settings.allow_from)) {
            server.telemetry.connection_refused();
            // With so many of them held, one more is closed at once.
            if let Ok(held) = Arc::clone(&refusals.room).try_acquire_owned() {
                let (refusals, server) = (Arc::clone(refusals), Arc::clone(server));
                connections.spawn(async move {
                    refuse(socket, peer, &refusals.said, &server).await;
                    drop(held);
                });
            }
            continue;
        }
        // At the bound this one waits here and the next ones in the listen queue: HAProxy sees a slow answer, not a refusal
        // that it would repeat thousands of times a second.
        let Some(place) = server.places.take(&server.clock).await else { return };
        let server = Arc::clone(server);
        // HAProxy says HELLO at once.
        let hello_timeout = server.settings.hello_timeout / if server.places.are_few() { 10 } else { 1 };
        connections.spawn(async move {
            let _connected = server.telemetry.connected();
            connection::serve(socket, peer, server, hello_timeout).await;
            drop(place);
        });
    }
}

/// Holds a peer that may not connect for a moment, then closes: closed at once, HAProxy 2.6 to 3.0 comes back a thousand
/// times a second.
async fn refuse(socket: Socket, peer: SocketAddr, refused: &Sparing, server: &Server) {
    if let Some(times) = refused.say(server.clock.now()) {
        tracing::warn!(%peer, times, "a peer outside `spop.allow_from` is refused");
    }
    tokio::select! {
        () = tokio::time::sleep(connection::HOLD) => {}
        () = server.stop.cancelled() => {}
    }
    drop(socket);
}

fn may_connect(peer: SocketAddr, allow_from: &[IpNet]) -> bool {
    let address: IpAddr = peer.ip().to_canonical();
    address.is_loopback() || allow_from.iter().any(|net| net.contains(&address))
}

/// Enough to take a whole listen queue, at some ten microseconds a connection.
const QUEUE_DRAIN: Duration = Duration::from_millis(50);

/// Refused peers held at once: at 300 ms each, two hundred a second. They have descriptors of their own.
const REFUSALS_MAX: usize = 64;
