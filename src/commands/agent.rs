//! `tollgate run`: the agent.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tollgate::audit::Audit;
use tollgate::clock::Clock;
use tollgate::config::flags::{LogFormat as LogStyle, RunArgs};
use tollgate::config::{self, Config};
use tollgate::identity::{Identities, SetupError};
use tollgate::limit::Counters;
use tollgate::pipeline::{DecisionIds, Live, Pipeline};
use tollgate::server;
use tollgate::server::admin::{self, Admin};
use tollgate::server::settings::{AdminSettings, Listen};
use tollgate::server::socket::Listener;
use tollgate::server::{descriptors, dumps};
use tollgate::supervise;
use tollgate::telemetry::{self, LogFormat, Telemetry};

use super::reload::{self, Reloader, Seen};
use super::{Failure, failed, key_files, stop_on_signal};

/// Serves until SIGTERM or SIGINT.
pub(super) async fn run(flags: RunArgs) -> Result<ExitCode, Failure> {
    // Before the config is read: a signal that comes then is not lost, nor does it end the process.
    let hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let config = load(&flags)?;
    let format = match flags.log_format {
        LogStyle::Text => LogFormat::Text,
        LogStyle::Json => LogFormat::Json,
    };
    let log = telemetry::init_log(format, &flags.log).map_err(failed)?;
    for warning in &config.warnings {
        tracing::warn!("{}", warning.in_file(&flags.config.config));
    }

    if let Err(error) = dumps::forbid() {
        tracing::warn!("a crash may write secrets to disk: core dumps cannot be forbidden: {error}");
    }

    let clock = Clock::system();
    let telemetry = Telemetry::default();
    let stop = stop_on_signal()?;
    // Key sets and the admin side go on while connections drain.
    let end = CancellationToken::new();

    let listeners = listen(&config.spop.listen)?;
    let admin_settings = config.admin.clone();
    let admin_listener = match &admin_settings {
        Some(settings) => Some(Listener::bind(&settings.listen).map_err(failed)?),
        None => None,
    };
    let watched_files = if flags.no_watch { None } else { Some(Seen::of(config.files.clone())) };
    let mut spop = config.spop.clone();
    let fitting = descriptors::make_room(spop.connections_max);
    if fitting < spop.connections_max {
        tracing::warn!(
            max_connections = spop.connections_max,
            fitting,
            "the limit of open files is too low for `spop.max_connections`; raise LimitNOFILE or `ulimit -Hn`"
        );
        spop.connections_max = fitting;
    }
    let counters = Arc::new(Counters::new(&config.counters).map_err(failed)?);
    let counter_settings = config.counters.clone();
    let (agent, version, audit_settings) = (random(), config.version, config.audit.clone());
    let audit = Audit::new(clock.clone(), agent);
    let pipeline = pipeline(config, None, counters, agent).map_err(wrong_config)?;
    let change = audit.prepare(audit_settings.as_ref()).map_err(failed)?;
    pipeline.identities.spawn(&clock, &end);
    // Before the first question, so that a token that was revoked meanwhile has not even a moment. HAProxy waits in the
    // listen queue.
    if tokio::time::timeout(REVOCATIONS_WAIT, pipeline.identities.revocations_read()).await.is_err() {
        tracing::warn!(
            "serving before revocations could be read from Redis: those kept in `state_dir` hold, or what `revocations.at_start` says"
        );
    }
    // Where it cannot, nobody has more than they always have.
    let _ = tokio::time::timeout(REVOCATIONS_WAIT, pipeline.identities.grants_read()).await;
    let live = Arc::new(Live::new(pipeline));
    audit.apply(change, version).map_err(failed)?;

    let admin = admin_settings.zip(admin_listener).map(|(settings, listener)| {
        let admin = Admin {
            live: Arc::clone(&live),
            telemetry: telemetry.clone(),
            audit: audit.clone(),
            clock: clock.clone(),
            started: clock.now(),
            log_dropped: Some(log.dropped()),
            stop: stop.clone(),
        };
        tokio::spawn(admin::serve(listener, settings, admin, end.clone()))
    });
    let reloader = Reloader {
        flags,
        live: Arc::clone(&live),
        counters: counter_settings,
        clock: clock.clone(),
        telemetry: telemetry.clone(),
        audit: audit.clone(),
        end: end.clone(),
    };
    let reloading = tokio::spawn(reload::run(reloader, hangup, watched_files));
    let (probed, probed_until) = (Arc::clone(&live), end.clone());
    let probing = tokio::spawn(supervise::run("probe", move || probe(Arc::clone(&probed), probed_until.clone())));

    let (watched, watch_clock, watched_until) = (Arc::clone(&live), clock.clone(), end.clone());
    let watch = move || key_files::watch(Arc::clone(&watched), watch_clock.clone(), watched_until.clone());
    let watching = tokio::spawn(supervise::run("API keys", watch));

    let (granted, grant_audit, granted_until) = (Arc::clone(&live), audit.clone(), end.clone());
    let tell = move || tell_grants(Arc::clone(&granted), grant_audit.clone(), granted_until.clone());
    let telling = tokio::spawn(supervise::run("grants", tell));

    tracing::info!(version = env!("CARGO_PKG_VERSION"), "tollgate serves");
    server::serve(listeners, spop, Arc::clone(&live) as _, clock, telemetry, audit.clone(), stop).await;
    tracing::info!("drained");
    end.cancel();
    let _ = reloading.await;
    let _ = probing.await;
    let _ = watching.await;
    let _ = telling.await;
    // Behind the last decision and the last reload. A blocked pipe does not keep the agent.
    let written = tokio::task::spawn_blocking(move || audit.stop(AUDIT_WAIT)).await;
    if !written.unwrap_or(false) {
        tracing::error!("the audit trail was not written to its end");
    }
    if let Some(admin) = admin {
        // A caller of the admin side that never ends its request does not keep the agent.
        let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// The config, as the flags change it.
pub(super) fn load(flags: &RunArgs) -> Result<Config, Failure> {
    let mut config = config::load(&flags.config.config)?;
    if !flags.spop_listen.is_empty() {
        config.spop.listen.clone_from(&flags.spop_listen);
    }
    if let Some(listen) = &flags.admin_listen {
        // Asked for on the command line, it is there, whether or not the config has the section.
        let token = config.admin.take().and_then(|admin| admin.token);
        config.admin = Some(AdminSettings { listen: listen.clone(), token });
    }
    // A flag opens no door that the config would have to open: it is held to what the config says.
    if let Some(open) = config.spop.listen.iter().find(|listen| !listen.is_local())
        && config.spop.allow_from.is_empty()
    {
        return Err(Failure::WrongConfig(format!("{open} is beyond loopback, and `spop.allow_from` names nobody")));
    }
    if let Some(admin) = config.admin.as_ref().filter(|admin| !admin.listen.is_local() && admin.token.is_none()) {
        return Err(Failure::WrongConfig(format!(
            "{} is beyond loopback, and there is no `admin.token`",
            admin.listen
        )));
    }
    Ok(config)
}

fn listen(addresses: &[Listen]) -> Result<Vec<Listener>, Failure> {
    addresses
        .iter()
        .map(|address| {
            let listener = Listener::bind(address).map_err(failed)?;
            match listener.local_addr() {
                Some(bound) => tracing::info!(address = %bound, "listening for HAProxy"),
                None => tracing::info!(%address, "listening for HAProxy"),
            }
            Ok(listener)
        })
        .collect()
}

/// One config's worth of deciding, which goes on with what `previous` knows.
pub(super) fn pipeline(
    config: Config,
    previous: Option<&Pipeline>,
    counters: Arc<Counters>,
    agent: u32,
) -> Result<Pipeline, SetupError> {
    let ids = match previous {
        Some(previous) => Arc::clone(&previous.ids),
        None => Arc::new(DecisionIds::new(agent)),
    };
    let previous = previous.map(|previous| &previous.identities);
    Ok(Pipeline {
        identities: Identities::new(config.identity, config.groups, previous)?.sharing(counters.link().cloned()),
        policy: config.policy,
        counters,
        ids,
        deadline: config.spop.deadline,
        version: config.version,
        audited: config.audit.is_some(),
    })
}

/// Issuers that cannot be told apart, or pinned keys that are of no use.
pub(super) fn wrong_config(error: SetupError) -> Failure {
    Failure::WrongConfig(error.to_string())
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without the system's random numbers there is no TLS and no agent either; identifiers may then repeat.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// As long as a disk may take for what is queued.
const AUDIT_WAIT: Duration = Duration::from_secs(3);

/// A Redis that answers at all does so in milliseconds; without it the agent is of use all the same.
const REVOCATIONS_WAIT: Duration = Duration::from_secs(1);

/// Writes what has become of grants into the audit trail.
async fn tell_grants(live: Arc<Live>, audit: Audit, end: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            () = end.cancelled() => true,
            _ = ticks.tick() => false,
        };
        live.pipeline().identities.take_grant_changes().into_iter().for_each(|change| audit.grant(change));
        if is_last {
            return;
        }
    }
}

/// Asks Redis how it is each second, so that readiness comes back without traffic.
async fn probe(live: Arc<Live>, end: CancellationToken) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => live.pipeline().counters.probe().await,
        }
    }
}
