//! Sockets: where questions come from and answers go. It knows nothing of how they are decided.

pub mod admin;
mod connection;
pub mod settings;
pub mod socket;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::pipeline::Decide;
use crate::telemetry::Telemetry;
use connection::Shared;
use settings::SpopSettings;
use socket::{Listener, Socket};

/// Serves SPOP on `listeners` until `stop`, then answers what is in flight, disconnects and returns, at the latest
/// after `settings.drain_timeout`.
pub async fn serve(
    listeners: Vec<Listener>,
    settings: SpopSettings,
    decide: Arc<dyn Decide>,
    clock: Clock,
    telemetry: Telemetry,
    stop: CancellationToken,
) {
    let drain_timeout = settings.drain_timeout;
    let room = Arc::new(Semaphore::new(settings.connections_max));
    let abandon = CancellationToken::new();
    let shared = Arc::new(Shared { decide, clock, telemetry, settings, stop: stop.clone(), abandon: abandon.clone() });
    let connections = TaskTracker::new();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let (shared, room, connections) = (Arc::clone(&shared), Arc::clone(&room), connections.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = accept(&listener, &shared, &room, &connections) => {}
                    () = shared.stop.cancelled() => {}
                }
                // Closing resets what waits in the listen queue, with the question it brought; so that is taken first.
                let rest = accept(&listener, &shared, &room, &connections);
                let _ = tokio::time::timeout(QUEUE_DRAIN, rest).await;
                // The listener goes here: health checks fail from now on, so HAProxy sends its requests elsewhere.
            })
        })
        .collect();
    for task in accepting {
        // It ends by `stop` only; a panic in it would have ended the accepting, not the connections.
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

async fn accept(listener: &Listener, shared: &Arc<Shared>, room: &Arc<Semaphore>, connections: &TaskTracker) {
    let mut short = false;
    loop {
        // At the bound the next ones wait in the listen queue: HAProxy sees a slow connect, not a refusal that it would
        // repeat thousands of times a second.
        let Ok(place) = Arc::clone(room).acquire_owned().await else { return };
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
        let allowed = peer.is_none_or(|peer| may_connect(peer, &shared.settings.allow_from));
        let shared = Arc::clone(shared);
        connections.spawn(async move {
            if allowed {
                let _connected = shared.telemetry.connected();
                connection::serve(socket, shared).await;
            } else {
                refuse(socket, peer, &shared).await;
            }
            drop(place);
        });
    }
}

/// Holds a peer that may not connect for a moment, then closes (spop.md, rule 11).
async fn refuse(socket: Socket, peer: Option<SocketAddr>, shared: &Shared) {
    shared.telemetry.connection_refused();
    tracing::warn!(peer = ?peer, "a peer outside `spop.allow_from` is refused");
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
        () = shared.stop.cancelled() => {}
    }
    drop(socket);
}

fn may_connect(peer: SocketAddr, allow_from: &[IpNet]) -> bool {
    let address: IpAddr = peer.ip().to_canonical();
    address.is_loopback() || allow_from.iter().any(|net| net.contains(&address))
}

/// Enough to take a whole listen queue, at some ten microseconds a connection.
const QUEUE_DRAIN: Duration = Duration::from_millis(50);
