//! The operator's side: `/livez`, `/readyz`, `/metrics`, `/status`, `/top`. Read-only, and never on the SPOP port.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tracing_appender::non_blocking::ErrorCounter;

use super::settings::AdminSettings;
use super::socket::Listener;
use crate::audit::Audit;
use crate::clock::{Clock, Now};
use crate::pipeline::Live;
use crate::supervise;
use crate::telemetry::{
    AuditSnapshot, DirectorySnapshot, IntrospectionSnapshot, IssuerSnapshot, KeyFileSnapshot, RevocationsSnapshot,
    Snapshot, StoreSnapshot, Telemetry,
};

/// What the admin side shows.
pub struct Admin {
    /// The pipeline in force.
    pub live: Arc<Live>,
    /// The metrics.
    pub telemetry: Telemetry,
    /// The audit trail.
    pub audit: Audit,
    /// The time.
    pub clock: Clock,
    /// When the agent started.
    pub started: Now,
    /// Counts log lines that were dropped.
    pub log_dropped: Option<ErrorCounter>,
    /// Cancelled once the agent drains: not ready any more.
    pub stop: CancellationToken,
}

/// Serves the admin side on `listener` until `until` is cancelled.
pub async fn serve(listener: Listener, settings: AdminSettings, admin: Admin, until: CancellationToken) {
    let state = Arc::new(Guarded { admin, settings });
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/top", get(top))
        // Nothing here takes a body, and nothing takes long.
        .layer(RequestBodyLimitLayer::new(1024))
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(5)))
        .with_state(state);
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = until.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            // Out of descriptors, most likely: accepting at once again would spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let connection = http.serve_connection(TokioIo::new(socket), service.clone());
        let until = until.clone();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let served = async {
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = until.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                // A caller that goes away is none of our business.
                let _ = connection.await;
            };
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, served).await;
            drop(place);
        });
    }
}

/// Callers at once; the next waits in the listen queue. A scraper, a probe and a few people are ten.
pub const CONNECTIONS_MAX: usize = 32;

/// How long a caller may take for the head of a request, and a connection may wait for the next one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The head of a request; a bearer token of 4 KiB fits with room to spare.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A whole connection, however slowly its answers are read. A scraper that keeps connections open makes a new one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

struct Guarded {
    admin: Admin,
    settings: AdminSettings,
}

async fn readyz(State(state): State<Arc<Guarded>>) -> Response {
    let (ready, body) = readiness(&state.admin);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn metrics(State(state): State<Arc<Guarded>>, headers: HeaderMap) -> Response {
    if let Some(refused) = refuse(&state.settings, &headers) {
        return refused;
    }
    let text = state.admin.telemetry.render(snapshot(&state.admin));
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

async fn status(State(state): State<Arc<Guarded>>, headers: HeaderMap) -> Response {
    if let Some(refused) = refuse(&state.settings, &headers) {
        return refused;
    }
    let admin = &state.admin;
    let pipeline = admin.live.pipeline();
    let (ready, parts) = readiness(admin);
    let uptime = admin.clock.now().instant().saturating_duration_since(admin.started.instant());
    let rules: Vec<_> = pipeline.policy.rules().iter().map(|rule| &*rule.name).collect();
    let mut body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": format!("{:016x}", pipeline.version),
        "uptime_s": uptime.as_secs(),
        "ready": ready,
        "parts": parts,
        "rules": rules,
        "deadline_ms": u64::try_from(pipeline.deadline.as_millis()).unwrap_or(u64::MAX),
    });
    if let Some(audit) = admin.audit.status() {
        // Whoever keeps `last` somewhere else can tell later that nothing before it was cut off.
        let last = audit.last.map(|(seq, hash)| json!({ "seq": seq, "hash": hash }));
        body["audit"] = json!({
            "file": audit.target,
            "up": audit.up,
            "lines": audit.lines,
            "dropped": audit.dropped,
            "sampled_out": audit.sampled_out,
            "queued": audit.queued,
            "last": last,
        });
    }
    Json(body).into_response()
}

/// Who asks most and who is near a limit, as the snapshot of `top` has it: 1,280 rows at most, of some 150 bytes each
/// and never more than 1 KiB. Asking is what makes the agent look, from then on and for a minute: the first answer is
/// empty.
async fn top(State(state): State<Arc<Guarded>>, headers: HeaderMap) -> Response {
    if let Some(refused) = refuse(&state.settings, &headers) {
        return refused;
    }
    Json(state.admin.telemetry.top().ask(state.admin.clock.now())).into_response()
}

/// With a token configured, only its bearer may look; compared in constant time.
fn refuse(settings: &AdminSettings, headers: &HeaderMap) -> Option<Response> {
    let expected = settings.token.as_ref()?;
    let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let good = presented.is_some_and(|presented| {
        aws_lc_rs::constant_time::verify_slices_are_equal(presented, expected.expose().as_bytes()).is_ok()
    });
    if good {
        return None;
    }
    Some((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer realm=\"tollgate-admin\"")]).into_response())
}

