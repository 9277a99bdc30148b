//! Sockets: where questions come from and answers go. It knows nothing of how they are decided.

pub mod admin;
mod connection;
pub mod descriptors;
mod memory;
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
use crate::supervise;
use crate::telemetry::Telemetry;
use connection::Shared;
use memory::Memory;
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
    let memory = Memory::new(telemetry.buffered(), settings.buffered_bytes_max);
    let (stopped, abandoned) = (stop.clone(), abandon.clone());
    let turns = Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from));
    let shared =
        Arc::new(Shared { decide, clock, telemetry, settings, memory, turns, stop: stopped, abandon: abandoned });
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let connections = TaskTracker::new();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let (shared, connections) = (Arc::clone(&shared), connections.clone());
            let door = Door { room: Arc::clone(&room), refusals: Arc::clone(&refusals) };
            tokio::spawn(async move {
                tokio::select! {
                    () = supervise::run("accept", || accept(&listener, &shared, &door, &connections)) => {}
                    () = shared.stop.cancelled() => {}
                }
                // Closing resets what waits in the listen queue, with the question it brought; so that is taken first.
                let rest = accept(&listener, &shared, &door, &connections);
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

/// How many come in.
struct Door {
    room: Arc<Semaphore>,
    /// Peers that may not connect are held too, in a room of their own: they take no place from those who may.
    refusals: Arc<Semaphore>,
}

async fn accept(listener: &Listener, shared: &Arc<Shared>, door: &Door, connections: &TaskTracker) {
    let mut short = false;
    loop {
        // At the bound the next ones wait in the listen queue: HAProxy sees a slow connect, not a refusal that it would
        // repeat thousands of times a second.
        let Ok(place) = Arc::clone(&door.room).acquire_owned().await else { return };
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
        let shared = Arc::clone(shared);
        if let Some(peer) = peer.filter(|peer| !may_connect(*peer, &shared.settings.allow_from)) {
            drop(place);
            shared.telemetry.connection_refused();
            // With so many of them held, one more is closed at once.
            if let Ok(held) = Arc::clone(&door.refusals).try_acquire_owned() {
                connections.spawn(async move {
                    refuse(socket, peer, &shared).await;
                    drop(held);
                });
            }
            continue;
        }
        // Once half of the places are taken, a place is not for whoever says nothing: HAProxy says HELLO at once.
        let crowded = door.room.available_permits() < shared.settings.connections_max / 2;
        let hello_timeout = shared.settings.hello_timeout / if crowded { 10 } else { 1 };
        connections.spawn(async move {
            let _connected = shared.telemetry.connected();
            connection::serve(socket, shared, hello_timeout).await;
            drop(place);
        });
    }
}

/// Holds a peer that may not connect for a moment, then closes: closed at once, HAProxy 2.6 to 3.0 comes back a thousand
/// times a second.
async fn refuse(socket: Socket, peer: SocketAddr, shared: &Shared) {
    tracing::warn!(%peer, "a peer outside `spop.allow_from` is refused");
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

/// Refused peers held at once: at 300 ms each, 850 a second.
const REFUSALS_MAX: usize = 256;