/// Each part by name, and whether all of them are ready.
fn readiness(admin: &Admin) -> (bool, Value) {
    let pipeline = admin.live.pipeline();
    let now = admin.clock.now();
    let mut ready = !admin.stop.is_cancelled();
    let mut issuers = Map::new();
    for issuer in pipeline.identities.status(now) {
        let has_keys = issuer.has_keys;
        ready &= has_keys;
        let mut part = json!({ "ready": has_keys, "keys": issuer.keys });
        if let Some(error) = &issuer.last_error {
            part["error"] = json!(error);
        }
        issuers.insert(issuer.name.to_string(), part);
    }
    // Whether an issuer answers about tokens is told and takes no agent out: another one would fare no better.
    let mut introspection = Map::new();
    for issuer in pipeline.identities.introspection_status() {
        let mut part = json!({ "answering": issuer.answering });
        if let Some(error) = &issuer.last_error {
            part["error"] = json!(error);
        }
        introspection.insert(issuer.name.to_string(), part);
    }
    let mut body = json!({ "ready": ready, "draining": admin.stop.is_cancelled(), "issuers": issuers });
    if !introspection.is_empty() {
        body["introspection"] = Value::Object(introspection);
    }
    // Nor does a directory: tokens whose groups are in them go on as ever.
    let directories: Map<String, Value> = pipeline
        .identities
        .directories(now)
        .into_iter()
        .map(|directory| {
            let mut part = json!({ "people": directory.people });
            if let Some(error) = &directory.last_error {
                part["error"] = json!(error);
            }
            (directory.name.to_string(), part)
        })
        .collect();
    if !directories.is_empty() {
        body["directories"] = Value::Object(directories);
    }
    if let Some(error) = pipeline.identities.passwords_failure() {
        body["passwords"] = json!({ "error": error.to_string() });
    }
    if let Some(store) = pipeline.counters.status() {
        ready &= store.reachable;
        let mut part = json!({ "ready": store.reachable });
        if let Some(error) = &store.last_error {
            part["error"] = json!(error);
        }
        body["redis"] = part;
        body["ready"] = json!(ready);
    }
    (ready, body)
}

fn snapshot(admin: &Admin) -> Snapshot {
    let pipeline = admin.live.pipeline();
    let memory = pipeline.counters.memory_figures();
    Snapshot {
        issuers: pipeline
            .identities
            .status(admin.clock.now())
            .into_iter()
            .map(|issuer| IssuerSnapshot {
                name: issuer.name.to_string(),
                keys: issuer.keys as u64,
                age_s: issuer.age_s,
                fetches: issuer.fetches,
                failures: issuer.failures,
                iat_skew_s: issuer.iat_skew_s,
            })
            .collect(),
        introspection: pipeline
            .identities
            .introspection_status()
            .into_iter()
            .map(|issuer| IntrospectionSnapshot {
                name: issuer.name.to_string(),
                answering: issuer.answering,
                asked: issuer.asked,
                failed: issuer.failed,
                no_place: issuer.no_place,
                hits: issuer.hits,
                known: issuer.known.0,
            })
            .collect(),
        directories: pipeline
            .identities
            .directories(admin.clock.now())
            .into_iter()
            .map(|directory| DirectorySnapshot {
                name: directory.name.to_string(),
                people: directory.people as u64,
                age_s: directory.age_s,
                asked: directory.fetches,
                failed: directory.failures,
                dropped: directory.dropped,
            })
            .collect(),
        passwords_up: pipeline.identities.passwords_up(),
        store: pipeline
            .counters
            .status()
            .map(|store| StoreSnapshot { reachable: store.reachable, episodes: store.episodes }),
        grants: pipeline.identities.grants(),
        audit: admin.audit.status().map(|audit| AuditSnapshot {
            up: audit.up,
            lines: audit.lines,
            dropped: audit.dropped,
            sampled_out: audit.sampled_out,
            queued: audit.queued,
            seq: audit.last.map_or(0, |(seq, _)| seq),
        }),
        revocations: pipeline.identities.revocation_status(admin.clock.now()).map(|status| RevocationsSnapshot {
            entries: status.entries,
            age_s: status.age_s,
            listening: status.listening,
        }),
        memory_counters: memory.live,
        memory_counters_evicted: memory.evicted_live,
        settlements_lost: pipeline.counters.settlements_lost(),
        tokens_cached: pipeline.identities.cached().0,
        key_files: pipeline
            .identities
            .key_files()
            .into_iter()
            .map(|file| KeyFileSnapshot {
                name: file.name.to_string(),
                keys: file.keys as u64,
                is_current: file.is_current,
            })
            .collect(),
        certificates_known: pipeline.identities.certificates_known(),
        tasks_restarted: supervise::restarts(),
        log_lines_dropped: admin.log_dropped.as_ref().map_or(0, |dropped| dropped.dropped_lines() as u64),
    }
}
